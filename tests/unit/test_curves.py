"""Curves against sklearn and numpy."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from pipeline.curves import BINS, WIDTHS, binary_curves, regression_curves


@pytest.mark.parametrize("decimals", [17, 1])
def test_a_calibration_curve_is_sklearns(decimals: int) -> None:
    rng = np.random.default_rng(3)
    p_N = np.round(rng.beta(1, 6, 5000), decimals)
    label_N = rng.random(5000) < p_N**1.3
    found = binary_curves(torch.from_numpy(p_N), torch.from_numpy(label_N))["calibration"]
    observed, predicted = calibration_curve(label_N, p_N, n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose(found["observed"], observed, rtol=1e-12)
    np.testing.assert_allclose(found["predicted"], predicted, rtol=1e-12)
    assert sum(found["rows"]) == 5000
    assert (len(found["rows"]) < BINS) == (decimals == 1), "equal scores share a bin"


def test_a_histogram_is_numpys() -> None:
    rng = np.random.default_rng(4)
    p_N, label_N = rng.beta(2, 5, 3000), rng.random(3000) < 0.3
    found = binary_curves(torch.from_numpy(p_N), torch.from_numpy(label_N))["scores"]
    for name, of_N in (("positives", label_N), ("negatives", ~label_N)):
        counts, edges = np.histogram(p_N[of_N], WIDTHS, (0, p_N.max()))
        np.testing.assert_array_equal(found[name], counts)
        np.testing.assert_allclose(found["edges"], edges, rtol=1e-12)


def test_a_regressions_curve_is_of_means_by_quantile() -> None:
    value_N = torch.arange(2000.0)
    found = regression_curves(value_N, 2 * value_N + 1)["calibration"]
    np.testing.assert_allclose(found["predicted"], np.arange(2000).reshape(BINS, -1).mean(1), atol=0.5)
    np.testing.assert_allclose(found["observed"], 2 * np.array(found["predicted"]) + 1)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_rows_and_none(rows: int) -> None:
    found = binary_curves(torch.full((rows,), 0.25), torch.ones(rows))
    assert found["calibration"]["rows"] == ([rows] if rows else [])
    assert sum(found["scores"]["positives"]) == rows
    assert sum(found["scores"]["negatives"]) == 0
    assert binary_curves(torch.zeros(2), torch.zeros(2))["scores"]["edges"][-1] == 1
