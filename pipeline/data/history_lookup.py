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
from pipeline.data.history_lists import RunningLists
from pipeline.data.history_statistics import DaySums, Float64, Int64, statistic_of
from pipeline.data.perfect_hash import PerfectHash
from schemas.events import PARTITION_KEY
from schemas.features import CountFeature, HistoryFeature, HistoryListFeature, TargetEncodingFeature
from schemas.job import JobConfig

LEAST_SHARE = 1e-6
"""Means of 0/1 labels are kept so far from 0 and 1 before their logarithm is taken."""
Task = str | None


def held_bytes(entries: int, tasks: int) -> int:
    """What the sums of a column take at most, `entries` values and days of `tasks` tasks; its lists as one task.

    Measured, as `build_bytes`, where it is most: each value on one day alone.
    """
    return entries * (40 + 16 * tasks)


def build_bytes(entries: int, tasks: int) -> int:
    """What they take on top of that while they are built, the days' own numbers with it."""
    return entries * (70 + 24 * tasks)


@dataclasses.dataclass(frozen=True)
class Before:
    """What stands before a day, for the elements asked for."""

    count_M: Float64
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
        at = [np.searchsorted(all_K, key_K) for key_K in keys]
        at_E = np.concatenate([np.empty(0, np.int64), *at])
        order_E = np.argsort(at_E, kind="stable")  # by value, then by day
        day_E = np.repeat(np.arange(len(days), dtype=np.int32), np.array([len(key_K) for key_K in keys], np.int64))
        self._day_E = day_E[order_E]
        # one more entry, of zeros: what stands before the first
        order_E = np.append(order_E, len(order_E))
        self._pairs_E2 = [_running_pairs(own, at, all_K)[order_E] for own in sums.values()]
        # one more place, without entries: that of keys of no day
        length_K = np.append(np.bincount(at_E, minlength=len(all_K)), 0)
        place = np.int32 if len(at_E) < 2**30 else np.int64
        self._end_K = np.cumsum(length_K).astype(place)
        self._first_K = (self._end_K - length_K).astype(place)
        self._steps = int(length_K.max()).bit_length()
        self._all_count_DT = np.cumsum([[own.count_K.sum() for own in tasks] for tasks in by_day], axis=0)
        self._all_sum_DT = np.cumsum([[own.sum_K.sum() for own in tasks] for tasks in by_day], axis=0)

    @property
    def keys(self) -> Int64:
        """All keys of all days, each once."""
        return self._hash.keys

    def find(self, key_M: Int64) -> "Found":
        """The keys' entries, to be asked for the sums before a day."""
        return Found(self, self._hash(key_M, len(self._hash.keys)))

    def days_until(self, day: int) -> int:
        """How many days of the history lie before `day`, an ordinal."""
        return int(np.searchsorted(self._days, day))

    def entries(self, place_M: Int64, days: int) -> Int64:
        """The last entry of each key within the first `days` days; where there is none, the one that holds zeros."""
        first_M, end_M = self._first_K.take(place_M), self._end_K.take(place_M)
        if days >= len(self._days):
            return np.where(end_M > first_M, end_M - 1, len(self._day_E))
        # found by steps that halve
        entry_M = first_M - 1
        for bit in reversed(range(self._steps)):
            next_M = entry_M + self._first_K.dtype.type(1 << bit)
            before_M = self._day_E.take(next_M, mode="clip") < days
            before_M &= next_M < end_M
            np.copyto(entry_M, next_M, where=before_M)
        return np.where(entry_M >= first_M, entry_M, len(self._day_E))

    def sums(self, entry_M: Int64, task: Task, days: int) -> Before:
        """The sums of entries that lie within the first `days` days."""
        t, last = self._tasks[task], days - 1
        whole = (int(self._all_count_DT[last, t]), float(self._all_sum_DT[last, t])) if days else (0, 0.0)
        pair_M2 = self._pairs_E2[t].take(entry_M, axis=0)
        return Before(pair_M2[:, 0], pair_M2[:, 1], *whole)


