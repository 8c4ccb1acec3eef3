"""Metrics of predictions against labels, binary and regression, of rows that are all here.

Shapes: N rows, G groups of equal score.

Exact, not binned. A value that is not defined is None, never .5 or NaN.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.chain import log1mexp

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class BinaryMetrics:
    """Metrics of one probability over one sample space."""

    rows: int
    positives: int
    auc: float | None
    """Area under the ROC curve, ties by midranks; None with one class alone."""
    auc_low: float | None
    """Lower end of AUC's 95 % interval (DeLong et al. 1988); None below two rows of either class."""
    auc_high: float | None
    """Upper end of the interval."""
    log_loss: float | None
    """Mean negative log likelihood; None without rows."""
    ne: float | None
    """Log loss over the entropy of the base rate; None with one class alone."""
    calibration: float | None
    """Mean prediction over mean label; None without positives."""


@dataclass(frozen=True)
class RegressionMetrics:
    """Metrics of one number over one sample space."""

    rows: int
    mse: float | None
    """Mean squared error; None without rows."""
    mse_low: float | None
    """Lower end of its 95 % interval, that of a mean of independent squared errors; None below two rows."""
    mse_high: float | None
    """Upper end of the interval."""
    mae: float | None
    """Mean absolute error; None without rows."""
    r2: float | None
    """1 - MSE over the variance of the labels; None where they are all alike."""


def binary_metrics(labels_N: Tensor, *, logits_N: Tensor | None = None, log_p_N: Tensor | None = None) -> BinaryMetrics:
    """Metrics of predictions against 0/1 labels of N rows, in float64 on the tensors' device.

    Give the predictions as `logits_N`, or as log probabilities `log_p_N` (<= 0), which a joint probability is. Both
    keep their precision where a probability would round to 0 or 1, and AUC ranks them as they stand.

    Raises ValueError for both or neither of them, shapes that differ, or a NaN.
    """
    if (logits_N is None) == (log_p_N is None):
        raise ValueError("give the predictions once: as logits_N or as log_p_N")
    if logits_N is not None:
        score_N = logits_N.to(torch.float64)
        log_p_N, log_q_N = F.logsigmoid(score_N), F.logsigmoid(-score_N)
    else:
        assert log_p_N is not None
        score_N = log_p_N = log_p_N.to(torch.float64)
        log_q_N = log1mexp(log_p_N)
    if score_N.ndim != 1 or score_N.shape != labels_N.shape:
        raise ValueError(f"predictions {tuple(score_N.shape)}, labels {tuple(labels_N.shape)}: give two equal vectors")
    if bool(score_N.isnan().any()):
        raise ValueError(f"{int(score_N.isnan().sum())} of {len(score_N)} predictions are NaN: metrics are not defined")
    label_N = labels_N > 0.5
    rows, positives = len(label_N), int(label_N.sum())
    auc, low, high = _auc(score_N, label_N, positives)
    loss = -float(torch.where(label_N, log_p_N, log_q_N).mean()) if rows else None
    ne = None
    if loss is not None and 0 < positives < rows:
        rate = positives / rows
        ne = loss / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
    calibration = float(log_p_N.exp().sum()) / positives if positives else None
    return BinaryMetrics(rows, positives, auc, low, high, loss, ne, calibration)


def _auc(score_N: Tensor, label_N: Tensor, positives: int) -> tuple[float | None, float | None, float | None]:
    """AUC and the ends of its 95 % interval, clipped to [0, 1].

    Counts are integers, so the order of rows changes nothing. The variance is DeLong's (Biometrics 1988): that of
    each row's placement, the share of the other class it beats (a tie counts one half), class by class. It is 0 where
    all placements are equal (an AUC of 0 or 1), and the interval is then one point.
    """
    negatives = len(label_N) - positives
    if positives == 0 or negatives == 0:
        return None, None, None
    _, group_N = torch.unique(score_N, return_inverse=True)
    groups = int(group_N.max()) + 1
    pos_G = torch.bincount(group_N[label_N], minlength=groups)
    neg_G = torch.bincount(group_N[~label_N], minlength=groups)
    # Twice the number of rows of the other class beaten, ties counting one.
    beaten_G = 2 * (neg_G.cumsum(0) - neg_G) + neg_G
    beating_G = 2 * (positives - pos_G.cumsum(0)) + pos_G
    auc = int((pos_G * beaten_G).sum()) / (2 * positives * negatives)
    if positives < 2 or negatives < 2:
        return auc, None, None

    def variance_of_mean(placement_G: Tensor, count_G: Tensor, count: int) -> float:
        return float((count_G * (placement_G - auc).square()).sum()) / (count - 1) / count

    variance = variance_of_mean(beaten_G.double() / (2 * negatives), pos_G, positives)
    variance += variance_of_mean(beating_G.double() / (2 * positives), neg_G, negatives)
    margin = _Z95 * math.sqrt(variance)
    return auc, max(auc - margin, 0.0), min(auc + margin, 1.0)


def regression_metrics(values_N: Tensor, labels_N: Tensor) -> RegressionMetrics:
    """Metrics of predicted values against labels of N rows, in float64 on the tensors' device.

    Raises ValueError for shapes that differ, or a NaN.
    """
    if values_N.ndim != 1 or values_N.shape != labels_N.shape:
        raise ValueError(f"predictions {tuple(values_N.shape)}, labels {tuple(labels_N.shape)}: give equal vectors")
    label_N = labels_N.to(torch.float64)
    error_N = values_N.to(torch.float64) - label_N
    rows = len(error_N)
    if bool(error_N.isnan().any()):
        raise ValueError(f"{int(error_N.isnan().sum())} of {rows} errors are NaN: metrics are not defined")
    if not rows:
        return RegressionMetrics(0, None, None, None, None, None)
    square_N = error_N.square()
    mse = float(square_N.mean())
    low = high = r2 = None
    if rows > 1:
        margin = _Z95 * math.sqrt(float(square_N.var()) / rows)
        low, high = max(mse - margin, 0.0), mse + margin
    if bool((label_N != label_N[0]).any()):
        r2 = 1 - float(square_N.sum()) / float((label_N - label_N.mean()).square().sum())
    return RegressionMetrics(rows, mse, low, high, float(error_N.abs().mean()), r2)
