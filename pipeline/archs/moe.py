"""Mixtures of experts that belong to no task: one gate (MoE), a gate a task (MMoE), and levels of it (ML-MMoE).

Shapes: B batch rows, D input width, T tasks, E experts, H expert width.

Source: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (MMoE)",
KDD 2018, section 4; ML-MMoE is the multi-level form that Tang et al., PLE, RecSys 2020, compare with (figure 1).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.archs.arch import Arch, Mixture, check_input, check_layers, check_tasks, mix
from pipeline.axes import Axes, Axis, linear, under
from pipeline.mlp import MLP


class MixtureLevel(nn.Module):
    """E experts, each of its own input, and a gate for each of the `outputs` that all read the one selector x.

    Output o is g_o = sum_i softmax(W_o x)_i f_i(u_i), with u_i the input of expert i (Ma et al., section 4.2).
    """

    def __init__(
        self,
        in_dim: int,
        selector_dim: int,
        outputs: int,
        experts: int,
        expert_layers: Sequence[int],
        activation: str,
        norm: str,
        dropout: float,
        gate_bias: bool,
    ) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"experts is {experts}: at least one is needed")
        check_layers(expert_layers, "expert_layers", "an expert")
        self.experts = nn.ModuleList(MLP(in_dim, expert_layers, activation, norm, dropout) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(selector_dim, experts, bias=gate_bias) for _ in range(outputs))
        self.out_dim = expert_layers[-1]

    def forward(self, inputs: Sequence[Tensor], x_BD: Tensor) -> list[Tensor]:
        """E inputs and the selector x_BD -> the outputs g_BH."""
        outputs = [expert(u_BU) for expert, u_BU in zip(self.experts, inputs, strict=True)]
        return [mix(gate, x_BD, outputs) for gate in self.gates]

    def mixtures(self, level: int, gates: Sequence[str]) -> list[Mixture]:
        """The gates, which all see every expert."""
        experts = [(f"expert.{number}", expert) for number, expert in enumerate(self.experts)]
        return [Mixture(level, name, gate, experts) for name, gate in zip(gates, self.gates, strict=True)]

    def axes(self, expert_inputs: Axis | None, selector: Axis, gates: Sequence[str | int]) -> Axes:
        """The level's tensors: experts by number, gates by task or by the expert that they feed."""
        out: Axes = {}
        for number, expert in enumerate(self.experts):
            out |= under(f"experts.{number}", cast(MLP, expert).axes(expert_inputs))
        for name, gate in zip(gates, self.gates, strict=True):
            out |= under(f"gates.{name}", linear(gate, selector))
        return out


class MLMMoE(Arch):
    """x_BD -> h_BTH through L levels of E experts; one level is MMoE.

    Level 1's experts read x. Above it, expert i reads its own mixture of the level below, by a gate of its own; the
    last level's experts are mixed by a gate a task. Every gate of every level has x as selector, where PLE's take the
    level below.

    Raises ValueError for no task, level or expert, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        experts: int,
        expert_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        gate_bias: bool = False,
        levels: int = 2,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        if levels < 1:
            raise ValueError(f"levels is {levels}: at least one is needed")
        self.levels = nn.ModuleList()
        width = in_dim
        for index in range(levels):
            outputs = tasks if index == levels - 1 else experts
            level = MixtureLevel(width, in_dim, outputs, experts, expert_layers, activation, norm, dropout, gate_bias)
            self.levels.append(level)
            width = level.out_dim
        self.experts = experts
        self.out_dims = [width] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        check_input(x_BD, "BD")
        streams = [x_BD] * self.experts
        for level in self.levels:
            streams = level(streams, x_BD)
        return torch.stack(streams, dim=1)

    def mixtures(self, tasks: Sequence[str]) -> list[Mixture]:
        """A gate for each expert of the level above, and of the last level one a task."""
        above = [f"expert.{number}" for number in range(self.experts)]
        named = [above] * (len(self.levels) - 1) + [list(tasks)]
        levels = enumerate(zip(self.levels, named, strict=True), start=1)
        return [one for n, (level, gates) in levels for one in cast(MixtureLevel, level).mixtures(n, gates)]

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """The tensors of all levels; every gate reads x, the first level's experts too."""
        out: Axes = {}
        for index, level in enumerate(self.levels):
            gates = tasks if index == len(self.levels) - 1 else range(self.experts)
            out |= under(
                f"levels.{index}", cast(MixtureLevel, level).axes(None if index else inputs, inputs, list(gates))
            )
        return out


class MMoE(MLMMoE):
    """h_k = sum_i g_k(x)_i f_i(x), g_k(x) = softmax(W_gk x) (Ma et al. 2018, section 4.2).

    Raises ValueError for no task or expert, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        experts: int,
        expert_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        gate_bias: bool = False,
    ) -> None:
        super().__init__(in_dim, tasks, experts, expert_layers, activation, norm, dropout, gate_bias, levels=1)


class MoE(Arch):
    """h_k = sum_i g(x)_i f_i(x) for every k: one gate (OMoE; Ma et al. 2018, section 4.1).

    Raises ValueError for no task or expert, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        experts: int,
        expert_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        gate_bias: bool = False,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        level = MixtureLevel(in_dim, in_dim, 1, experts, expert_layers, activation, norm, dropout, gate_bias)
        self.levels = nn.ModuleList([level])
        self.experts = experts
        self.out_dims = [level.out_dim] * tasks

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH, the same for every task."""
        check_input(x_BD, "BD")
        (h_BH,) = self.levels[0]([x_BD] * self.experts, x_BD)
        return h_BH.unsqueeze(1).expand(-1, len(self.out_dims), -1)

    def mixtures(self, tasks: Sequence[str]) -> list[Mixture]:
        """The one gate."""
        return cast(MixtureLevel, self.levels[0]).mixtures(1, ["all"])

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Experts and the gate: they belong to no task."""
        return under("levels.0", cast(MixtureLevel, self.levels[0]).axes(inputs, inputs, ["0"]))
