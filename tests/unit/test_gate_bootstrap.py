"""The bootstrap's standard errors against DeLong, Obuchowski and closed forms; its critical value by simulation."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from pipeline.gate.record import AUC, CALIBRATION, LOG_LOSS, Comparison, Verdict
from pipeline.gate.resample import Ranking, weights
from pipeline.gate.verdict import judge
from schemas.daily import GateConfig, Tolerance
from tests.exposures import Exposures, drawn, generated_job

JOB = generated_job()
NONE = Tolerance(auc=0, log_loss=0, calibration=0, mse=0)


def placements(score_M: np.ndarray, label_M: np.ndarray) -> np.ndarray:
    """What each row adds to AUC, less its mean, over the size of its class: DeLong's components, by brute force."""
    positive_M = label_M > 0.5
    diff = score_M[positive_M][:, None] - score_M[~positive_M][None, :]
    beats = (diff > 0) + 0.5 * (diff == 0)
    auc = beats.mean()
    out_M = np.empty(len(score_M))
    out_M[positive_M] = (beats.mean(axis=1) - auc) / positive_M.sum()
    out_M[~positive_M] = (beats.mean(axis=0) - auc) / (~positive_M).sum()
    return out_M


def delong_error(one_M: np.ndarray, other_M: np.ndarray, label_M: np.ndarray) -> float:
    """Standard error of the difference of two paired AUCs (DeLong, DeLong and Clarke-Pearson 1988)."""
    positive_M = label_M > 0.5
    out = 0.0
    for of_M in (positive_M, ~positive_M):
        count = int(of_M.sum())
        two = np.stack([placements(score_M, label_M)[of_M] * count for score_M in (one_M, other_M)])
        cov = np.cov(two)
        out += (cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]) / count
    return math.sqrt(out)


def found(verdict: Verdict, task: str, metric: str, space: str = "own") -> Comparison:
    (out,) = [c for c in verdict.comparisons if (c.task, c.space, c.metric, c.slice) == (task, space, metric, "all")]
    return out


def alone(exposures: Exposures) -> Exposures:
    """The same rows, each of a user of its own."""
    return dataclasses.replace(exposures, user_N=np.arange(len(exposures.user_N)))


def test_aucs_standard_error_is_that_of_paired_delong_where_users_are_rows() -> None:
    world = alone(drawn(3, users=1500, rows_a_user=2))
    old, new = world.predicted(0.3), world.predicted(1.0)
    verdict = judge(JOB, GateConfig(resamples=4000), old, new, {}, world.user_N, seed=1)
    for number, task in enumerate(("click", "order")):
        at = 3 * number
        own_N = new.space_TN[at]
        told = found(verdict, task, AUC)
        label_M = new.label_TN[at][own_N]
        expected = delong_error(old.logit_TN[at][own_N], new.logit_TN[at][own_N], label_M)
        assert told.error == pytest.approx(expected, rel=0.06)
        aucs = [roc_auc_score(label_M, side.logit_TN[at][own_N]) for side in (old, new)]
        assert [told.champion, told.challenger] == pytest.approx(aucs, abs=1e-12)
        assert told.delta == pytest.approx(aucs[0] - aucs[1], abs=1e-12)


def test_the_other_standard_errors_are_those_of_closed_forms() -> None:
    world = alone(drawn(4, users=3000, rows_a_user=2))
    old, new = world.predicted(0.2, bias=0.2), world.predicted(0.6, bias=0.3)
    verdict = judge(JOB, GateConfig(resamples=4000), old, new, {}, world.user_N, seed=2)
    label_M = new.label_TN[0]
    loss, p = [], []
    for side in (old, new):
        logit_M = side.logit_TN[0].astype(np.float64)
        loss.append(np.logaddexp(0, logit_M) - label_M * logit_M)
        p.append(1 / (1 + np.exp(-logit_M)))
    told = found(verdict, "click", LOG_LOSS)
    ratio = loss[1].mean() / loss[0].mean()
    linear_M = (loss[1] - ratio * loss[0]) / loss[0].mean()
    assert told.delta == pytest.approx(ratio - 1)
    assert told.error == pytest.approx(linear_M.std(ddof=1) / math.sqrt(len(linear_M)), rel=0.06)
    told = found(verdict, "click", CALIBRATION)
    assert [told.champion, told.challenger] == pytest.approx([side.sum() / label_M.sum() for side in p])
    assert told.challenger > told.champion > 1, "both on one side of 1, so that the labels cancel"
    assert told.delta == pytest.approx(math.log(p[1].sum() / p[0].sum()))
    linear_M = p[1] / p[1].mean() - p[0] / p[0].mean()
    assert told.error == pytest.approx(linear_M.std(ddof=1) / math.sqrt(len(linear_M)), rel=0.06)


