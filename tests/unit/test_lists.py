"""GAUC, NDCG and PR-AUC against scikit-learn, ties and lists of one class included."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from pipeline.evaluate.measure import average_precision, calibration_curve
from pipeline.lists import Lists


def drawn(seed: int, rows: int = 3000, lists: int = 120, levels: int | None = None) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    code_N = np.minimum(random.zipf(1.3, rows) - 1, lists - 1)
    _, code_N = np.unique(code_N, return_inverse=True)
    label_N = random.random(rows) < 0.15
    score_N = random.normal(size=rows) + label_N
    if levels:
        score_N = np.round(score_N * levels) / levels
    return code_N, score_N, label_N


@pytest.mark.parametrize("levels", [None, 2], ids=["distinct", "tied"])
def test_gauc_is_the_weighted_mean_of_each_lists_auc(levels: int | None) -> None:
    code_N, score_N, label_N = drawn(0, levels=levels)
    expected, weights, left_out = [], [], 0
    for code in range(code_N.max() + 1):
        own_N = code_N == code
        if 0 < label_N[own_N].sum() < own_N.sum():
            expected.append(roc_auc_score(label_N[own_N], score_N[own_N]))
            weights.append(own_N.sum())
        else:
            left_out += 1
    told = Lists(code_N).ranked(score_N).gauc(label_N)
    assert told.value == pytest.approx(np.average(expected, weights=weights), rel=1e-12)
    assert (told.lists, told.left_out) == (len(expected), left_out)
    assert left_out > 0, "the draw holds lists of one class"
    assert told.value_L[~np.isnan(told.value_L)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("levels", [None, 1], ids=["distinct", "tied"])
@pytest.mark.parametrize("k", [1, 5, 10_000])
def test_ndcg_is_scikit_learns(levels: int | None, k: int) -> None:
    code_N, score_N, label_N = drawn(1, levels=levels)
    expected, left_out = [], 0
    for code in range(code_N.max() + 1):
        own_N = code_N == code
        if not label_N[own_N].any():
            left_out += 1
        elif own_N.sum() == 1:
            expected.append(1.0)  # which scikit-learn refuses
        else:
            expected.append(ndcg_score([label_N[own_N].astype(float)], [score_N[own_N]], k=k))
    told = Lists(code_N).ranked(score_N).ndcg(label_N, k)
    assert told.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert (told.lists, told.left_out) == (len(expected), left_out)


def test_the_order_of_rows_changes_nothing() -> None:
    code_N, score_N, label_N = drawn(2, levels=3)
    order = np.random.default_rng(3).permutation(len(code_N))
    here, there = Lists(code_N).ranked(score_N), Lists(code_N[order]).ranked(score_N[order])
    assert here.gauc(label_N).value == there.gauc(label_N[order]).value
    assert here.ndcg(label_N, 7).value == pytest.approx(there.ndcg(label_N[order], 7).value, rel=1e-14)


def test_without_rows_or_without_a_positive_nothing_is_defined() -> None:
    for code_N in (np.zeros(0, np.int64), np.array([0, 0, 1])):
        ranked = Lists(code_N).ranked(np.arange(len(code_N), dtype=float))
        none_N = np.zeros(len(code_N), np.bool_)
        assert ranked.gauc(none_N).value is ranked.ndcg(none_N, 3).value is None
    assert average_precision(np.zeros(3, np.bool_), np.zeros(3)) is None
    assert calibration_curve(np.zeros(0, np.bool_), np.zeros(0)) == []


@pytest.mark.parametrize("levels", [None, 2])
def test_pr_auc_is_scikit_learns_average_precision(levels: int | None) -> None:
    _, score_N, label_N = drawn(4, levels=levels)
    assert average_precision(label_N, score_N) == pytest.approx(average_precision_score(label_N, score_N), rel=1e-12)


def test_the_calibration_curve_is_of_equal_parts_in_the_order_of_the_prediction() -> None:
    _, score_N, label_N = drawn(5, rows=1003)
    p_N = 1 / (1 + np.exp(-score_N))
    curve = calibration_curve(label_N, p_N)
    assert [point["rows"] for point in curve] == [101] * 3 + [100] * 7
    first = np.argsort(p_N, kind="stable")[:101]
    assert curve[0]["prediction"] == pytest.approx(p_N[first].mean())
    assert curve[0]["label"] == label_N[first].mean()
    assert sum(point["rows"] * point["label"] for point in curve) == pytest.approx(label_N.sum())
