"""The place in an epoch in words: what a number of rows done means in files, row groups and rows. No torch.

Every checkpoint holds it. A program that would order the rows in another way cannot go on from there unnoticed.
"""

import dataclasses
import json

from pipeline.data.quarantine import below_root
from pipeline.data.source import Source
from schemas.errors import InputError

CURSOR = "cursor.json"
"""Its name within a checkpoint."""


@dataclasses.dataclass(frozen=True)
class LanePlace:
    """Where one lane stands.

    All rows of the lane before (file, row_group, rows_done) are trained. Of the `block_rows` rows of the lane from
    there on, its present shuffle block, `block_done` are trained: the first of `Shuffle.permutation`. Nothing after
    them is. Without a shuffle, and between blocks, `block_done` is 0 and `rows_done` is the whole truth.
    """

    lane: int
    lane_done: int
    """Rows of the lane trained."""
    file: str | None
    """Below the log's root; None in a lane without rows."""
    row_group: int
    rows_done: int
    """Rows of the row group, from its first, that this lane has trained or another lane reads."""
    block_rows: int
    block_done: int


def lane_places(source: Source, done: int) -> list[LanePlace]:
    """Where each lane stands after `done` rows of the epoch."""
    positions = source.order.positions(done).tolist()
    return [_place(source, lane, position) for lane, position in enumerate(positions)]


def cursor(source: Source, done: int) -> bytes:
    """The place after `done` rows of the epoch, for a checkpoint."""
    lanes = [dataclasses.asdict(place) for place in lane_places(source, done)]
    return json.dumps({"epoch": source.epoch, "rows_done": done, "lanes": lanes}, indent=1).encode()


def check_cursor(stored: bytes, source: Source, done: int, where: str) -> None:
    """Raises InputError where the checkpoint's place is another than this program's: rows would be lost or repeated."""
    if json.loads(stored) == json.loads(cursor(source, done)):
        return
    raise InputError(
        f"{where}: its place in the log, in files and row groups, is not where this program finds row {done:,} of "
        f"epoch {source.epoch}; go on with the version that wrote it, or name another output to start anew"
    )


def _place(source: Source, lane: int, position: int) -> LanePlace:
    rows, start, block_rows = source.order.lane_rows[lane], position, 0
    if source.shuffle is not None and position < rows:
        block = source.shuffle.block_at(lane, position)
        start, block_rows = block.start, block.stop - block.start
    file, row_group, rows_done, base = None, 0, 0, 0
    for piece in source.lanes[lane]:
        file, row_group = below_root(piece.group.path), piece.group.index
        rows_done = piece.start + min(start - base, piece.rows)
        base += piece.rows
        if start < base:
            break
    return LanePlace(lane, position, file, row_group, rows_done, block_rows, position - start)
