"""Per-task loss on the task's own sample space, with denominators summed over all ranks.

Shapes: B rows of this rank, T tasks. With delta_ik = 1 where row i lies in the space of task k,

    L_k = sum_i delta_ik loss_k(i) / sum_i delta_ik,     L = sum_k w_k L_k,     w_k = w0_k gamma_k^t

where both sums run over the rows of ALL ranks (Tang et al., PLE, RecSys 2020, section 4.3). A mean a rank under
averaged gradients would weigh the rows of a rank with few clicks more.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from schemas.errors import InputError
from schemas.tasks import TaskSpec


@dataclasses.dataclass(frozen=True)
class LossSums:
    """Sums over the global batch, the same on every rank: loss_T over each task's space, and the rows in it."""

    loss_T: Tensor
    rows_T: Tensor
    signals: list[float] = dataclasses.field(default_factory=list)
    """The sums of what the ranks sent along."""

    @property
    def mean_T(self) -> Tensor:
        """L_k of each task; 0 where its space is empty."""
        return self.loss_T / self.rows_T.clamp(min=1)


def binary_loss(logits_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Binary cross-entropy of each row and task, from log-probabilities."""
    return -(labels_BT * F.logsigmoid(logits_BT) + (1 - labels_BT) * F.logsigmoid(-logits_BT))


def task_weights(tasks: list[TaskSpec], step: int, epoch: int) -> list[float]:
    """w0 * gamma^t of each task, t in the task's own unit."""
    return [task.weight * task.decay ** (step if task.decay_per == "step" else epoch) for task in tasks]


def conditional_loss(
    logits_BT: Tensor,
    labels_BT: Tensor,
    space_BT: Tensor,
    weights: list[float],
    tasks: Sequence[str] = (),
    signals: Sequence[float] = (),
) -> tuple[Tensor, LossSums]:
    """The scalar to call backward on, and the global sums.

    The scalar is this rank's share of L times the number of ranks: data-parallel gradients and TorchRec's table
    gradients are averaged over ranks, so what they add up to is the gradient of L itself.

    One all-reduce and one read by the host a step: `signals`, a few numbers of this rank's, travel along and come back
    summed over ranks.

    Raises InputError on every rank alike where the loss is not finite, by the names of its `tasks`, before any
    backward: the tables train inside backward, and a guard at the optimizer's step would come too late.
    """
    # before the loss and not only after it: a logit outside the task's space may be anything at all, NaN included
    outside_BT = space_BT == 0
    inside_BT = torch.where(outside_BT, 0.0, logits_BT)
    local_T = torch.where(outside_BT, 0.0, binary_loss(inside_BT, labels_BT)).sum(0)
    count = len(local_T)
    mine_S = torch.tensor(signals, dtype=torch.float64, device=local_T.device)
    sums_N = torch.cat([local_T.detach().double(), space_BT.sum(0).double(), mine_S])
    dist.all_reduce(sums_N)
    told = sums_N.tolist()
    _refuse_not_finite(told[:count], tasks)
    sums = LossSums(sums_N[:count], sums_N[count : 2 * count], told[2 * count :])
    weight_T = torch.tensor(weights, dtype=local_T.dtype, device=local_T.device)
    mean_T = local_T / sums.rows_T.clamp(min=1).to(local_T.dtype)
    return (weight_T * mean_T).sum() * dist.get_world_size(), sums


def _refuse_not_finite(losses: list[float], tasks: Sequence[str]) -> None:
    names = tasks or [f"number {k}" for k in range(len(losses))]
    broken = [f"'{name}' ({loss})" for name, loss in zip(names, losses, strict=True) if not math.isfinite(loss)]
    if broken:
        raise InputError(
            f"the loss of this step is not finite, for task {', '.join(broken)}; nothing was trained on it. "
            "Lower dense_optimizer.lr or embedding_optimizer.lr and name another output"
        )
