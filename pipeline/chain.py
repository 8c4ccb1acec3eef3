"""Probabilities down a chain of tasks, as logarithms: heads, losses and metrics share this arithmetic.

Shapes: B batch rows, T tasks.

`parents[k]` is the index of the task that task k is given, None for a root; parents may come in any order and chains
have any depth. Nothing here reads a shape at run time or assigns an item: torch.fx traces it.
"""

import math
from collections.abc import Sequence

import torch
import torch.fx
from torch import Tensor
from torch.nn import functional as F


def chains(parents: Sequence[int | None]) -> list[list[int]]:
    """Return each task's chain: the task itself, its parent, and so on up to the root.

    Raises ValueError, naming the task, for a parent that does not exist or a chain that runs in a circle.
    """
    result = []
    for task in range(len(parents)):
        chain, above = [task], parents[task]
        while above is not None:
            if not 0 <= above < len(parents):
                raise ValueError(f"parents[{chain[-1]}] is {above}: there are {len(parents)} tasks, numbered from 0")
            if above in chain:
                raise ValueError(
                    f"parents run in a circle: {[*chain, above]}; one of these tasks must be a root (None)"
                )
            chain.append(above)
            above = parents[above]
        result.append(chain)
    return result


def joint_log_probability(logits_BT: Tensor, parents: Sequence[int | None]) -> Tensor:
    """Log of the product of the conditional probabilities up each task's chain: logits_BT -> log_BT.

    pCTCVR = pCTR * pCVR for any depth (Ma et al., ESMM, SIGIR 2018, equation 1), summed from logsigmoid, so that
    nothing underflows: probabilities of 1e-12 and below keep their precision. A root's is its own log probability.

    Raises ValueError where `parents` and the logits differ in number, or see `chains`.
    """
    # Under torch.fx a shape is a proxy and cannot be compared; T is fixed by the model.
    if not isinstance(logits_BT, torch.fx.Proxy) and logits_BT.shape[1] != len(parents):
        raise ValueError(f"logits for {logits_BT.shape[1]} tasks, parents for {len(parents)}")
    log_BT = F.logsigmoid(logits_BT)
    # Summed from the root down, in one order for every task: a parent's joint is its child's exact first part.
    columns = [sum((log_BT[:, task] for task in chain[-2::-1]), log_BT[:, chain[-1]]) for chain in chains(parents)]
    return torch.stack(columns, dim=1)


def chain_loss(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy of the product of the C probabilities of a chain against its joint label: loss_B.

    P = prod_c sigmoid(logits_BC), loss = -y log P - (1 - y) log(1 - P) (Ma et al., ESMM, SIGIR 2018, equation 3).
    Finite where the logits' sum is, and so is its gradient, -y (1 - p_c) + (1 - y) P (1 - p_c) / (1 - P): both to the
    relative precision of the logits' type, for P near 0 and near 1 alike.
    """
    log_p_BC = F.logsigmoid(logits_BC)
    upto_BC = log_p_BC.cumsum(1)
    log_joint_B = upto_BC[:, -1]
    # P near 0: where P is 1/2 or more the other form stands, and this one's gradient must not be NaN
    small_B = torch.log1p(-torch.exp(log_joint_B.clamp(max=-math.log(2))))
    # P near 1: 1 - p1 p2 p3 = (1 - p1) + p1 (1 - p2) + p1 p2 (1 - p3), a sum of positive terms
    before_BC = torch.cat([torch.zeros_like(upto_BC[:, :1]), upto_BC[:, :-1]], dim=1)
    large_B = torch.logsumexp(before_BC + F.logsigmoid(-logits_BC), dim=1)
    log_rest_B = torch.where(log_joint_B > -math.log(2), large_B, small_B)
    return -(labels_B * log_joint_B + (1 - labels_B) * log_rest_B)


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - exp(log_p)) for log_p <= 0, element by element, without cancellation (Maechler 2012).

    Its gradient is not finite at log_p = 0 exactly, where the result is -inf.
    """
    return torch.where(log_p > -math.log(2), torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))
