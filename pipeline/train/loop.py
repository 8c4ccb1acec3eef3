"""The loop: batches in, progress lines and checkpoints out."""

import dataclasses
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipeline.batch import Batch
from pipeline.data.cursor import CURSOR, check_cursor, cursor
from pipeline.data.files import Manifest
from pipeline.data.holdout import evaluation_part, training_part
from pipeline.data.loader import Loader, LoaderClock
from pipeline.data.quarantine import LOG, Piece
from pipeline.data.source import epoch_source
from pipeline.metrics import Metrics, MetricWindow
from pipeline.train.budget import Budget
from pipeline.train.checkpoint import Checkpoints, Commit, Progress, Saved
from pipeline.train.dist import Ranks
from pipeline.train.lane_chunks import Evaluated, LaneChunks
from pipeline.train.optim import Optimizers
from pipeline.train.pace import PACE, Pace
from pipeline.train.pieces import Pieces, State
from pipeline.train.restore import load_training, load_window
from pipeline.train.step import StepOutput, TrainStep
from pipeline.train.stop import REGROUP, Stop, Stopped
from pipeline.train.system import SystemWindow
from schemas.errors import InputError, redacted
from schemas.job import JobConfig

STOP_EVERY = 8
"""Batches of an evaluation between looks at whether to stop: a collective, and a wait for the device, each."""


@dataclasses.dataclass(frozen=True)
class Report:
    """One window of training, on rank 0."""

    progress: Progress
    total_rows: int
    rows_per_second: float
    metrics: Metrics
    losses: dict[str, float]
    """Mean loss of each task over the rows it is trained on, weighted; left out where the window holds none of them."""
    dense_lr: float
    unknown: dict[str, float]
    """Share of each sparse feature's ids that were out of vocabulary."""
    broken: dict[str, int]
    """Rows of each child task whose label is 1 under a parent's 0."""
    left_out: tuple[int, int] = (0, 0)
    """Rows, and row groups, that the run has left out so far."""
    held_out: int = 0
    """Rows that the run has passed over so far, since they are held out."""
    penalty: float | None = None
    """What the weights added to the loss of the window's last step; None for an architecture that adds nothing."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Weight of each task's loss in the window's last step."""
    cosine: float | None = None
    """The least cosine between the gradients of two tasks in that step; None where balancing took none."""
    balanced: bool = False
    """Whether those weights are others than the declared ones."""
    system: dict[str, float] = dataclasses.field(default_factory=dict)
    """Waits and memory, by key."""
    telemetry: dict[str, float] = dataclasses.field(default_factory=dict)
    """Gates, experts, gradients and embeddings in that step, by key; empty where it was not looked at."""

    @property
    def gone_through(self) -> int:
        """Rows of the log that the run is done with: trained, or held out."""
        return self.progress.samples + self.held_out

    @property
    def seconds_left(self) -> float:
        """Estimate from this window's speed, and from the share of rows that was trained so far."""
        share = self.progress.samples / max(self.gone_through, 1)
        return max(0, self.total_rows - self.gone_through) * share / max(self.rows_per_second, 1e-9)


