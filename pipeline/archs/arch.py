"""What every architecture is, and what several are made of.

Shapes: B batch rows, D input width, T tasks, E experts, H width of a task's representation.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import cast

import torch
import torch.fx
from torch import Tensor, nn

from pipeline.axes import Axes, Axis


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One gate, and the experts that it mixes."""

    level: int
    """From 1, where the inputs come in."""
    gate: str
    """Whose it is: a task's name, shared, all (of a gate that every task shares), or expert.N of the level above."""
    selector: nn.Module
    """Gives logits_BE."""
    experts: list[tuple[str, nn.Module]]
    """Name and module of each, in the order of the logits: TASK.N, shared.N, or expert.N. Each gives h_BH."""


class Arch(nn.Module):
    """x_BD -> h_BTH, one representation a task. Plain torch, made by keyword arguments."""

    out_dims: list[int]
    """Width of each task's representation. H is the widest; a narrower one is filled up with zeros."""

    @property
    def out_dim(self) -> int:
        """H."""
        return max(self.out_dims)

    def penalty(self) -> Tensor | None:
        """What the weights themselves add to the loss, weighted; None where nothing is added."""
        return None

    def mixtures(self, tasks: Sequence[str]) -> list[Mixture]:
        """Every gate; none where nothing is mixed by gates."""
        return []

    def stitch_shares(self) -> list[Tensor]:
        """Of each level share_TT, what a task takes of each other's layer: rows add up to 1. None without stitches."""
        return []

    def axes(self, inputs: Axis, tasks: Sequence[str]) -> Axes:
        """Every tensor by canonical name, its axes labelled; `inputs` labels the D inputs (pipeline/axes.py)."""
        raise NotImplementedError


def check_tasks(tasks: int) -> None:
    """ValueError where there is no task."""
    if not isinstance(tasks, Integral) or tasks < 1:
        raise ValueError(f"tasks is {tasks}: a whole number of 1 or more is needed")


def check_layers(layers: Sequence[int], key: str, owner: str) -> None:
    """ValueError, by the argument's name, where the layers of `owner` are no list of widths, or none."""
    if not isinstance(layers, Iterable):
        raise ValueError(f"{key} is {layers!r}: give a list of widths, such as [{layers!r}]")
    if len(layers) == 0:
        raise ValueError(f"{key} is empty: {owner} needs at least one layer")


def check_input(x: Tensor, dims: str, tasks: int = 0) -> None:
    """ValueError where the input has other axes than `dims` names, such as BD, or is not of `tasks` tasks."""
    if isinstance(x, torch.fx.Proxy):  # a shape that cannot be compared
        return
    if x.ndim != len(dims):
        raise ValueError(f"the input has shape {list(x.shape)}: x_{dims} has {len(dims)} axes")
    if tasks and x.shape[1] != tasks:
        raise ValueError(f"the input has shape {list(x.shape)}: x_{dims} is of {tasks} tasks")


def mix(gate: nn.Module, x_BD: Tensor, experts: list[Tensor]) -> Tensor:
    """Mix E experts' outputs of shape BH by the softmax of a linear gate's E logits, to g_BH."""
    logits_BE = gate(x_BD)
    # in fp32 at least, the sums too: a CPU's autocast would leave both in bf16
    weight_BE = torch.softmax(logits_BE, dim=-1, dtype=torch.promote_types(logits_BE.dtype, torch.float32))
    # expert by expert: stacked, it is B products of 1 x E and E x H, which cost a CPU a fifth of the network's step
    mixed_BH = weight_BE[:, :1] * experts[0]
    for place, expert_BH in enumerate(experts[1:], start=1):
        mixed_BH = torch.addcmul(mixed_BH, weight_BE[:, place : place + 1], expert_BH)
    return mixed_BH.to(cast(nn.Linear, gate).weight.dtype)  # of a network that is bf16 itself, and not by autocast
