"""The global order of rows: a pure function of the manifest, the seed and the epoch, at any number of ranks.

The row groups of an epoch are permuted and laid end to end; the result is cut into `lanes` equal stretches, and the
global order takes one row of each lane in turn: row j is row j // lanes of lane j % lanes. A step is the next
`batch_size` rows of it. Rank r reads the lanes r, r + world, ...: each reads its own share, and the rows of a step
are the same rows whatever the world is. The place in an epoch is therefore one number, the rows done, and a run
stopped at any step goes on at any number of ranks.

Within a lane, rows are permuted in blocks of `shuffle_rows / lanes`. The first block of lane l is shortened to
(l + 1) / lanes of that, so that the lanes refill one after another and decoding never comes in a burst.
"""

import dataclasses
import itertools

import numpy as np

from pipeline.data.files import Manifest, RowGroup


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A run of consecutive rows of one row group."""

    group: RowGroup
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of a lane that are shuffled together."""

    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Order:
    """Who reads which rows when, in one pass over a manifest of `rows` rows."""

    rows: int
    lanes: int
    batch_size: int

    def steps(self, done: int = 0) -> int:
        """Steps of the pass that are left after `done` rows; the last may be smaller."""
        return -(-(self.rows - done) // self.batch_size)

    def step_ends(self, done: int = 0) -> list[int]:
        """Rows of the pass done after each of the steps that are left."""
        return [min(done + (n + 1) * self.batch_size, self.rows) for n in range(self.steps(done))]

    def lane_position(self, lane: int, done: int) -> int:
        """Rows of the lane among the first `done` of the global order."""
        return max(0, -(-(done - lane) // self.lanes))

    def lane_start(self, lane: int) -> int:
        """Where the lane begins in the permuted rows."""
        whole, rest = divmod(self.rows, self.lanes)
        return lane * whole + min(lane, rest)

    def lane_share(self, lane: int, begin: int, end: int) -> int:
        """Rows of the lane among the rows begin .. end of the global order."""
        return self.lane_position(lane, end) - self.lane_position(lane, begin)

    def widest(self, begin: int, end: int, world: int) -> int:
        """Rows of the busiest rank in the step begin .. end: what the others are padded to."""
        share = [self.lane_share(lane, begin, end) for lane in range(self.lanes)]
        return max(sum(share[rank::world]) for rank in range(world))


def permuted_groups(manifest: Manifest, seed: int, epoch: int, shuffle: bool) -> list[RowGroup]:
    """The row groups in the order of the epoch."""
    groups = list(manifest.groups)
    if not shuffle:
        return groups
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(groups))
    return [groups[i] for i in order]


def stretches(groups: list[RowGroup], start: int, stop: int) -> list[Stretch]:
    """The pieces of row groups that make up the permuted rows start .. stop."""
    out, base = [], 0
    for group in groups:
        begin, end = max(start, base), min(stop, base + group.rows)
        if begin < end:
            out.append(Stretch(group, begin - base, end - base))
        base += group.rows
        if base >= stop:
            break
    return out


def blocks(lane: int, lanes: int, lane_rows: int, shuffle_rows: int) -> list[Block]:
    """The shuffle blocks of a lane of `lane_rows` rows."""
    size = max(1, shuffle_rows // lanes)
    first = max(1, size * (lane + 1) // lanes)
    edges = [0, *range(first, lane_rows, size), lane_rows]
    return [Block(n, a, b) for n, (a, b) in enumerate(itertools.pairwise(edges)) if a < b]


def block_permutation(seed: int, epoch: int, lane: int, block: Block) -> np.ndarray:
    """The order of the block's rows, shape [stop - start]."""
    return np.random.default_rng([seed, epoch, 1 + lane, block.number]).permutation(block.stop - block.start)
