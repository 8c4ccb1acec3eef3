"""What does the fused table update give? TorchRec's tables against nn.EmbeddingBag with sparse gradients, in one run.

    python benchmarks/fused_tables.py
    python benchmarks/fused_tables.py --rounds 15 --steps 10

One step is forward, backward from a fixed gradient of the pooled output, and the update of the tables, on one rank:

    fused       the tables as training has them: pipeline.embedding.sharding.shard around TorchRec's
                EmbeddingBagCollection, updated inside backward by FBGEMM
    sparse      the same tables as nn.EmbeddingBag(sparse=True), mode sum, and the torch optimizer of the same rule:
                torch.optim.SGD, torch.optim.Adagrad (both take sparse gradients), and, torch having none, row-wise
                Adagrad written in five torch operations on the coalesced gradient

adam is left out: FBGEMM has no kernel for it on CPU. Both sides start from the same tables and see the same ids; first
it is shown that after three steps they hold the same numbers to 1e-5. The KeyedJaggedTensor is made anew in each step,
as the loader makes it; the offsets of nn.EmbeddingBag are ready-made.

Shapes: 8 tables of 200,000 rows x 32, one id a bag, ids with a long tail, 4,096 bags a step; the same with 10 ids a
bag; and the job of ./launch.sh, whose histories are weighted means. Each at one thread on one core (judged by CPU time)
and at two threads on two (by the clock). The claim under test: fused is at least 4 times as fast. Exits with 1 where it
fails for the optimizer of the job, rowwise_adagrad, or for adagrad, the nearest that torch itself has.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.train.dist import process_group, quiet_libraries  # noqa: E402

quiet_libraries()  # before TorchRec is imported: it warns as it loads

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchrec.distributed.model_parallel import DistributedModelParallel  # noqa: E402
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor  # noqa: E402

from benchmarks.interleaved import claim, interleave, setting  # noqa: E402
from pipeline.embedding.sharding import shard  # noqa: E402
from pipeline.embedding.tables import TABLE_PREFIX, embedding_tables  # noqa: E402
from schemas.features import IdListFeature  # noqa: E402
from schemas.job import JobConfig  # noqa: E402
from schemas.load import load_job, parse_job  # noqa: E402

LEAST = 4.0
BAGS = 4096
FUSED, SPARSE = "fused", "sparse"
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")
JUDGED = ("rowwise_adagrad", "adagrad")
LR, EPS = 0.05, 1e-4  # an eps above the rounding of gradients: else one near 0 is a step up here and down there


class Tables(nn.Module):
    """The embedding tables alone."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self.tables = embedding_tables(job)

    def forward(self, kjt: KeyedJaggedTensor) -> Tensor:
        """[B, sum of dims]."""
        return self.tables(kjt).values()


