"""Whether a day's rows belong to it: event_time against the day, clocks and sessions over midnight allowed for.

A time with a zone is an instant, one without is UTC; a date is the whole day of its calendar. Integers are refused:
they do not say their unit. No torch.
"""

import dataclasses
import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.checks import Where
from pipeline.data.quarantine import below_root
from schemas.daily import ChecksConfig
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, TIME_COLUMN

Mask = npt.NDArray[np.bool_]
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds."""
DAY_NS = 86_400 * 10**9
MINUTE_NS = 60 * 10**9


@dataclasses.dataclass(frozen=True)
class TimeDay:
    """What was found."""

    types: list[str]
    rows: int
    outside: int
    """Rows without a time, or with one further outside of the day than the slack."""
    worst: str = ""
    """The one furthest outside, or the first without a time: file, row group, row, value."""


class EventTimes:
    """Looks at one column after another."""

    def __init__(self, day: datetime.date, checks: ChecksConfig) -> None:
        midnight = (day - datetime.date(1970, 1, 1)).days
        self._day, self._midnight = day, midnight
        self._slack = round(checks.slack_minutes * MINUTE_NS)
        self._clock = round(checks.clock_hours * 60 * MINUTE_NS)
        self._types: dict[str, None] = {}
        self._rows = self._outside = 0
        self._furthest, self._worst = -1.0, ""

    def add(self, column: pa.Array, where: Where) -> None:
        """One batch, whose first row is the one that `where` says. Raises InputError for a type that is no time."""
        kind = column.type
        if str(kind) not in self._types:
            self._refuse(kind, where)
            self._types[str(kind)] = None
        self._rows += len(column)
        dates = pa.types.is_date(kind)
        column = column.cast(pa.date32()) if dates else column
        whole = column.fill_null(0) if column.null_count else column
        time_N = whole.view(pa.int32() if dates else pa.int64()).to_numpy()
        first, last = self._bounds(DAY_NS if dates else UNITS[kind.unit], dates)
        outside_N = (time_N < first) | (time_N > last)
        if column.null_count:
            outside_N |= column.is_null().to_numpy(zero_copy_only=False)
        if outside_N.any():
            self._count(column, time_N, outside_N, DAY_NS if dates else UNITS[kind.unit], where)

    def _count(
        self, column: pa.Array, time_N: npt.NDArray[np.integer], outside_N: Mask, unit: int, where: Where
    ) -> None:
        self._outside += int(np.count_nonzero(outside_N))
        noon = (self._midnight + 0.5) * DAY_NS
        far_N = np.where(outside_N, np.abs(time_N.astype(np.float64) * unit - noon), -1.0)  # near enough to rank by
        if column.null_count:
            far_N[column.is_null().to_numpy(zero_copy_only=False)] = 0.0
        row = int(np.argmax(far_N))
        if far_N[row] > self._furthest:
            self._furthest = float(far_N[row])
            place = f"{below_root(where.path)}, row group {where.group}, {where.row(row)}"
            self._worst = f"{place}: {_shown(column[row]) if column[row].is_valid else 'no time'}"

    def _bounds(self, unit: int, dates: bool) -> tuple[int, int]:
        """The first and the last value inside, in the column's unit."""
        clock, slack = (0, self._slack // DAY_NS * DAY_NS) if dates else (self._clock, self._slack)
        first = self._midnight * DAY_NS + clock - slack
        last = (self._midnight + 1) * DAY_NS + clock + slack - 1
        return -(-first // unit), last // unit

    def _refuse(self, kind: pa.DataType, where: Where) -> None:
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return
        raise InputError(
            f"{where}: column '{TIME_COLUMN}' holds {kind}, which does not say when a row of "
            f"{PARTITION_KEY}={self._day} was; write it as a timestamp (with its zone, or in UTC) or a date"
        )

    def day(self) -> TimeDay:
        """What it came to."""
        return TimeDay(list(self._types), self._rows, self._outside, self._worst)


def _shown(value: Any) -> str:
    """A time, or what cannot be shown as one (a year beyond 9999)."""
    try:
        return str(value.cast(pa.timestamp("ms")) if pa.types.is_timestamp(value.type) else value)
    except (pa.ArrowException, ValueError, OverflowError):
        return f"{value.value} ({value.type})"
