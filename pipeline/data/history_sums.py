"""Sums by key of one day's rows, each task on its own space, in one pass over the columns they need. No torch.

A row counts towards a task where the labels and indicators of the task's tree are good: what quarantine leaves out for
another column is a fact about the label all the same. `count` takes every row that can be decoded.

Shapes: N rows, M elements of their lists, K distinct keys, S sums of each.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.data.history_keys import keys_of
from pipeline.data.history_lists import LastValues, times
from pipeline.data.history_statistics import DayStatistic, DaySums, Float64, Int64, Statistic, labels_alone
from pipeline.data.manifest import Manifest
from pipeline.data.order import Stretch
from pipeline.data.quarantine import Piece, QuarantineLog, below_root
from pipeline.data.reader import Lost, read_stretches
from pipeline.data.rows import Rows
from pipeline.data.source import epoch_source
from pipeline.data.spaces import Spaces
from pipeline.data.vocabulary_file import signed
from schemas.errors import InputError
from schemas.events import TIME_COLUMN
from schemas.job import JobConfig

FRESH = 262_144
"""At least so many new keys are gathered before they are merged with the old."""
MERGE_COPIES = 6
"""Merging holds the old sums, the new ones, their order and the result."""


class Sums:
    """S sums of each key, exact in 64 bits, in the order in which the rows come."""

    def __init__(self, width: int) -> None:
        self.key_K: Int64 = np.empty(0, np.int64)
        self.sum_SK: Float64 = np.empty((width, 0))
        self._fresh: list[tuple[Int64, Float64]] = []
        self._fresh_keys = 0

    def add(self, key_M: Int64, value_SM: Float64) -> None:
        """Adds each element's values to its key's."""
        seen = pa.array(key_M).dictionary_encode()  # by hash: a third of what sorting costs
        key_K, at_M = seen.dictionary.to_numpy(), seen.indices.to_numpy()
        self._fresh.append((key_K, _summed(at_M, value_SM, len(key_K))))
        self._fresh_keys += len(key_K)
        if self._fresh_keys > max(FRESH, len(self.key_K)):
            self.merge()

    def merge(self) -> None:
        """Brings the new keys among the old."""
        if not self._fresh:
            return
        key_M = np.concatenate([self.key_K, *(key_K for key_K, _ in self._fresh)])
        value_SM = np.concatenate([self.sum_SK, *(sum_SK for _, sum_SK in self._fresh)], axis=1)
        self._fresh, self._fresh_keys = [], 0
        self.key_K, at_M = np.unique(key_M, return_inverse=True)
        self.sum_SK = _summed(at_M, value_SM, len(self.key_K))

    @property
    def bytes(self) -> int:
        """What it takes while it merges."""
        return 8 * (1 + len(self.sum_SK)) * (len(self.key_K) + self._fresh_keys) * MERGE_COPIES


def _summed(at_M: npt.NDArray[np.integer], value_SM: Float64, keys: int) -> Float64:
    """[S, K]: the values of each key's elements, added in their order."""
    out = np.empty((len(value_SM), keys))
    for sum_K, value_M in zip(out, value_SM, strict=True):
        sum_K[:] = np.bincount(at_M, value_M, keys)
    return out


class _Labels:
    """One task's rows and labels, from the batch on."""

    def __init__(self, job: JobConfig, task: str) -> None:
        self.job = labels_alone(job, task)
        self.flags = Flags(job.data) if job.data.quarantine else None
        self._encode = Encoder(self.job, self.flags)
        self._spaces = Spaces(self.job)
        self._task = [t.name for t in self.job.tasks].index(task)
        self._value = next((v for v, x in enumerate(self._encode.layout.values) if x.task == self._task), None)

    def __call__(self, batch: pa.RecordBatch, first: int, where: Where) -> tuple[Float64, list[Piece]]:
        """[2, N]: 1 for the rows of the task's space, and their labels; and the rows that are left out as bad."""
        rows = self._encode(batch, np.arange(first, first + batch.num_rows), where)
        own_N, label_N = self._own(rows)
        bad_N = rows.row_id_N < 0
        out = self.flags.come_up(rows.row_id_N[bad_N]) if self.flags is not None and bad_N.any() else []
        inside_N = own_N & ~bad_N
        return np.stack([inside_N.astype(np.float64), np.where(inside_N, label_N, 0)]), out

    def _own(self, rows: Rows) -> tuple[npt.NDArray[np.bool_], Float64]:
        exposed_TN = self._spaces.exposed(rows.indicator_JN)
        self._spaces.funnel(rows.label_TN, exposed_TN)
        own_N = self._spaces.own(rows.label_TN, exposed_TN)[self._task] != 0
        label_N = rows.label_TN[self._task] if self._value is None else rows.value_VN[self._value]
        return own_N, label_N.astype(np.float64)


