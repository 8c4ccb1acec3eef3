"""Calibration maps: what they were drawn by, as scikit-learn finds them, and what is refused."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from pipeline.export.calibrate import calibration_map
from pipeline.export.runtime.calibration import calibrated, mapped
from schemas.errors import InputError


def drawn(rows: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is off by a line, and labels."""
    random = np.random.default_rng(5)
    logit_N = random.normal(-1, 1.5, rows)
    label_N = random.random(rows) < 1 / (1 + np.exp(-(slope * logit_N + intercept)))
    return logit_N, label_N.astype(np.float64)


def share(logit_N: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit_N))


def test_platt_finds_the_line_that_labels_were_drawn_by() -> None:
    how = calibration_map("platt", *drawn(200_000, 0.6, -0.8))
    assert how["slope"] == pytest.approx(0.6, abs=0.02)
    assert how["intercept"] == pytest.approx(-0.8, abs=0.03)


def test_platt_keeps_the_order_and_lowers_the_loss() -> None:
    logit_N, label_N = drawn(5_000, 0.5, 1.0)
    got_N = mapped(calibration_map("platt", logit_N, label_N), logit_N)
    assert (np.argsort(got_N) == np.argsort(logit_N)).all()
    assert log_loss(label_N, share(got_N)) < log_loss(label_N, share(logit_N))
    assert share(got_N).mean() == pytest.approx(label_N.mean(), abs=1e-3)


def test_separable_labels_leave_the_line_finite() -> None:
    logit_N = np.linspace(-1, 1, 200)
    how = calibration_map("platt", logit_N, (logit_N > 0).astype(np.float64))
    assert np.isfinite([how["slope"], how["intercept"]]).all()


def test_isotonic_has_the_levels_of_scikit_learn() -> None:
    logit_N, label_N = drawn(3_000, 0.7, 0.3)
    logit_N = logit_N.round(2)  # ties
    how = calibration_map("isotonic", logit_N, label_N)
    levels = np.unique(np.clip(IsotonicRegression().fit(logit_N, label_N).predict(logit_N), 1e-6, 1 - 1e-6))
    np.testing.assert_allclose(share(np.array(how["to"])), levels, rtol=1e-9)
    got_N = mapped(how, np.sort(logit_N))
    assert (np.diff(got_N) >= 0).all()
    assert share(mapped(how, logit_N)).mean() == pytest.approx(label_N.mean(), abs=0.01)
    assert mapped(how, np.array([-1e9, 1e9])).tolist() == [how["to"][0], how["to"][-1]]


def test_a_model_that_orders_rows_the_wrong_way_is_not_calibrated() -> None:
    with pytest.raises(InputError, match="the best slope is -"):
        calibration_map("platt", *drawn(2_000, -1.0, 0.0))


def test_tasks_without_a_map_stay_as_they_are() -> None:
    logit_NT = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    maps = {"b": {"method": "platt", "slope": 2.0, "intercept": 1.0}}
    got_NT = calibrated(logit_NT, [{"name": "a"}, {"name": "b"}], maps)
    assert got_NT.tolist() == [[1.0, 5.0], [3.0, 9.0]]
    assert logit_NT.tolist() == [[1.0, 2.0], [3.0, 4.0]]