def total_steps(job: JobConfig, rows: int) -> int:
    """Steps of the whole job: epochs never share a step."""
    steps = job.train.epochs * -(-rows // job.train.batch_size)
    return min(steps, job.train.max_steps or steps)


def total_rows(job: JobConfig, rows: int) -> int:
    """Rows gone through in the whole job: trained, or held out."""
    epoch_steps = -(-rows // job.train.batch_size)
    epochs, rest = divmod(total_steps(job, rows), epoch_steps)
    return epochs * rows + min(rest * job.train.batch_size, rows)


def training_batches(
    job: JobConfig, manifest: Manifest, ranks: Ranks, start: Progress, clock: LoaderClock | None = None
) -> Generator[Batch, None, None]:
    """This rank's batches of all epochs that are left; closing it ends the reader thread."""
    done = start.rows_done
    for epoch in range(start.epoch, job.train.epochs):
        source = epoch_source(job, manifest, epoch, shuffle=True, part=training_part(job.data))
        with Loader(job, source, ranks.rank, ranks.world, done, ranks.device.type == "cuda", clock) as loader:
            yield from loader
        done = 0


def _nothing(*_: object) -> None:
    """Nobody listens."""


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
        budget: Budget | None = None,
    ) -> None:
        self.budget = budget or Budget(job, manifest)
        self.job, self.manifest, self.model, self.ranks = job, manifest, model, ranks
        self.optimizers, self.checkpoints, self.config = optimizers, checkpoints, config
        self.clock = LoaderClock()
        self.steps = total_steps(job, manifest.rows)
        self.rows = total_rows(job, manifest.rows)
        self._window = _Window(self)
        self._saved_step = 0
        self.pace = Pace()
        """What the run has cost, its earlier attempts included."""
        self.weights_from = (0, 0)
        """Steps and epochs of ancestors that t of the tasks' w0 gamma^t goes on from."""
        self.extras: dict[str, bytes] = {}
        """Small files of rank 0's that every checkpoint takes along, read again by `Commit.read`."""

    def load(self, commit: Commit) -> list[str]:
        """Restores the state to go on from; the lines of `load_training`. Every rank must call it."""
        lines = load_training(commit, self.model, self.optimizers.all)
        self._window.restore(load_window(commit))
        self._saved_step = commit.progress.step
        if CURSOR in commit.files:
            source = epoch_source(self.job, self.manifest, commit.progress.epoch, shuffle=True)
            check_cursor(commit.read(CURSOR), source, commit.progress.rows_done, commit.path)
        if PACE in commit.files:
            self.pace.restore(commit.read(PACE))
        if LOG in commit.files:
            self.budget.restore(commit.read(LOG))
        return lines

    def run(
        self, start: Progress, tell: Callable[[Report], None], tell_saved: Callable[[Saved, Progress], None] = _nothing
    ) -> Progress:
        """Trains from `start` to the end; `tell` gets a report a window, on rank 0. Returns where it ended.

        `tell_saved` gets each committed checkpoint, and where the run stood when it learnt of it, on every rank.
        Raises Stopped on every rank, after a commit, once any of them was told to stop.
        """
        train, stop = self.job.train, self.ranks.stop
        stop.defer()
        progress, window, why = start, self._window, None
        window.begin(start)
        self.model.train()
        batches = stop.waited(training_batches(self.job, self.manifest, self.ranks, start, self.clock))
        step = TrainStep(self.model, self.optimizers, self.job, self.ranks, self.steps, self.budget, self.weights_from)
        self.pace.begin(start.samples)
        try:
            with self._saves_end():
                while progress.step < self.steps:
                    output = step(batches, progress.step)
                    progress = self._after(progress, output)
                    window.add(output)
                    self.pace.step(progress.samples)
                    why = output.stop
                    with self.pace.aside():
                        if progress.step % train.log_every == 0 or progress.step == self.steps:
                            report = window.close(progress)
                            if report is not None:
                                tell(report)
                        if why or progress.step % train.checkpoint_every == 0 or progress.step == self.steps:
                            window.leave_out(self.save(progress))
                        if progress.step % train.log_every == 0:
                            self._settle()
                        for saved in self.checkpoints.told():
                            tell_saved(saved, progress)
                    if why:
                        break
            for saved in self.checkpoints.told():
                tell_saved(saved, progress)
            if why:
                raise Stopped(why, _farewell(why, f"at step {progress.step}, committed"))
        finally:
            batches.close()
            step.detach()
        return progress

    def save(self, progress: Progress) -> float:
        """Commits a checkpoint of where the run stands, unless one is; returns the seconds that training stood still.

        Under `train.async_checkpoint` it is committed once `checkpoints.wait` has returned, which `run` sees to.
        """
        if progress.step == self._saved_step:
            return 0.0
        began = time.perf_counter()
        self._refuse_nan()
        self.pace.measure(self.ranks)
        self.budget.write()  # before: no commit without its log
        self.checkpoints.save(
            self.model,
            self.optimizers.all,
            progress,
            self.config,
            self.manifest.fingerprint,
            self._small_files(progress),
            self._window.state(self.ranks.rank),
        )
        self._saved_step = progress.step
        return time.perf_counter() - began

    def _small_files(self, progress: Progress) -> dict[str, bytes]:
        if not self.ranks.first:
            return {}
        source = epoch_source(self.job, self.manifest, progress.epoch, shuffle=True)
        log = {LOG: self.budget.content()} if self.budget.active else {}
        own = {CURSOR: cursor(source, progress.rows_done), PACE: self.pace.encoded()}
        return self.extras | own | log

    def _settle(self) -> None:
        """Ends a save in the background that all ranks have done: its failure should not wait for the next save."""
        if self.job.train.async_checkpoint:
            ready = torch.tensor(int(self.checkpoints.ready()), device=self.ranks.device)
            dist.all_reduce(ready, dist.ReduceOp.MIN)
            if ready:
                self.checkpoints.wait()

    @contextmanager
    def _saves_end(self) -> Generator[None, None, None]:
        """No save outlives the loop: not its end, and not its failure either, which is raised before the save's."""
        try:
            yield
        except BaseException:
            try:
                self.checkpoints.wait()
            except Exception as error:
                print(redacted(f"the save in the background failed as well: {error}"), file=sys.stderr, flush=True)
            raise
        self.checkpoints.wait()

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
        trained = done - (before.rows_done if epoch == before.epoch else 0) - output.unread
        if done == self.manifest.rows:
            epoch, done = epoch + 1, 0
        return Progress(before.step + 1, epoch, done, before.samples + trained)


def _farewell(why: str, where: str) -> str:
    if why == REGROUP:
        return f"nodes join or leave {where}; starting again"
    return f"stopped by {why} {where}; the same command goes on from there"


def metric_window(job: JobConfig, ranks: Ranks, ordered: bool = False) -> MetricWindow:
    """An empty window of the job's tasks."""
    return MetricWindow(
        [task.name for task in job.tasks],
        job.parents,
        ranks.device,
        links=job.links,
        regression=[k for k, task in enumerate(job.tasks) if task.kind == "regression"],
        exposures=any(task.indicator for task in job.tasks),
        ordered=ordered,
    )


class _Window:
    """What is gathered between two progress lines; it is part of a checkpoint, so a line covers the same rows."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._features = [f.name for f in training.job.embedded]
        self._tasks = [t.name for t in training.job.tasks]
        self._metrics = metric_window(training.job, training.ranks)
        self._outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._counts: list[torch.Tensor] = []
        self._system = SystemWindow(training.job, training.ranks, training.clock)
        self._last: StepOutput | None = None

    def begin(self, progress: Progress) -> None:
        """From here on time is training's: a rate counts no row that an attempt before this one trained."""
        self._since, self._samples = time.perf_counter(), progress.samples

    def state(self, rank: int) -> State:
        """What is gathered so far, for a checkpoint; nothing between windows."""
        if not self._outputs:
            return {}
        sums_S2T = torch.stack([torch.stack(pair) for pair in self._outputs])
        return {
            **{f"{rank}/{name}": Pieces.whole(rows) for name, rows in self._metrics.rows().items()},
            f"{rank}/counts": Pieces.whole(torch.stack(self._counts).sum(0)),
            "all/sums": Pieces.whole(sums_S2T),  # of all ranks already; step by step, so that they add up alike
        }

    def restore(self, saved: dict[str, torch.Tensor]) -> None:
        """Takes up what `state` gave, on this rank those of the saved ranks that fell to it."""
        device = self._training.ranks.device
        saved = {name: value.to(device) for name, value in saved.items()}
        for name in saved:
            if name.endswith("/logits"):
                of_rank = {each: name.removesuffix("logits") + each for each in ("logits", "flags", "values")}
                self._metrics.restore({each: saved[own] for each, own in of_rank.items() if own in saved})
            elif name.endswith("/counts"):
                self._counts.append(saved[name])
        if "all/sums" in saved:
            # a rank more than there were saved has no rows, and takes part in the counting all the same
            self._counts.append(
                torch.zeros(2 * len(self._features) + len(self._tasks), dtype=torch.int64, device=device)
            )
            self._outputs = [(loss_T, rows_T) for loss_T, rows_T in saved["all/sums"]]

    def add(self, output: StepOutput) -> None:
        batch = output.batch
        self._metrics.update(output.logits_BT, batch.labels_BT, batch.space_BT, batch.exposed_BT)
        self._outputs.append((output.sums.loss_T, output.sums.rows_T))
        self._last = output
        self._counts.append(torch.cat([batch.unknown_K, batch.ids_K, batch.broken_T]))

    def leave_out(self, seconds: float) -> None:
        """Time that is not training's."""
        self._since += seconds

    def close(self, progress: Progress) -> Report | None:
        """The window's report on rank 0, None elsewhere; every rank must call it."""
        seconds = time.perf_counter() - self._since
        metrics, system = self._metrics.compute(), self._system.close(seconds)
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
                left_out=self._training.budget.training.totals,
                held_out=progress.held_out(self._training.manifest.rows),
                system=system,
                **self._of_the_last_step(),
            )
        self._metrics.reset()
        self._outputs, self._counts, self._last = [], [], None
        self.begin(progress)
        return report

    def _of_the_last_step(self) -> dict[str, Any]:
        last = self._last
        if last is None:
            return {}
        return {
            "penalty": None if last.penalty is None else last.penalty.item(),
            "weights": dict(zip(self._tasks, last.weights, strict=True)),
            "cosine": last.cosine,
            "balanced": self._training.job.balance.method != "fixed",
            "telemetry": last.telemetry or {},
        }


