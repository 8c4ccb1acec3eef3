"""The loop: batches in, reports and checkpoints out."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipeline.batch import Batch
from pipeline.data.cursor import CURSOR, check_cursor, cursor
from pipeline.data.files import Manifest
from pipeline.data.holdout import training_part
from pipeline.data.loader import Loader, LoaderClock
from pipeline.data.quarantine import LOG
from pipeline.data.source import epoch_source
from pipeline.train.budget import Budget
from pipeline.train.checkpoint import Checkpoints, Commit, Progress, Saved
from pipeline.train.dist import Ranks
from pipeline.train.optim import Optimizers
from pipeline.train.pace import PACE, Pace
from pipeline.train.restore import load_training, load_window
from pipeline.train.step import StepOutput, TrainStep
from pipeline.train.stop import Stopped, farewell
from pipeline.train.window import Report, Window
from schemas.errors import InputError, redacted
from schemas.job import JobConfig


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
        self._window = Window(job, manifest.rows, self.rows, ranks, self.clock)
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
                            report = window.close(progress, self.optimizers.dense_lr, self.budget.training.totals)
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
                raise Stopped(why, farewell(why, f"at step {progress.step}, committed"))
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
