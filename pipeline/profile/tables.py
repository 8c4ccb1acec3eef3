"""A profile as sections of tables and remarks, which the terminal prints and the page shows. No torch."""

import dataclasses
import math
from collections.abc import Sequence

from pipeline.data.value_counts import uniform_share
from pipeline.profile.drift import Odd
from pipeline.profile.lines import SHARES, TOP, ColumnLine, NumberLine, Profile

TOLD = 5
"""Columns a task whose AUC is shown."""
MOST_BOUNDARIES = 8
MANY_DAYS = 3
"""From so many odd days on, one finding tells of all."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Words first, then numbers."""

    head: list[str]
    rows: list[list[str]]
    words: int = 1
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the report."""

    title: str
    note: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    remarks: list[str] = dataclasses.field(default_factory=list)


def sections(p: Profile) -> list[Section]:
    """The whole report in its order."""
    parts = [_findings(p), _tasks(p), _days(p), _pairs(p), _values(p), _missing(p), _numbers(p), _told(p)]
    return [part for part in parts if part.tables or part.warnings or part.remarks]


def warnings(p: Profile) -> list[str]:
    """Everything that asks for a look, in words."""
    out = [
        f"'{t.column}' may leak '{t.task}': "
        + (t.suspect if t.how == "value" or t.suspect.startswith("where") else f"its {_how(t.how)} {t.suspect}")
        for t in p.suspects
    ]
    out += [
        f"{b.rows:,} of {b.positives:,} '{b.child}' without a '{b.parent}'; the first is {b.first}"
        for b in p.funnel
        if b.rows
    ]
    out += [
        f"{r.rows:,} rows that training refuses in '{r.column}' ({r.feature}); the first is {r.first}"
        for r in p.refused
    ]
    out += _odd_days(p)
    if p.lost:
        out.append(f"{p.lost_rows:,} rows could not be read, and what planning left out: " + "; ".join(p.lost[:3]))
    return out


def _how(how: str) -> str:
    return {"length": "length", "missing": "being missing or not"}[how]


def _odd_days(p: Profile) -> list[str]:
    """A line a day; of what is unlike on many days, as a mean that grows from day to day is, one for all."""
    by_what: dict[str, list[Odd]] = {}
    for one in p.drift:
        by_what.setdefault(one.what, []).append(one)
    out = []
    for what, found in by_what.items():
        if len(found) < MANY_DAYS:
            out += [_odd(one) for one in found]
            continue
        furthest = max(found, key=lambda one: 0 if math.isnan(one.z) else abs(one.z))
        out.append(f"the {what} is unlike on {len(found)} of {len(p.days)} days; the furthest: {_odd(furthest)}")
    return out


def _odd(odd: Odd) -> str:
    here, others = (_number(x) if odd.number else f"{x:.2%}" for x in (odd.here, odd.others))
    change = f", {odd.here / odd.others - 1:+.0%}" if odd.what.startswith("rate") and odd.others else ""
    if math.isnan(odd.z):
        return f"{odd.day}: the {odd.what} is {odd.here:,.0f}, the median of {odd.against} {odd.others:,.0f}"
    z = f"z = {odd.z:+.0f}" if math.isfinite(odd.z) else "neither varies"
    return f"{odd.day}: the {odd.what} is {here}, that of {odd.against} {others}{change} ({z})"


def _findings(p: Profile) -> Section:
    found = warnings(p)
    return Section("Findings", warnings=found, remarks=[] if found else ["nothing that asks for a look"])


def _tasks(p: Profile) -> Section:
    head = ["task", "given", "rows", "positives", "rate", "own space", "positives there", "rate there"]
    rows = [
        [
            *(t.name, t.given or "", f"{t.rows:,}", _count(t.positives), _share(t.rate)),
            *(f"{t.own_rows:,}", _count(t.own_positives), _share(t.own_rate)),
        ]
        for t in p.tasks
        if t.kind == "binary"
    ]
    tables = [Table(head, rows, 2)] if rows else []
    if p.regression:
        given = {t.name: t.given or "" for t in p.tasks}
        head = ["regression task", "given", *_number_head(), "not 0 outside"]
        tables.append(
            Table(head, [[n.name, given[n.name], *_number_cells(n), f"{n.outside:,}"] for n in p.regression], 2)
        )
    note = "rows on which the label is known; own space: those on which the labels of all ancestors are 1"
    return Section("Tasks", note, tables=tables)


def _days(p: Profile) -> Section:
    head = ["day", "rows", *(t.name + (f" | {t.given}" if t.given else "") for t in p.tasks)]
    kinds = {t.name: t.kind for t in p.tasks}
    rows = [
        [d.day, f"{d.rows:,}"]
        + [_share(rate) if kinds[name] == "binary" else _number(rate) for name, rate in d.own_rate.items()]
        for d in p.days
    ]
    tables = [Table(head, rows)]
    if p.fresh:
        days = sorted({day for line in p.fresh for day in line.shares})
        caption = "values that no earlier day had, as a share of the rows"
        cells = [[day, *(_share(line.shares.get(day)) for line in p.fresh)] for day in days]
        tables.append(Table(["new on", *(line.column for line in p.fresh)], cells, 1, caption))
    note = "the rate of each task on its own space; the mean of a regression task"
    return Section("Days", note, tables=tables)


def _pairs(p: Profile) -> Section:
    names = [t.name for t in p.tasks]
    if len(names) < 2:
        return Section("Pairs of tasks")
    correlation = [[a, *(_number(x, ".3f") for x in row)] for a, row in zip(names, p.correlation, strict=True)]
    tables = [Table(["correlation", *names], correlation)]
    binary = [n for n, t in enumerate(p.tasks) if t.kind == "binary"]
    given = [[names[a], *(_share(p.conditional[a][b]) for b in binary)] for a in binary]
    tables.append(Table(["given a 1 of", *(f"P({names[b]})" for b in binary)], given))
    if p.funnel:
        rows = [[b.child, b.parent, f"{b.positives:,}", f"{b.rows:,}", b.first] for b in p.funnel]
        head = ["task", "given", "positives", "without a parent", "the first"]
        tables.append(Table(head, rows, 2))
    return Section("Pairs of tasks", "on the rows on which both labels are known", tables=tables)


def _values(p: Profile) -> Section:
    head = ["feature", "rows found by", "look-ups", "distinct", f"top {TOP}", "come once", "table rows"]
    head += ["shared values", "uniform hash", "shared look-ups", "unknown"]
    rows = []
    for v in p.values:
        hashed = "hash" in v.encoding
        shares = [_share(v.shared_values), _share(uniform_share(v.distinct, v.rows)), _share(v.shared_lookups)]
        rows.append(
            [
                *(v.name, v.encoding, f"{v.lookups:,}", f"{'' if v.exact else '~'}{v.distinct:,}", _share(v.top)),
                *(_share(v.once), f"{v.rows:,}", *(shares if hashed else [""] * 3)),
                _share(v.unknown / max(v.lookups, 1)),
            ]
        )
    remarks = [] if all(v.exact for v in p.values) else ["~ estimated from a sample: --memory did not hold them all"]
    return Section("Ids and strings", tables=[Table(head, rows, 2)] if rows else [], remarks=remarks)


def _missing(p: Profile) -> Section:
    def cells(c: ColumnLine) -> list[str]:
        found = (c.nulls, c.nan, c.infinite, c.empty, c.nulls_inside)
        return [
            c.column,
            c.kind,
            c.used_by,
            *(f"{n:,}" if n else "" for n in found),
            _share((c.nulls + c.nan) / max(c.rows, 1)),
        ]

    some = [c for c in p.missing if c.nulls or c.nan or c.infinite or c.empty or c.nulls_inside]
    head = ["column", "kind", "read by", "null", "NaN", "infinite", "empty", "nulls inside", "missing"]
    tables = [Table(head, [cells(c) for c in some], 3)] if some else []
    remarks = (
        [f"{len(p.missing) - len(some)} of {len(p.missing)} columns lack nothing"] if len(some) < len(p.missing) else []
    )
    if p.lists:
        head = ["list", "lists", "empty", "mean length", *(f"{share:.0%}" for share in SHARES), "longest"]
        rows = [
            [
                *(x.column, f"{x.lists:,}", f"{x.empty:,}", f"{x.mean:.2f}"),
                *(f"{q:,}" for q in x.quantiles or [0] * len(SHARES)),
                f"{x.longest:,}",
            ]
            for x in p.lists
        ]
        tables.append(Table(head, rows))
    return Section("What is missing, and how long lists are", tables=tables, remarks=remarks)


def _number_head() -> list[str]:
    return ["rows", "mean", "deviation", "lowest", *(f"{share:.0%}" for share in SHARES), "highest"]


def _number_cells(n: NumberLine) -> list[str]:
    return [f"{n.rows:,}", *(_number(x) for x in (n.mean, n.deviation, n.low, *n.quantiles, n.high))]


def _numbers(p: Profile) -> Section:
    if not p.numbers:
        return Section("Numbers")
    table = Table(["column", *_number_head()], [[n.name, *_number_cells(n)] for n in p.numbers])
    remarks = [
        f"{n.name}: boundaries: {[_short(b) for b in n.boundaries]}".replace("'", "") for n in p.numbers if n.boundaries
    ]
    return Section(
        "Numbers",
        "finite values; a bucket feature of near-equal buckets would have these boundaries:",
        [],
        [table],
        remarks,
    )


def _told(p: Profile) -> Section:
    head = ["task", "column", "by its", "AUC alone"]
    rows = []
    for task in p.tasks:
        found = [t for t in p.told if t.task == task.name]
        shown = [t for n, t in enumerate(found) if n < TOLD or t.suspect]
        rows += [
            [t.task, t.column, t.how, f"{t.score:.4f}" + (" of the variance" if t.regression else "")] for t in shown
        ]
    note = f"out of sample, on the task's own space; from {p.rules.leak_auc:g} on a column is a suspect"
    return Section("What one column alone tells", note, tables=[Table(head, rows, 3)] if rows else [])


def text(parts: Sequence[Section]) -> str:
    """For the terminal."""
    out = []
    for part in parts:
        out.append(f"\n{part.title.upper()}" + (f"  ({part.note.rstrip(':')})" if part.note else ""))
        out += [f"! {warning}" for warning in part.warnings]
        for number, table in enumerate(part.tables):
            out += [""] * (number > 0) + ([table.caption] if table.caption else []) + [_aligned(table)]
        out += part.remarks
    return "\n".join(out).lstrip("\n")


def _aligned(table: Table) -> str:
    lines = [table.head, *table.rows]
    width = [max(len(line[c]) for line in lines) for c in range(len(table.head))]
    lines.insert(1, ["-" * w for w in width])
    return "\n".join(
        "  ".join(
            cell.ljust(w) if c < table.words else cell.rjust(w)
            for c, (cell, w) in enumerate(zip(line, width, strict=True))
        ).rstrip()
        for line in lines
    )


def _share(x: float | None) -> str:
    return "" if x is None else f"{x:.2%}"


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _number(x: float | None, form: str = ",.4g") -> str:
    if x is not None and form == ",.4g" and 1e4 <= abs(x) < 1e12:
        form = ",.0f"  # rather than 1.064e+05
    return "" if x is None else format(x, form)


def _short(x: float) -> str:
    return f"{x:.10g}"
