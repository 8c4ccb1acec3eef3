"""Columns that tell a label too well to be known before it. No torch.

A column is a suspect of a task where, alone and out of sample (pipeline/profile/tally.py), it

    reaches an AUC of `leak_auc`; or
    reaches `lone_auc` with `lone_times` the lift over 0.5 of the next best column; or
    is missing exactly where the label is 0, or where it is 1, though `certain` positives, or negatives, were to be
    expected among those rows; or, of a regression task, explains `leak_share` of its variance.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipeline.profile.columns import Column, ListColumn, NumberColumn
from pipeline.profile.drift import Rules
from pipeline.profile.numbers import quantile_groups
from pipeline.profile.tally import grouped, missing_auc, told_auc, told_share
from schemas.job import JobConfig

GROUPS = 256
"""At most so many quantile groups of near-equal rows are a number's bins put into."""
ROWS_A_GROUP = 20
"""At least, where the rows are few."""


@dataclasses.dataclass(frozen=True)
class Told:
    """How well one column tells one task."""

    task: str
    column: str
    used_by: str
    how: str
    """value, length or missing: what it is of the column that tells."""
    score: float
    """AUC; of a regression task, the share of its variance."""
    regression: bool
    suspect: str = ""
    """Why it is a suspect; empty where it is none."""


def told(job: JobConfig, columns: Sequence[Column], squares: dict[str, float], rules: Rules) -> list[Told]:
    """Every column and task that can be compared, best first within a task; `squares` of regression labels, by task."""
    out = []
    for number, task in enumerate(job.tasks):
        found = []
        for column in columns:
            if column.tally is not None:
                found += _told(number, task.name, task.kind == "regression", column, squares, rules)
        best = {(t.column, t.how): t for t in sorted(found, key=lambda t: t.score)}  # of one read in two ways
        found = sorted(best.values(), key=lambda t: -t.score)
        out += [dataclasses.replace(t, suspect=t.suspect or _why(t, found, rules)) for t in found]
    return out


def _told(
    number: int, task: str, regression: bool, column: Column, squares: dict[str, float], rules: Rules
) -> list[Told]:
    assert column.tally is not None
    rows_2R, sum_2R = column.tally.halves(number)
    how = "length" if isinstance(column, ListColumn) else "value"
    missing = rows_2R[:, -1].sum() > 0
    if isinstance(column, NumberColumn):
        count_R = rows_2R.sum(0)
        groups = int(np.clip(count_R.sum() // ROWS_A_GROUP, 2, GROUPS))
        group_R = np.append(quantile_groups(count_R[:-1], groups), groups)
        rows_2R, sum_2R = (grouped(part, group_R, groups + 1) for part in (rows_2R, sum_2R))
    if regression:
        share = told_share(rows_2R, sum_2R, squares[task])
        return [] if share is None else [Told(task, column.name, column.used_by, how, share, True)]
    out = []
    value = told_auc(rows_2R, sum_2R)
    if value is not None:
        out.append(Told(task, column.name, column.used_by, how, value, False))
    if missing:
        auc, why = missing_auc(rows_2R, sum_2R), _certain(rows_2R.sum(0), sum_2R.sum(0), rules)
        if auc is not None:
            if value is not None and auc >= value - 0.01:
                out.clear()  # there is no more in the value than whether it is there
            out.append(Told(task, column.name, column.used_by, "missing", auc, False, why))
    return out


def _certain(rows_R: np.ndarray, ones_R: np.ndarray, rules: Rules) -> str:
    """Whether the label is the same on every row whose value is missing, where that is no chance."""
    rows, ones, rate = rows_R[-1], ones_R[-1], ones_R.sum() / max(rows_R.sum(), 1)
    if ones == 0 and rows * rate >= rules.certain:
        return (
            f"where it is missing ({rows:,.0f} rows) the label is never 1, and {rows * rate:,.0f} were to be expected"
        )
    if ones == rows and rows * (1 - rate) >= rules.certain:
        return f"where it is missing ({rows:,.0f} rows) the label is always 1"
    return ""


def _why(t: Told, found: Sequence[Told], rules: Rules) -> str:
    if t.regression:
        return f"explains {t.score:.1%} of the label's variance alone" if t.score >= rules.leak_share else ""
    if t.score >= rules.leak_auc:
        return f"reaches an AUC of {t.score:.4f} alone"
    others = [o.score for o in found if o.column != t.column]
    if t.score >= rules.lone_auc and others and t.score - 0.5 >= rules.lone_times * (max(others) - 0.5):
        return f"reaches an AUC of {t.score:.4f} alone, the next best column {max(others):.4f}"
    return ""
