"""Metrics against scikit-learn, pair by pair sums and closed forms; windows on one rank (two: tests/distributed)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from pipeline.metrics import BinaryMetrics, MetricWindow, binary_metrics, flatten


def sample(rows: int, seed: int = 0, levels: int | None = None) -> tuple[Tensor, Tensor]:
    """Float32 logits and labels drawn from them; `levels` rounds the logits to few values, which tie."""
    generator = torch.Generator().manual_seed(seed)
    logits_N = torch.randn(rows, generator=generator) * 2 - 1
    if levels is not None:
        logits_N = (logits_N * levels / 4).round() * 4 / levels
    return logits_N, torch.rand(rows, generator=generator) < logits_N.sigmoid()


def assert_is_sklearns(metrics: BinaryMetrics, score_N: Tensor, p_N: Tensor, label_N: Tensor) -> None:
    labels, p = label_N.numpy().astype(int), p_N.double().numpy()
    assert metrics.rows == len(labels)
    assert metrics.positives == labels.sum()
    assert metrics.auc == pytest.approx(roc_auc_score(labels, score_N.double().numpy()), abs=1e-9)
    assert metrics.log_loss == pytest.approx(log_loss(labels, p, labels=[0, 1]), abs=1e-9)
    entropy = log_loss(labels, [labels.mean()] * len(labels), labels=[0, 1])
    assert metrics.ne == pytest.approx(metrics.log_loss / entropy, abs=1e-9)
    assert metrics.calibration == pytest.approx(p.mean() / labels.mean(), abs=1e-9)


@pytest.mark.parametrize("levels", [None, 1, 3, 20])
@pytest.mark.parametrize("rows", [20, 5000])
def test_metrics_of_logits_are_sklearns(rows: int, levels: int | None) -> None:
    logits_N, label_N = sample(rows, seed=rows, levels=levels)
    metrics = binary_metrics(label_N, logits_N=logits_N)
    assert_is_sklearns(metrics, logits_N, logits_N.double().sigmoid(), label_N)


@pytest.mark.parametrize("levels", [None, 2])
def test_metrics_of_log_probabilities_are_sklearns(levels: int | None) -> None:
    logits_N, label_N = sample(3000, levels=levels)
    log_p_N = F.logsigmoid(logits_N.double())
    metrics = binary_metrics(label_N, log_p_N=log_p_N)
    assert_is_sklearns(metrics, log_p_N, log_p_N.exp(), label_N)
    other = binary_metrics(label_N, logits_N=logits_N)
    for one, two in zip(vars(metrics).values(), vars(other).values(), strict=True):
        assert one == pytest.approx(two, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
def test_auc_and_interval_are_the_direct_pair_count(rows: list[tuple[int, bool]]) -> None:
    """Ties everywhere; DeLong's placements and sample variances over explicit pairs."""
    metrics = binary_metrics(
        torch.tensor([label for _, label in rows]), logits_N=torch.tensor([float(score) for score, _ in rows])
    )
    pos, neg = ([score for score, label in rows if label is kind] for kind in (True, False))
    if not pos or not neg:
        assert (metrics.auc, metrics.auc_low, metrics.auc_high, metrics.ne) == (None, None, None, None)
        return
    wins = [[1.0 if p > n else 0.5 if p == n else 0.0 for n in neg] for p in pos]
    auc = sum(map(sum, wins)) / len(pos) / len(neg)
    assert metrics.auc == pytest.approx(auc, abs=1e-12)
    if len(pos) < 2 or len(neg) < 2:
        assert (metrics.auc_low, metrics.auc_high) == (None, None)
        return
    v10 = [sum(row) / len(neg) for row in wins]
    v01 = [sum(column) / len(pos) for column in zip(*wins, strict=True)]
    variance = sum((v - auc) ** 2 for v in v10) / (len(pos) - 1) / len(pos)
    variance += sum((v - auc) ** 2 for v in v01) / (len(neg) - 1) / len(neg)
    margin = 1.959963984540054 * math.sqrt(variance)
    assert metrics.auc_low == pytest.approx(max(auc - margin, 0), abs=1e-9)
    assert metrics.auc_high == pytest.approx(min(auc + margin, 1), abs=1e-9)


def test_interval_covers_the_true_auc_as_often_as_it_says() -> None:
    """Two unit normals 1 apart: AUC = Phi(1 / sqrt 2). 400 draws of 60 + 90 rows."""
    truth, covered = 0.5 * (1 + math.erf(0.5)), 0
    generator = torch.Generator().manual_seed(0)
    label_N = torch.arange(150) < 60
    for _ in range(400):
        metrics = binary_metrics(label_N, logits_N=torch.randn(150, generator=generator) + label_N)
        assert metrics.auc_low is not None
        assert metrics.auc_high is not None
        covered += metrics.auc_low <= truth <= metrics.auc_high
    assert 0.92 <= covered / 400 <= 0.975


