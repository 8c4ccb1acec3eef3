"""How tasks are balanced: the arithmetic, over T tasks in plain floats, and the state that is learnt with the model.

Shapes: T tasks.

Whatever a method does to the gradients g_k of the tasks' losses comes out as one factor a task: the gradient that is
trained on is sum_k c_k g_k, and c depends on the inner products M_kl = <g_k, g_l> alone. So the functions here take M.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.axes import Axes, plain, under
from schemas.balance import BalanceConfig

LEAST_FACTOR = 1e-3
"""GradNorm's plain step could push a factor through 0; the paper says nothing of it."""
Gram = Sequence[Sequence[float]]
"""M_TT, symmetric."""


def pcgrad_factors(gram_TT: Gram, orders: Sequence[Sequence[int]]) -> list[float]:
    """c_T of PCGrad (Yu et al., NeurIPS 2020, algorithm 1); without a conflict all are 1, and none is ever less.

    `orders[k]` are the other tasks in the order in which task k's gradient is projected: onto the normal plane of g_l,
    g -= <g, g_l> / |g_l|^2 g_l, wherever <g, g_l> < 0. The projected gradients are added up.
    """
    tasks = range(len(gram_TT))
    out = [0.0 for _ in tasks]
    for task, order in enumerate(orders):
        own = [float(task == k) for k in tasks]
        for other in order:
            product = sum(own[k] * gram_TT[k][other] for k in tasks)
            if product < 0:
                own[other] -= product / gram_TT[other][other]
        out = [a + b for a, b in zip(out, own, strict=True)]
    return out


def min_norm_factors(gram_TT: Gram, tolerance: float = 1e-12, steps: int = 1000) -> list[float]:
    """alpha_T >= 0, summing to 1, that minimises |sum_k alpha_k g_k| (Sener and Koltun, NeurIPS 2018, equation 3).

    Frank-Wolfe in its pairwise form (Lacoste-Julien and Jaggi, NeurIPS 2015), which converges linearly: each step moves
    weight from the worst vertex in use to the best one, as far as an exact line search says. For two tasks the first
    step is the closed form. Ends once no move gains more than `tolerance` of the largest |g_k|^2, or after `steps`.
    """
    tasks = range(len(gram_TT))
    out = [1 / len(gram_TT) for _ in tasks]
    least_gain = tolerance * max(gram_TT[k][k] for k in tasks)
    for _ in range(steps):
        slopes = [sum(row[k] * out[k] for k in tasks) for row in gram_TT]
        best = min(tasks, key=slopes.__getitem__)
        worst = max((k for k in tasks if out[k] > 0), key=slopes.__getitem__)
        gain = slopes[worst] - slopes[best]
        if gain <= least_gain:
            break
        curvature = gram_TT[best][best] + gram_TT[worst][worst] - 2 * gram_TT[best][worst]
        move = out[worst] if gain >= curvature * out[worst] else gain / curvature
        out[best] += move
        out[worst] = 0.0 if move == out[worst] else out[worst] - move
    return out


def gradnorm_factors(
    factors_T: Sequence[float], norms_T: Sequence[float], ratios_T: Sequence[float], alpha: float, lr: float
) -> list[float]:
    """GradNorm's factors after one step (Chen et al., ICML 2018, equation 2 and algorithm 1), not yet renormalised.

    With G_k = factor_k norm_k, norm_k that of the gradient of task k's own loss, and r_k = ratio_k over the mean ratio,
    ratio_k = L_k(t) / L_k(0): one step of `lr` down the gradient of sum_k |G_k - mean(G) r_k^alpha|, the target held
    constant. No factor falls below LEAST_FACTOR.
    """
    reached = [factor * norm for factor, norm in zip(factors_T, norms_T, strict=True)]
    mean_norm, mean_ratio = sum(reached) / len(reached), sum(ratios_T) / len(ratios_T)
    out = []
    for factor, norm, got, ratio in zip(factors_T, norms_T, reached, ratios_T, strict=True):
        relative = ratio / mean_ratio if mean_ratio > 0 else 1.0  # every loss is down to 0: none trains slower
        target = mean_norm * relative**alpha
        slope = norm if got > target else -norm if got < target else 0.0
        out.append(max(factor - lr * slope, LEAST_FACTOR))
    return out


def cosines(gram_TT: Gram) -> list[float]:
    """The cosine between the gradients of each two tasks that have one."""
    norms = [math.sqrt(max(row[k], 0.0)) for k, row in enumerate(gram_TT)]
    tasks = [k for k, norm in enumerate(norms) if norm > 0]
    return [gram_TT[k][j] / (norms[k] * norms[j]) for n, k in enumerate(tasks) for j in tasks[:n]]


class BalanceState(nn.Module):
    """What a method learns, a part a task, so that parts come and go with their tasks; nothing at all for most."""

    def axes(self, tasks: Sequence[str]) -> Axes:
        """Every tensor of the state, by task."""
        out: Axes = {}
        for task, part in zip(tasks, self.children(), strict=False):
            out |= under(task, plain(part))
        return out


class UncertaintyState(BalanceState):
    """s_T, the tasks' log variances, from 0: trained with the dense network, without weight decay."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        for task in range(tasks):
            part = nn.Module()
            part.register_parameter("log_variance", nn.Parameter(torch.zeros(())))
            self.add_module(str(task), part)

    def forward(self) -> Tensor:
        """s_T."""
        return torch.stack(list(self.parameters()))


class GradNormState(BalanceState):
    """GradNorm's factors, from 1, and the tasks' first losses, 0 until they had one."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        for task in range(tasks):
            part = nn.Module()
            part.register_buffer("factor", torch.ones((), dtype=torch.float64))
            part.register_buffer("first_loss", torch.zeros((), dtype=torch.float64))
            self.add_module(str(task), part)

    def forward(self) -> tuple[list[float], list[float]]:
        """Factors and first losses, read by the host at once."""
        factor_T, first_T = torch.stack(list(self.buffers())).view(-1, 2).T.tolist()
        return factor_T, first_T

    @torch.no_grad()
    def write(self, factors_T: Sequence[float], first_T: Sequence[float]) -> None:
        """Writes both."""
        values = [value for pair in zip(factors_T, first_T, strict=True) for value in pair]
        for buffer, value in zip(self.buffers(), values, strict=True):
            buffer.fill_(value)


STATES: dict[str, type[UncertaintyState] | type[GradNormState]] = {
    "uncertainty": UncertaintyState,
    "gradnorm": GradNormState,
}
"""By method."""


def balance_state(config: BalanceConfig, tasks: int) -> BalanceState:
    """What the method learns; no tensor at all for a method that learns nothing."""
    return STATES[config.method](tasks) if config.method in STATES else BalanceState()
