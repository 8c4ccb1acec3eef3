"""Statistics over seeds: means with intervals, differences paired by seed, tests corrected for their number.

A seed changes weights, dropout and the order of rows; log and evaluated rows are the same. So an interval here says how
much another seed would change a number, not how much other days would.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
"""Of every interval."""
ALPHA = 0.05
"""Chance of any false word in a family of tests."""
POWER = 0.8
"""Chance with which the minimum detectable effect would be seen."""
QUADRATURE = 200
BySeed = Mapping[int, float]
"""A metric's value by seed."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    seeds: int
    mean: float
    half: float | None
    """Half of the width of its 95 % interval by Student's t; None with one seed."""


@dataclasses.dataclass(frozen=True)
class Gain:
    """A side less the baseline, paired by seed; positive is better, for every metric."""

    seeds: int
    """Seeds that both have."""
    mean: float
    half: float | None
    """As of `Estimate`."""
    p: float | None
    """Two-sided p-value of the paired t-test; None with one seed."""
    adjusted: float | None = None
    """The same after Holm's correction over its family."""
    deviation: float | None = None
    """Standard deviation of the differences."""
    detectable: float | None = None
    """The least true gain that would be told from none with a chance of 80 %, all of its family tested beside it."""

    @property
    def word(self) -> str:
        """What may be said of it."""
        if self.adjusted is None:
            return "one seed"
        if self.adjusted >= ALPHA:
            return "no difference seen"
        return "gained" if self.mean > 0 else "paid"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of at least one value."""
    return Estimate(len(values), statistics.fmean(values), _half(values))


def gain(side: BySeed, baseline: BySeed, higher_is_better: bool = True) -> Gain | None:
    """The side's gain, not yet corrected; None where the two share no seed."""
    sign = 1 if higher_is_better else -1
    differences = [sign * (side[seed] - baseline[seed]) for seed in sorted(side.keys() & baseline.keys())]
    if not differences:
        return None
    mean, half = statistics.fmean(differences), _half(differences)
    if half is None:
        return Gain(1, mean, None, None)
    deviation, count = statistics.stdev(differences), len(differences)
    if deviation == 0:  # the same difference every time
        return Gain(count, mean, half, float(mean == 0), deviation=0.0)
    t = mean / (deviation / math.sqrt(count))
    p = 2 * float(stats.t.sf(abs(t), count - 1))
    return Gain(count, mean, half, p, deviation=deviation)


def corrected(family: Sequence[Gain]) -> list[Gain]:
    """The family with p-values after Holm (1979): the chance of any false word among them stays below 5 %."""
    tested = sorted((g.p, i) for i, g in enumerate(family) if g.p is not None)
    out, largest = list(family), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        one = family[i]
        assert one.deviation is not None
        least = detectable_effect(one.deviation, one.seeds, ALPHA / len(tested))  # Holm's strictest step
        out[i] = dataclasses.replace(one, adjusted=largest, detectable=least)
    return out


def detectable_effect(deviation: float, count: int, alpha: float = ALPHA) -> float:
    """The least true mean difference seen with a chance of 80 % by a two-sided paired t-test at the level `alpha`.

    `deviation` is that of the `count` differences, taken for the true one.
    """
    freedom = count - 1
    critical = float(stats.t.ppf(1 - alpha / 2, freedom))
    # over the sample's deviation as a share of the true one: the noncentral t of scipy is no number where it is far out
    nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
    shares = stats.chi.ppf((nodes + 1) / 2, freedom) / math.sqrt(freedom)

    def missing(shift: float) -> float:
        seen = stats.norm.cdf(shift - critical * shares) + stats.norm.cdf(-shift - critical * shares)
        return POWER - float(seen @ weights) / 2

    high = critical
    while missing(high) > 0:
        high *= 2
    return float(optimize.brentq(missing, 0, high)) * deviation / math.sqrt(count)


def _half(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def pareto(points: Mapping[str, Sequence[float]]) -> set[str]:
    """The names that no other beats: none is at least as high everywhere and higher somewhere."""

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    return {name for name, at in points.items() if not any(beats(other, at) for other in points.values())}
