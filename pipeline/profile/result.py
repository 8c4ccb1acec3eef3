"""Sums of a pass over a log -> its profile. No torch."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.data.quarantine import left_out
from pipeline.data.vocabulary_file import COUNT
from pipeline.profile.columns import Column, DayColumn, ListColumn, NumberColumn, ValueColumn
from pipeline.profile.drift import Day, Odd, Rules, absolute, in_deviations, odd_days, odd_sizes, relative
from pipeline.profile.leaks import told
from pipeline.profile.lines import (
    BUCKETS,
    SHARES,
    TOP,
    ColumnLine,
    DayLine,
    FreshLine,
    ListLine,
    NumberLine,
    Profile,
    TaskLine,
    ValueLine,
)
from pipeline.profile.numbers import quantile_bins, rounded
from pipeline.profile.scan import NOT_USED, Scan
from pipeline.profile.tasks import DayLabels, TaskSums
from schemas.events import DayRange
from schemas.job import JobConfig


def result(scan: Scan, job: JobConfig, days: DayRange, manifest: Manifest, rules: Rules) -> Profile:
    """The profile of what the scan has added up."""
    columns, sums = list(scan.columns.values()), scan.sums
    targets = {t.source: t.name for t in job.tasks if t.kind == "regression"}
    outside = {task.name: int(n) for task, n in zip(job.tasks, sums.outside_T, strict=True)}
    spread = [_spread(c) for c in columns if isinstance(c, NumberColumn) and c.tally is not None and c.days]
    regression = [
        dataclasses.replace(line, name=targets[line.name], outside=outside[targets[line.name]])
        for c in columns
        if isinstance(c, NumberColumn) and _is_target(c) and (line := _spread(c)) is not None
    ]
    counted = {day.day: _day(job, day) for day in sums.days}
    none: dict[str, float | None] = dict.fromkeys(task.name for task in job.tasks)
    lines = [counted.get(day, DayLine(day, 0, none, none)) for day in map(str, days.days())]  # one may have no row
    lost = [str(piece) for piece in left_out(manifest)] + scan.lost
    return Profile(
        name=job.name,
        path=job.data.path,
        first=str(days.first),
        last=str(days.last),
        files=manifest.files.num_rows,
        row_groups=len(manifest.groups),
        rows=scan.rows,
        lost=lost,
        lost_rows=scan.lost_rows,
        tasks=_tasks(job, sums),
        days=lines,
        drift=odd_sizes({line.day: line.rows for line in lines}, rules.row_times) + _drift(job, sums, columns, rules),
        correlation=sums.correlation(),
        conditional=sums.conditional(),
        funnel=sums.broken,
        values=_values(scan),
        fresh=[_fresh(c) for c in columns if isinstance(c, ValueColumn) and len(c.days) > 1 and c.used_by != NOT_USED],
        missing=[_missing(c) for c in {c.name: c for c in columns if not _is_target(c)}.values()],
        lists=[_lists(c) for c in columns if isinstance(c, ListColumn) and c.tally is not None],
        numbers=[line for line in spread if line is not None],
        regression=regression,
        told=told(job, columns, sums.squares(), rules),
        refused=scan.refusals.found,
        rules=rules,
    )


def _is_target(column: Column) -> bool:
    """Whether it is a regression label on its own space, looked at as a number."""
    return isinstance(column, NumberColumn) and column.tally is None


def _tasks(job: JobConfig, sums: TaskSums) -> list[TaskLine]:
    whole = sums.together()
    out = []
    for n, task in enumerate(job.tasks):
        binary = task.kind == "binary"
        rows, own = int(whole.known_T[n]), int(whole.own_T[n])
        total, own_total = float(whole.total_T[n]), float(whole.own_total_T[n])
        counted = (int(total), int(own_total)) if binary else (None, None)
        out.append(
            TaskLine(
                task.name,
                task.kind,
                task.given,
                rows,
                counted[0],
                total / rows if rows and binary else None,
                own,
                counted[1],
                own_total / own if own else None,
            )
        )
    return out


def _day(job: JobConfig, day: DayLabels) -> DayLine:
    def rates(total_T: np.ndarray, rows_T: np.ndarray) -> dict[str, float | None]:
        pairs = zip(job.tasks, total_T.tolist(), rows_T.tolist(), strict=True)
        return {task.name: total / rows if rows else None for task, total, rows in pairs}

    return DayLine(day.day, day.rows, rates(day.total_T, day.known_T), rates(day.own_total_T, day.own_T))


def _drift(job: JobConfig, sums: TaskSums, columns: Sequence[Column], rules: Rules) -> list[Odd]:
    out: list[Odd] = []
    for n, task in enumerate(job.tasks):
        if task.kind == "binary":
            what = f"rate of {task.name}" + (f" given {task.given}" if task.given else "")
            days = [Day(d.day, d.own_T[n], d.own_total_T[n], d.own_total_T[n]) for d in sums.days]
            out += odd_days(what, days, rules.z, relative(rules.label_change))
    for column in columns:
        days = [Day(d.day, d.rows, d.missing, d.missing) for d in column.days]
        if not _is_target(column):
            out += odd_days(f"share of missing {column.name}", days, rules.z, absolute(rules.missing_change))
        if column.used_by == NOT_USED:
            continue  # an hour or a serial number of the log's drifts by nature
        if isinstance(column, NumberColumn) and column.centre is not None:
            what = f"mean of {column.name}" + (" (label)" if _is_target(column) else "")
            days = [Day(d.day, d.finite, d.total, d.squares) for d in column.days]
            odd = odd_days(what, days, rules.z, in_deviations(rules.mean_change))
            out += [
                dataclasses.replace(o, here=o.here + column.centre, others=o.others + column.centre, number=True)
                for o in odd
            ]
        if isinstance(column, ValueColumn):
            out += _fresh_days(column, rules)
    return out


def _fresh_share(day: DayColumn) -> float | None:
    there = day.rows - day.missing
    if not day.fresh_known or not there:
        return None
    return min(1.0, day.fresh / there / (1 - day.earlier))


def _fresh(column: Column) -> FreshLine:
    return FreshLine(column.name, {day.day: _fresh_share(day) for day in column.days[1:]})


def _fresh_days(column: Column, rules: Rules) -> list[Odd]:
    """Days with many more new values than the day before had; the first day's are all new."""
    out = []
    for before, day in zip(column.days[1:], column.days[2:], strict=False):
        here, there = _fresh_share(day), _fresh_share(before)
        if here is None or there is None:
            continue
        error = math.sqrt(max(here * (1 - here), there * (1 - there)) * (1 / day.rows + 1 / before.rows))
        z = (here - there) / error if error else math.inf
        if here >= max(2 * there, there + rules.fresh_change) and z >= rules.z:
            what = f"share of new {column.name}"
            out.append(Odd(what, day.day, here, there, z, against="the day before"))
    return out