class DayCount:
    """The statistics of one day."""

    def __init__(self, job: JobConfig, statistics: list[Statistic], day: str) -> None:
        self._job, self._statistics, self._day = job, statistics, day
        self._labels = {s.task: _Labels(job, s.task) for s in statistics if s.task is not None}
        self._tasks: dict[tuple[str, ...], list[str | None]] = {}
        self._lists = {s: LastValues(s.values[1]) for s in statistics if s.values}
        for statistic in statistics:
            if not statistic.values:
                self._tasks.setdefault(statistic.columns, []).append(statistic.task)
        self._sums = {columns: Sums(2 * len(tasks)) for columns, tasks in self._tasks.items()}

    def count(self, manifest: Manifest, tell: Callable[[int], None]) -> dict[Statistic, DayStatistic]:
        """One pass over the day's rows; `tell` hears of each batch's. Raises InputError."""
        columns = dict.fromkeys(column for s in self._statistics for column in s.columns)
        columns |= dict.fromkeys(s.values[0] for s in self._statistics if s.values)
        if self._lists:
            columns[TIME_COLUMN] = None
        columns |= dict.fromkeys(column for labels in self._labels.values() for column in labels.job.columns)
        source = epoch_source(self._job, manifest, 0, shuffle=False)
        texts = [text for text in source.texts if text in columns]
        source = dataclasses.replace(source, columns=list(columns), texts=texts)
        log = QuarantineLog("history", self._job.data.bad)
        for stretch, first, batch in read_stretches(source, [Stretch(g, 0, g.rows) for g in manifest.groups]):
            group = stretch.group
            if isinstance(batch, Lost):
                lost = stretch.stop - first
                log.add(Piece(below_root(group.path), group.index, first, lost, "corrupt", "", batch.reason))
                tell(lost)
                continue
            self._add(batch, group.first_row + first, Where(group.path, group.index, first), log)
            self._check_memory()
            tell(batch.num_rows)
        log.check_budget()
        return {s: self._lists[s].day() if s.values else self._day_sums(s) for s in self._statistics}

    def _add(self, batch: pa.RecordBatch, first: int, where: Where, log: QuarantineLog) -> None:
        ones_2N = np.zeros((2, batch.num_rows))
        ones_2N[0] = 1
        values: dict[str | None, Float64] = {None: ones_2N}
        for task, labels in self._labels.items():
            values[task], pieces = labels(batch, first, where)
            for piece in pieces:
                log.add(piece)
        for columns, tasks in self._tasks.items():
            keys = keys_of(batch, columns)
            value_SM = np.concatenate([values[task] for task in tasks])
            self._sums[columns].add(keys.key_M, value_SM if keys.row_M is None else value_SM[:, keys.row_M])

        for statistic, last in self._lists.items():
            assert statistic.values is not None
            value = batch.column(statistic.values[0])
            asked_N = values[statistic.task][0 if statistic.task is None else 1] == 1
            asked_N &= ~value.is_null().to_numpy(zero_copy_only=False)
            key_N, time_N = keys_of(batch, statistic.columns).key_M, times(batch.column(TIME_COLUMN))
            last.add(key_N[asked_N], time_N[asked_N], signed(value.fill_null(0))[asked_N])

    def _check_memory(self) -> None:
        limit = self._job.data.history.memory_mib
        held = {columns: sums.bytes for columns, sums in self._sums.items()}
        held |= {(s.name,): last.bytes for s, last in self._lists.items()}
        if sum(held.values()) > limit << 20:
            place = max(held, key=lambda place: held[place])
            most = next(s for s in self._statistics if place in (s.columns, (s.name,)))
            raise InputError(
                f"features.{most.feature}: the values of {' x '.join(most.columns)} on {self._day} do not fit into "
                f"data.history.memory_mib = {limit:,}; raise it, or remove the feature"
            )

    def _day_sums(self, statistic: Statistic) -> DaySums:
        sums = self._sums[statistic.columns]
        sums.merge()
        at = 2 * self._tasks[statistic.columns].index(statistic.task)
        some_K = sums.sum_SK[at] > 0
        count_K, sum_K = sums.sum_SK[at][some_K].astype(np.int64), sums.sum_SK[at + 1][some_K]
        return DaySums(sums.key_K[some_K], count_K, sum_K)
