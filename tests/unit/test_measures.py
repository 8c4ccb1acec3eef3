"""Regression metrics against scikit-learn; windows of naive, indicated and regression tasks."""

import math

import pytest
import torch
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from pipeline.measures import RegressionMetrics, regression_metrics
from pipeline.metrics import MetricWindow, flatten


def test_regression_metrics_are_sklearns() -> None:
    generator = torch.Generator().manual_seed(0)
    label_N = torch.rand(3000, generator=generator) * 5 + 1e4
    value_N = label_N + torch.randn(3000, generator=generator)
    found = regression_metrics(value_N, label_N)
    label, value = label_N.double().numpy(), value_N.double().numpy()
    assert found.rows == 3000
    assert found.mse == pytest.approx(mean_squared_error(label, value), rel=1e-12)
    assert found.mae == pytest.approx(mean_absolute_error(label, value), rel=1e-12)
    assert found.r2 == pytest.approx(r2_score(label, value), rel=1e-9)
    assert found.mse is not None
    assert found.mse_high is not None
    # squared errors of a unit normal have variance 2
    assert found.mse_high - found.mse == pytest.approx(1.96 * math.sqrt(2 / 3000), rel=0.1)


def test_what_is_not_defined_is_none() -> None:
    assert regression_metrics(torch.zeros(0), torch.zeros(0)) == RegressionMetrics(0, *[None] * 5)
    assert regression_metrics(torch.tensor([1.0]), torch.tensor([3.0])) == RegressionMetrics(1, 4, None, None, 2, None)
    alike = regression_metrics(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.1]))
    assert alike.r2 is None
    with pytest.raises(ValueError, match="1 of 2 errors are NaN"):
        regression_metrics(torch.tensor([1.0, math.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match="give equal vectors"):
        regression_metrics(torch.zeros(2), torch.zeros(3))


def test_a_window_keeps_the_numbers_of_regression_tasks() -> None:
    """watch, given click, lives on clicked rows; its label elsewhere is anything, NaN included."""
    generator = torch.Generator().manual_seed(1)
    logits_BT = torch.randn(400, 2, generator=generator)
    click_B = torch.rand(400, generator=generator) > 0.6
    watch_B = torch.where(click_B, torch.rand(400, generator=generator) * 3, torch.nan)
    window = MetricWindow(["click", "watch"], [None, 0], links=[None, None], regression=[1])
    for rows in (slice(0, 150), slice(150, 400)):
        labels_BT = torch.stack([click_B.float(), watch_B], dim=1)[rows]
        space_BT = torch.stack([torch.ones(400), click_B.float()], dim=1)[rows]
        window.update(logits_BT[rows], labels_BT, space_BT)
    metrics = window.compute()
    assert metrics is not None
    assert list(metrics.own) == ["click"]
    assert metrics.joint == {}, "a number has no joint probability"
    label, value = watch_B[click_B].double().numpy(), logits_BT[click_B, 1].double().numpy()
    assert metrics.regression["watch"].mse == pytest.approx(mean_squared_error(label, value), rel=1e-9)
    assert metrics.regression["watch"].r2 == pytest.approx(r2_score(label, value), rel=1e-9)
    flat = flatten(metrics)
    assert flat["watch/rows"] == int(click_B.sum())
    assert {key for key in flat if key.startswith("watch/")} == {
        f"watch/{field}" for field in ("rows", "mse", "mse_low", "mse_high", "mae", "r2")
    }
    again = MetricWindow(["click", "watch"], [None, 0], links=[None, None], regression=[1])
    again.restore(window.rows())
    assert again.compute() == metrics


def test_the_joint_probability_of_a_naive_task_is_its_own() -> None:
    """order <- cart <- click with cart naive: P(order and cart) = p_order p_cart, and the click's has no part in it."""
    generator = torch.Generator().manual_seed(2)
    logits_BT = torch.randn(500, 3, generator=generator)
    labels_BT = (torch.rand(500, 3, generator=generator) > 0.4).long().cumprod(dim=1)
    space_BT = torch.cat([torch.ones(500, 1, dtype=torch.long), labels_BT[:, :-1]], dim=1)
    window = MetricWindow(["click", "cart", "order"], [None, 0, 1], links=[None, None, 1])
    window.update(logits_BT, labels_BT, space_BT)
    metrics = window.compute()
    assert metrics is not None
    p_BT = logits_BT.double().sigmoid()
    for name, score_B, task in (("cart", p_BT[:, 1], 1), ("order", p_BT[:, 1] * p_BT[:, 2], 2)):
        assert metrics.joint[name].rows == 500
        assert metrics.joint[name].auc == pytest.approx(roc_auc_score(labels_BT[:, task], score_B))
        assert metrics.joint[name].log_loss == pytest.approx(log_loss(labels_BT[:, task], score_B))
    clicked = labels_BT[:, 0] == 1
    assert metrics.own["cart"].rows == int(clicked.sum()), "its own metrics are on the space of its rivals"
    assert metrics.own["cart"].auc == pytest.approx(roc_auc_score(labels_BT[clicked, 1], p_BT[clicked, 1]))


def test_joint_metrics_are_of_the_exposures_that_were_given() -> None:
    logits_BT, labels_BT = torch.randn(6, 2), torch.ones(6, 2)
    exposed_BT = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0], [1, 0], [1, 0]])
    window = MetricWindow(["click", "cart"], [None, 0], exposures=True)
    window.update(logits_BT, labels_BT, exposed_BT, exposed_BT)
    metrics = window.compute()
    assert metrics is not None
    assert (metrics.own["click"].rows, metrics.own["cart"].rows, metrics.joint["cart"].rows) == (5, 2, 2)
    with pytest.raises(ValueError, match="exposures=True"):
        window.update(logits_BT, labels_BT, exposed_BT)
    with pytest.raises(ValueError, match="exposures=False"):
        MetricWindow(["click", "cart"], [None, 0]).update(logits_BT, labels_BT, exposed_BT, exposed_BT)
