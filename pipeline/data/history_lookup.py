"""Statistics of days -> the features of a batch of one day's rows, from the days before it. No torch.

Of each value the running sums are kept at each day on which it occurs. What stood before day D is the last entry of
the value with a day below D: nothing that D or a later day holds can touch it, and one structure serves every day. Two
look-ups give the sums of a window.

Shapes: N rows, M elements of their lists, K distinct keys of all days, E entries, T tasks, D days.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.history_keys import Keys, keys_of
from pipeline.data.history_statistics import DaySums, Float64, Int64
from pipeline.data.perfect_hash import PerfectHash
from schemas.events import PARTITION_KEY
from schemas.features import CountFeature, HistoryFeature, TargetEncodingFeature
from schemas.job import JobConfig

BUILD_COPIES = 3
"""What is held while it is built, in sizes of what remains."""
LEAST_SHARE = 1e-6
"""Means of 0/1 labels are kept so far from 0 and 1 before their logarithm is taken."""
Task = str | None


def bytes_of(entries: int, tasks: int) -> int:
    """What the running sums of a column take, `entries` values and days of `tasks` tasks, while they are built."""
    return entries * (4 + 16 * tasks) * BUILD_COPIES


@dataclasses.dataclass(frozen=True)
class Before:
    """What stands before a day, for the elements asked for."""

    count_M: Int64
    sum_M: Float64
    count: int
    """Over all values."""
    sum: float


class Running:
    """The running sums of one column's values, or of one cross's, for T tasks."""

    def __init__(self, days: Sequence[int], sums: Mapping[Task, Sequence[DaySums]]) -> None:
        """`days` are ordinals, rising; `sums` has each task's statistics of each of them."""
        self._tasks = {task: t for t, task in enumerate(sums)}
        self._days = np.array(days, np.int64)
        by_day = list(zip(*sums.values(), strict=True))  # [D][T]
        keys = [_distinct([own.key_K for own in tasks]) for tasks in by_day]
        all_K = _distinct(keys)
        self._hash = PerfectHash(all_K)
        count_TK, sum_TK = np.zeros((len(sums), len(all_K)), np.int64), np.zeros((len(sums), len(all_K)))
        at, counts, totals = [], [], []
        entries = []
        for tasks, key_K in zip(by_day, keys, strict=True):
            for t, own in enumerate(tasks):
                at_K = np.searchsorted(all_K, own.key_K)
                count_TK[t, at_K] += own.count_K
                sum_TK[t, at_K] += own.sum_K
            at.append(np.searchsorted(all_K, key_K))
            counts.append(count_TK[:, at[-1]])
            totals.append(sum_TK[:, at[-1]])
            entries.append(len(key_K))
        at_E = np.concatenate([np.empty(0, np.int64), *at])
        order_E = np.argsort(at_E, kind="stable")  # by value, then by day
        self._day_E = np.repeat(np.arange(len(days), dtype=np.int32), np.array(entries, np.int64))[order_E]
        self._count_TE = np.concatenate([np.empty((len(sums), 0), np.int64), *counts], axis=1)[:, order_E]
        self._sum_TE = np.concatenate([np.empty((len(sums), 0)), *totals], axis=1)[:, order_E]
        length_K = np.bincount(at_E, minlength=len(all_K))
        self._end_K = np.cumsum(length_K)
        self._first_K = self._end_K - length_K
        self._steps = int(length_K.max(initial=0)).bit_length()
        self._all_count_TD = np.cumsum([[own.count_K.sum() for own in tasks] for tasks in by_day], axis=0)
        self._all_sum_TD = np.cumsum([[own.sum_K.sum() for own in tasks] for tasks in by_day], axis=0)

    def place(self, key_M: Int64) -> Int64:
        """Where each key's entries are found; -1 for a key of no day."""
        return self._hash(key_M, -1)

    def before(self, place_M: Int64, task: Task, day: int, window: int | None) -> Before:
        """The sums of the days before `day`, an ordinal: of all, or of the `window` calendar days before it."""
        end = self._until(place_M, task, int(np.searchsorted(self._days, day)))
        if window is None:
            return end
        begin = self._until(place_M, task, int(np.searchsorted(self._days, day - window)))
        return Before(
            end.count_M - begin.count_M, end.sum_M - begin.sum_M, end.count - begin.count, end.sum - begin.sum
        )

    def days_before(self, day: int, window: int | None) -> int:
        """How many days of the history are looked at."""
        end = int(np.searchsorted(self._days, day))
        return end if window is None else end - int(np.searchsorted(self._days, day - window))

    def _until(self, place_M: Int64, task: Task, days: int) -> Before:
        """The sums of the first `days` days."""
        t = self._tasks[task]
        if not days or not len(self._day_E):
            return Before(np.zeros(len(place_M), np.int64), np.zeros(len(place_M)), 0, 0.0)
        known_M = place_M >= 0
        place_M = np.maximum(place_M, 0)
        first_M, end_M = self._first_K.take(place_M), self._end_K.take(place_M)
        entry_M = end_M - 1
        if days < len(self._days):
            # the last entry of the value below that day, found by steps that halve
            entry_M = first_M - 1
            for bit in reversed(range(self._steps)):
                next_M = entry_M + (1 << bit)
                before_M = (next_M < end_M) & (self._day_E.take(next_M, mode="clip") < days)
                entry_M = np.where(before_M, next_M, entry_M)
            known_M &= entry_M >= first_M
        count_M = np.where(known_M, self._count_TE[t].take(entry_M, mode="clip"), 0)
        sum_M = np.where(known_M, self._sum_TE[t].take(entry_M, mode="clip"), 0.0)
        return Before(count_M, sum_M, int(self._all_count_TD[days - 1, t]), float(self._all_sum_TD[days - 1, t]))


