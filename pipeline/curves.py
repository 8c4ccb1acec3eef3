"""How predictions lie: calibration curves and score histograms, in plain data.

Shapes: N rows, G bins of equal count, H bins of equal width.
"""

from typing import Any

import torch
from torch import Tensor

BINS = 20
"""Of a calibration curve: quantiles of the predictions."""
WIDTHS = 50
"""Of a histogram, from 0 to the largest score."""


def binary_curves(p_N: Tensor, label_N: Tensor) -> dict[str, Any]:
    """Calibration and histogram of probabilities against 0/1 labels."""
    p_N, one_N = p_N.double(), label_N > 0.5
    return {"calibration": _calibration(p_N, one_N.double()), "scores": _scores(p_N, one_N)}


def regression_curves(value_N: Tensor, label_N: Tensor) -> dict[str, Any]:
    """Calibration of predicted numbers: their mean beside the labels', by quantile of the prediction."""
    return {"calibration": _calibration(value_N.double(), label_N.double())}


def _calibration(score_N: Tensor, label_N: Tensor) -> dict[str, list[float]]:
    """Means by bin; equal scores lie in one bin, so that there may be fewer than BINS. Empty without rows."""
    rows = len(score_N)
    if not rows:
        return {"predicted": [], "observed": [], "rows": []}
    sorted_N = score_N.sort().values
    # numpy's linear quantiles: torch's own takes at most 16 million values
    place_G = torch.arange(1, BINS, dtype=torch.float64, device=score_N.device) * (rows - 1) / BINS
    low_G = place_G.long()
    below_G, above_G = sorted_N[low_G], sorted_N[(low_G + 1).clamp_max(rows - 1)]
    edge_G = below_G + (above_G - below_G) * (place_G - low_G)
    bin_N = torch.searchsorted(edge_G, score_N)
    count_G = torch.bincount(bin_N, minlength=BINS)
    told_G = count_G > 0
    predicted_G, observed_G = (torch.bincount(bin_N, x_N, minlength=BINS) for x_N in (score_N, label_N))
    return {
        "predicted": (predicted_G[told_G] / count_G[told_G]).tolist(),
        "observed": (observed_G[told_G] / count_G[told_G]).tolist(),
        "rows": count_G[told_G].tolist(),
    }


def _scores(p_N: Tensor, one_N: Tensor) -> dict[str, list[float]]:
    """Rows of either class by score; the last bin holds its upper edge."""
    top = float(p_N.max()) if len(p_N) else 1.0
    top = top if top > 0 else 1.0
    bin_N = (p_N * (WIDTHS / top)).long().clamp_max(WIDTHS - 1)
    count = {name: torch.bincount(bin_N[of_N], minlength=WIDTHS) for name, of_N in (("p", one_N), ("n", ~one_N))}
    edges = [top * place / WIDTHS for place in range(WIDTHS + 1)]
    return {"edges": edges, "positives": count["p"].tolist(), "negatives": count["n"].tolist()}
