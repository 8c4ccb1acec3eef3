"""Rates, correlations and conditional rates of the tasks, from sums that a pass over the log adds up. No torch.

Shapes: T tasks, N rows. Every pair of tasks is compared on the rows on which both labels are known.
"""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from pipeline.profile.targets import Float64, Targets
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]


@dataclasses.dataclass
class DayLabels:
    """Counts of one day, [T] each."""

    day: str
    rows: int
    known_T: Int64
    total_T: Float64
    """Sum of the known labels: of a binary task, its positives."""
    own_T: Int64
    own_total_T: Float64
    """The same on the task's own space."""


@dataclasses.dataclass
class Broken:
    """Rows whose child label is 1 under a parent label of 0."""

    child: str
    parent: str
    rows: int
    positives: int
    """Of the child, on the rows on which both are known."""
    first: str = ""
    """File, row group and row of the first."""


class TaskSums:
    """Sums over the tasks' labels."""

    def __init__(self, job: JobConfig) -> None:
        count = len(job.tasks)
        self._tasks, self._parents = job.tasks, job.parents
        self._binary = [task.kind == "binary" for task in job.tasks]
        self.days: list[DayLabels] = []
        # n, sum x_i, sum x_i^2 and sum x_i x_j over the rows on which i and j are known
        self._n_TT, self._x_TT, self._xx_TT, self._xy_TT = (np.zeros((count, count)) for _ in range(4))
        self.shift_T = np.where(self._binary, 0.0, np.nan)
        """A number near each regression label's mean, NaN until a label is known: from there the sums are taken, so
        that nothing is lost to cancellation."""
        self.outside_T = np.zeros(count, np.int64)
        self.broken = [
            Broken(job.tasks[child].name, job.tasks[parent].name, 0, 0)
            for child, parent in enumerate(self._parents)
            if parent is not None and self._binary[child]
        ]

    def add(self, targets: Targets, day: str, place: str, first_row: int) -> None:
        """Adds a batch; `place` names its file and row group, `first_row` is its first row there."""
        value_TN, known_TN, own_TN = targets.value_TN, targets.known_TN, targets.own_TN
        if not self.days or self.days[-1].day != day:
            zeros = [np.zeros(len(self._tasks), kind) for kind in (np.int64, np.float64) * 2]
            self.days.append(DayLabels(day, 0, *zeros))  # type: ignore[arg-type]
        now = self.days[-1]
        now.rows += value_TN.shape[1]
        now.known_T += known_TN.sum(1)
        now.total_T += value_TN.sum(1)
        now.own_T += own_TN.sum(1)
        now.own_total_T += (value_TN * own_TN).sum(1)
        self.outside_T += targets.outside_T
        self._correlate(value_TN, known_TN.astype(np.float64))
        self._follow(targets, place, first_row)

    def _correlate(self, value_TN: Float64, known_TN: Float64) -> None:
        for task in np.flatnonzero(np.isnan(self.shift_T)):
            if known_TN[task].any():
                self.shift_T[task] = np.median(value_TN[task][known_TN[task] > 0])
        x_TN = (value_TN - np.nan_to_num(self.shift_T)[:, None]) * known_TN
        self._n_TT += known_TN @ known_TN.T
        self._x_TT += x_TN @ known_TN.T
        self._xx_TT += (x_TN * x_TN) @ known_TN.T
        self._xy_TT += x_TN @ x_TN.T

    def _follow(self, targets: Targets, place: str, first_row: int) -> None:
        number = 0
        for child, parent in enumerate(self._parents):
            if parent is None or not self._binary[child]:
                continue
            both_N = targets.known_TN[child] & targets.known_TN[parent]
            one_N = (targets.value_TN[child] == 1) & both_N
            broken_N = one_N & (targets.value_TN[parent] == 0)
            found, number = self.broken[number], number + 1
            found.positives += int(np.count_nonzero(one_N))
            if broken_N.any():
                found.first = found.first or f"{place}, row {first_row + int(np.argmax(broken_N))}"
                found.rows += int(np.count_nonzero(broken_N))

    def correlation(self) -> list[list[float | None]]:
        """Pearson's correlation (phi, of two binary labels) of every pair; None where a label does not vary."""
        count = len(self._tasks)
        return [[self._pearson(i, j) for j in range(count)] for i in range(count)]

    def _pearson(self, i: int, j: int) -> float | None:
        n, x, y = self._n_TT[i, j], self._x_TT[i, j], self._x_TT[j, i]
        spread_x, spread_y = n * self._xx_TT[i, j] - x * x, n * self._xx_TT[j, i] - y * y
        if spread_x <= 0 or spread_y <= 0:
            return None
        if i == j:
            return 1.0
        return float((n * self._xy_TT[i, j] - x * y) / math.sqrt(spread_x) / math.sqrt(spread_y))

    def conditional(self) -> list[list[float | None]]:
        """[a][b] = P(b = 1 given a = 1) of binary tasks; None where a is never 1, or one of them is a number."""
        count = len(self._tasks)
        return [[self._given(a, b) for b in range(count)] for a in range(count)]

    def _given(self, a: int, b: int) -> float | None:
        if not (self._binary[a] and self._binary[b]) or not self._x_TT[a, b]:
            return None
        return float(self._xy_TT[a, b] / self._x_TT[a, b])

    def squares(self) -> dict[str, float]:
        """Sum of the squared labels, less `shift_T`, of each regression task on its own space."""
        return {t.name: float(self._xx_TT[n, n]) for n, t in enumerate(self._tasks) if t.kind == "regression"}

    def together(self) -> DayLabels:
        """All days as one."""
        parts = ("known_T", "total_T", "own_T", "own_total_T")
        return DayLabels("all", sum(d.rows for d in self.days), *(sum(getattr(d, p) for d in self.days) for p in parts))
