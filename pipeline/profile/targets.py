"""The labels of one batch as numbers, and the rows on which each means something. No torch.

Shapes: T tasks, N rows, J indicators.

    known   the label is there, is fit to be one (0 or 1; of a regression task a finite number), and the indicators up
            its chain are 1
    own     known, and the labels of all ancestors are 1: the task's conditional sample space

A label that training would refuse is not known, and neither is what hangs on it.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.spaces import Spaces
from pipeline.profile.numbers import FURTHEST
from schemas.job import JobConfig

Mask = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True)
class Targets:
    """The tasks' labels of one batch."""

    value_TN: Float64
    """The labels; 0 where they are not known."""
    known_TN: Mask
    own_TN: Mask
    trained_TN: Mask
    """The rows that each task is trained on by its declared space, whether its label is known or not."""
    outside_T: list[int]
    """Of a regression task: rows outside of its space that hold a number other than 0."""


class TargetReader:
    """Reads the labels and indicators of one job."""

    def __init__(self, job: JobConfig) -> None:
        self._tasks = job.tasks
        self._spaces = Spaces(job)

    def __call__(self, batch: pa.RecordBatch) -> Targets:
        """The batch's targets."""
        rows, tasks = batch.num_rows, self._tasks
        value_TN, fit_TN = np.zeros((len(tasks), rows)), np.zeros((len(tasks), rows), np.bool_)
        label_TN = np.zeros((len(tasks), rows), np.int8)
        for number, task in enumerate(tasks):
            if task.kind == "binary":
                label_TN[number], fit_TN[number] = zero_or_one(batch.column(task.source))
                value_TN[number] = label_TN[number]
            else:
                value_TN[number], fit_TN[number] = finite(batch.column(task.source))
        columns = [zero_or_one(batch.column(task.indicator))[0] for task in tasks if task.indicator]
        indicator_JN = np.stack(columns) if columns else np.zeros((0, rows), np.int8)
        exposed_TN = self._spaces.exposed(indicator_JN)
        own_TN = self._spaces.own(label_TN, exposed_TN)
        trained_TN = self._trained(label_TN, indicator_JN, exposed_TN)
        known_TN = fit_TN if exposed_TN is None else fit_TN & (exposed_TN != 0)
        outside_T = [0] * len(tasks)
        for number, task in enumerate(tasks):
            if task.kind == "regression":  # of a number, outside of its space, nothing can be said
                inside_N = own_TN[number] != 0
                outside_T[number] = int(np.count_nonzero(value_TN[number][~inside_N]))
                known_TN[number] &= inside_N
        value_TN *= known_TN
        return Targets(value_TN, known_TN, known_TN & (own_TN != 0), trained_TN, outside_T)

    def _trained(self, label_TN: Int8, indicator_JN: Int8, exposed_TN: Int8 | None) -> Mask:
        promoted_TN = label_TN.copy()
        self._spaces.funnel(promoted_TN, exposed_TN)
        own_TN = self._spaces.own(promoted_TN, exposed_TN)
        return self._spaces.trained(promoted_TN, indicator_JN, exposed_TN, own_TN) != 0


def zero_or_one(column: pa.Array) -> tuple[Int8, Mask]:
    """A column of labels as 0 and 1, and where it holds one of them; 0 elsewhere."""
    whole = not column.null_count
    if pa.types.is_boolean(column.type):
        given_N = (column if whole else column.fill_null(False)).cast(pa.int8()).to_numpy()
    else:
        given_N = (column if whole else column.fill_null(0)).to_numpy()
    one_N = given_N == 1
    fit_N = one_N | (given_N == 0)
    if not whole:
        fit_N &= column.is_valid().to_numpy(zero_copy_only=False)
    return one_N.view(np.int8), fit_N


def finite(column: pa.Array) -> tuple[Float64, Mask]:
    """A column of numbers, and where it holds a finite one; 0 elsewhere. The largest count as 1e140."""
    x_N = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
    fit_N = np.isfinite(x_N)
    return np.where(fit_N, np.clip(x_N, -FURTHEST, FURTHEST), 0.0), fit_N
