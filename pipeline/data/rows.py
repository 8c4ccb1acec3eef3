"""Encoded rows: a matrix for each kind of column, so that cutting, shuffling and joining cost a handful of numpy calls.
No torch.

Table rows lie in 32 bits until they are batched: half the memory of the shuffle, half the traffic.

Shapes: N rows, I features of one id, F of one number, T labels, J indicators, V regression labels and sample weights,
M elements of all N lists of a feature end to end.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.features import ListFeature
from schemas.job import JobConfig

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


class Value(NamedTuple):
    """A number of a task's: its regression label, or the weight of a row in its loss."""

    task: int
    column: str
    weight: bool


MATRICES = ("id_IN", "number_FN", "label_TN", "indicator_JN", "value_VN")
"""The fields of Rows with a row a column of the log."""


class Layout:
    """Which column lies where in Rows."""

    def __init__(self, job: JobConfig) -> None:
        self.lists = {f.name: f.weights is not None for f in job.features if isinstance(f, ListFeature)}
        """Whether it has weights, by list feature."""
        self.ids = [f.name for f in job.embedded if f.name not in self.lists]
        """Features of one id a row, in the order of the rows of `id_IN`."""
        self.numbers = [f.name for f in job.dense]
        self.labels = [t.name for t in job.tasks]
        self.indicators = [t.name for t in job.tasks if t.indicator]
        """Tasks with an indicator, in the order of the rows of `indicator_JN`."""
        tasks = list(enumerate(job.tasks))
        self.values = [Value(k, t.source, weight=False) for k, t in tasks if t.kind == "regression"]
        self.values += [Value(k, t.sample_weight, weight=True) for k, t in tasks if t.sample_weight]
        """In the order of the rows of `value_VN`."""


@dataclasses.dataclass(frozen=True)
class Lists:
    """N lists of table rows, as many weights where the feature has them."""

    offset_N: Int32
    """[N + 1], from 0: list n is offset_N[n] .. offset_N[n + 1] of the elements."""
    id_M: Int32
    weight_M: Float32 | None

    def span(self, begin: int, end: int) -> slice:
        """Where the elements of the lists begin .. end lie."""
        return slice(int(self.offset_N[begin]), int(self.offset_N[end]))


@dataclasses.dataclass(frozen=True)
class Rows:
    """N encoded rows."""

    row_id_N: Int64
    id_IN: Int32
    number_FN: Float32
    label_TN: Int8
    """0 throughout for a regression task."""
    indicator_JN: Int8
    value_VN: Float32
    """0 where the task is not trained."""
    lists: dict[str, Lists]
    unknown: frozenset[str]
    """Features of which some of these rows' ids may be out of vocabulary; of the others none is."""
    flagged: bool = False
    """Whether some row ids are below 0: bad rows, which hold nothing (flags.py)."""

    @staticmethod
    def empty(layout: Layout, rows: int) -> "Rows":
        """Room for `rows` rows, without their lists."""
        return Rows(
            np.empty(rows, np.int64),
            np.empty((len(layout.ids), rows), np.int32),
            np.empty((len(layout.numbers), rows), np.float32),
            np.empty((len(layout.labels), rows), np.int8),
            np.empty((len(layout.indicators), rows), np.int8),
            np.empty((len(layout.values), rows), np.float32),
            {},
            frozenset(),
        )

    @staticmethod
    def lost(layout: Layout, row_id_N: Int64) -> "Rows":
        """Bad rows in the places of these."""
        rows = len(row_id_N)
        no_ids, no_weights = np.empty(0, np.int32), np.empty(0, np.float32)
        lists = {
            name: Lists(np.zeros(rows + 1, np.int32), no_ids, no_weights if weights else None)
            for name, weights in layout.lists.items()
        }
        return Rows(
            -1 - row_id_N,
            np.zeros((len(layout.ids), rows), np.int32),
            np.zeros((len(layout.numbers), rows), np.float32),
            np.zeros((len(layout.labels), rows), np.int8),
            np.zeros((len(layout.indicators), rows), np.int8),
            np.zeros((len(layout.values), rows), np.float32),
            lists,
            frozenset(),
            flagged=True,
        )

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.row_id_N)


class Part(NamedTuple):
    """The rows begin .. end of some Rows, left where they are."""

    rows: Rows
    begin: int
    end: int

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.end - self.begin


class Stream:
    """Rows that come in pieces of any size, taken in other sizes; copies nothing."""

    def __init__(self, pieces: Iterator[Rows]) -> None:
        self._pieces = pieces
        self._rows: Rows | None = None
        self._used = 0

    def take(self, size: int) -> list[Part]:
        """The next `size` rows, in as many parts as it takes; StopIteration where there are fewer."""
        out = []
        while size:
            if self._rows is None:
                self._rows, self._used = next(self._pieces), 0
            begin, total = self._used, self._rows.num_rows
            self._used = min(begin + size, total)
            out.append(Part(self._rows, begin, self._used))
            size -= self._used - begin
            if self._used == total:
                self._rows = None  # lets go of it before the next is made
        return out
