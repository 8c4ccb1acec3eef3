"""What a multi-task model does while it trains: gates, experts, the tasks' gradients, embeddings. It changes nothing.

A look is at the first rows of every lane in one step, the same rows at any number of ranks, with the weights as the
step found them: their embeddings come from the step's own exchange, and the dense network runs once more on them,
in fp32 and as it is evaluated, so that nothing is drawn, no running mean moves, and no compiled code is touched.

Shapes: B rows of this rank, S those looked at, D inputs, T tasks, P shared dense parameters.
"""

import dataclasses
import itertools
import math

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedTensor

from pipeline import keys
from pipeline.batch import Batch
from pipeline.loss import Objective, task_losses
from pipeline.model import DenseNetwork
from pipeline.train.mixture_statistics import MixtureStatistics
from pipeline.train.shared_parameters import gram_of, losses_reached, own_gradients_at_once
from schemas.errors import InputError
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Sample:
    """Rows of one step on this rank, and what the dense network reads of them."""

    x: Tensor
    """x_SD, or x_STD where each task has tables of its own."""
    labels_ST: Tensor
    share_ST: Tensor
    """Weight of the row in the task's loss."""


class Telemetry:
    """The looks of one job's training."""

    def __init__(self, job: JobConfig, dense: DenseNetwork, objective: Objective, steps: int) -> None:
        self._config, self._steps, self._window = job.tracking.telemetry, steps, job.train.log_every
        self._dense, self._objective, self._lanes = dense, objective, job.data.lanes
        self._tasks = [task.name for task in job.tasks]
        self._features = [(f.name, job.tables[f.table_name].dim) for f in job.embedded]
        if self._config.every:
            self._mixtures = MixtureStatistics(dense.arch, self._tasks)
            reached = losses_reached(job, objective.of_logits) if len(self._tasks) > 1 else {}
            live = dict(dense.named_parameters())
            self._shared = [live[name] for name, tasks in reached.items() if len(tasks) > 1]

    def due(self, step: int) -> bool:
        """Whether the step, counted from 0, is looked at: one that ends a window, as the first and the last do."""
        every, ended = self._config.every, step + 1
        if not every or (ended % self._window and ended != self._steps):
            return False
        windows = -(-every // self._window)
        return ended == self._steps or (ended // self._window) % windows == 1 % windows

    def sample(self, pooled: KeyedTensor, batch: Batch) -> Sample:
        """The step's rows that are looked at."""
        each = max(self._config.rows // self._lanes, 1)
        rows: list[int] = []
        first = 0
        for _, count in batch.lanes:
            rows += range(first, first + min(count, each))
            first += count
        place_S = torch.tensor(rows, dtype=torch.int64, device=batch.labels_BT.device)
        with torch.no_grad():
            x = self._dense.inputs(pooled, batch.dense_BF, batch.rows).detach()[place_S]
        return Sample(x, batch.labels_BT[place_S], batch.trained_BT[place_S])

    def __call__(self, sample: Sample) -> dict[str, float]:
        """The numbers by key, the same on every rank; each must call it."""
        training = self._dense.training
        self._dense.eval()
        try:
            with torch.enable_grad(), self._mixtures.watching():
                logits_ST = self._dense.logits(sample.x)
            return self._means(sample) | self._stitches() | self._gradients(logits_ST, sample)
        finally:
            self._dense.train(training)

    def _means(self, sample: Sample) -> dict[str, float]:
        x = sample.x.double()
        count = x.new_tensor([len(x)])
        tasks = x.shape[1] if x.ndim == 3 else 1  # each with tables of its own
        norms = [part.norm(dim=-1).sum().reshape(1) / tasks for part in self._by_feature(x)]
        sum_N = torch.cat([count, *norms, *self._mixtures.sums()])
        dist.all_reduce(sum_N)
        rows, *sums = sum_N.tolist()
        mean_N = iter([each / max(rows, 1) for each in sums])
        embeddings = {keys.embedding_norm(name): next(mean_N) for name, _ in self._features}
        return embeddings | self._mixtures.values(mean_N)

    def _by_feature(self, x: Tensor) -> list[Tensor]:
        widths = [dim for _, dim in self._features]
        return list(x[..., : sum(widths)].split(widths, dim=-1))

    def _stitches(self) -> dict[str, float]:
        out: dict[str, float] = {}
        for level, share_TT in enumerate(self._dense.arch.stitch_shares(), start=1):
            for task, share_T in zip(self._tasks, share_TT.tolist(), strict=True):
                out |= {keys.stitch(level, task, o): s for o, s in zip(self._tasks, share_T, strict=True)}
        return out

    def _gradients(self, logits_ST: Tensor, sample: Sample) -> dict[str, float]:
        """Norms of the tasks that have a row here, and the cosines between them; nothing where nothing is shared."""
        if not self._shared:
            return {}
        try:
            part_T, sums = task_losses(self._objective, logits_ST, sample.labels_ST, sample.share_ST)
        except InputError:  # a loss that is not finite: training itself will say so
            return {}
        gradients_TP = own_gradients_at_once(part_T, self._shared)
        dist.all_reduce(gradients_TP)
        gram_TT = gram_of(gradients_TP).tolist()
        told = [k for k, rows in enumerate(sums.rows_T.tolist()) if rows > 0]
        norm = {k: math.sqrt(gram_TT[k][k]) for k in told}
        out = {keys.gradient_norm(self._tasks[k]): norm[k] for k in told}
        for a, b in itertools.combinations(told, 2):
            if norm[a] > 0 and norm[b] > 0:
                out[keys.gradient_cosine(self._tasks[a], self._tasks[b])] = gram_TT[a][b] / (norm[a] * norm[b])
        return out