def _values(scan: Scan) -> list[ValueLine]:
    out = []
    for tally, line in zip(scan.survey.tallies, scan.survey.lines(), strict=True) if scan.survey else ():
        counts_N = tally.counts.table()[COUNT].to_numpy()
        top = float(np.sort(counts_N)[-TOP:].sum() / max(counts_N.sum(), 1)) if line.exact else None
        once = float(np.count_nonzero(counts_N == 1) / max(len(counts_N), 1))
        given = {f.name: getattr(line, f.name) for f in dataclasses.fields(ValueLine) if hasattr(line, f.name)}
        out.append(ValueLine(**given, top=top, once=once))
    return out


def _missing(column: Column) -> ColumnLine:
    c = column.counts
    found = (c[name] for name in ("rows", "nulls", "nan", "infinite", "empty", "nulls inside"))
    return ColumnLine(column.name, column.kind, column.used_by, *found)


def _lists(column: ListColumn) -> ListLine:
    lists = int(column.length_R.sum())
    quantiles = quantile_bins(column.length_R, SHARES).tolist() if lists else []
    return ListLine(
        column.name, lists, column.counts["empty"], column.elements / max(lists, 1), quantiles, column.longest
    )


def _spread(column: NumberColumn) -> NumberLine | None:
    rows = sum(day.finite for day in column.days)
    if column.centre is None or not rows:
        return None
    off = sum(day.total for day in column.days) / rows
    deviation = math.sqrt(max(0.0, sum(day.squares for day in column.days) / rows - off**2))
    cuts = column.quantiles([n / BUCKETS for n in range(1, BUCKETS)])
    cuts = [rounded(cut, cuts[-1] - cuts[0] or deviation) for cut in cuts]
    boundaries = sorted({cut for cut in cuts if column.low < cut <= column.high})
    quantiles = column.quantiles(SHARES)
    return NumberLine(column.name, rows, column.centre + off, deviation, column.low, column.high, quantiles, boundaries)
