"""What is compared of a day with other days: where it stands, how, against which limit, and how it is told."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.daily import differences
from pipeline.daily.columns import ColumnDay, Sums
from pipeline.daily.differences import Difference
from pipeline.daily.statistics import DayStatistics, first_task
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Quantity:
    """Something that is compared."""

    rule: str
    subject: str
    what: str
    key: str
    """Of ChecksConfig: its limit."""
    of: Callable[[DayStatistics], Any]
    """Its value on a day; None where the day has none."""
    compare: Callable[[Any, Sequence[Any], Sequence[Any]], Difference]
    """Today's value, those it is compared with, those of all recent days."""
    tell: Callable[[Difference], tuple[str, str, str]]
    """Here, usual and the difference, in words."""

    @property
    def word(self) -> str:
        """What --accept takes for it."""
        return f"{self.rule}:{self.subject}" if self.subject else self.rule


def quantities(job: JobConfig, today: DayStatistics) -> Iterator[Quantity]:
    """Everything that the day has and other days may have."""
    yield Quantity("volume", "", "rows", "rows_times", lambda day: day.rows, _pair(differences.times), _told_rows)
    for task in job.tasks:
        name, binary = task.name, task.kind == "binary"
        what = f"rate of {name}" if binary else f"mean of {name}"
        what += f" given {task.given}" if task.given else ""
        measure = differences.relative if binary else differences.scaled
        tell = _told_rate if binary else _told_mean
        yield Quantity("label_rate", name, what, "label_change", _sums("tasks", name), _pair(measure), tell)
        if task.indicator:
            what, compare = f"share of 1 in '{task.indicator}', the indicator of {name}", _pair(differences.relative)
            of = _sums("indicators", name)
            yield Quantity("label_rate", task.indicator, what, "label_change", of, compare, _told_rate)
    first = job.tasks[first_task(job)].name
    for column in today.columns:
        yield from _of_column(column, first)
    for feature in today.unknown:
        what = f"share of ids of feature '{feature}' that are out of vocabulary"
        of, compare = _sums("unknown", feature), _pair(differences.rise)
        yield Quantity("unknown", feature, what, "fresh_change", of, compare, _told_points)


def _of_column(column: ColumnDay, first: str) -> Iterator[Quantity]:
    name = f"'{column.column}'" if column.kind in ("id", "string", "number", "other") else _part(column)

    def of(day: DayStatistics, part: Callable[[ColumnDay], Any]) -> Any:
        return next((part(other) for other in day.columns if other.key == column.key), None)

    def missing(other: ColumnDay) -> Sums | None:
        return other.missing if other.missing.rows else None

    def values(other: ColumnDay) -> Sums | None:
        return other.values if other.values.rows else None

    def counts(other: ColumnDay) -> ColumnDay | None:
        fits = other.count_R.any() and other.edges == column.edges and len(other.one_R) == len(column.one_R)
        return other if fits else None

    what, measure = f"share of missing values of {name}", _pair(differences.points)
    yield Quantity(
        "missing", column.column, what, "missing_change", lambda day: of(day, missing), measure, _told_points
    )
    if column.kind in ("number", "length", "weights"):
        what, measure = f"mean of {name}", _pair(differences.in_deviations)
        yield Quantity(
            "mean", column.column, what, "mean_change", lambda day: of(day, values), measure, _told_deviations
        )
    if column.kind != "other":
        what = f"distribution of {name}"
        yield Quantity(
            "distance",
            column.column,
            what,
            "distance",
            lambda day: of(day, counts),
            differences.distance,
            _told_distance,
        )
    if column.one_R.any():
        what = f"what {name} tells of the label of {first}"
        yield Quantity(
            "meaning", column.column, what, "meaning", lambda day: of(day, counts), differences.meaning, _told_meaning
        )
    if column.sample is not None:
        what = f"share of {name} that no recent day had"
        yield Quantity(
            "fresh_ids",
            column.column,
            what,
            "fresh_change",
            lambda day: of(day, counts),
            differences.fresh,
            _told_points,
        )


def _part(column: ColumnDay) -> str:
    what = {"elements": "elements", "length": "lengths", "weights": "weights"}[column.kind]
    return f"{what} of '{column.column}'"


def _sums(group: str, name: str) -> Callable[[DayStatistics], Sums | None]:
    """Of a task, an indicator or a feature; None on a day without rows of it."""

    def of(day: DayStatistics) -> Sums | None:
        sums: Sums | None = getattr(day, group).get(name)
        return sums if sums is not None and sums.rows else None

    return of


def _pair(
    measure: Callable[[Any, Sequence[Any]], Difference],
) -> Callable[[Any, Sequence[Any], Sequence[Any]], Difference]:
    """A comparison that needs no more than the two sides."""
    return lambda here, others, recent: measure(here, others)


def _told_rows(found: Difference) -> tuple[str, str, str]:
    return f"{found.here:,.0f}", f"a median of {found.usual:,.0f}", f"a factor of {found.size:.2f}"


def _told_rate(found: Difference) -> tuple[str, str, str]:
    change = f"a change by {found.size:.0%}" if math.isfinite(found.size) else "a change from 0"
    return f"{found.here:.4%}", f"{found.usual:.4%}", change


def _told_mean(found: Difference) -> tuple[str, str, str]:
    change = f"a change by {found.size:.2f} times the mean or the deviation, whichever is larger"
    return f"{found.here:.5g}", f"{found.usual:.5g}", change


def _told_points(found: Difference) -> tuple[str, str, str]:
    return f"{found.here:.2%}", f"{found.usual:.2%}", f"a change by {found.size:.4f}"


def _told_deviations(found: Difference) -> tuple[str, str, str]:
    constant = "a change of what was constant"
    change = f"a change by {found.size:.2f} standard deviations" if math.isfinite(found.size) else constant
    return f"{found.here:.5g}", f"{found.usual:.5g}", change


def _told_distance(found: Difference) -> tuple[str, str, str]:
    usual = f"distance {found.usual:.3f} from one another"
    return f"distance {found.here:.3f} from the recent days", usual, f"that is {found.size:.3f} more"


def _told_meaning(found: Difference) -> tuple[str, str, str]:
    return f"{found.here:.3g} (with the recent days' rates)", f"{found.usual:.3g}", f"a fall by {found.size:.0%}"
