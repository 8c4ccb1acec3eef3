"""Who scores which unit, in which step. A pure function of the units and the number of ranks. No torch.

Every rank takes part in the exchange of embeddings of every step, with rows of its own or without. Where a unit's rows
are cut depends on the unit alone.

Shapes: R ranks, S steps.
"""

import dataclasses
import functools
import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.predict.plan import Unit

BATCH_ROWS = 8192
"""Rows of a rank's step: what is decoded together is a multiple of it."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The work of R ranks."""

    units: Sequence[Unit]
    world: int

    @functools.cached_property
    def shares(self) -> list[list[int]]:
        """Each rank's units, in their order: a unit goes to the rank with the fewest rows so far."""
        out: list[list[int]] = [[] for _ in range(self.world)]
        fewest = [(0, rank) for rank in range(self.world)]
        for number, (_, _, begin, end) in enumerate(self.units):
            rows, rank = fewest[0]
            heapq.heapreplace(fewest, (rows + end - begin, rank))
            out[rank].append(number)
        return out

    @functools.cached_property
    def sizes_RS(self) -> npt.NDArray[np.int64]:
        """Rows of each rank in each step."""
        each = [np.concatenate([np.zeros(0, np.int64), *(self._cut(n) for n in share)]) for share in self.shares]
        steps = max(len(sizes) for sizes in each)
        return np.stack([np.pad(sizes, (0, steps - len(sizes))) for sizes in each])

    def _cut(self, number: int) -> npt.NDArray[np.int64]:
        _, _, begin, end = self.units[number]
        whole, rest = divmod(end - begin, BATCH_ROWS)
        return np.array([BATCH_ROWS] * whole + [rest] * (rest > 0), np.int64)

    @property
    def steps(self) -> int:
        """S."""
        return self.sizes_RS.shape[1]

    @functools.cached_property
    def padded_S(self) -> list[int]:
        """Rows of the busiest rank in each step."""
        return self.sizes_RS.max(axis=0).tolist()

    @functools.cached_property
    def done_S(self) -> list[int]:
        """Rows of all ranks once each step is done."""
        return np.cumsum(self.sizes_RS.sum(axis=0)).tolist()
