"""The ranking model: sharded embeddings -> architecture -> towers, and nothing else.

Shapes: B rows of this rank, P >= B padded rows, F dense features, D input width, T tasks.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from pipeline.archs import ARCHS
from pipeline.axes import Axes, Axis, under
from pipeline.balance import balance_state
from pipeline.batch import Batch
from pipeline.embedding.tables import embedding_tables, pooled_keys, pooled_width
from pipeline.heads import Towers
from pipeline.sizes import Widths, flops_per_row, matched_widths, parameters
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.model import SCALED


class DenseNetwork(nn.Module):
    """Pooled embeddings and dense features -> a logit a task.

    It contains no sharded module, so TorchRec's pipeline takes it as a leaf and does not trace into it. `widths`
    stand for those that the job finds (`layer_widths`).
    """

    def __init__(self, job: JobConfig, widths: Widths | None = None) -> None:
        super().__init__()
        self._keys, self._separate = pooled_keys(job), job.separate_embeddings
        self._tasks = [task.name for task in job.tasks]
        places = [(f.name, place) for f in job.embedded for place in range(job.tables[f.table_name].dim)]
        self._inputs = Axis.of([*places, *((f.name, 0) for f in job.dense)], inputs=True)
        self._bf16 = job.train.precision == "bf16"
        settings = job.model.arguments(self._tasks) | (layer_widths(job) if widths is None else widths)
        arch = ARCHS[job.model.arch](in_dim=input_width(job), tasks=len(job.tasks), **settings)
        self.arch = arch
        self.towers = Towers(
            in_dim=arch.out_dims,
            tasks=len(job.tasks),
            layer_sizes=job.model.tower_layers,
            activation=job.model.activation,
            norm=job.model.norm,
            dropout=job.model.dropout,
        )
        self.balance = balance_state(job.balance, len(job.tasks))  # here, since what is learnt is kept with the weights

    def forward(self, pooled: KeyedTensor, dense_BF: Tensor, rows: int) -> Tensor:
        """logits_BT in float32 from embeddings pooled over P rows and dense features of B."""
        return self.logits(self.inputs(pooled, dense_BF, rows))

    def inputs(self, pooled: KeyedTensor, dense_BF: Tensor, rows: int) -> Tensor:
        """x_BD, or x_BTD where each task has tables of its own."""
        # by key: the order of the pooled columns changes with the sharding plan. And only now, after the exchange
        # that needed it, the padding goes: nothing below sees a row that is not in the log.
        by_key = pooled.to_dict()
        inputs = [torch.cat([*(by_key[key][:rows] for key in keys), dense_BF], dim=1) for keys in self._keys]
        return torch.stack(inputs, dim=1) if self._separate else inputs[0]  # a task reads its own tables

    def logits(self, x: Tensor) -> Tensor:
        """logits_BT in float32."""
        # evaluated as it will be scored elsewhere: by its own fp32 weights
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bf16 and self.training):
            last_layers = self.towers.last_layers(self.arch(x))
        return self.towers.logits(last_layers).float()  # not under autocast: in 8 bits many rows would tie

    def penalty(self) -> Tensor | None:
        """What the weights themselves add to the loss; None where nothing is added."""
        return self.arch.penalty()

    def axes(self) -> Axes:
        """Every tensor of the network by canonical name; the inputs are labelled by feature and place in it."""
        return (
            under("arch", self.arch.axes(self._inputs, self._tasks))
            | under("towers", self.towers.axes(self._tasks))
            | under("balance", self.balance.axes(self._tasks))
        )


class RankingModel(nn.Module):
    """Batch -> logits_BT, each the log-odds of its task's label given that the row lies in the task's space."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        assert job.train.precision != "auto", "settled before a model is made: pipeline/train/precision.py"
        self.embeddings = embedding_tables(job)
        torch.manual_seed(job.seed)
        self.dense = DenseNetwork(job)
        self.watch = False
        """Whether the next forward keeps what the tables gave, for telemetry."""
        self.watched: KeyedTensor | None = None

    def forward(self, batch: Batch) -> Tensor:
        """The batch's logits_BT."""
        pooled = self.embeddings(batch.sparse)
        self.watched = pooled if self.watch else None
        return self.dense(pooled, batch.dense_BF, batch.rows)

    def inputs(self, batch: Batch) -> Tensor:
        """What the dense network reads of the batch."""
        return self.dense.inputs(self.embeddings(batch.sparse), batch.dense_BF, batch.rows)


@dataclasses.dataclass(frozen=True)
class NetworkSize:
    """How large a job's model is."""

    dense_parameters: int
    """Of the dense network: architecture and towers."""
    table_parameters: int
    """Of the embedding tables, the rows out of vocabulary included."""
    flops_per_row: int
    """Of the dense network's forward pass: two a multiply-add of its matrix products."""
    widths: Widths
    """Layer sizes of experts or bottoms, as declared or as found for `match_parameters`."""


def network_size(job: JobConfig) -> NetworkSize:
    """The size of the job's model; nothing is allocated."""
    widths = layer_widths(job)
    network = _unfilled(job, widths)
    shape = (len(job.tasks), input_width(job)) if job.separate_embeddings else (input_width(job),)
    return NetworkSize(
        dense_parameters=parameters(_body(network)),
        table_parameters=sum((table.rows + 1) * table.dim for table in job.trained_tables.values()),
        flops_per_row=flops_per_row(_body(network), shape),
        widths=widths,
    )


def layer_widths(job: JobConfig) -> Widths:
    """The setting of the layers of experts or bottoms: as declared, or scaled to `model.match_parameters`.

    A function of the job alone. Raises InputError where no scale comes near enough.
    """
    declared = {key: list(value) for key, value in job.model if key in SCALED}
    target = job.model.match_parameters
    if target is None:
        return declared
    try:
        multiple = getattr(job.model, "subspaces", 1)
        return matched_widths(declared, lambda widths: parameters(_body(_unfilled(job, widths))), target, multiple)
    except ValueError as error:
        raise InputError(f"model.match_parameters: {error}; choose another number, or other layers") from error


def input_width(job: JobConfig) -> int:
    """D."""
    return pooled_width(job) + len(job.dense)


def unfilled_network(job: JobConfig) -> DenseNetwork:
    """The job's dense network without storage: its modules and their names."""
    return _unfilled(job, layer_widths(job))


def _unfilled(job: JobConfig, widths: Widths) -> DenseNetwork:
    with torch.device("meta"):
        return DenseNetwork(job, widths)


def _body(network: DenseNetwork) -> nn.Sequential:
    """What the size is of: architecture and towers, without what balancing learns."""
    return nn.Sequential(network.arch, network.towers)
