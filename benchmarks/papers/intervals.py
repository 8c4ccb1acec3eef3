"""Means over seeds and their intervals."""

import statistics
from collections.abc import Sequence

from scipy import stats

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval by Student's t; of one value, the half is NaN."""
    if len(values) < 2:
        return float(values[0]), float("nan")
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / len(values) ** 0.5
