"""Metrics of binary tasks, each on its own sample space, equal at any number of ranks.

Shapes: B batch rows, N rows of a window, T tasks, G groups of equal score, R ranks.

Exact, not binned: the rows are kept and gathered. A value that is not defined is None, never .5 or NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pipeline.chain import chains, joint_log_probability, log1mexp

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
class Metrics:
    """Metrics of every task by name."""

    own: dict[str, BinaryMetrics]
    """Each task's conditional probability over the task's own space."""
    joint: dict[str, BinaryMetrics]
    """Each child task's joint probability over all exposures (CTCVR beside CVR)."""


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


class MetricWindow:
    """Rows of one window (an evaluation, N training steps), kept on each rank until `compute`.

    `parents[k]` is the index of the task that task k is given, None for a root. `device` is where a rank that was
    given no tensor takes part in the collectives: by default the current CUDA device under nccl, else the CPU.

    Raises ValueError for names and parents that differ in number, names twice, or parents that are no forest.
    """

    def __init__(
        self, task_names: Sequence[str], parents: Sequence[int | None], device: torch.device | None = None
    ) -> None:
        if len(task_names) != len(parents) or len(set(task_names)) != len(task_names):
            raise ValueError(f"tasks {list(task_names)}, parents {list(parents)}: give each task once, with its parent")
        self.task_names = list(task_names)
        self.parents = list(parents)
        self.device = device
        self._chains = chains(parents)
        self._logits: list[Tensor] = []
        self._flags: list[Tensor] = []

    def update(self, logits_BT: Tensor, labels_BT: Tensor, space_BT: Tensor) -> None:
        """Append a batch: conditional logits, 0/1 labels, and 1 where a row is in a task's space.

        Copies, so the tensors may be reused; neither synchronises nor waits for a device. A label outside its space
        may hold anything, NaN included, which counts as 0 in the joint label. A row in no space (padding) is left out.

        Raises ValueError where the shapes are not all B x T.
        """
        shapes = [tuple(tensor.shape) for tensor in (logits_BT, labels_BT, space_BT)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][1] != len(self.task_names):
            raise ValueError(
                f"logits, labels and space have shapes {shapes}: all must be rows x {len(self.task_names)} tasks"
            )
        self._logits.append(logits_BT.detach().to(torch.float32, copy=True))
        self._flags.append(torch.cat([labels_BT.detach() > 0.5, space_BT.detach() != 0], dim=1).to(torch.uint8))

    def compute(self, group: dist.ProcessGroup | None = None) -> Metrics | None:
        """Metrics over the rows of all ranks of `group`: on its rank 0; None on the others.

        Every rank must call it, with rows or without. Without a process group, over this process's rows.

        Raises ValueError on every rank, naming the tasks, where any rank holds a NaN logit.
        """
        logits_NT, flags_NF = self._local(group)
        nan_T = logits_NT.isnan().sum(0)
        if dist.is_available() and dist.is_initialized():
            # Every rank learns of the NaNs, so that all raise and none waits for the rest.
            counts_RC = _all_gather(torch.cat([nan_T.new_tensor([len(logits_NT)]), nan_T]), group)
            self._refuse_nan(counts_RC[:, 1:].sum(0))
            rows = counts_RC[:, 0].tolist()
            gathered = [_gather(tensor, rows, group) for tensor in (logits_NT, flags_NF)]
            if gathered[0] is None or gathered[1] is None:
                return None
            logits_NT, flags_NF = gathered[0], gathered[1]
        else:
            self._refuse_nan(nan_T)
        return self._metrics(logits_NT, flags_NF.bool())

    def reset(self) -> None:
        """Forget all rows."""
        self._logits.clear()
        self._flags.clear()

    def rows(self) -> tuple[Tensor, Tensor]:
        """This process's rows so far, for `restore`: logits_NT, and labels beside spaces as uint8 flags_NF, F = 2T."""
        return self._local(None)

    def restore(self, logits_NT: Tensor, flags_NF: Tensor) -> None:
        """Appends rows that a window gave as `rows`, of this process or of another."""
        self._logits.append(logits_NT)
        self._flags.append(flags_NF)

    def _local(self, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor]:
        if self._logits:
            return torch.cat(self._logits), torch.cat(self._flags)
        device = self.device
        if device is None:
            nccl = dist.is_available() and dist.is_initialized() and "nccl" in dist.get_backend_config(group)
            device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        tasks = len(self.task_names)
        return torch.zeros(0, tasks, device=device), torch.zeros(0, 2 * tasks, dtype=torch.uint8, device=device)

    def _refuse_nan(self, nan_T: Tensor) -> None:
        found = {name: count for name, count in zip(self.task_names, nan_T.tolist(), strict=True) if count}
        if found:
            raise ValueError(f"logits are NaN (task: rows): {found}; the model has diverged or was given NaN features")

    def _metrics(self, logits_NT: Tensor, flags_NF: Tensor) -> Metrics:
        labels_NT, space_NT = flags_NF.chunk(2, dim=1)
        log_p_NT = joint_log_probability(logits_NT.double(), self.parents)
        metrics = Metrics({}, {})
        for task, name in enumerate(self.task_names):
            own_N = space_NT[:, task]
            metrics.own[name] = binary_metrics(labels_NT[own_N, task], logits_N=logits_NT[own_N, task])
            if self.parents[task] is not None:
                chain = self._chains[task]
                exposed_N = space_NT[:, chain[-1]]  # the root's space: every exposure, less padding
                label_N = labels_NT[:, chain].all(dim=1)
                metrics.joint[name] = binary_metrics(label_N[exposed_N], log_p_N=log_p_NT[exposed_N, task])
        return metrics


def flatten(metrics: Metrics) -> dict[str, float]:
    """Return `<task>/<field>` of each task's own metrics and `<task>/joint_<field>`; undefined values are left out."""
    flat = {}
    for prefix, group in (("", metrics.own), ("joint_", metrics.joint)):
        for task, values in group.items():
            for field in fields(values):
                value = getattr(values, field.name)
                if value is not None:
                    flat[f"{task}/{prefix}{field.name}"] = float(value)
    return flat


def _all_gather(counts_C: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    gathered = [torch.empty_like(counts_C) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, counts_C.contiguous(), group=group)
    return torch.stack(gathered)


def _gather(local_NC: Tensor, rows: list[int], group: dist.ProcessGroup | None) -> Tensor | None:
    """Rows of all ranks, rank by rank, on rank 0 of the group; None elsewhere.

    Padded to the longest rank, because gather wants equal sizes.
    """
    padded = F.pad(local_NC, (0, 0, 0, max(rows) - len(local_NC)))
    if dist.get_rank(group) != 0:
        dist.gather(padded, None, group=group, group_dst=0)
        return None
    parts = [torch.empty_like(padded) for _ in rows]
    dist.gather(padded, parts, group=group, group_dst=0)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])
