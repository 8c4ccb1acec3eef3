"""Whether a day is like the recent days: rules with declared limits, each finding in words. No torch.

A day is compared with the recent days together. What they find odd passes all the same where the same weekday among
them is like it, or the days since a person accepted the same finding: so a window of seven days knows its weekends,
and a new normal is accepted once. A mean or a share is odd where it is beyond its limit AND `z` standard errors away:
with many rows everything is significant and little of it matters, with few rows the other way round.
"""

import dataclasses
import datetime
import math
from collections.abc import Iterator, Sequence, Set
from typing import Any

from pipeline.daily.quantities import Quantity, quantities
from pipeline.daily.statistics import DayStatistics, first_task
from schemas.daily import ChecksConfig
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.strict import nearest

ADVICE = {
    "volume": "see whether the day is whole, and written once",
    "label_rate": "see whether the label still means what it did, and is joined to all rows",
    "missing": "see what writes the column",
    "mean": "see whether the column's unit or meaning changed",
    "distance": "see whether the column's values still mean what they did: a unit, an encoding, ids given anew",
    "meaning": "see whether the column's values were exchanged: ids or codes given anew among themselves",
    "fresh_ids": "see whether ids were given anew",
    "unknown": "see whether ids were given anew, or write the vocabulary again",
    "event_time": "see which job wrote the day; daily.checks.clock_hours says when the log's days begin, "
    "daily.checks.slack_minutes how far a row may lie outside",
    "auc_drop": "see what changed in the columns that the model reads: ids given anew show here at the latest",
}
"""Rule -> what to do about it."""
Z_95 = 1.959963984540054
"""Half of a 95 % interval in standard errors."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing about a day that is beyond a limit."""

    rule: str
    """A key of ADVICE."""
    subject: str
    """Task, column or feature; empty of the day as a whole."""
    here: float
    usual: float | None
    """None where the rule needs no other day."""
    limit: float
    words: str
    """One sentence: what, both numbers, the limit and its key, what to do."""
    accepted: bool = False
    """Whether a person has said that it is right."""

    @property
    def word(self) -> str:
        """What --accept takes for it."""
        return f"{self.rule}:{self.subject}" if self.subject else self.rule


def check_accepted(accepted: Set[str]) -> None:
    """Raises InputError for a word that no finding has, such as a rule misspelt."""
    for word in sorted(accepted):
        rule = word.partition(":")[0]
        if rule not in ADVICE:
            raise InputError(f"--accept: '{word}' names no rule; {nearest(rule, list(ADVICE))}")


def check_day(
    job: JobConfig, checks: ChecksConfig, today: DayStatistics, recent: list[DayStatistics], accepted: Set[str]
) -> list[Finding]:
    """What is odd about the day; `recent` are the latest days that passed, `accepted` words of findings that are right.

    Raises InputError for a word that names no rule.
    """
    check_accepted(accepted)
    recent = sorted((day for day in recent if day.day != today.day), key=lambda day: day.day)[-checks.recent_days :]
    found = _outside(checks, today)
    for quantity in quantities(job, today):
        odd = _odd(quantity, checks, today, recent)
        if odd is not None:
            found.append(odd)
    first = job.tasks[first_task(job)].name
    if any(f.rule == "label_rate" and f.subject == first for f in found):
        found = [f for f in found if f.rule != "meaning"]  # what columns tell of another label is the label's doing
    once = {
        finding.words: finding for finding in found
    }  # a column that is read as an id and as a number is missing once
    return [_judged(finding, accepted) for finding in once.values()]


def passed(today: DayStatistics, findings: Sequence[Finding]) -> DayStatistics:
    """The day's statistics with what was accepted of it: what later days are to be compared with."""
    return dataclasses.replace(today, accepted=sorted(f.word for f in findings if f.accepted))


def _judged(finding: Finding, accepted: Set[str]) -> Finding:
    return dataclasses.replace(finding, accepted=finding.rule in accepted or finding.word in accepted)


