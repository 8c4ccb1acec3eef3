"""The loop: batches in, progress lines and checkpoints out."""

import dataclasses
import time
from collections.abc import Callable, Generator

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipeline.batch import Batch
from pipeline.data.files import Manifest
from pipeline.data.loader import Loader
from pipeline.data.source import epoch_source
from pipeline.metrics import Metrics, MetricWindow
from pipeline.train.checkpoint import Checkpoints, Progress
from pipeline.train.dist import Ranks
from pipeline.train.optim import Optimizers
from pipeline.train.step import StepOutput, TrainStep
from schemas.errors import InputError
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Report:
    """One window of training, on rank 0."""

    progress: Progress
    total_rows: int
    rows_per_second: float
    metrics: Metrics
    losses: dict[str, float]
    """Mean loss of each task on its own space; left out where the window holds none of its rows."""
    dense_lr: float
    unknown: dict[str, float]
    """Share of each sparse feature's ids that were out of vocabulary."""
    broken: dict[str, int]
    """Rows of each child task whose label is 1 under a parent's 0."""

    @property
    def seconds_left(self) -> float:
        """Estimate from this window's speed."""
        return max(0, self.total_rows - self.progress.samples) / max(self.rows_per_second, 1e-9)


def total_steps(job: JobConfig, rows: int) -> int:
    """Steps of the whole job: epochs never share a step."""
    steps = job.train.epochs * -(-rows // job.train.batch_size)
    return min(steps, job.train.max_steps or steps)


def total_rows(job: JobConfig, rows: int) -> int:
    """Rows trained in the whole job."""
    epoch_steps = -(-rows // job.train.batch_size)
    epochs, rest = divmod(total_steps(job, rows), epoch_steps)
    return epochs * rows + min(rest * job.train.batch_size, rows)


def training_batches(job: JobConfig, manifest: Manifest, ranks: Ranks, start: Progress) -> Generator[Batch, None, None]:
    """This rank's batches of all epochs that are left; closing it ends the reader thread."""
    done = start.rows_done
    for epoch in range(start.epoch, job.train.epochs):
        source = epoch_source(job, manifest, epoch, shuffle=True)
        with Loader(job, source, ranks.rank, ranks.world, done, ranks.device.type == "cuda") as loader:
            yield from loader
        done = 0


class Training:
    """One run of the loop over a sharded model."""

    def __init__(
        self,
        job: JobConfig,
        manifest: Manifest,
        model: DistributedModelParallel,
        optimizers: Optimizers,
        ranks: Ranks,
        checkpoints: Checkpoints,
        config: dict,
    ) -> None:
        self.job, self.manifest, self.model, self.ranks = job, manifest, model, ranks
        self.optimizers, self.checkpoints, self.config = optimizers, checkpoints, config
        self.steps = total_steps(job, manifest.rows)
        self.rows = total_rows(job, manifest.rows)

    def run(self, start: Progress, tell: Callable[[Report], None]) -> Progress:
        """Trains from `start` to the end; `tell` gets a report a window, on rank 0. Returns where it ended."""
        train = self.job.train
        progress, window = start, _Window(self, start)
        self.model.train()
        batches = training_batches(self.job, self.manifest, self.ranks, start)
        step = TrainStep(self.model, self.optimizers, self.job, self.ranks, self.steps)
        try:
            while progress.step < self.steps:
                output = step(batches, progress.step)
                progress = self._after(progress, output)
                window.add(output)
                if progress.step % train.log_every == 0 or progress.step == self.steps:
                    report = window.close(progress)
                    if report is not None:
                        tell(report)
                if progress.step % train.checkpoint_every == 0 or progress.step == self.steps:
                    window.leave_out(self.save(progress))
        finally:
            batches.close()
            step.detach()
        return progress

    def save(self, progress: Progress) -> float:
        """Commits a checkpoint of where the run stands; returns the seconds it took."""
        began = time.perf_counter()
        self._refuse_nan()
        self.checkpoints.save(self.model, self.optimizers.all, progress, self.config, self.manifest.fingerprint)
        return time.perf_counter() - began

    def _refuse_nan(self) -> None:
        """A step with a finite loss may still have trained NaN; such weights are never committed."""
        found = torch.zeros((), device=self.ranks.device)
        for value in self.model.state_dict().values():
            shards = [s.tensor for s in value.local_shards()] if isinstance(value, ShardedTensor) else [value]
            for tensor in shards:
                found += ~torch.isfinite(tensor).all()
        dist.all_reduce(found)
        if found:
            raise InputError(
                "the weights are not finite after the last step, so they are not saved. Lower dense_optimizer.lr or "
                "embedding_optimizer.lr and name another output"
            )

    def _after(self, before: Progress, output: StepOutput) -> Progress:
        batch = output.batch
        epoch, done = batch.epoch, batch.end_row
        trained = done - (before.rows_done if epoch == before.epoch else 0)
        if done == self.manifest.rows:
            epoch, done = epoch + 1, 0
        return Progress(before.step + 1, epoch, done, before.samples + trained)


class _Window:
    """What is gathered between two progress lines."""

    def __init__(self, training: Training, start: Progress) -> None:
        self._training = training
        self._features = [f.name for f in training.job.embedded]
        self._tasks = [t.name for t in training.job.tasks]
        self._metrics = MetricWindow(self._tasks, training.job.parents, training.ranks.device)
        self._open(start)

    def _open(self, progress: Progress) -> None:
        self._metrics.reset()
        self._outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._counts: list[torch.Tensor] = []
        self._since, self._samples = time.perf_counter(), progress.samples

    def add(self, output: StepOutput) -> None:
        batch = output.batch
        self._metrics.update(output.logits_BT, batch.labels_BT, batch.space_BT)
        self._outputs.append((output.sums.loss_T, output.sums.rows_T))
        self._counts.append(torch.cat([batch.unknown_K, batch.ids_K, batch.broken_T]))

    def leave_out(self, seconds: float) -> None:
        """Time that is not training's."""
        self._since += seconds

    def close(self, progress: Progress) -> Report | None:
        """The window's report on rank 0, None elsewhere; every rank must call it."""
        seconds = time.perf_counter() - self._since
        metrics = self._metrics.compute()
        counts = torch.stack(self._counts).sum(0)
        dist.all_reduce(counts)
        report = None
        if metrics is not None:
            loss_T, rows_T = (torch.stack(part).sum(0).tolist() for part in zip(*self._outputs, strict=True))
            keys, tasks = len(self._features), len(self._tasks)
            unknown_K, all_K, broken_T = (part.tolist() for part in counts.split([keys, keys, tasks]))
            report = Report(
                progress=progress,
                total_rows=self._training.rows,
                rows_per_second=(progress.samples - self._samples) / seconds,
                metrics=metrics,
                losses={t: s / n for t, s, n in zip(self._tasks, loss_T, rows_T, strict=True) if n},
                dense_lr=self._training.optimizers.dense_lr,
                unknown={f: u / max(n, 1) for f, u, n in zip(self._features, unknown_K, all_K, strict=True)},
                broken={t: n for t, n in zip(self._tasks, broken_T, strict=True) if n},
            )
        self._open(progress)
        return report


@torch.no_grad()
def evaluate(
    job: JobConfig,
    manifest: Manifest,
    model: DistributedModelParallel,
    ranks: Ranks,
    tell: Callable[[int, float], None],
) -> Metrics | None:
    """Exact metrics of every row of the manifest: on rank 0, None elsewhere. `tell` gets rows done and rows/s."""
    window = MetricWindow([t.name for t in job.tasks], job.parents, ranks.device)
    model.eval()
    source = epoch_source(job, manifest, epoch=0, shuffle=False)
    began = told = time.perf_counter()
    with Loader(job, source, ranks.rank, ranks.world) as loader:
        for batch in loader:
            batch = batch.to(ranks.device)
            window.update(model(batch), batch.labels_BT, batch.space_BT)
            if ranks.first and time.perf_counter() - told > 10:
                told = time.perf_counter()
                tell(batch.end_row, batch.end_row / (told - began))
    return window.compute()
