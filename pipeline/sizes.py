"""How large a network is, and how wide its layers must be for a given size. Plain torch.

from pipeline.archs import ARCHS
parameters(ARCHS["mmoe"](in_dim=64, tasks=2, experts=4, expert_layers=[32]))
"""

import copy
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

Widths: TypeAlias = dict[str, list[int]]
"""Layer sizes by the setting that holds them."""
NEAR = 0.02
"""How far from the wanted number of parameters a match may be, as a fraction of it."""
LARGEST_LAYER = 1 << 20


def parameters(module: nn.Module) -> int:
    """Trainable numbers of the module, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops_per_row(module: nn.Module, row_shape: tuple[int, ...]) -> int:
    """Two a multiply-add of the matrix products of one row's forward pass; the row has this shape.

    Not counted, as no matrix product: activations, normalisation, softmax and the mixing of experts by their gates.

    The module may lie on any device; a copy of it without values is counted.
    """
    unfilled = copy.deepcopy(module).to("meta").eval()
    dtype = next(unfilled.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unfilled(torch.empty(1, *row_shape, dtype=dtype, device="meta"))
    return counter.get_total_flops()


def matched_widths(widths: Widths, count: Callable[[Widths], int], target: int, multiple: int = 1) -> Widths:
    """The widths, all scaled by one factor, whose `count` of parameters comes nearest to `target`.

    Each width is rounded to a multiple of `multiple`, at least one of it. `count` must not fall where widths grow.

    Raises ValueError where the nearest is further than 2 % from the target, with the nearest on either side.
    """

    def scaled(scale: float) -> Widths:
        return {
            key: [max(1, round(size * scale / multiple)) * multiple for size in sizes] for key, sizes in widths.items()
        }

    known: dict[str, int] = {}

    def size(scale: float) -> int:
        found = scaled(scale)
        if str(found) not in known:  # most scales round to widths that were counted before
            known[str(found)] = count(found)
        return known[str(found)]

    low, high = 0.0, 1.0
    while size(high) < target and max(max(sizes) for sizes in scaled(high).values()) < LARGEST_LAYER:
        low, high = high, 2 * high
    while scaled(low) != scaled(high) and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if size(middle) < target else (low, middle)
    sides = [scaled(low), scaled(high)]
    best = min(sides, key=lambda side: abs(count(side) - target))
    if abs(count(best) - target) > NEAR * target:
        tried = " and ".join(
            f"{count(side):,} ({', '.join(f'{key} {sizes}' for key, sizes in side.items())})"
            for side in (sides if sides[0] != sides[1] else sides[:1])
        )
        raise ValueError(f"{target:,} parameters cannot be met within {NEAR:.0%}; the nearest are {tried}")
    return best
