"""What a pass over a log found, as plain data: the source of the terminal's tables, the page and the JSON. No torch."""

import dataclasses
import math
from typing import Any

import numpy as np

from pipeline.profile.drift import Odd, Rules
from pipeline.profile.leaks import Told
from pipeline.profile.refused import Refused
from pipeline.profile.tasks import Broken

SHARES = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
"""Quantiles that are told."""
BUCKETS = 8
"""Of near-equal rows, that `boundaries` are suggested for."""
TOP = 10


@dataclasses.dataclass(frozen=True)
class TaskLine:
    """One task over all days."""

    name: str
    kind: str
    given: str | None
    rows: int
    """On which the label is known."""
    positives: int | None
    rate: float | None
    own_rows: int
    """On its own space."""
    own_positives: int | None
    own_rate: float | None
    """Of a regression task, the mean."""


@dataclasses.dataclass(frozen=True)
class DayLine:
    """One day."""

    day: str
    rows: int
    rate: dict[str, float | None]
    """By task, over the rows on which the label is known."""
    own_rate: dict[str, float | None]
    """By task, on its own space; the mean of a regression task."""


@dataclasses.dataclass(frozen=True)
class ColumnLine:
    """What is missing from one column."""

    column: str
    kind: str
    used_by: str
    rows: int
    nulls: int
    nan: int
    infinite: int
    empty: int
    nulls_inside: int


@dataclasses.dataclass(frozen=True)
class NumberLine:
    """How one column's numbers, or one task's labels on its own space, are spread."""

    name: str
    rows: int
    mean: float
    deviation: float
    low: float
    high: float
    quantiles: list[float]
    boundaries: list[float]
    """Cuts into BUCKETS of near-equal rows, fewer where values repeat."""
    outside: int | None = None
    """Of a regression label, rows outside of its space that hold a number other than 0."""


@dataclasses.dataclass(frozen=True)
class ListLine:
    """How long one column's lists are."""

    column: str
    lists: int
    empty: int
    mean: float
    quantiles: list[int]
    longest: int


@dataclasses.dataclass(frozen=True)
class ValueLine:
    """The ids or strings of one feature, or of all features of a shared table."""

    name: str
    encoding: str
    rows: int
    lookups: int
    unknown: int
    distinct: int
    exact: bool
    shared_values: float
    shared_lookups: float
    top: float | None
    """Share of the look-ups that the TOP most frequent values take; None where not all were counted."""
    once: float
    """Share of the distinct values that come once."""


@dataclasses.dataclass(frozen=True)
class FreshLine:
    """Share of a column's values that are new on each day but the first."""

    column: str
    shares: dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class Profile:
    """All of it."""

    name: str
    path: str
    first: str
    last: str
    files: int
    row_groups: int
    rows: int
    lost: list[str]
    """What could not be read, under quarantine."""
    lost_rows: int
    tasks: list[TaskLine]
    days: list[DayLine]
    drift: list[Odd]
    correlation: list[list[float | None]]
    conditional: list[list[float | None]]
    funnel: list[Broken]
    values: list[ValueLine]
    fresh: list[FreshLine]
    missing: list[ColumnLine]
    lists: list[ListLine]
    numbers: list[NumberLine]
    regression: list[NumberLine]
    told: list[Told]
    refused: list[Refused]
    rules: Rules

    @property
    def suspects(self) -> list[Told]:
        """Columns that tell a label too well."""
        return [t for t in self.told if t.suspect]

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it: no NaN, no infinity."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
