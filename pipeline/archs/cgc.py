"""Customized gate control (CGC): the extraction level of PLE, and the one-level architecture made of it.

Shapes: B batch rows, D input width, T tasks, E experts a gate sees, H expert width.

Source: Tang et al., "Progressive Layered Extraction (PLE)", RecSys 2020, sections 4.1 and 4.2.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.archs.arch import Arch, Mixture, check_input, check_layers, check_tasks, mix
from pipeline.axes import Axes, Axis, linear, under
from pipeline.mlp import MLP


class ExtractionLevel(nn.Module):
    """One level of experts and gates: an input a task (and a shared one) -> an output a task (and a shared one).

    Task k's gate sees S_k = [task k's experts ; shared experts] and mixes them by w_k = softmax(W_k x_k), where x_k is
    task k's own input, which its experts read too: g_k = w_k S_k (section 4.1). With `shared_gate`, the shared
    gate sees the experts of all tasks, in task order, then the shared ones, and takes the shared input as selector.

    `task_experts` is the number of experts of each task. The paper's gate has no bias; `gate_bias` adds one.

    Raises ValueError for a task with no expert at all, or a shared gate without shared experts to read its output.
    """

    def __init__(
        self,
        in_dim: int,
        task_experts: Sequence[int],
        shared_experts: int,
        expert_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        gate_bias: bool = False,
        shared_gate: bool = False,
    ) -> None:
        super().__init__()
        _check_experts(task_experts, shared_experts, expert_layers)
        if shared_gate and shared_experts == 0:
            raise ValueError("a shared gate needs shared experts: set shared_experts to 1 or more, or leave it out")

        def experts(number: int) -> nn.ModuleList:  # each built anew: experts that start equal stay equal
            return nn.ModuleList(MLP(in_dim, expert_layers, activation, norm, dropout) for _ in range(number))

        self.task_experts = nn.ModuleList(experts(number) for number in task_experts)
        self.shared_experts = experts(shared_experts)
        self.task_gates = nn.ModuleList(
            nn.Linear(in_dim, number + shared_experts, bias=gate_bias) for number in task_experts
        )
        self.shared_gate = (
            nn.Linear(in_dim, sum(task_experts) + shared_experts, bias=gate_bias) if shared_gate else None
        )
        self.out_dim = expert_layers[-1]

    def forward(self, task_inputs: Sequence[Tensor], shared_input: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """T inputs x_BD and the shared x_BD -> T outputs g_BH and the shared g_BH (None without a shared gate).

        `shared_input` may be None where the level has no shared experts.
        """
        assert len(task_inputs) == len(self.task_gates), (len(task_inputs), len(self.task_gates))
        # A plain loop: on CPU as fast as batched matrix products, and each expert keeps its name in a checkpoint.
        own = [
            [expert(x_BD) for expert in group.children()]
            for group, x_BD in zip(self.task_experts, task_inputs, strict=True)
        ]
        shared = [expert(shared_input) for expert in self.shared_experts.children()]
        outputs = [
            mix(gate, x_BD, [*group, *shared])
            for gate, x_BD, group in zip(self.task_gates, task_inputs, own, strict=True)
        ]
        if self.shared_gate is None:
            return outputs, None
        everyone = [expert_BH for group in own for expert_BH in group]
        assert shared_input is not None
        return outputs, mix(self.shared_gate, shared_input, [*everyone, *shared])

    def mixtures(self, level: int, tasks: Sequence[str]) -> list[Mixture]:
        """A gate a task, and the shared one where there is one."""
        shared = [(f"shared.{number}", expert) for number, expert in enumerate(self.shared_experts)]
        everyone: list[tuple[str, nn.Module]] = []
        out = []
        for task, group, gate in zip(tasks, self.task_experts, self.task_gates, strict=True):
            own = [(f"{task}.{number}", expert) for number, expert in enumerate(group.children())]
            out.append(Mixture(level, task, gate, [*own, *shared]))
            everyone += own
        if self.shared_gate is not None:
            out.append(Mixture(level, "shared", self.shared_gate, [*everyone, *shared]))
        return out

    def axes(self, inputs: Axis | None, tasks: Sequence[str]) -> Axes:
        """The level's tensors: experts and gates by task, a gate's outputs by expert; `inputs` labels the D inputs."""
        out: Axes = {}
        shared = [("shared", number) for number in range(len(self.shared_experts))]
        everyone: list[tuple[str | int, ...]] = []
        for task, group, gate in zip(tasks, self.task_experts, self.task_gates, strict=True):
            experts = list(group.children())
            own = [("task", task, number) for number in range(len(experts))]
            for number, expert in enumerate(experts):
                out |= under(f"task_experts.{task}.{number}", cast(MLP, expert).axes(inputs))
            out |= under(f"task_gates.{task}", linear(gate, inputs, Axis.of([*own, *shared])))
            everyone += own
        for number, expert in enumerate(self.shared_experts):
            out |= under(f"shared_experts.{number}", cast(MLP, expert).axes(inputs))
        if self.shared_gate is not None:
            out |= under("shared_gate", linear(self.shared_gate, inputs, Axis.of([*everyone, *shared])))
        return out


class CGC(Arch):
    """x_BD -> h_BTH: one extraction level, every input x (Tang et al. 2020, section 4.1).

    `task_experts` is one number for all tasks or one for each; with 0 for all it is MMoE over the shared experts (Ma
    et al., KDD 2018). With `shared_experts` 0 each task has a mixture of its own. H is the last of `expert_layers`.

    Raises ValueError for no task, counts that do not fit the tasks, or a task with no expert at all.
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
    ) -> None:
        super().__init__()
        counts = experts_per_task(tasks, task_experts)
        level = ExtractionLevel(
            in_dim, counts, shared_experts, expert_layers, activation, norm, dropout, gate_bias, shared_gate=False
        )
        self.levels = nn.ModuleList([level])  # a list of one: its checkpoint is that of PLE with one level
        self.tasks = tasks
        self.out_dims = [level.out_dim] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        check_input(x_BD, "BD")
        outputs, _ = self.levels[0]([x_BD] * self.tasks, x_BD)
        return torch.stack(outputs, dim=1)

    def mixtures(self, tasks: Sequence[str]) -> list[Mixture]:
        """Those of the level."""
        return cast(ExtractionLevel, self.levels[0]).mixtures(1, tasks)

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """The tensors of the level, see ExtractionLevel."""
        return under("levels.0", cast(ExtractionLevel, self.levels[0]).axes(inputs, tasks))


def experts_per_task(tasks: int, task_experts: int | Sequence[int]) -> list[int]:
    """Return the number of experts of each task; ValueError where there is no task or the numbers do not fit."""
    check_tasks(tasks)
    counts = list(task_experts) if isinstance(task_experts, Iterable) else [int(task_experts)] * tasks
    if len(counts) != tasks:
        raise ValueError(
            f"task_experts {counts} has {len(counts)} numbers for {tasks} tasks: give one number, or each's"
        )
    return counts


def _check_experts(task_experts: Sequence[int], shared_experts: int, expert_layers: Sequence[int]) -> None:
    check_layers(expert_layers, "expert_layers", "an expert")
    if min([shared_experts, *task_experts]) < 0:
        raise ValueError(f"task_experts {list(task_experts)}, shared_experts {shared_experts}: none may be negative")
    bare = [task for task, number in enumerate(task_experts) if number + shared_experts == 0]
    if bare:
        raise ValueError(
            f"task {bare[0]} has no expert: task_experts[{bare[0]}] and shared_experts are both 0; "
            "set either to 1 or more"
        )