class History:
    """The features of a job that are made of earlier days."""

    def __init__(self, job: JobConfig, running: Mapping[tuple[str, ...], Running]) -> None:
        self._running = running
        self._binary = {task.name: task.kind == "binary" for task in job.tasks}

    def numbers(
        self, features: Sequence[HistoryFeature], batch: pa.RecordBatch, day: datetime.date
    ) -> list[npt.NDArray[np.float64]]:
        """Each feature's numbers of rows of the day, shape [N] each; the labels of the batch are not looked at."""
        found: dict[tuple[str, ...], tuple[Keys, Int64]] = {}
        out = []
        for feature in features:
            columns = tuple(feature.sources)
            if columns not in found:
                keys = keys_of(batch, columns)
                found[columns] = keys, self._running[columns].place(keys.key_M)
            keys, place_M = found[columns]
            out.append(self._number(feature, self._running[columns], keys, place_M, day, batch.num_rows))
        return out

    def _number(
        self,
        feature: HistoryFeature,
        running: Running,
        keys: Keys,
        place_M: Int64,
        day: datetime.date,
        rows: int,
    ) -> Float64:
        if isinstance(feature, CountFeature):
            before = running.before(place_M, None, day.toordinal(), feature.days)
            x_N = _mean(before.count_M.astype(np.float64), keys, rows, 0.0)
            if feature.per_day:
                x_N /= max(running.days_before(day.toordinal(), feature.days), 1)
            return np.log1p(x_N) if feature.transform == "log1p" else x_N
        before = running.before(place_M, feature.task, day.toordinal(), feature.days)
        return self._encoding(feature, before, keys, rows)

    def _encoding(self, feature: TargetEncodingFeature, before: Before, keys: Keys, rows: int) -> Float64:
        lift, binary = feature.transform == "lift", self._binary[feature.task]
        if not before.count:
            prior = 0.0 if feature.default is None else feature.default
            if lift:
                return np.zeros(rows)
        else:
            prior = before.sum / before.count
        m = feature.smoothing
        x_N = _mean((before.sum_M + m * prior) / (before.count_M + m), keys, rows, prior)
        if feature.transform == "none":
            return x_N
        if not binary:
            return x_N - prior
        return _logit(x_N) - _logit(np.full(1, prior)) if lift else _logit(x_N)


def day_of(file: str) -> datetime.date:
    """The day of a partition's file, from its path."""
    return datetime.date.fromisoformat(file.rsplit("/", 2)[-2].removeprefix(f"{PARTITION_KEY}="))


def _mean(x_M: Float64, keys: Keys, rows: int, empty: float) -> Float64:
    """One number a row: that of its value, or the mean over its list, `empty` where that is."""
    if keys.row_M is None:
        return x_M
    length_N = np.bincount(keys.row_M, minlength=rows)
    sum_N = np.bincount(keys.row_M, x_M, rows)
    return np.where(length_N > 0, sum_N / np.maximum(length_N, 1), empty)


def _logit(p: Float64) -> Float64:
    p = np.clip(p, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.log(p) - np.log1p(-p)


def _distinct(keys: Sequence[Int64]) -> Int64:
    return np.unique(np.concatenate([np.empty(0, np.int64), *keys]))