def test_rows_of_one_user_count_as_one() -> None:
    """Obuchowski (1997) for clustered AUCs, and a log of which every row stands there four times."""
    world = drawn(5, users=800, rows_a_user=1)
    old, new = world.predicted(0.3), world.predicted(1.0)
    four = [np.repeat(x, 4, axis=-1) for x in (world.user_N, old.logit_TN, new.logit_TN, new.label_TN, new.space_TN)]
    users, rows = four[0], np.arange(len(four[0]))
    sides = [
        dataclasses.replace(new, row_N=rows, logit_TN=logit, label_TN=four[3], space_TN=four[4]) for logit in four[1:3]
    ]
    verdict = judge(JOB, GateConfig(resamples=4000), sides[0], sides[1], {}, users, seed=3)
    told = found(verdict, "click", AUC)
    by_row = [placements(side.logit_TN[0], four[3][0]) for side in sides]
    by_user = np.bincount(np.unique(users, return_inverse=True)[1], by_row[1] - by_row[0])
    assert told.error == pytest.approx(math.sqrt(np.square(by_user).sum()), rel=0.06)
    once = judge(JOB, GateConfig(resamples=4000), old, new, {}, world.user_N, seed=3)
    assert told.error == pytest.approx(found(once, "click", AUC).error, rel=1e-9), "four copies tell nothing new"


def test_weights_are_poisson_and_belong_to_the_user() -> None:
    key_U = np.arange(200_000, dtype=np.uint64)
    drawn_UR = weights(key_U, seed=5, first=32)
    share_K = np.bincount(drawn_UR.reshape(-1), minlength=7)[:7] / drawn_UR.size
    assert share_K == pytest.approx(stats.poisson(1).pmf(np.arange(7)), abs=2e-3)
    assert drawn_UR.var() == pytest.approx(1, abs=0.01)
    assert np.abs(np.corrcoef(drawn_UR, rowvar=False) - np.eye(16)).max() < 0.015, "resamples are independent"
    assert (weights(key_U[500:700], seed=5, first=32) == drawn_UR[500:700]).all(), "whoever else is there"
    for other in (weights(key_U, seed=6, first=32), weights(key_U, seed=5, first=48)):
        assert abs(np.corrcoef(other[:, 0], drawn_UR[:, 0])[0, 1]) < 0.015


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_weighted_auc_with_ties_is_sklearns(rate: float, decimals: int) -> None:
    rng = np.random.default_rng(7)
    score_M = np.round(rng.normal(size=500), decimals)
    positive_M = rng.random(500) < rate
    user_M = rng.integers(0, 60, 500)
    weight_UR = rng.poisson(1, (60, 5)).astype(np.int32)
    got_R = Ranking(score_M, positive_M, user_M, 60).auc(weight_UR)
    expected = [roc_auc_score(positive_M, score_M, sample_weight=w_M) for w_M in weight_UR[user_M].T]
    assert got_R == pytest.approx(expected, abs=1e-12)


def test_a_resample_without_a_class_has_no_auc() -> None:
    ranking = Ranking(np.array([0.1, 0.2, 0.3]), np.array([True, False, False]), np.arange(3), 3)
    auc_R = ranking.auc(np.array([[0, 1], [1, 1], [1, 0]], np.int32))
    assert np.isnan(auc_R[0])
    assert auc_R[1] == 0


def test_the_verdict_is_the_same_bytes_again_and_another_day_draws_others() -> None:
    world = drawn(6, users=600)
    old, new = world.predicted(0.3), world.predicted(0.5)
    gate = GateConfig(resamples=100)
    first, again, other = (judge(JOB, gate, old, new, {}, world.user_N, seed) for seed in (1, 1, 2))
    assert str(first.to_json()) == str(again.to_json())
    assert found(first, "click", AUC).error != found(other, "click", AUC).error
    names = np.array([f"user {user}" for user in world.user_N], object)
    assert found(judge(JOB, gate, old, new, {}, names, 1), "click", AUC).error == pytest.approx(
        found(first, "click", AUC).error, rel=0.3
    ), "users may be strings"


def test_false_refusals_stay_near_one_in_twenty_over_all_comparisons() -> None:
    """Champion and challenger equally good, 21 comparisons that depend on each other, no tolerance."""
    gate = GateConfig(resamples=150, tolerance=NONE)
    refused = single = 0
    for seed in range(80):
        world = drawn(seed, users=250, rows_a_user=6)
        verdict = judge(JOB, gate, world.predicted(0.5), world.predicted(0.5), {}, world.user_N, seed)
        assert len(verdict.comparisons) == 21
        refused += not verdict.blessed
        single += any(c.error is not None and c.delta > 1.645 * c.error for c in verdict.comparisons)
    assert refused <= stats.binom(80, 0.05).ppf(0.999)
    assert single > stats.binom(80, 0.05).ppf(0.999), "a critical value of a single comparison would refuse too many"
