"""Stage 2: a stretch of a row group -> decoded Arrow batches. No torch."""

from collections.abc import Iterator

import pyarrow as pa

from pipeline.data.files import open_parquet
from pipeline.data.order import Stretch
from pipeline.data.source import Source
from schemas.errors import InputError

READ_ROWS = 16_384
"""Rows decoded at a time: small enough to bound memory, large enough that the cost per call vanishes."""


def read_stretch(source: Source, stretch: Stretch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The decoded rows of a stretch in the log's order, each batch with the row of the row group at which it begins.

    Raises InputError for a group that cannot be decoded.
    """
    group, position = stretch.group, 0
    try:
        with open_parquet(source.fs, group.path, source.texts) as file:
            for batch in file.iter_batches(READ_ROWS, [group.index], source.columns, use_threads=False):
                if position >= stretch.stop:
                    return
                begin, end = max(stretch.start - position, 0), min(stretch.stop - position, batch.num_rows)
                if begin < end:
                    yield position + begin, batch.slice(begin, end - begin)
                position += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        raise InputError(f"{group.where}: cannot be decoded ({reason}); write the file again") from error
    if position < stretch.stop:
        raise InputError(f"{group.where}: {position} rows where its footer promises {group.rows}; write the file again")
