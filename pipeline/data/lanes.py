"""Stage 4: the row groups of one lane -> encoded rows in the lane's shuffled order. No torch."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipeline.data.encode import Encoder, Where
from pipeline.data.order import block_permutation, blocks, stretches
from pipeline.data.reader import read_stretch
from pipeline.data.rows import Layout, Rows
from pipeline.data.source import Source

Table = TypeVar("Table", pa.RecordBatch, Rows)


def read_lane(source: Source, first: int, last: int, encoder: Encoder) -> Iterator[pa.RecordBatch]:
    """The encoded rows first .. last of the permuted row groups, each row group decoded once."""
    for stretch in stretches(source.groups, first, last):
        group = stretch.group
        # cut before it is encoded: lanes that share a row group each count and check their own rows alone
        for start, rows in read_stretch(source, stretch):
            ids = np.arange(group.first_row + start, group.first_row + start + rows.num_rows)
            yield encoder(rows, ids, Where(group.path, group.index, start))


def lane_rows(source: Source, lane: int, start: int, encoder: Encoder, layout: Layout) -> Iterator[Rows]:
    """The lane's rows from position `start` on: in the log's order, or a shuffled block at a time."""
    first, last = source.order.lane_start(lane), source.order.lane_start(lane + 1)
    if source.shuffle_rows == 0:
        for batch in read_lane(source, first + start, last, encoder):
            yield Rows.of(batch, layout)
        return
    ahead = [b for b in blocks(lane, source.order.lanes, last - first, source.shuffle_rows) if b.stop > start]
    if not ahead:
        return
    rows = read_lane(source, first + ahead[0].start, last, encoder)
    for block, batch in zip(ahead, regroup(rows, [b.stop - b.start for b in ahead]), strict=True):
        permutation = block_permutation(source.seed, source.epoch, lane, block)
        yield Rows.permuted(batch, layout, permutation[max(0, start - block.start) :])


def regroup(batches: Iterator[pa.RecordBatch], sizes: Iterable[int]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of the given sizes; copies only where a size spans two batches."""
    for pieces in cut(batches, sizes):
        yield pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces)


def cut(batches: Iterator[Table], sizes: Iterable[int]) -> Iterator[list[Table]]:
    """The same rows, as many at a time as the sizes say, in as many pieces as it takes; copies nothing."""
    rest: Table | None = None
    for size in sizes:
        pieces: list[Table] = []
        needed = size
        while needed:
            rest = rest if rest is not None and rest.num_rows else next(batches)
            pieces.append(rest.slice(0, needed))
            rest = rest.slice(pieces[-1].num_rows)
            needed -= pieces[-1].num_rows
        yield pieces
