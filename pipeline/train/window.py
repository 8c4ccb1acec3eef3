"""What a window of training gathers between two progress lines, and the report that it closes with."""

import dataclasses
import time
from typing import Any

import torch
import torch.distributed as dist

from pipeline.data.loader import LoaderClock
from pipeline.metrics import Metrics, MetricWindow
from pipeline.train.checkpoint import Progress
from pipeline.train.dist import Ranks
from pipeline.train.pieces import Pieces, State
from pipeline.train.step import StepOutput
from pipeline.train.system import SystemWindow
from schemas.job import JobConfig


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


class Window:
    """What is gathered between two progress lines; it is part of a checkpoint, so a line covers the same rows."""

    def __init__(self, job: JobConfig, rows: int, total_rows: int, ranks: Ranks, clock: LoaderClock) -> None:
        """`rows` are an epoch's, `total_rows` those of the whole job; `clock` is the reader's."""
        self._job, self._rows, self._total_rows, self._device = job, rows, total_rows, ranks.device
        self._features = [f.name for f in job.embedded]
        self._tasks = [t.name for t in job.tasks]
        self._metrics = metric_window(job, ranks)
        self._outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._counts: list[torch.Tensor] = []
        self._system = SystemWindow(job, ranks, clock)
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
        saved = {name: value.to(self._device) for name, value in saved.items()}
        for name in saved:
            if name.endswith("/logits"):
                of_rank = {each: name.removesuffix("logits") + each for each in ("logits", "flags", "values")}
                self._metrics.restore({each: saved[own] for each, own in of_rank.items() if own in saved})
            elif name.endswith("/counts"):
                self._counts.append(saved[name])
        if "all/sums" in saved:
            # a rank more than there were saved has no rows, and takes part in the counting all the same
            width = 2 * len(self._features) + len(self._tasks)
            self._counts.append(torch.zeros(width, dtype=torch.int64, device=self._device))
            self._outputs = [(loss_T, rows_T) for loss_T, rows_T in saved["all/sums"]]

    def add(self, output: StepOutput) -> None:
        """Takes in a step."""
        batch = output.batch
        self._metrics.update(output.logits_BT, batch.labels_BT, batch.space_BT, batch.exposed_BT)
        self._outputs.append((output.sums.loss_T, output.sums.rows_T))
        self._last = output
        self._counts.append(torch.cat([batch.unknown_K, batch.ids_K, batch.broken_T]))

    def leave_out(self, seconds: float) -> None:
        """Time that is not training's."""
        self._since += seconds

    def close(self, progress: Progress, dense_lr: float, left_out: tuple[int, int]) -> Report | None:
        """The window's report on rank 0, None elsewhere; every rank must call it.

        `left_out` are the rows, and the row groups, that the run has left out so far.
        """
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
                total_rows=self._total_rows,
                rows_per_second=(progress.samples - self._samples) / seconds,
                metrics=metrics,
                losses={t: s / n for t, s, n in zip(self._tasks, loss_T, rows_T, strict=True) if n},
                dense_lr=dense_lr,
                unknown={f: u / max(n, 1) for f, u, n in zip(self._features, unknown_K, all_K, strict=True)},
                broken={t: n for t, n in zip(self._tasks, broken_T, strict=True) if n},
                left_out=left_out,
                held_out=progress.held_out(self._rows),
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
            "balanced": self._job.balance.method != "fixed",
            "telemetry": last.telemetry or {},
        }
