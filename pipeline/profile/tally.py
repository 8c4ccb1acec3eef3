"""How well a column's values alone tell a label, counted in fixed memory. No torch.

Values fall into slots: a number by its size, an id or a string by its hash, a list by its length, and what is missing
into the last. A slot counts its rows and the sum of their labels, for each task on its own space and for each half of
the log's rows; the half of a row is drawn from its number. The rate of a slot in one half is the score of its rows in
the other, so what a rare value says of itself counts for nothing: a label is told only by what comes again.

Shapes: T tasks, N rows, R slots.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline.data.hashing import mix
from pipeline.profile.targets import Targets
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
SMOOTHING = 10.0
"""Rows of the average rate that are added to a slot's own."""
SMOOTHING_OF_MEANS = 1.0
"""The same for the means of a regression label, which are estimates and not only an order."""
LEAST_OF_A_CLASS = 25
"""Rows of each class that a half needs for its AUC to be told."""


@dataclasses.dataclass(frozen=True)
class Halves:
    """One batch, as tallies count it."""

    half_N: Int64
    """0 or 1."""
    own_T: list[Int64 | slice]
    """Rows of each task's own space."""
    ones_T: list[Int64 | None]
    """Of a binary task, the positive ones among them."""
    value_TN: Float64
    """Of a regression task, less a number near their mean."""


def halves(targets: Targets, shift_T: Float64, binary: list[bool], first_row: int) -> Halves:
    """The batch whose first row has this number in the log; `shift_T` is taken from regression labels."""
    rows = targets.value_TN.shape[1]
    number_N = np.arange(first_row, first_row + rows, dtype=np.uint64)
    own: list[Int64 | slice] = []
    ones: list[Int64 | None] = []
    for own_N, value_N, zero_one in zip(targets.own_TN, targets.value_TN, binary, strict=True):
        own.append(slice(None) if own_N.all() else np.flatnonzero(own_N))
        ones.append(np.flatnonzero(own_N & (value_N != 0)) if zero_one else None)
    value_TN = targets.value_TN if all(binary) else targets.value_TN - np.nan_to_num(shift_T)[:, None]
    return Halves((mix(number_N) >> np.uint64(63)).view(np.int64), own, ones, value_TN)


class Tally:
    """Rows and labels of one column's slots."""

    def __init__(self, job: JobConfig, slots: int) -> None:
        """`slots`: of values; one more is for what is missing."""
        self.missing, size = slots, 2 * (slots + 1)
        self._rows_T = [np.zeros(size, np.int64) for _ in job.tasks]
        self._sum_T = [np.zeros(size, np.int64 if task.kind == "binary" else np.float64) for task in job.tasks]

    @staticmethod
    def nbytes(tasks: int, slots: int) -> int:
        """Its memory; untouched slots cost none."""
        return 2 * tasks * 2 * (slots + 1) * 8

    def add(self, slot_N: Int64, batch: Halves) -> None:
        """Counts a batch whose rows fall into these slots."""
        code_N = slot_N + batch.half_N * (self.missing + 1)
        for task, (own_M, ones_M) in enumerate(zip(batch.own_T, batch.ones_T, strict=True)):
            own_code_M = code_N[own_M]
            np.add.at(self._rows_T[task], own_code_M, 1)
            if ones_M is not None:
                np.add.at(self._sum_T[task], code_N[ones_M], 1)
            else:
                np.add.at(self._sum_T[task], own_code_M, batch.value_TN[task][own_M])

    def halves(self, task: int) -> tuple[Float64, Float64]:
        """Rows and sums of labels, [2, R] each, the missing last."""
        rows, total = (part[task].reshape(2, -1).astype(np.float64) for part in (self._rows_T, self._sum_T))
        return rows, total


def grouped(counts_2R: Float64, group_R: Int64, groups: int) -> Float64:
    """The counts of groups of slots, [2, groups]."""
    return np.stack([np.bincount(group_R, half_R, groups) for half_R in counts_2R])


def told_auc(rows_2R: Float64, ones_2R: Float64) -> float | None:
    """AUC of each half's rows under the other half's rates, averaged; None with too few of a class."""
    found = []
    for learn, test in ((0, 1), (1, 0)):
        ones, zeros = ones_2R[test].sum(), (rows_2R[test] - ones_2R[test]).sum()
        if min(ones, zeros) < LEAST_OF_A_CLASS or not rows_2R[learn].any():
            return None
        rate = ones_2R[learn].sum() / rows_2R[learn].sum()
        used_R = rows_2R[test] > 0
        score_R = (ones_2R[learn] + SMOOTHING * rate) / (rows_2R[learn] + SMOOTHING)
        found.append(auc(score_R[used_R], rows_2R[test][used_R], ones_2R[test][used_R]))
    return sum(found) / 2


def auc(score_R: Float64, rows_R: Float64, ones_R: Float64) -> float:
    """Exact AUC of rows of which `ones_R` are positive at each score; ties count half."""
    _, place_R = np.unique(score_R, return_inverse=True)
    ones_S, rows_S = np.bincount(place_R, ones_R), np.bincount(place_R, rows_R)
    zeros_S = rows_S - ones_S
    below_S = np.cumsum(zeros_S) - zeros_S / 2
    return float((ones_S * below_S).sum() / (ones_S.sum() * zeros_S.sum()))


def missing_auc(rows_2R: Float64, ones_2R: Float64) -> float | None:
    """AUC of the one question whether the value is missing, in its better direction; None with too few of a class."""
    rows_R, ones_R = rows_2R.sum(0), ones_2R.sum(0)
    zeros_R = rows_R - ones_R
    if min(ones_R.sum(), zeros_R.sum()) < 2 * LEAST_OF_A_CLASS:
        return None
    return 0.5 + abs(ones_R[-1] / ones_R.sum() - zeros_R[-1] / zeros_R.sum()) / 2


def told_share(rows_2R: Float64, sum_2R: Float64, squares: float) -> float | None:
    """Share of a number's variance that the other half's means explain; `squares` is the sum of squared labels."""
    total = rows_2R.sum()
    if total < 2 * LEAST_OF_A_CLASS or not rows_2R[0].any() or not rows_2R[1].any():
        return None
    mean = sum_2R.sum() / total
    spread, left = squares - total * mean**2, squares
    if spread <= 0:
        return None
    for learn, test in ((0, 1), (1, 0)):
        base = sum_2R[learn].sum() / rows_2R[learn].sum()
        guess_R = (sum_2R[learn] + SMOOTHING_OF_MEANS * base) / (rows_2R[learn] + SMOOTHING_OF_MEANS)
        left += (rows_2R[test] * guess_R**2 - 2 * guess_R * sum_2R[test]).sum()
    return float(max(0.0, 1 - left / spread))