@torch.no_grad()
def evaluate(
    job: JobConfig,
    manifest: Manifest,
    model: DistributedModelParallel,
    ranks: Ranks,
    tell: Callable[[int, float], None],
    budget: Budget | None = None,
    write: Callable[[Evaluated], None] | None = None,
) -> Metrics | None:
    """Exact metrics of every good row of the manifest: on rank 0, None elsewhere. `tell` gets rows done and rows/s.

    Under `data.holdout`, of the held-out rows alone, if so declared. `write` gets what the metrics are of. On a CPU
    logits and metrics are the same bits at any number of ranks.

    Raises on every rank Stopped, once any of them was told to stop, and InputError over the budget of bad data.
    """
    ranks.stop.defer()
    budget = budget or Budget(job, manifest, manifest)
    left_out: list[Piece] = []
    window = metric_window(job, ranks, ordered=True)

    def take(rows: Evaluated) -> None:
        window.update(rows.logits_BT, rows.labels_BT, rows.space_BT, rows.exposed_BT, rows.row_ids_B)
        if write is not None:
            write(rows)

    model.eval()
    chunks = LaneChunks(model.module, take)
    source = epoch_source(job, manifest, epoch=0, shuffle=False, part=evaluation_part(job.data))
    began = told = time.perf_counter()
    with Loader(job, source, ranks.rank, ranks.world) as loader:
        for number, batch in enumerate(ranks.stop.waited(iter(loader))):
            if number % STOP_EVERY == 0:
                _look_round(ranks, budget, left_out)
                left_out = []
            left_out += batch.left_out
            batch = batch.to(ranks.device)
            chunks.add(batch)
            if ranks.first and time.perf_counter() - told > 10:
                told = time.perf_counter()
                tell(batch.end_row, batch.end_row / (told - began))
    chunks.finish()
    _look_round(ranks, budget, left_out)
    return window.compute()


def _look_round(ranks: Ranks, budget: Budget, left_out: list[Piece]) -> None:
    """Raises on all ranks alike where one was told to stop, or a day is over its budget; every rank must call it."""
    news = budget.news(budget.evaluation, left_out)
    counts = torch.tensor([*ranks.stop.signals(), float(len(news))], device=ranks.device)
    dist.all_reduce(counts)
    *stops, told = counts.tolist()
    if told:
        budget.agree(budget.evaluation, news)
    if why := Stop.agreed(stops):
        raise Stopped(why, _farewell(why, "while evaluating"))
