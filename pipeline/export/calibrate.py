"""Calibration of a task's logits on held-out rows of its own space: Platt's line, or an isotonic map.

Platt, Probabilistic outputs for support vector machines, 1999, with his targets that keep the line finite; Zadrozny and
Elkan, KDD 2002. Shapes: N rows, P points.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize

from pipeline.export.plan import Export, Method
from pipeline.fusion import log_sigmoid
from schemas.errors import InputError

Float64 = npt.NDArray[np.float64]
LEAST_ROWS = 100
LEAST_SHARE = 1e-6
"""An isotonic map's levels are kept so far from 0 and 1."""


def fitted(export: Export) -> dict[str, Any]:
    """What bundle.json says of the calibration. Raises InputError where a task has too few rows, or one label alone."""
    assert export.calibration is not None
    method, found = export.calibration.method, export.calibration.predictions
    maps: dict[str, Any] = {}
    for at, task in enumerate(export.job.tasks):
        if task.kind != "binary":
            continue
        own_N = found.space_TN[at]
        logit_N, label_N = found.logit_TN[at][own_N].astype(np.float64), found.label_TN[at][own_N].astype(np.float64)
        positives = int(label_N.sum())
        if len(label_N) < LEAST_ROWS or positives in (0, len(label_N)):
            raise InputError(
                f"--calibrate: task '{task.name}' has {len(label_N):,} rows of its own space, {positives:,} positive; "
                f"it needs {LEAST_ROWS} or more, with both labels. Score more days"
            )
        maps[task.name] = calibration_map(method, logit_N, label_N)
    return {"method": method, "rows": len(found.row_N), "maps": maps}


def calibration_map(method: Method, logit_N: Float64, label_N: Float64) -> dict[str, Any]:
    """The map of one task's logits."""
    return _platt(logit_N, label_N) if method == "platt" else _isotonic(logit_N, label_N)


def _platt(logit_N: Float64, label_N: Float64) -> dict[str, Any]:
    positives = label_N.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(label_N) - positives + 2)
    target_N = np.where(label_N > 0, high, low)

    def loss(line: Float64) -> tuple[float, Float64]:
        x_N = line[0] * logit_N + line[1]
        p_N = np.exp(log_sigmoid(x_N))
        value = -np.mean(target_N * log_sigmoid(x_N) + (1 - target_N) * log_sigmoid(-x_N))
        slope_N = p_N - target_N
        return float(value), np.array([np.mean(slope_N * logit_N), np.mean(slope_N)])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="BFGS")
    slope, intercept = (float(x) for x in best.x)
    if not slope > 0:
        raise InputError(
            f"--calibrate: the best slope is {slope:.3g}, so the model would order rows against its own scores; it has "
            "not learnt the task, and is not calibrated"
        )
    return {"method": "platt", "slope": slope, "intercept": intercept}


def _isotonic(logit_N: Float64, label_N: Float64) -> dict[str, Any]:
    """Rising levels, by their mean logit; between two of them, and beyond the last, a straight line and a constant."""
    logit_P, at_N = np.unique(logit_N, return_inverse=True)
    rows_P = np.bincount(at_N).astype(np.float64)
    share_P = np.bincount(at_N, label_N) / rows_P
    found = isotonic_regression(share_P, weights=rows_P)
    level_P = np.clip(found.x, LEAST_SHARE, 1 - LEAST_SHARE)
    begin_B = found.blocks[:-1]
    from_B = np.add.reduceat(logit_P * rows_P, begin_B) / np.add.reduceat(rows_P, begin_B)
    to_B = np.log(level_P[begin_B]) - np.log1p(-level_P[begin_B])
    return {"method": "isotonic", "from": from_B.tolist(), "to": to_B.tolist()}
