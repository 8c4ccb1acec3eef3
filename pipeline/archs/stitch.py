"""T networks of L levels whose outputs are mixed after every level: cross-stitch and sluice networks.

Shapes: B batch rows, D input width, T tasks, L levels, H width, S subspaces of a width, N = T S, P = H / S.

Sources: Misra et al., "Cross-stitch Networks for Multi-task Learning", CVPR 2016; Ruder et al., "Latent Multi-task
Architecture Learning" (sluice networks), AAAI 2019.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pipeline.archs.arch import Arch, check_input, check_layers, check_tasks
from pipeline.axes import Axes, Axis, Labelled, under
from pipeline.mlp import MLP

OWN = 0.9
"""What an imbalanced mixture takes of its own at the start; the others share the rest."""


class _Stitched(Arch):
    """T networks, a layer of each a level, and the trainable matrix a_NN that mixes their subspaces after it."""

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        subspaces: int,
        balanced: bool,
        activation: str,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        check_tasks(tasks)
        check_layers(bottom_layers, "bottom_layers", "a network")
        if subspaces < 1 or any(width % subspaces for width in bottom_layers):
            raise ValueError(f"bottom_layers {list(bottom_layers)}: no {subspaces} equal subspaces in each")
        self.levels = nn.ModuleList()
        for width in bottom_layers:
            self.levels.append(nn.ModuleList(MLP(in_dim, [width], activation, norm, dropout) for _ in range(tasks)))
            in_dim = width
        size = tasks * subspaces
        self.stitches = nn.ParameterList(_mixture(size, balanced) for _ in bottom_layers)
        self.subspaces = subspaces
        self.out_dims = [in_dim] * tasks

    def _outputs(self, x_BD: Tensor) -> list[Tensor]:
        """Each level's mixed outputs x~_BTH."""
        check_input(x_BD, "BD")
        streams, out = [x_BD] * len(self.out_dims), []
        for level, a_NN in zip(self.levels, self.stitches, strict=True):
            own = [layer(u_BU) for layer, u_BU in zip(level.children(), streams, strict=True)]
            x_BNP = torch.stack(own, dim=1).unflatten(2, (self.subspaces, -1)).flatten(1, 2)
            mixed_BTH = torch.einsum("nm,bmp->bnp", a_NN, x_BNP).unflatten(1, (len(own), self.subspaces)).flatten(2)
            out.append(mixed_BTH)
            streams = [mixed_BTH[:, task] for task in range(len(own))]
        return out

    def stitch_shares(self) -> list[Tensor]:
        """By absolute weight, summed over subspaces."""
        out = []
        for a_NN in self.stitches:
            size_TT = (
                a_NN.detach().abs().unflatten(0, (-1, self.subspaces)).unflatten(2, (-1, self.subspaces)).sum((1, 3))
            )
            out.append(size_TT / size_TT.sum(1, keepdim=True))
        return out

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Each level's layers by task, and its matrix by task and subspace along both axes."""
        mixed = Axis.of((task, part) for task in tasks for part in range(self.subspaces))
        out: Axes = {}
        for index, (level, a_NN) in enumerate(zip(self.levels, self.stitches, strict=True)):
            for task, layer in zip(tasks, level.children(), strict=True):
                out |= under(f"levels.{index}.{task}", cast(MLP, layer).axes(None if index else inputs))
            out[f"stitches.{index}"] = Labelled(a_NN, (mixed, mixed))
        return out


class CrossStitch(_Stitched):
    """T networks of L layers; after each layer x~_k = sum_j a_kj x_j, a trainable (Misra et al. 2016, equation 1).

    a starts near the identity: .9 for the task's own, .1 / (T - 1) for each other; one task starts at the identity.
    With a = I it is SingleTask.

    Raises ValueError for no task or layer, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_dim, tasks, bottom_layers, 1, False, activation, norm, dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        return self._outputs(x_BD)[-1]


class Sluice(_Stitched):
    """Cross-stitch over S subspaces of each layer, and a mixture of the layers before each tower.

    After each level the N = T S subspaces are mixed by a_NN, and h_k = sum_l b_kl x~_kl over the L levels, so all of
    them have one width: alpha and beta of Ruder et al. 2019, "Learning to share". The penalty is `orthogonality` times
    the sum over levels and tasks of ||G_s^T G_r||_F^2 for each pair s < r of subspaces, G_s the columns of the layer's
    weight that make subspace s: the paper's constraint L_c, which keeps apart what the subspaces read.

    At the start "imbalanced" mixtures take .9 of their own subspace, and of the last level, and .1 evenly of the rest;
    "balanced" ones take all evenly.

    Raises ValueError for unlike widths, widths that do not part into S, an unknown `init`, and see MLP.
    """

    def __init__(
        self,
        in_dim: int,
        tasks: int,
        bottom_layers: Sequence[int],
        subspaces: int = 2,
        orthogonality: float = 0.01,
        init: Literal["imbalanced", "balanced"] = "imbalanced",
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        if init not in ("imbalanced", "balanced"):
            raise ValueError(f"init {init!r} is not known: choose one of imbalanced, balanced")
        if not 0 <= orthogonality < math.inf:
            raise ValueError(f"orthogonality is {orthogonality}: it must be finite and must not be negative")
        balanced = init == "balanced"
        super().__init__(in_dim, tasks, bottom_layers, subspaces, balanced, activation, norm, dropout)
        if len(set(bottom_layers)) > 1:
            raise ValueError(f"bottom_layers {list(bottom_layers)}: layers that are mixed have one width")
        self.layer_mixture = nn.Parameter(_mixture(len(bottom_layers), balanced)[-1].repeat(tasks, 1))
        self.orthogonality = orthogonality

    def forward(self, x_BD: Tensor) -> Tensor:
        """x_BD -> h_BTH."""
        return torch.einsum("tl,lbth->bth", self.layer_mixture, torch.stack(self._outputs(x_BD)))

    def penalty(self) -> Tensor | None:
        """lambda times the sum of ||G_s^T G_r||_F^2; None with one subspace or lambda 0."""
        if self.subspaces == 1 or self.orthogonality == 0:
            return None
        parts = [
            torch.square(one_PD @ other_PD.T).sum()
            for level in self.levels
            for layer in level.children()
            for one_PD, other_PD in combinations(_weight(layer).chunk(self.subspaces), 2)
        ]
        return self.orthogonality * torch.stack(parts).sum()

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Those of the levels, and the mixture of layers by task."""
        levels = Axis.of(range(len(self.levels)))
        mixture = Labelled(self.layer_mixture, (Axis.of(("task", task) for task in tasks), levels))
        return super().axes(inputs, tasks) | {"layer_mixture": mixture}


def _weight(layer: nn.Module) -> Tensor:
    return cast(nn.Linear, cast(MLP, layer).layers[0]).weight


def _mixture(size: int, balanced: bool) -> Tensor:
    """The initial matrix: every row adds up to 1."""
    if balanced or size == 1:
        return torch.full((size, size), 1 / size)
    others = (1 - OWN) / (size - 1)
    return torch.full((size, size), others).fill_diagonal_(OWN)
