"""Statistics over seeds, against scipy, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.statistics import Gain, corrected, detectable_effect, estimate, gain, pareto

A = {0: 0.71, 1: 0.74, 2: 0.72, 3: 0.75, 4: 0.73}
B = {0: 0.70, 1: 0.71, 2: 0.72, 3: 0.72, 4: 0.71}


def test_a_mean_has_students_interval() -> None:
    values = list(A.values())
    told = estimate(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert told.mean == pytest.approx(0.73)
    assert (told.mean - told.half, told.mean + told.half) == pytest.approx((low, high))
    assert estimate([0.7]).half is None


def test_a_gain_is_the_paired_test() -> None:
    one = gain(A, B)
    told = stats.ttest_rel(list(A.values()), list(B.values()))
    interval = told.confidence_interval(0.95)
    assert one.mean == pytest.approx(np.mean([0.01, 0.03, 0, 0.03, 0.02]))
    assert one.p == pytest.approx(told.pvalue)
    assert (one.mean - one.half, one.mean + one.half) == pytest.approx((interval.low, interval.high))
    lower = gain(A, B, higher_is_better=False)
    assert (lower.mean, lower.p) == pytest.approx((-one.mean, one.p)), "of an MSE, less is better"


def test_only_seeds_that_both_have_are_paired() -> None:
    one = gain(A, {1: 0.71, 3: 0.72, 9: 0.1})
    assert (one.seeds, one.mean) == (2, pytest.approx(0.03))
    assert gain(A, {9: 0.1}) is None


def test_one_seed_says_nothing() -> None:
    (one,) = corrected([gain({0: 0.8}, {0: 0.5})])
    assert (one.half, one.p, one.adjusted, one.detectable, one.word) == (None, None, None, None, "one seed")


def test_the_same_difference_every_time() -> None:
    same, none = corrected([gain({0: 0.75, 1: 1.0}, {0: 0.5, 1: 0.75}), gain(A, A)])
    assert (same.p, same.word) == (0.0, "gained")
    assert (none.p, none.word) == (1.0, "no difference seen")


def test_holm_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005, None]
    family = [Gain(5, 0.1 if i else -0.1, 0.1, each, deviation=0.1) for i, each in enumerate(p)]
    told = corrected(family)
    # sorted .005 x 4, .01 x 3, .03 x 2, .04 x 1, never falling
    assert [one.adjusted for one in told] == pytest.approx([0.03, 0.06, 0.06, 0.02, None])
    assert [one.word for one in told[:4]] == ["paid", "no difference seen", "no difference seen", "gained"]
    assert told[4] == family[4]
    # without the correction, all four would have been told apart from none
    assert all(each < 0.05 for each in p[:4])


@pytest.mark.parametrize(("count", "alpha"), [(2, 0.05), (3, 0.05), (5, 0.05), (5, 0.005), (12, 0.01)])
def test_the_detectable_effect_is_seen_four_times_in_five(count: int, alpha: float) -> None:
    effect = detectable_effect(0.7, count, alpha)
    random = np.random.default_rng(count)
    drawn = random.normal(effect, 0.7, (20_000, count))
    seen = stats.ttest_1samp(drawn, 0, axis=1).pvalue < alpha
    assert seen.mean() == pytest.approx(0.8, abs=0.01)


def test_it_agrees_with_the_noncentral_t() -> None:
    shift = detectable_effect(1.0, 8) * 8**0.5
    critical = stats.t.ppf(0.975, 7)
    assert stats.nct.sf(critical, 7, shift) + stats.nct.cdf(-critical, 7, shift) == pytest.approx(0.8, abs=1e-6)


def test_gains_know_the_level_at_which_words_are_said() -> None:
    alone, *_ = corrected([gain(A, B)])
    among, *_ = corrected([gain(A, B)] * 6)
    assert alone.detectable == pytest.approx(detectable_effect(alone.deviation, 5))
    assert among.detectable == pytest.approx(detectable_effect(alone.deviation, 5, 0.05 / 6))


def test_pareto_by_hand() -> None:
    points = {"a": (3, 1), "b": (1, 3), "c": (2, 2), "worse": (2, 1), "as c": (2, 2)}
    assert pareto(points) == {"a", "b", "c", "as c"}
    assert pareto({"alone": (1,)}) == {"alone"}
