"""The last values that a key had on earlier days: collected day by day, found for the rows of any later day. No torch.

Within a day rows stand by `event_time`, rows of one time as the log has them; nulls of the column are passed over.

Shapes: N rows, M values, K distinct keys.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from pipeline.data.history_statistics import DayLists, Int64
from pipeline.data.perfect_hash import PerfectHash

FRESH = 262_144
"""At least so many new values are gathered before all but the last of each key are let go."""
MERGE_COPIES = 6
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1, "date32[day]": 86_400 * 10**9, "date64[ms]": 10**6}
"""Of each unit that a time may have: files of one day need not agree."""


class LastValues:
    """The last values of each key on one day."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = np.empty((3, 0), np.int64)
        """Key, time and value, by key and time rising."""
        self._fresh: list[Int64] = []
        self._fresh_values = 0

    def add(self, key_N: Int64, time_N: Int64, value_N: Int64) -> None:
        """Takes in rows, in the log's order."""
        self._fresh.append(np.stack([key_N, time_N, value_N]))
        self._fresh_values += len(key_N)
        if self._fresh_values > max(FRESH, self._held.shape[1]):
            self._merge()

    @property
    def bytes(self) -> int:
        """What they take while they are merged."""
        return 8 * 3 * (self._held.shape[1] + self._fresh_values) * MERGE_COPIES

    def day(self) -> DayLists:
        """The day's, whole."""
        self._merge()
        return DayLists(self._held[0].copy(), self._held[2].copy())

    def _merge(self) -> None:
        every = np.concatenate([self._held, *self._fresh], axis=1)
        self._fresh, self._fresh_values = [], 0
        every = every[:, np.lexsort((every[1], every[0]))]  # stable: rows of one time stay as they came
        end_M = np.searchsorted(every[0], every[0], side="right")
        self._held = every[:, end_M - np.arange(len(end_M)) <= self._most]


class RunningLists:
    """The values of all days by key, day and time: what stood before a day is one stretch of them."""

    def __init__(self, days: Sequence[int], lists: Sequence[DayLists], most: int) -> None:
        """`days` are ordinals, rising."""
        self._days, self._most = np.array(days, np.int64), most
        key_M = np.concatenate([np.empty(0, np.int64), *(own.key_M for own in lists)])
        all_K, at_M = np.unique(key_M, return_inverse=True)
        order_M = np.argsort(at_M, kind="stable")
        self._hash = PerfectHash(all_K)
        self._value_M = np.concatenate([np.empty(0, np.int64), *(own.value_M for own in lists)])[order_M]
        sizes = np.array([len(own.key_M) for own in lists], np.int64)
        self._day_M = np.repeat(np.arange(len(days), dtype=np.int32), sizes)[order_M]
        # one more place, without values: that of keys of no day
        length_K = np.append(np.bincount(at_M, minlength=len(all_K)), 0)
        self._end_K = np.cumsum(length_K)
        self._first_K = self._end_K - length_K
        self._steps = int(length_K.max()).bit_length()

    @property
    def keys(self) -> Int64:
        """All keys of all days, each once."""
        return self._hash.keys

    def before(self, key_N: Int64, day: int, window: int | None) -> tuple[Int64, Int64]:
        """Offsets [N + 1] and values of the last values before `day`, an ordinal, the oldest first."""
        place_N = self._hash(key_N, len(self._hash.keys))
        end_N = self._until(place_N, day)
        begin_N = self._first_K.take(place_N) if window is None else self._until(place_N, day - window)
        begin_N = np.maximum(begin_N, end_N - self._most)
        offset_N = np.concatenate([[0], np.cumsum(end_N - begin_N)])
        at_M = np.arange(offset_N[-1]) + np.repeat(begin_N - offset_N[:-1], end_N - begin_N)
        return offset_N, self._value_M.take(at_M)

    def _until(self, place_N: Int64, day: int) -> Int64:
        """Where each key's values of the days before `day` end."""
        first_N, end_N = self._first_K.take(place_N), self._end_K.take(place_N)
        days = int(np.searchsorted(self._days, day))
        if days >= len(self._days):
            return end_N
        at_N = first_N - 1
        for bit in reversed(range(self._steps)):  # by steps that halve
            next_N = at_N + (1 << bit)
            before_N = (next_N < end_N) & (self._day_M.take(next_N, mode="clip") < days)
            at_N = np.where(before_N, next_N, at_N)
        return at_N + 1


def times(column: pa.Array) -> Int64:
    """`event_time` as integers, dates and times as nanoseconds whatever the file's unit; a null comes first."""
    kind, scale = column.type, 1
    if not pa.types.is_integer(kind):
        scale = NANOSECONDS[str(kind) if pa.types.is_date(kind) else kind.unit]
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    furthest = (2**63 - 1) // scale
    time_N = column.cast(pa.int64()).fill_null(-(2**63)).to_numpy()
    return time_N if scale == 1 else np.where(time_N == -(2**63), time_N, np.clip(time_N, -furthest, furthest) * scale)
