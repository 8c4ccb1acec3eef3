"""What the axes of each parameter stand for, so that weights can be found again by meaning and not by position.

A module tells it in one method, `axes`, which returns each of its tensors under its canonical name: the dotted path
with a task's name where the module has the task's number. Whatever a module does not declare is a plain range.
"""

import dataclasses
from collections.abc import Hashable, Iterable
from typing import TypeAlias

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a tensor: a label for each place along it."""

    labels: tuple[Hashable, ...]
    inputs: bool = False
    """Whether the places are inputs that the module reads: a place that comes new may get the weight 0, and what the
    module computes stays as it was."""

    @staticmethod
    def of(labels: Iterable[Hashable], inputs: bool = False) -> "Axis":
        """The axis with these labels, no two alike."""
        axis = Axis(tuple(labels), inputs)
        assert len(set(axis.labels)) == len(axis.labels), axis.labels
        return axis


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A parameter or buffer, and what its axes stand for."""

    tensor: Tensor
    axes: tuple[Axis, ...]


Axes: TypeAlias = dict[str, Labelled]
"""The tensors of a module by canonical name."""


def plain(module: nn.Module) -> Axes:
    """Every parameter and buffer of the module under its own name, each axis a plain range."""
    return {
        name: Labelled(tensor, tuple(Axis.of(range(size)) for size in tensor.shape))
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def linear(layer: nn.Module, inputs: Axis | None = None, outputs: Axis | None = None) -> Axes:
    """A linear layer whose inputs or outputs have labels."""
    assert isinstance(layer, nn.Linear)
    out = plain(layer)
    rows, columns = out["weight"].axes
    out["weight"] = Labelled(layer.weight, (outputs or rows, inputs or columns))
    if layer.bias is not None and outputs is not None:
        out["bias"] = Labelled(layer.bias, (outputs,))
    return out


def under(name: str, axes: Axes) -> Axes:
    """The same tensors, as those of a part called `name`."""
    return {f"{name}.{own}": labelled for own, labelled in axes.items()}


def own_names(module: nn.Module, axes: Axes) -> dict[str, str]:
    """The module's own name of each tensor, by canonical name; every tensor must be declared once, in its shape."""
    names = {id(tensor): name for name, tensor in module.state_dict(keep_vars=True).items()}
    for canonical, labelled in axes.items():
        assert tuple(labelled.tensor.shape) == tuple(len(axis.labels) for axis in labelled.axes), canonical
    out = {canonical: names.get(id(labelled.tensor), "") for canonical, labelled in axes.items()}
    assert sorted(out.values()) == sorted(names.values()), sorted(set(out.values()) ^ set(names.values()))
    return out
