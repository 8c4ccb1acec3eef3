"""Metrics of tasks, each on its own sample space, equal at any number of ranks.

Shapes: B batch rows, N rows of a window, T tasks, V regression tasks, F = 2T or 3T flags, R ranks.

The rows are kept and gathered. They count alike: sample weights shape the loss alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from pipeline.chain import chains, joint_log_probability
from pipeline.curves import binary_curves, regression_curves
from pipeline.measures import BinaryMetrics, RegressionMetrics, binary_metrics, regression_metrics

__all__ = ["BinaryMetrics", "MetricWindow", "Metrics", "RegressionMetrics", "binary_metrics", "flatten"]


@dataclass(frozen=True)
class Metrics:
    """Metrics of every task by name."""

    own: dict[str, BinaryMetrics]
    """Each binary task's own probability over the task's conditional space."""
    joint: dict[str, BinaryMetrics]
    """Each binary child's joint probability over all exposures (CTCVR beside CVR)."""
    regression: dict[str, RegressionMetrics] = field(default_factory=dict)
    """Each regression task's value over the task's conditional space."""
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Calibration and score histograms by task, and by `TASK (joint)`, of an ordered window (pipeline/curves.py)."""


class MetricWindow:
    """Rows of one window (an evaluation, N training steps), kept on each rank until `compute`.

    `parents[k]` is the index of the task that task k is given, None for a root. `links[k]` is the index of the task
    with whose joint probability that of task k is multiplied: by default its parent, None where task k's probability is
    already that of an exposure. `regression` holds the indices of the tasks that predict a number; with `exposures`
    each update says which rows are exposures to a task. `device` is where a rank that was given no tensor takes part in
    the collectives: by default the current CUDA device under nccl, else the CPU. An `ordered` window is told the rows'
    ids, and adds up in their order: its metrics are the same bits at any number of ranks, and come with curves.

    Raises ValueError for names and parents that differ in number, names twice, or parents that are no forest.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        parents: Sequence[int | None],
        device: torch.device | None = None,
        *,
        links: Sequence[int | None] | None = None,
        regression: Sequence[int] = (),
        exposures: bool = False,
        ordered: bool = False,
    ) -> None:
        if len(task_names) != len(parents) or len(set(task_names)) != len(task_names):
            raise ValueError(f"tasks {list(task_names)}, parents {list(parents)}: give each task once, with its parent")
        self.task_names = list(task_names)
        self.parents = list(parents)
        self.links = list(parents if links is None else links)
        self.regression = list(regression)
        self.exposures = exposures
        self.ordered = ordered
        self.device = device
        self._chains = chains(parents)
        self._parts: list[dict[str, Tensor]] = []

    def update(
        self,
        logits_BT: Tensor,
        labels_BT: Tensor,
        space_BT: Tensor,
        exposed_BT: Tensor | None = None,
        row_ids_B: Tensor | None = None,
    ) -> None:
        """Append a batch: logits or values, labels, and 1 where a row is in a task's conditional space.

        `exposed_BT` is 1 where a row is an exposure whose labels up the task's chain mean something: of such rows are
        the joint metrics. Without it, all rows in the space of the chain's root are.

        Copies, so the tensors may be reused; neither synchronises nor waits for a device. A label outside its space
        may hold anything, NaN included, which counts as 0 in the joint label. A row in no space (padding) is left out.

        Raises ValueError where the shapes are not all B x T, or exposures are missing or not declared.
        """
        given = [logits_BT, labels_BT, space_BT] + ([] if exposed_BT is None else [exposed_BT])
        shapes = [tuple(tensor.shape) for tensor in given]
        if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][1] != len(self.task_names):
            raise ValueError(
                f"logits, labels and space have shapes {shapes}: all must be rows x {len(self.task_names)} tasks"
            )
        if (exposed_BT is not None) != self.exposures:
            raise ValueError(f"the window was made with exposures={self.exposures}: give exposed_BT accordingly")
        flags = [labels_BT.detach() > 0.5, *(tensor.detach() != 0 for tensor in given[2:])]
        part = {
            "logits": logits_BT.detach().to(torch.float32, copy=True),
            "flags": torch.cat(flags, dim=1).to(torch.uint8),
        }
        if self.regression:
            part["values"] = labels_BT.detach()[:, self.regression].to(torch.float32)
        if self.ordered:
            assert row_ids_B is not None, "an ordered window is told them"
            part["row_ids"] = row_ids_B.detach().clone().unsqueeze(1)
        self._parts.append(part)

    def compute(self, group: dist.ProcessGroup | None = None) -> Metrics | None:
        """Metrics over the rows of all ranks of `group`: on its rank 0; None on the others.

        Every rank must call it, with rows or without. Without a process group, over this process's rows.

        Raises ValueError on every rank, naming the tasks, where any rank holds a NaN logit.
        """
        rows = self.rows(group)
        nan_T = rows["logits"].isnan().sum(0)
        if dist.is_available() and dist.is_initialized():
            # Every rank learns of the NaNs, so that all raise and none waits for the rest.
            counts_RC = _all_gather(torch.cat([nan_T.new_tensor([len(rows["logits"])]), nan_T]), group)
            self._refuse_nan(counts_RC[:, 1:].sum(0))
            gathered = {name: _gather(tensor, counts_RC[:, 0].tolist(), group) for name, tensor in rows.items()}
            rows = {name: tensor for name, tensor in gathered.items() if tensor is not None}
            if not rows:
                return None
        else:
            self._refuse_nan(nan_T)
        if self.ordered:
            order_N = rows.pop("row_ids").squeeze(1).argsort()
            rows = {name: tensor[order_N] for name, tensor in rows.items()}
        return self._metrics(rows["logits"], rows["flags"].bool(), rows.get("values"))

    def reset(self) -> None:
        """Forget all rows."""
        self._parts.clear()

    def rows(self, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
        """This process's rows so far, for `restore`, by name.

        logits_NT; uint8 flags_NF, labels beside spaces beside exposures; labels values_NV where a task is a regression.
        """
        if self._parts:
            return {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        device = self.device
        if device is None:
            nccl = dist.is_available() and dist.is_initialized() and "nccl" in dist.get_backend_config(group)
            device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        tasks = len(self.task_names)
        flags = (3 if self.exposures else 2) * tasks
        out = {
            "logits": torch.zeros(0, tasks, device=device),
            "flags": torch.zeros(0, flags, dtype=torch.uint8, device=device),
        }
        out |= {"values": torch.zeros(0, len(self.regression), device=device)} if self.regression else {}
        return out | ({"row_ids": torch.zeros(0, 1, dtype=torch.int64, device=device)} if self.ordered else {})

    def restore(self, rows: dict[str, Tensor]) -> None:
        """Appends rows that a window gave as `rows`, of this process or of another."""
        self._parts.append(rows)

    def _refuse_nan(self, nan_T: Tensor) -> None:
        found = {name: count for name, count in zip(self.task_names, nan_T.tolist(), strict=True) if count}
        if found:
            raise ValueError(f"logits are NaN (task: rows): {found}; the model has diverged or was given NaN features")

    def _metrics(self, logits_NT: Tensor, flags_NF: Tensor, values_NV: Tensor | None) -> Metrics:
        labels_NT, space_NT, *rest = flags_NF.split(len(self.task_names), dim=1)
        log_p_NT = joint_log_probability(logits_NT.double(), self.links)
        metrics = Metrics({}, {})
        for task, name in enumerate(self.task_names):
            own_N = space_NT[:, task]
            if task in self.regression:
                assert values_NV is not None
                label_N = values_NV[own_N, self.regression.index(task)]
                metrics.regression[name] = regression_metrics(logits_NT[own_N, task], label_N)
                if self.ordered:
                    metrics.curves[name] = regression_curves(logits_NT[own_N, task], label_N)
                continue
            metrics.own[name] = binary_metrics(labels_NT[own_N, task], logits_N=logits_NT[own_N, task])
            if self.ordered:
                metrics.curves[name] = binary_curves(logits_NT[own_N, task].double().sigmoid(), labels_NT[own_N, task])
            if self.parents[task] is not None:
                chain = self._chains[task]
                # the root's space: every exposure, less padding
                exposed_N = rest[0][:, task] if rest else space_NT[:, chain[-1]]
                label_N = labels_NT[:, chain].all(dim=1)
                metrics.joint[name] = binary_metrics(label_N[exposed_N], log_p_N=log_p_NT[exposed_N, task])
                if self.ordered:
                    p_N = log_p_NT[exposed_N, task].exp()
                    metrics.curves[f"{name} (joint)"] = binary_curves(p_N, label_N[exposed_N])
        return metrics


def flatten(metrics: Metrics) -> dict[str, float]:
    """Return `<task>/<field>` of each task's own metrics and `<task>/joint_<field>`; undefined values are left out."""
    flat = {}
    for prefix, group in (("", metrics.own | metrics.regression), ("joint_", metrics.joint)):
        for task, values in group.items():
            for each in fields(values):
                value = getattr(values, each.name)
                if value is not None:
                    flat[f"{task}/{prefix}{each.name}"] = float(value)
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
