"""Per-task loss on the rows the task is trained on, with denominators summed over all ranks.

Shapes: B rows of this rank, T tasks. With share_ik the weight of row i in the loss of task k, 0 where it is not trained
on it (a plain task: 1 within its sample space),

    L_k = sum_i share_ik loss_k(i) / sum_i share_ik,     L = sum_k w_k L_k,     w_k = w0_k gamma_k^t

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

from pipeline.chain import chain_loss, chains
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.tasks import TaskSpec


@dataclasses.dataclass(frozen=True)
class LossSums:
    """Sums over the global batch, the same on every rank: loss_T of each task, and the rows they are of."""

    loss_T: Tensor
    rows_T: Tensor
    """The weights of the rows, added up: their number where no task has sample weights."""
    signals: list[float] = dataclasses.field(default_factory=list)
    """The sums of what the ranks sent along."""

    @property
    def mean_T(self) -> Tensor:
        """L_k of each task; 0 where no row has weight."""
        return self.loss_T / _divisors(self.rows_T)


class Objective:
    """What each task of a job is trained to do."""

    def __init__(self, job: JobConfig) -> None:
        self.names = [task.name for task in job.tasks]
        self.regression = [k for k, task in enumerate(job.tasks) if task.kind == "regression"]
        labels, factors = chains(job.parents), chains(job.links)
        self.entire = {k: (factors[k], labels[k]) for k, space in enumerate(job.spaces) if space == "entire"}
        """Whose probabilities are multiplied, and whose labels must be 1, by task."""
        self._binary = [k for k in range(len(job.tasks)) if k not in self.regression and k not in self.entire]

    def row_losses(self, logits_BT: Tensor, labels_BT: Tensor, outside_BT: Tensor) -> Tensor:
        """loss_BT of each row and task; where outside_BT is true it is anything, and no gradient comes back."""
        # before the loss and not only after it: a logit outside the task's rows may be anything at all, NaN included
        inside_BT = torch.where(outside_BT, 0.0, logits_BT)
        if len(self._binary) == len(self.names):
            return binary_loss(inside_BT, labels_BT)
        loss_BX = binary_loss(inside_BT[:, self._binary], labels_BT[:, self._binary])
        columns = dict(zip(self._binary, loss_BX.unbind(1), strict=True))
        for task in self.regression:
            columns[task] = (inside_BT[:, task] - labels_BT[:, task]).square()
        for task, (factors, labels) in self.entire.items():
            logits_BC = torch.where(outside_BT[:, task, None], 0.0, logits_BT[:, factors])
            columns[task] = chain_loss(logits_BC, labels_BT[:, labels].prod(dim=1))
        return torch.stack([columns[task] for task in range(len(self.names))], dim=1)

    def of_logits(self, logits_BT: Tensor) -> Tensor:
        """loss_BT of labels that are all 0, on every row: which logits a task's loss reads does not depend on them."""
        return self.row_losses(logits_BT, torch.zeros_like(logits_BT), torch.zeros_like(logits_BT, dtype=torch.bool))


def binary_loss(logits_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Binary cross-entropy of each row and task, from log-probabilities."""
    return -(labels_BT * F.logsigmoid(logits_BT) + (1 - labels_BT) * F.logsigmoid(-logits_BT))


def task_weights(tasks: list[TaskSpec], step: int, epoch: int) -> list[float]:
    """w0 * gamma^t of each task, t in the task's own unit."""
    return [task.weight * task.decay ** (step if task.decay_per == "step" else epoch) for task in tasks]


def task_losses(
    objective: Objective, logits_BT: Tensor, labels_BT: Tensor, share_BT: Tensor, signals: Sequence[float] = ()
) -> tuple[Tensor, LossSums]:
    """This rank's part of each L_k, and the global sums: the parts of all ranks add up to `LossSums.mean_T`.

    The denominators are those of all ranks, so any weighting of the tasks may follow (`total_loss`).

    One all-reduce and one read by the host a step: `signals`, a few numbers of this rank's, travel along and come back
    summed over ranks.

    Raises InputError on every rank alike where a loss is not finite, by the names of its tasks, before any backward:
    the tables train inside backward, and a guard at the optimizer's step would come too late.
    """
    outside_BT = share_BT == 0
    loss_BT = objective.row_losses(logits_BT, labels_BT, outside_BT)
    local_T = torch.where(outside_BT, 0.0, share_BT * loss_BT).sum(0)
    count = len(local_T)
    mine_S = torch.tensor(signals, dtype=torch.float64, device=local_T.device)
    sums_N = torch.cat([local_T.detach().double(), share_BT.sum(0, dtype=torch.float64), mine_S])
    dist.all_reduce(sums_N)
    told = sums_N.tolist()
    _refuse_not_finite(told[:count], objective.names)
    sums = LossSums(sums_N[:count], sums_N[count : 2 * count], told[2 * count :])
    return local_T / _divisors(sums.rows_T).to(local_T.dtype), sums


def total_loss(part_T: Tensor, weights: Sequence[float]) -> Tensor:
    """The scalar to call backward on: this rank's part of L = sum_k w_k L_k, times the number of ranks.

    Data-parallel gradients and TorchRec's table gradients are averaged over ranks, so what they add up to is the
    gradient of L itself.
    """
    weight_T = torch.tensor(weights, dtype=part_T.dtype, device=part_T.device)
    return (weight_T * part_T).sum() * dist.get_world_size()


def _divisors(rows_T: Tensor) -> Tensor:
    """1 where there is no row: its loss is 0 as well."""
    return torch.where(rows_T > 0, rows_T, 1.0)


def _refuse_not_finite(losses: list[float], names: Sequence[str]) -> None:
    broken = [f"'{name}' ({loss})" for name, loss in zip(names, losses, strict=True) if not math.isfinite(loss)]
    if broken:
        raise InputError(
            f"the loss of this step is not finite, for task {', '.join(broken)}; nothing was trained on it. "
            "Lower dense_optimizer.lr or embedding_optimizer.lr and name another output"
        )