def test_extreme_logits_keep_their_loss_and_their_order() -> None:
    """Probabilities of all four round to 0 or 1 in float32; clipping or sigmoid first would tie or blunt them."""
    logits_N = torch.tensor([-400.0, -300.0, 300.0, 400.0])
    metrics = binary_metrics(torch.tensor([0, 1, 0, 1]), logits_N=logits_N)
    assert metrics.auc == 0.75
    assert metrics.log_loss == pytest.approx((300 + 300) / 4, rel=1e-12)
    wrong = binary_metrics(torch.tensor([1, 0]), logits_N=torch.tensor([-2000.0, 2000.0]))
    assert (wrong.auc, wrong.log_loss) == (0.0, 2000.0)


def test_tiny_joint_probabilities_keep_their_loss_and_their_order() -> None:
    log_p_N = torch.tensor([-900.0, -800.0, -1e-18], dtype=torch.float64)
    metrics = binary_metrics(torch.tensor([0, 1, 0]), log_p_N=log_p_N)
    assert metrics.auc == 0.5
    assert metrics.log_loss == pytest.approx((800 - math.log(1e-18)) / 3, rel=1e-12)


def test_infinite_logits_that_are_right_cost_nothing() -> None:
    metrics = binary_metrics(torch.tensor([1, 0]), logits_N=torch.tensor([math.inf, -math.inf]))
    assert (metrics.auc, metrics.log_loss, metrics.calibration) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(("label", "calibration"), [(0, None), (1, 0.5)])
def test_one_class_is_undefined_not_a_half(label: int, calibration: float | None) -> None:
    metrics = binary_metrics(torch.full((3,), label), logits_N=torch.zeros(3))
    assert metrics == BinaryMetrics(3, 3 * label, None, None, None, metrics.log_loss, None, calibration)
    assert metrics.log_loss == pytest.approx(math.log(2), rel=1e-12)


def test_no_rows() -> None:
    metrics = binary_metrics(torch.zeros(0), logits_N=torch.zeros(0))
    assert metrics == BinaryMetrics(0, 0, None, None, None, None, None, None)
    assert binary_metrics(torch.zeros(0), log_p_N=torch.zeros(0)) == metrics


def test_mistakes_are_named() -> None:
    two = torch.zeros(2)
    with pytest.raises(ValueError, match="once"):
        binary_metrics(two)
    with pytest.raises(ValueError, match="once"):
        binary_metrics(two, logits_N=two, log_p_N=two)
    with pytest.raises(ValueError, match="two equal vectors"):
        binary_metrics(two, logits_N=torch.zeros(2, 1))
    with pytest.raises(ValueError, match="1 of 2 predictions are NaN"):
        binary_metrics(two, logits_N=torch.tensor([0.0, math.nan]))


def flat_of(window: MetricWindow) -> dict[str, float]:
    metrics = window.compute()
    assert metrics is not None
    return flatten(metrics)


NAMES, PARENTS = ["order", "click", "cart"], [2, None, 1]  # order <- cart <- click


def funnel(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels (1 down the funnel alone) and spaces of three tasks in PARENTS' order."""
    generator = torch.Generator().manual_seed(seed)
    logits_BT = torch.randn(rows, 3, generator=generator)
    draw_BT = torch.rand(rows, 3, generator=generator) < logits_BT.sigmoid()
    click = draw_BT[:, 1]
    cart = click & draw_BT[:, 2]
    order = cart & draw_BT[:, 0]
    labels_BT = torch.stack([order, click, cart], dim=1).float()
    space_BT = torch.stack([cart, torch.ones_like(click), click], dim=1).float()
    return logits_BT, labels_BT, space_BT


def test_window_measures_each_task_on_its_own_space_and_joints_on_all_exposures() -> None:
    logits_BT, labels_BT, space_BT = funnel(700)
    window = MetricWindow(NAMES, PARENTS)
    for start, end in ((0, 300), (300, 300), (300, 301), (301, 700)):
        window.update(logits_BT[start:end], labels_BT[start:end], space_BT[start:end])
    metrics = window.compute()
    assert metrics is not None
    p_BT = logits_BT.double().sigmoid()
    for task, name in enumerate(NAMES):
        own = space_BT[:, task] == 1
        assert_is_sklearns(metrics.own[name], logits_BT[own, task], p_BT[own, task], labels_BT[own, task] == 1)
    assert metrics.own["click"].rows == 700
    assert metrics.joint.keys() == {"order", "cart"}
    for name, chain in (("order", [0, 2, 1]), ("cart", [2, 1])):
        joint_B = p_BT[:, chain].prod(dim=1)
        assert_is_sklearns(metrics.joint[name], joint_B, joint_B, labels_BT[:, chain].prod(dim=1) == 1)
        assert metrics.joint[name].rows == 700


def test_joint_label_is_the_and_of_the_chain_and_what_lies_outside_a_space_is_not_read() -> None:
    """An order logged without its click is no joint positive; NaN labels outside the space change nothing."""
    logits_BT = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]])
    space_BT = torch.tensor([[1, 1], [1, 0], [1, 0]])
    expected = None
    for outside in (0.0, 1.0, math.nan):
        window = MetricWindow(["click", "order"], [None, 0])
        window.update(logits_BT, torch.tensor([[1, 1.0], [0, outside], [0, outside]]), space_BT)
        metrics = window.compute()
        assert metrics is not None
        assert metrics.joint["order"].positives == 1
        assert metrics.own["order"].rows == 1
        assert expected is None or metrics == expected
        expected = metrics


