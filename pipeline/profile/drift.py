"""Which day is unlike the others: a rule for rates and means. No torch.

A day is named where its mean is more than `z` standard errors from that of the other days together AND the change is as
large as the quantity's rule asks: with many rows everything is significant, and little of it matters. The day furthest
off is named and set aside, and the others are looked at again without it, so that one odd day does not make its
neighbours odd.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Rules:
    """When something is named. Each has an option of the command, or a line in docs/profile.md."""

    z: float = 5.0
    """Standard errors between a day and the others."""
    row_times: float = 2.0
    """A day's rows over the median of the other days', or the other way round."""
    label_change: float = 0.25
    """Relative change of a label's rate or mean."""
    mean_change: float = 0.3
    """Change of a number's mean, in standard deviations of the other days."""
    missing_change: float = 0.05
    """Change of the share of missing values."""
    fresh_change: float = 0.1
    """Rise of the share of new values over the day before; it must double as well."""
    leak_auc: float = 0.95
    """AUC of a label that a column reaches alone."""
    lone_auc: float = 0.8
    """AUC from which a column is named that has `lone_times` the lift over 0.5 of the next best."""
    lone_times: float = 2.0
    leak_share: float = 0.95
    """Share of a regression label's variance that a column explains alone."""
    certain: float = 50.0
    """Positives to be expected among rows whose value is missing, from which none, or nothing but them, is named."""


@dataclasses.dataclass(frozen=True)
class Day:
    """One day's values, as sums."""

    day: str
    rows: float
    total: float
    squares: float
    """Sum of squares; of a rate, the total."""

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.rows


@dataclasses.dataclass(frozen=True)
class Odd:
    """A day unlike the others."""

    what: str
    day: str
    here: float
    others: float
    z: float
    """Standard errors between the two; infinite where neither varies, NaN of a number of rows."""
    number: bool = False
    """Whether it is a mean; else a share."""
    against: str = "the other days"


def odd_days(what: str, days: Sequence[Day], z: float, large: Callable[[float, float, float], bool]) -> list[Odd]:
    """The odd days in their order; `large(here, others, deviation of the others)` is the quantity's own rule."""
    left = [day for day in days if day.rows]
    found = []
    while len(left) > 1:
        tested = [_against(what, day, [other for other in left if other is not day]) for day in left]
        odd = [
            (abs(o.z), place) for place, (o, sd) in enumerate(tested) if abs(o.z) >= z and large(o.here, o.others, sd)
        ]
        if not odd:
            break
        place = max(odd)[1]  # of equals the later: of two days it cannot be told which is the odd one
        found.append(tested[place][0])
        del left[place]
    return sorted(found, key=lambda odd: odd.day)


def odd_sizes(rows: dict[str, int], times: float) -> list[Odd]:
    """Of three days and more, those with `times` the rows of the other days' median, or one in so many."""
    left, out = dict(rows) if len(rows) > 2 else {}, []
    while len(left) > 1:
        others = {day: statistics.median(n for other, n in left.items() if other != day) for day in left}
        change = {day: _times(left[day], others[day]) for day in left}
        day = max(sorted(left), key=lambda day: (change[day], day))
        if change[day] < times:
            break
        out.append(Odd("number of rows", day, left.pop(day), others[day], math.nan, True))
    return sorted(out, key=lambda odd: odd.day)


def _times(a: float, b: float) -> float:
    """How many times the smaller the larger is."""
    return 1.0 if a == b else max(a, b) / min(a, b) if min(a, b) else math.inf


def _against(what: str, day: Day, others: Sequence[Day]) -> tuple[Odd, float]:
    rows, total, squares = (sum(getattr(o, name) for o in others) for name in ("rows", "total", "squares"))
    here, there = day.mean, total / rows
    every = rows + day.rows
    mean = (total + day.total) / every
    spread = max(0.0, (squares + day.squares) / every - mean**2)
    error = math.sqrt(spread * (1 / day.rows + 1 / rows))
    far = (here - there) / error if error else math.copysign(math.inf, here - there) if here != there else 0.0
    return Odd(what, day.day, here, there, far), math.sqrt(max(0.0, squares / rows - there**2))


def relative(least: float) -> Callable[[float, float, float], bool]:
    """A change of at least this share of the others' mean."""
    return lambda here, others, deviation: abs(here - others) >= least * abs(others)


def absolute(least: float) -> Callable[[float, float, float], bool]:
    """A change of at least this much."""
    return lambda here, others, deviation: abs(here - others) >= least


def in_deviations(least: float) -> Callable[[float, float, float], bool]:
    """A change of at least so many standard deviations of the others."""
    return lambda here, others, deviation: abs(here - others) >= least * deviation
