"""Towers, one a task, and the joint probability along the task graph.

Shapes: B batch rows, T tasks, H width of a task's representation.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.fx
from torch import Tensor, nn

from pipeline.axes import Axes, linear, under
from pipeline.chain import joint_log_probability
from pipeline.mlp import MLP

__all__ = ["Towers", "joint_log_probability"]


class Towers(nn.Module):
    """h_BTH -> logits_BT: task k's own MLP over h_k, then a linear layer to one logit.

    `in_dim` is H, or the width of each task's representation: tower k reads the first in_dim[k] columns of h_k alone.
    `layer_sizes` are the hidden layers of every tower; none at all leaves the linear layer alone. Where a task is
    given another, its logit is that of the conditional probability (Ma et al., ESMM, SIGIR 2018); the towers t_k are
    those of Tang et al., PLE, RecSys 2020, section 4.1.

    Raises ValueError for no task, or widths that do not fit the tasks, and see MLP.
    """

    def __init__(
        self,
        in_dim: int | Sequence[int],
        tasks: int,
        layer_sizes: Sequence[int] = (),
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if tasks < 1:
            raise ValueError(f"tasks is {tasks}: at least one is needed")
        self.in_dims = list(in_dim) if isinstance(in_dim, Iterable) else [int(in_dim)] * tasks
        if len(self.in_dims) != tasks:
            raise ValueError(f"in_dim {self.in_dims} has {len(self.in_dims)} widths for {tasks} tasks")
        self.towers = nn.ModuleList(MLP(width, layer_sizes, activation, norm, dropout) for width in self.in_dims)
        self.outputs = nn.ModuleList(nn.Linear(cast(MLP, tower).out_dim, 1) for tower in self.towers)

    def forward(self, h_BTH: Tensor) -> Tensor:
        """h_BTH -> logits_BT."""
        return self.logits(self.last_layers(h_BTH))

    def last_layers(self, h_BTH: Tensor) -> list[Tensor]:
        """What each task's MLP makes of its representation, for `logits`."""
        if not isinstance(h_BTH, torch.fx.Proxy) and list(h_BTH.shape[1:]) != [len(self.towers), max(self.in_dims)]:
            wanted = f"{len(self.towers)} tasks and width {max(self.in_dims)}"
            raise ValueError(f"the representations have shape {list(h_BTH.shape)}: h_BTH is of {wanted}")
        by_task = h_BTH.unbind(1)  # in one: the gradient of each slice would be a whole h_BTH, zeros but for the slice
        return [
            tower(by_task[task][:, :width])
            for task, (width, tower) in enumerate(zip(self.in_dims, self.towers, strict=True))
        ]

    def logits(self, last_layers: Sequence[Tensor]) -> Tensor:
        """The linear layers to one logit each, in the precision of their weights: logits_BT."""
        logits = []
        for module, u_BU in zip(self.outputs, last_layers, strict=True):
            output = cast(nn.Linear, module)
            logits.append(output(u_BU.to(output.weight.dtype)))
        return torch.cat(logits, dim=1)

    def axes(self, tasks: Sequence[str]) -> Axes:
        """The tensors of each task's tower and output, by task."""
        out: Axes = {}
        for task, tower, output in zip(tasks, self.towers, self.outputs, strict=True):
            out |= under(f"towers.{task}", cast(MLP, tower).axes()) | under(f"outputs.{task}", linear(output))
        return out