def test_padding_rows_in_no_space_are_left_out() -> None:
    logits_BT, labels_BT, space_BT = funnel(100)
    padded, plain = MetricWindow(NAMES, PARENTS), MetricWindow(NAMES, PARENTS)
    plain.update(logits_BT, labels_BT, space_BT)
    padded.update(logits_BT, labels_BT, space_BT)
    padded.update(torch.full((5, 3), 7.0), torch.ones(5, 3), torch.zeros(5, 3))
    assert padded.compute() == plain.compute()


def test_window_copies_detaches_and_resets() -> None:
    logits_BT, labels_BT, space_BT = funnel(50)
    window = MetricWindow(NAMES, PARENTS)
    leaf_BT = logits_BT.clone().requires_grad_()
    window.update(leaf_BT, labels_BT, space_BT)
    first = window.compute()
    with torch.no_grad():
        leaf_BT.zero_()
    labels_BT.zero_()
    assert window.compute() == first
    assert not any(tensor.requires_grad for tensor in window.rows().values())
    window.reset()
    empty = window.compute()
    assert empty is not None
    assert empty.own["click"] == BinaryMetrics(0, 0, None, None, None, None, None, None)


def test_row_order_changes_no_count_and_no_auc() -> None:
    logits_BT, labels_BT, space_BT = funnel(400)
    mixed = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    windows = MetricWindow(NAMES, PARENTS), MetricWindow(NAMES, PARENTS)
    windows[0].update(logits_BT, labels_BT, space_BT)
    windows[1].update(logits_BT[mixed], labels_BT[mixed], space_BT[mixed])
    one, two = (flat_of(window) for window in windows)
    assert one.keys() == two.keys()
    for key in one:
        exact = key.endswith(("rows", "positives", "auc", "auc_low", "auc_high"))
        assert one[key] == (two[key] if exact else pytest.approx(two[key], rel=1e-12))


def test_flatten_names_and_leaves_out_the_undefined() -> None:
    window = MetricWindow(["click", "cart"], [None, 0])
    window.update(torch.zeros(2, 2), torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1, 0], [1, 1]]))
    flat = flat_of(window)
    half = pytest.approx(math.log(2))
    assert flat == {
        "click/rows": 2, "click/positives": 1, "click/auc": 0.5, "click/log_loss": half, "click/ne": pytest.approx(1),
        "click/calibration": 1, "cart/rows": 1, "cart/positives": 0, "cart/log_loss": half,
        "cart/joint_rows": 2, "cart/joint_positives": 0, "cart/joint_log_loss": pytest.approx(-math.log(0.75)),
    }  # fmt: skip
    assert all(isinstance(value, float) for value in flat.values())


def test_window_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="each task once"):
        MetricWindow(["a", "b"], [None])
    with pytest.raises(ValueError, match="each task once"):
        MetricWindow(["a", "a"], [None, None])
    with pytest.raises(ValueError, match="circle"):
        MetricWindow(["a", "b"], [1, 0])
    window = MetricWindow(["a", "b"], [None, 0])
    with pytest.raises(ValueError, match="rows x 2 tasks"):
        window.update(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="rows x 2 tasks"):
        window.update(torch.zeros(3, 2), torch.zeros(2, 2), torch.zeros(3, 2))
    window.update(torch.tensor([[0.0, math.nan]]), torch.zeros(1, 2), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"NaN.*'b': 1"):
        window.compute()
