"""Progressive layered extraction (PLE): extraction levels stacked, task and shared knowledge kept apart.

Shapes: B batch rows, D input width, T tasks, H expert width, L levels.

Source: Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, section 4.2.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.archs.arch import Arch, Mixture, check_input
from pipeline.archs.cgc import ExtractionLevel, experts_per_task
from pipeline.axes import Axes, Axis, under


class PLE(Arch):
    """x_BD -> h_BTH through L extraction levels; one level is CGC.

    At level j task k's gate and experts take the task's own output g_{k,j-1} as input and selector: g_{k,j} =
    w_{k,j}(g_{k,j-1}) S_{k,j}. The shared experts and the shared gate take the shared output; at level 1 all take x.
    The shared gate sees the experts of all tasks and the shared ones. The last level has no shared gate: nothing
    would read it. Without shared experts there is no shared stream at all. Every level has the same numbers of
    experts and `expert_layers`, of which the last is H.

    Raises ValueError for no task or level, counts that do not fit the tasks, or a task with no expert at all.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        task_experts: int | Sequence[int],
        shared_experts: int,
        expert_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        gate_bias: bool = False,
        levels: int = 2,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"levels is {levels}: at least one is needed")
        counts = experts_per_task(tasks, task_experts)
        self.levels = nn.ModuleList()
        for index in range(levels):
            shared_gate = shared_experts > 0 and index < levels - 1
            level = ExtractionLevel(
                in_dim, counts, shared_experts, expert_layers, activation, norm, dropout, gate_bias, shared_gate
            )
            self.levels.append(level)
            in_dim = level.out_dim
        self.tasks = tasks
        self.out_dims = [in_dim] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        check_input(x_BD, "BD")
        task_streams, shared_stream = [x_BD] * self.tasks, x_BD
        for level in self.levels:
            task_streams, shared_stream = level(task_streams, shared_stream)
        return torch.stack(task_streams, dim=1)

    def mixtures(self, tasks: Sequence[str]) -> list[Mixture]:
        """Those of all levels."""
        levels = enumerate(self.levels, start=1)
        return [one for number, level in levels for one in cast(ExtractionLevel, level).mixtures(number, tasks)]

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """The tensors of all levels, see ExtractionLevel; above the first, inputs are places of the level below."""
        out: Axes = {}
        for index, level in enumerate(self.levels):
            out |= under(f"levels.{index}", cast(ExtractionLevel, level).axes(None if index else inputs, tasks))
        return out