def _running_pairs(days: Sequence[DaySums], at: Sequence[Int64], all_K: Int64) -> Float64:
    """[E + 1, 2]: one task's count and sum of each entry, day by day, a value's own day included; then zeros.

    A day is added to what stood before it, whatever comes after: no later day can change a bit. Counts are whole in 64
    bits of a float up to 2^53, and beside their sums they cost one read of memory.
    """
    pair_K2, out = np.zeros((len(all_K), 2)), []
    for own, at_K in zip(days, at, strict=True):
        pair_K2[np.searchsorted(all_K, own.key_K)] += np.stack([own.count_K, own.sum_K], axis=1)
        out.append(pair_K2[at_K])
    return np.concatenate([*out, np.zeros((1, 2))])


class Found:
    """The keys of a batch, found; what is asked for twice is looked up once."""

    def __init__(self, running: Running, place_M: Int64) -> None:
        self._running, self._place_M = running, place_M
        self._entries: dict[int, Int64] = {}

    def before(self, task: Task, day: int, window: int | None) -> Before:
        """The sums of the days before `day`, an ordinal: of all, or of the `window` calendar days before it."""
        end = self._until(task, day)
        if window is None:
            return end
        begin = self._until(task, day - window)
        return Before(
            end.count_M - begin.count_M, end.sum_M - begin.sum_M, end.count - begin.count, end.sum - begin.sum
        )

    def days(self, day: int, window: int | None) -> int:
        """How many days of the history are looked at."""
        end = self._running.days_until(day)
        return end if window is None else end - self._running.days_until(day - window)

    def _until(self, task: Task, day: int) -> Before:
        days = self._running.days_until(day)
        if days not in self._entries:
            self._entries[days] = self._running.entries(self._place_M, days)
        return self._running.sums(self._entries[days], task, days)


class History:
    """The features of a job that are made of earlier days."""

    def __init__(
        self, job: JobConfig, running: Mapping[tuple[str, ...], Running], lists: Mapping[str, RunningLists]
    ) -> None:
        self._running = running
        listed = [f for f in job.history if isinstance(f, HistoryListFeature)]
        self._lists = {f.name: lists[statistic_of(job, f).name] for f in listed}
        self._binary = {task.name: task.kind == "binary" for task in job.tasks}

    def numbers(
        self, features: Sequence[HistoryFeature], batch: pa.RecordBatch, day: datetime.date
    ) -> list[npt.NDArray[np.float64]]:
        """Each feature's numbers of rows of the day, shape [N] each; the labels of the batch are not looked at."""
        asked: dict[tuple[str, ...], tuple[Keys, Found]] = {}
        out = []
        for feature in features:
            columns = tuple(feature.sources)
            if columns not in asked:
                keys = keys_of(batch, columns)
                asked[columns] = keys, self._running[columns].find(keys.key_M)
            out.append(self._number(feature, *asked[columns], day.toordinal(), batch.num_rows))
        return out

    def lists(self, feature: HistoryListFeature, batch: pa.RecordBatch, day: datetime.date) -> tuple[Int64, Int64]:
        """Offsets [N + 1] and values of the lists of rows of the day."""
        key_N = keys_of(batch, (feature.by,)).key_M
        return self._lists[feature.name].before(key_N, day.toordinal(), feature.days)

    def standing(self, feature: HistoryFeature, day: datetime.date) -> tuple[Int64, Before, int]:
        """Of all known values of a feature: keys [K], what stands before the day, and how many days that is."""
        running = self._running[tuple(feature.sources)]
        task = None if isinstance(feature, CountFeature) else feature.task
        found = running.find(running.keys)
        return (
            running.keys,
            found.before(task, day.toordinal(), feature.days),
            found.days(day.toordinal(), feature.days),
        )

    def standing_lists(self, feature: HistoryListFeature, day: datetime.date) -> tuple[Int64, Int64, Int64]:
        """Of all keys of a feature: keys [K], offsets [K + 1] and values of the lists that stand before the day."""
        lists = self._lists[feature.name]
        return lists.keys, *lists.before(lists.keys, day.toordinal(), feature.days)

    def _number(self, feature: HistoryFeature, keys: Keys, found: Found, day: int, rows: int) -> Float64:
        if isinstance(feature, CountFeature):
            before = found.before(None, day, feature.days)
            x_N = _mean(before.count_M, keys, rows, 0.0)
            if feature.per_day:
                x_N = x_N / max(found.days(day, feature.days), 1)
            return np.log1p(x_N) if feature.transform == "log1p" else x_N
        before = found.before(feature.task, day, feature.days)
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
