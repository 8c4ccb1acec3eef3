"""How far a day is from others, quantity by quantity. No torch.

Each function takes the day's value and those of the days it is compared with, and returns a Difference: what is here,
what is usual, how large the difference is in the unit of its limit, and how many standard errors that is.

Shapes: R slots of a histogram, K sampled values.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.daily.columns import ALL, ColumnDay, Float64, Sample, Sums

ROUNDING = 1e-12
"""By so much may the mean of a constant differ from day to day."""
TO_DEVIATION = 1.4826
"""A normal's standard deviation over its median absolute deviation."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of one day from others."""

    here: float
    usual: float
    size: float
    """In the unit of the rule's limit."""
    z: float = math.inf
    """Standard errors; infinite where the rule does not ask."""


def times(here: int, others: Sequence[int]) -> Difference:
    """How many times the larger number is of the smaller; against the others' median."""
    usual = statistics.median(others)
    low, high = sorted((here, usual))
    return Difference(here, usual, high / low if low else math.inf if high else 1.0)


def relative(here: Sums, others: Sequence[Sums]) -> Difference:
    """Change of a rate, as a fraction of what it was."""
    return _change(here, others, lambda before: abs(before.mean))


def scaled(here: Sums, others: Sequence[Sums]) -> Difference:
    """Change of a mean near which 0 may lie: as a fraction of the mean or the deviation, whichever is larger."""
    return _change(here, others, lambda before: max(abs(before.mean), before.std))


def in_deviations(here: Sums, others: Sequence[Sums]) -> Difference:
    """Change of a mean in the others' standard deviations."""
    return _change(here, others, lambda before: before.std)


def points(here: Sums, others: Sequence[Sums]) -> Difference:
    """Change of a share."""
    return _change(here, others, lambda before: 1.0)


def rise(here: Sums, others: Sequence[Sums]) -> Difference:
    """Rise of a share; a fall is below 0."""
    found = points(here, others)
    return dataclasses.replace(found, size=found.here - found.usual)


def _change(here: Sums, others: Sequence[Sums], scale: Callable[[Sums], float]) -> Difference:
    """A mean's change; its standard error is that of the rows and of the days, which scatter by themselves."""
    before = Sums.of(list(others))
    change = abs(here.mean - before.mean)
    if change <= ROUNDING * abs(before.mean):
        return Difference(here.mean, before.mean, 0.0, 0.0)
    between = _scatter([day.mean for day in others])
    within = Sums.of([here, before]).std * math.sqrt(1 / here.rows + 1 / before.rows)
    unit, error = scale(before), math.hypot(within, between)
    size, z = (change / x if x else math.inf for x in (unit, error))
    return Difference(here.mean, before.mean, size, z)


def _scatter(days: Sequence[float]) -> float:
    """Standard deviation of the days, from the median of their distances: one odd day among them hides nothing."""
    day_D = np.array(days)
    return TO_DEVIATION * float(np.median(np.abs(day_D - np.median(day_D))))


def distance(here: ColumnDay, others: Sequence[ColumnDay], recent: Sequence[ColumnDay]) -> Difference:
    """Total variation distance from the others' mean distribution, over that of a recent day from the rest of them.

    What a recent day is from the rest, in the median, is the noise of few rows, of users that come again and of values
    that change every day: 0 where there is one alone.
    """
    share_DR = np.stack([_shares(day) for day in recent])
    usual = 0.0
    if len(recent) > 1:
        rest_DR = (share_DR.sum(0) - share_DR) / (len(recent) - 1)
        usual = float(np.median(np.abs(share_DR - rest_DR).sum(1) / 2))
    mean_R = np.mean([_shares(day) for day in others], axis=0)
    found = float(np.abs(_shares(here) - mean_R).sum() / 2)
    return Difference(found, usual, found - usual)


def _shares(day: ColumnDay) -> Float64:
    return day.count_R / day.count_R.sum()


def fresh(here: ColumnDay, others: Sequence[ColumnDay], recent: Sequence[ColumnDay]) -> Difference:
    """Rise of the share of values that the others do not have, over that of each recent day after the first.

    Of the distinct values and of the look-ups, the smaller share: one new value among three is little where it is rare,
    and of many values a sample says more of how many are new than of how often they come.
    """
    found, error = _fresh(here, others)
    in_order = [_fresh(day, recent[:place])[0] for place, day in enumerate(recent) if place]
    usual = statistics.median(in_order) if in_order else 0.0
    error = math.hypot(error, _scatter(in_order)) if in_order else error
    return Difference(found, usual, found - usual, (found - usual) / error if error else math.inf)


def _fresh(here: ColumnDay, others: Sequence[ColumnDay]) -> tuple[float, float]:
    """The share and its standard error: exact where all days' values are in their samples."""
    samples = [_sample(day) for day in (here, *others)]
    below = min(sample.below for sample in samples)
    own, *rest = ([array[sample.hash_K < below] for array in (sample.hash_K, sample.count_K)] for sample in samples)
    hash_K, count_K = own
    if not len(hash_K):
        return 0.0, 0.0
    fresh_K = ~np.isin(hash_K, np.concatenate([hashes for hashes, _ in rest]))
    values, look_ups = float(fresh_K.mean()), float(count_K[fresh_K].sum() / count_K.sum())
    error = 0.0 if below == ALL else math.sqrt(values * (1 - values) / len(hash_K))
    return min(values, look_ups), error


def _sample(day: ColumnDay) -> Sample:
    assert day.sample is not None
    return day.sample


def meaning(here: ColumnDay, others: Sequence[ColumnDay], recent: Sequence[ColumnDay]) -> Difference:
    """How much less a column's values tell of the first task's label, by the others' rates, than on a recent day.

    Told is the covariance, over rows, of the label with the others' rate of the row's slot, over the label's variance:
    0 in expectation where values were exchanged, whatever their own distribution.
    """
    rest = [[other for other in recent if other is not day] for day in recent]
    told = [_told(day, days)[0] for day, days in zip(recent, rest, strict=True) if days]
    found, error = _told(here, others)
    usual = statistics.median(told) if told else 0.0
    if usual <= 0 or not error:
        return Difference(found, usual, 0.0, 0.0)
    return Difference(found, usual, 1 - found / usual, (usual - found) / math.hypot(error, _scatter(told)))


def _told(here: ColumnDay, others: Sequence[ColumnDay]) -> tuple[float, float]:
    """The covariance over the variance of the day's label, and its standard error; 0 where nothing varies."""
    count_R, one_R = (sum(getattr(day, name) for day in others) for name in ("count_R", "one_R"))
    both_R = (count_R > 0) & (here.count_R > 0)
    rows, ones = int(here.count_R[both_R].sum()), int(here.one_R[both_R].sum())
    if not 0 < ones < rows:
        return 0.0, 0.0
    weight_R = here.count_R[both_R] / rows
    rate_R, here_R = one_R[both_R] / count_R[both_R], here.one_R[both_R] / here.count_R[both_R]
    off_R = rate_R - weight_R @ rate_R
    rate = ones / rows
    variance = rate * (1 - rate)
    error = math.sqrt(float(weight_R @ off_R**2) / rows / variance)
    return float(weight_R @ ((here_R - rate) * off_R)) / variance, error
