"""The tables as a TorchRec EmbeddingBagCollection, and their initial values, the same under every plan."""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from schemas.features import TableSpec
from schemas.job import JobConfig

TABLE_PREFIX = "table_"
"""Before a table's name in the module: `items` or `keys` alone are names of torch's own."""
INIT_ROWS = 65_536
"""Rows drawn from one generator: a shard draws the chunks it overlaps."""


def embedding_tables(job: JobConfig) -> EmbeddingBagCollection:
    """The collection on the meta device: nothing is allocated before it is sharded.

    Every table pools by sum; means are weights (see `JobConfig.weighted_ids`). Every table has its out-of-vocabulary
    row last. Copies of a table, a task each, all read the same features.
    """
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        is_weighted=job.weighted_ids,
        tables=[
            EmbeddingBagConfig(
                name=module_name(name),
                num_embeddings=table.rows + 1,
                embedding_dim=table.dim,
                feature_names=[f.name for f in job.embedded if f.table_name == _declared(name)],
                pooling=PoolingType.SUM,
            )
            for name, table in job.trained_tables.items()
        ],
    )


def module_name(table: str) -> str:
    """What TorchRec is told a table's name is: a module's name has no dot."""
    return TABLE_PREFIX + table.replace(".", "-")


def pooled_keys(job: JobConfig) -> list[list[str]]:
    """Names of the pooled features in the order of the YAML: one list, or with separate embeddings one a task."""
    if not job.separate_embeddings:
        return [[f.name for f in job.embedded]]
    copies = len(job.tasks)
    return [
        # TorchRec tells the tables of a feature apart where it points into several
        [f.name if copies == 1 else f"{f.name}@{module_name(f'{task.name}.{f.table_name}')}" for f in job.embedded]
        for task in job.tasks
    ]


def pooled_width(job: JobConfig) -> int:
    """Width of all pooled features side by side."""
    return sum(job.tables[f.table_name].dim for f in job.embedded)


@torch.no_grad()
def initialise_tables(model: nn.Module, job: JobConfig) -> None:
    """Fills the tables of a sharded (or plain) model from the job's seed: a row's values depend on nothing else."""
    for key, value in model.state_dict().items():
        name = table_of(key)
        if name is None:
            continue
        spec = job.trained_tables[name]
        # by the declared name: a task's copy starts as the table of a job of this task alone would
        seed = _table_seed(job.seed, _declared(name))
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                _fill(shard.tensor, spec, seed, row, column)
        else:
            _fill(value, spec, seed, 0, 0)


def table_of(key: str) -> str | None:
    """Table of a state-dict key `...embedding_bags.<table>.weight`."""
    parts = key.split(".")
    found = len(parts) > 2 and parts[-3] == "embedding_bags" and parts[-1] == "weight"
    return parts[-2].removeprefix(TABLE_PREFIX).replace("-", ".") if found else None


def _declared(name: str) -> str:
    """The table that `name` is, or is a task's copy of."""
    return name.rpartition(".")[2]


def _table_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big")


def _fill(shard_RD: Tensor, spec: TableSpec, seed: int, row: int, column: int) -> None:
    """Values of the table's rows row .. row + R and columns column .. column + D."""
    scale = spec.init_scale or 1 / math.sqrt(spec.rows + 1)
    rows, width = shard_RD.shape
    for chunk in range(row // INIT_ROWS, -(-(row + rows) // INIT_ROWS)):
        base = chunk * INIT_ROWS
        size = min(INIT_ROWS, spec.rows + 1 - base)
        generator = torch.Generator().manual_seed(seed + chunk)
        value_RD = torch.empty(size, spec.dim).uniform_(-scale, scale, generator=generator)
        begin, end = max(row, base), min(row + rows, base + size)
        shard_RD[begin - row : end - row] = value_RD[begin - base : end - base, column : column + width]