class RowwiseAdagrad(torch.optim.Optimizer):
    """One number a row, on sparse gradients: what TorchRec's fused rule does, in plain torch."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self._state = {p: torch.zeros(len(p)) for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override] # no closure
        """Updates the rows that have a gradient."""
        for parameter, state_R in self._state.items():
            gradient = parameter.grad.coalesce()
            row_N, gradient_ND = gradient.indices()[0], gradient.values()
            state_R.index_add_(0, row_N, gradient_ND.square().mean(1))
            scale_N = state_R[row_N].sqrt_().add_(EPS)
            parameter.index_add_(0, row_N, gradient_ND / scale_N[:, None], alpha=-LR)


def sparse_optimizer(name: str, tables: nn.Module) -> torch.optim.Optimizer:
    """The rule of the fused optimizer of this name."""
    if name == "adagrad":
        return torch.optim.Adagrad(tables.parameters(), lr=LR, eps=EPS)
    if name == "sgd":
        return torch.optim.SGD(tables.parameters(), lr=LR)
    return RowwiseAdagrad(tables.parameters())


def eight_tables(optimizer: str) -> JobConfig:
    """Eight tables of 200,000 rows x 32 with a feature each."""
    names = [f"table_{n}" for n in range(8)]
    return parse_job(
        {
            "name": "eight",
            "output": "unused",
            "data": {"path": "unused", "train": {"from": "2026-01-01", "to": "2026-01-01"}},
            "tables": {name: {"rows": 200_000, "dim": 32} for name in names},
            "features": [{"name": name, "kind": "ids", "pooling": "sum"} for name in names],
            "tasks": [{"name": "click"}],
            "model": {"arch": "ple"},
            "embedding_optimizer": {"name": optimizer, "lr": LR, "eps": EPS},
            "train": {"batch_size": BAGS},
        },
        "eight",
    )


def generated(optimizer: str) -> JobConfig:
    """The job of ./launch.sh."""
    changes = [f"embedding_optimizer.{key}={value}" for key, value in (("name", optimizer), ("lr", LR), ("eps", EPS))]
    return load_job(str(ROOT / "jobs/configs/generated.yaml"), changes)


class Bags:
    """One step's ids: by feature lengths [BAGS], values and weights."""

    def __init__(self, job: JobConfig, ids_a_bag: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.keys = [feature.name for feature in job.embedded]
        self.parts: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
        for feature in job.embedded:
            lengths_B = torch.full((BAGS,), ids_a_bag, dtype=torch.int32)
            if isinstance(feature, IdListFeature) and feature.weights:
                lengths_B = torch.randint(0, 21, (BAGS,), generator=random, dtype=torch.int32)
            count, rows = int(lengths_B.sum()), job.tables[feature.table_name].rows
            id_N = (rows * torch.rand(count, generator=random, dtype=torch.float64) ** 3).long()
            weight_N = torch.rand(count, generator=random) if job.weighted_ids else None
            self.parts[feature.name] = (lengths_B, id_N, weight_N)
        width = sum(job.tables[feature.table_name].dim for feature in job.embedded)
        self.gradient = torch.randn(BAGS, width, generator=random) / BAGS
        lengths, ids, weights = zip(*self.parts.values(), strict=True)
        self._joined = torch.cat(lengths), torch.cat(ids), torch.cat(weights) if job.weighted_ids else None
        self.offsets = {key: torch.cumsum(part[0], 0) - part[0] for key, part in self.parts.items()}

    def kjt(self) -> KeyedJaggedTensor:
        """As the loader makes it."""
        lengths, ids, weights = self._joined
        return KeyedJaggedTensor(keys=self.keys, values=ids, lengths=lengths, weights=weights)


class Pair:
    """Both sides over one job, from the same tables."""

    def __init__(self, job: JobConfig, ids_a_bag: int, batches: int) -> None:
        self.job = job
        self.batches = [Bags(job, ids_a_bag, seed) for seed in range(batches)]
        self.fused: DistributedModelParallel = shard(Tables(job), job, torch.device("cpu"))
        bags = {
            name: nn.EmbeddingBag(table.rows + 1, table.dim, mode="sum", sparse=True)
            for name, table in job.tables.items()
        }
        self.sparse = nn.ModuleDict({TABLE_PREFIX + name: bag for name, bag in bags.items()})
        with torch.no_grad():
            for name, value in self.tables().items():
                self.sparse[name].weight.copy_(value)
        self.optimizer = sparse_optimizer(job.embedding_optimizer.name, self.sparse)
        # the collection's outputs stand table by table, features within
        self.order = [f for name in job.tables for f in job.embedded if f.table_name == name]

    def tables(self) -> dict[str, Tensor]:
        """The fused tables by name."""
        found = {}
        for key, value in self.fused.state_dict().items():
            found[key.split(".")[-2]] = value.local_shards()[0].tensor
        return found

    def fused_step(self, bags: Bags) -> Tensor:
        """Forward, and backward with the update in it; the pooled output."""
        pooled = self.fused(bags.kjt())
        pooled.backward(bags.gradient)
        return pooled

    def sparse_step(self, bags: Bags) -> Tensor:
        """Forward, backward, update; the pooled output."""
        pooled = torch.cat([self._pool(feature, bags) for feature in self.order], dim=1)
        pooled.backward(bags.gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return pooled

    def _pool(self, feature: Any, bags: Bags) -> Tensor:
        _, id_N, weight_N = bags.parts[feature.name]
        table = self.sparse[TABLE_PREFIX + feature.table_name]
        return table(id_N, bags.offsets[feature.name], per_sample_weights=weight_N)

    def check(self) -> float:
        """The largest difference of outputs and tables over three steps. Raises RuntimeError where it is over 1e-5."""
        worst = 0.0
        for bags in self.batches[:3]:
            worst = max(worst, float((self.fused_step(bags) - self.sparse_step(bags)).detach().abs().max()))
        before = {name: value.clone() for name, value in self.tables().items()}
        for name, value in before.items():
            worst = max(worst, float((value - self.sparse[name].weight).abs().max()))
        if not worst <= 1e-5:
            raise RuntimeError(f"{self.job.embedding_optimizer.name}: the sides differ by {worst:g}: not one update")
        return worst

    def sides(self, steps: int) -> dict[str, Callable[[], int]]:
        """The sides by name, so many steps each."""

        def run(step: Callable[[Bags], Tensor]) -> int:
            for bags in itertools.islice(itertools.cycle(self.batches), steps):
                step(bags)
            return steps * BAGS

        return {FUSED: lambda: run(self.fused_step), SPARSE: lambda: run(self.sparse_step)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/fused_tables.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rounds", type=int, default=5, metavar="N", help="times each side is measured (%(default)s)")
    out.add_argument("--steps", type=int, default=2, metavar="N", help="steps a side in a round (%(default)s)")
    out.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS, help="those measured (all)")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where a claim fails."""
    arguments = parser().parse_args(argv)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    print(setting(arguments, f"torch {torch.__version__}"))
    shapes: list[tuple[str, Callable[[str], JobConfig], int]] = [
        ("8 tables, 1 id a bag", eight_tables, 1),
        ("8 tables, 10 ids a bag", eight_tables, 10),
        ("the generated job", generated, 1),
    ]
    passed = []
    with process_group(60):
        for (shape, make, ids_a_bag), optimizer in itertools.product(shapes, arguments.optimizers):
            pair = Pair(make(optimizer), ids_a_bag, batches=3)
            worst = pair.check()
            digits = 10 ** math.ceil(math.log10(max(worst, 1e-9)))
            print(f"\n{shape}, {optimizer}: one update on both sides, to {digits:g}")
            for threads in (1, 2):
                if threads > max(1, len(cores)):
                    continue
                if cores:
                    os.sched_setaffinity(0, cores[-threads:])
                torch.set_num_threads(threads)
                results = interleave(pair.sides(arguments.steps), arguments.rounds)
                kind = "cpu" if threads == 1 else "seconds"
                line, good = claim(f"{threads} threads, {FUSED} / {SPARSE}", results, FUSED, SPARSE, LEAST, kind)
                steps = {side: [t.seconds / arguments.steps for t in results[side]] for side in results}
                a_step = ", ".join(f"{side} {statistics.median(s) * 1e3:.1f} ms a step" for side, s in steps.items())
                print(f"{line}\n      {a_step}", flush=True)
                passed.append(good or optimizer not in JUDGED)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
