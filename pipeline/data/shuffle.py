"""The order of rows within a lane: blocks that are shuffled whole. No torch.

All lanes together hold about `shuffle_rows` rows. A lane's blocks are its share of that, and their edges lie where
`shuffle_rows` more rows of the whole epoch are done, shifted by 1/lanes from lane to lane: lanes of unlike lengths
refill one after another, in the same rotation throughout, and decoding never comes in a burst.
"""

import dataclasses

from pipeline.data.order import Int64, Order, permutation


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of a lane that are shuffled together."""

    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Shuffle:
    """The blocks of all lanes of one epoch and the orders inside them."""

    order: Order
    shuffle_rows: int
    seed: int
    epoch: int

    def block_at(self, lane: int, position: int) -> Block:
        """The block that holds the lane's row `position`.

        Block b ends at floor((b + (lane + 1) / L) * shuffle_rows * n_l / rows), in whole numbers throughout; a block
        may be empty where `shuffle_rows` is small, and then it is nobody's.
        """
        lanes, rows = self.order.lanes, self.order.lane_rows[lane]
        assert position < rows
        # the first b whose end lies above the position
        above = -(-(position + 1) * lanes * self.order.rows // (self.shuffle_rows * rows))
        number = max(0, -(-(above - lane - 1) // lanes))
        start = self._end(lane, number - 1) if number else 0
        return Block(number, start, min(self._end(lane, number), rows))

    def _end(self, lane: int, number: int) -> int:
        lanes = self.order.lanes
        ended = (number * lanes + lane + 1) * self.shuffle_rows * self.order.lane_rows[lane]
        return ended // (lanes * self.order.rows)

    def permutation(self, lane: int, block: Block) -> Int64:
        """The order of the block's rows, shape [stop - start]."""
        return permutation([self.seed, self.epoch, 1 + lane, block.number], block.stop - block.start)