def _outside(checks: ChecksConfig, today: DayStatistics) -> list[Finding]:
    times = today.event_time
    share = times.outside / times.rows if times.rows else 0.0
    if share <= checks.outside:
        return []
    rows = "1 row lies" if times.outside == 1 else f"{times.outside:,} rows lie"
    words = (
        f"event_time: {rows} outside of {today.day} by more than daily.checks.slack_minutes = "
        f"{checks.slack_minutes:g}, the furthest in {times.worst}; that is {share:.3g} of the day, above "
        f"daily.checks.outside = {checks.outside:g}; {ADVICE['event_time']}{_accept('event_time')}"
    )
    return [Finding("event_time", "", share, None, checks.outside, words)]


def _accept(word: str) -> str:
    return f"; if it is right, --accept {word}"


def _odd(
    quantity: Quantity, checks: ChecksConfig, today: DayStatistics, recent: Sequence[DayStatistics]
) -> Finding | None:
    here, limit = quantity.of(today), getattr(checks, quantity.key)
    known = [day for day in recent if quantity.of(day) is not None]
    if here is None or len(known) < checks.min_days:
        return None
    values = [quantity.of(day) for day in known]
    found = []
    for days in _references(quantity, today, known):
        found.append(quantity.compare(here, [quantity.of(day) for day in days], values))
        if not (found[-1].size > limit and found[-1].z >= checks.z):
            return None
    here, usual, change = quantity.tell(found[0])
    words = (
        f"{quantity.what}: {here} on {today.day}, {usual} on the {len(known)} recent days; {change}, above "
        f"daily.checks.{quantity.key} = {limit:g}; {ADVICE[quantity.rule]}{_accept(quantity.word)}"
    )
    return Finding(quantity.rule, quantity.subject, found[0].here, found[0].usual, limit, words)


def _references(
    quantity: Quantity, today: DayStatistics, recent: Sequence[DayStatistics]
) -> Iterator[Sequence[DayStatistics]]:
    """The days to be like: the recent ones together, else the same weekday, else those since one was accepted."""
    yield recent
    weekday = datetime.date.fromisoformat(today.day).weekday()
    same = [day for day in recent if datetime.date.fromisoformat(day.day).weekday() == weekday]
    if same:
        yield same
    new = [place for place, day in enumerate(recent) if quantity.word in day.accepted]
    if new:
        yield recent[new[-1] :]


def check_champion(
    job: JobConfig,
    checks: ChecksConfig,
    today: dict[str, Any],
    recent: list[dict[str, Any]],
    accepted: Set[str] = frozenset(),
) -> list[Finding]:
    """Whether the champion ranks the new day as it did the recent ones; each argument is `tasks` of a result.json.

    Raises InputError for an accepted word that names no rule.
    """
    check_accepted(accepted)
    found = []
    for task in job.tasks:
        here = _auc(today, task.name)
        others = [auc for day in recent[-checks.recent_days :] if (auc := _auc(day, task.name)) is not None]
        if here is None or len(others) < checks.min_days:
            continue
        usual = sum(auc for auc, _ in others) / len(others)
        error = math.sqrt(here[1] ** 2 + sum(error**2 for _, error in others) / len(others) ** 2)
        drop = usual - here[0]
        if drop > checks.auc_drop and drop >= checks.z * error:
            words = (
                f"AUC of the champion on {task.name}: {here[0]:.4f} on the new day, {usual:.4f} on the {len(others)} "
                f"recent days; that is {drop:.4f} less, above daily.checks.auc_drop = {checks.auc_drop:g}; "
                f"{ADVICE['auc_drop']}{_accept(f'auc_drop:{task.name}')}"
            )
            found.append(Finding("auc_drop", task.name, here[0], usual, checks.auc_drop, words))
    return [_judged(finding, accepted) for finding in found]


def _auc(tasks: dict[str, Any], name: str) -> tuple[float, float] | None:
    """A task's AUC on its own space and the standard error that its interval says; None where it has none."""
    own = tasks.get(name, {}).get("own", {})
    auc, low, high = (own.get(key) for key in ("auc", "auc_low", "auc_high"))
    if auc is None or low is None or high is None:
        return None
    return auc, (high - low) / (2 * Z_95)
