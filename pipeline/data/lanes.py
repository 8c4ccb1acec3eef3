"""Stage 4: the row groups of one lane -> encoded rows in the lane's shuffled order."""

from collections.abc import Iterator

import numpy as np

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.data.order import Stretch
from pipeline.data.permute import permuted
from pipeline.data.quarantine import Piece, below_root
from pipeline.data.reader import FINE_ROWS, Lost, read_stretches
from pipeline.data.rows import Rows, Stream
from pipeline.data.source import Source


def read_lane(source: Source, lane: int, start: int, encoder: Encoder, flags: Flags | None) -> Iterator[Rows]:
    """The lane's encoded rows from `start` on in the log's order, each row group decoded once.

    Where a stretch is lost, its remaining rows are flagged. It is lost from a multiple of FINE_ROWS on, so that the
    same rows are lost at any number of ranks.
    """
    todo: list[Stretch] = []
    for piece in source.lanes[lane]:
        skipped = min(start, piece.rows)
        start -= skipped
        if skipped < piece.rows:
            todo.append(Stretch(piece.group, piece.start + skipped, piece.stop))
    for stretch, first, batch in read_stretches(source, todo):
        group = stretch.group
        if isinstance(batch, Lost):
            assert flags is not None
            file, left = below_root(group.path), stretch.stop - first
            flags.stretch(group.first_row + first, Piece(file, group.index, first, left, "corrupt", "", batch.reason))
            for begin in range(group.first_row + first, group.first_row + stretch.stop, FINE_ROWS):
                end = min(begin + FINE_ROWS, group.first_row + stretch.stop)
                yield Rows.lost(encoder.layout, np.arange(begin, end))
            continue
        row_ids = np.arange(group.first_row + first, group.first_row + first + batch.num_rows)
        rows = encoder(batch, row_ids, Where(group.path, group.index, first))
        del batch  # encoded rows are a third of it: only they wait
        yield rows


def lane_rows(source: Source, lane: int, start: int, encoder: Encoder, flags: Flags | None = None) -> Iterator[Rows]:
    """The lane's rows from position `start` on: in the log's order, or a shuffled block at a time."""
    total = source.order.lane_rows[lane]
    if start >= total:
        return
    if source.shuffle is None:
        yield from read_lane(source, lane, start, encoder, flags)
        return
    block = source.shuffle.block_at(lane, start)
    stream = Stream(read_lane(source, lane, block.start, encoder, flags))
    while True:
        row_N = source.shuffle.permutation(lane, block)[start - block.start :]
        yield permuted(encoder.layout, stream.take(block.stop - block.start), row_N)
        start = block.stop
        if start >= total:
            return
        block = source.shuffle.block_at(lane, start)
