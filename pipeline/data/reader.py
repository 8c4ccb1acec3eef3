"""Stage 2: a stretch of a row group -> decoded Arrow batches. No torch.

The bytes of the wanted columns are fetched and checked first (column_bytes.py), then decoded from memory. A failed read
of a remote file is tried again from the row it had come to.
"""

import functools
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.column_bytes import Columns, DecodeError, LostError, fetch
from pipeline.data.manifest import RowGroup
from pipeline.data.order import Stretch
from pipeline.data.source import Source
from pipeline.storage import FAULTS, LASTING, REMEDY, Promise, is_local, pause, reason
from schemas.errors import InputError

READ_ROWS = 65_536
"""Rows decoded at a time: a row group of the recommended layout whole, so that none lies half decoded in a lane."""
FINE_ROWS = 16_384
"""Rows decoded at a time where READ_ROWS could not be: of a damaged row group those before the damage are kept."""
_reading: dict[int, str] = {}
"""What each reader thread waits for."""


def reading(thread: int | None) -> str:
    """What the thread is reading just now, for a message; empty where it is not."""
    return _reading.get(thread or 0, "")


class Lost(NamedTuple):
    """What stands in the place of a stretch's remaining rows."""

    reason: str


def read_stretch(
    source: Source, stretch: Stretch, fetched: "Promise | None" = None
) -> Iterator[tuple[int, pa.RecordBatch | Lost]]:
    """The decoded rows of a stretch in the log's order, each batch with the row of the row group at which it begins.

    `fetched` is a fetch of it begun earlier. Raises InputError for a file that vanished or changed, that cannot be
    read after all retries, or cannot be decoded; a remote file is fetched anew before it is called damaged. Where the
    source is `lenient`, Lost comes last instead, except for a storage that does not answer: that passes.
    """
    row = stretch.start
    try:
        for begin, batch in _read_stretch(source, stretch, fetched):
            row, part = begin + batch.num_rows, [batch]
            del batch
            yield begin, part.pop()
    except LostError as error:
        if not source.lenient:
            raise InputError(str(error)) from (error.__cause__ or error)
        yield row, Lost(error.reason)


def _read_stretch(source: Source, stretch: Stretch, fetched: "Promise | None") -> Iterator[tuple[int, pa.RecordBatch]]:
    """As `read_stretch`; raises LostError where it may say Lost."""
    storage, group, row = source.storage, stretch.group, stretch.start
    local = is_local(source.fs)
    for attempt in range(1, storage.retries + 2):
        last = attempt > storage.retries
        tries = f" after {attempt} attempts" if attempt > 1 else ""
        try:
            _reading[threading.get_ident()] = group.where
            if local:
                columns = fetch(source, group)
            else:
                promise, fetched = fetched or Promise(functools.partial(fetch, source, group)), None
                columns = promise.result(storage)
                del promise
            decoded = _decoded(source, columns, stretch, row)
            del columns
            for begin, batch in decoded:
                _reading.pop(threading.get_ident(), None)
                row, part = begin + batch.num_rows, [batch]
                del batch
                yield begin, part.pop()
                _reading[threading.get_ident()] = group.where
            return
        except LASTING as error:
            raise _lasting(group, error) from error
        except DecodeError as error:
            if local or last:
                said = f"cannot be decoded{tries} ({error})"
                raise LostError(f"{group.where}: {said}; write the file again", said) from (error.__cause__ or error)
        except LostError:
            if local or last:
                raise
        except FAULTS:
            raise
        except Exception as error:  # every driver has exceptions of its own
            if last:
                raise InputError(f"{group.where}: cannot be read{tries} ({reason(error)}); {REMEDY}") from error
        finally:
            _reading.pop(threading.get_ident(), None)
        pause(attempt, storage)


def _lasting(group: RowGroup, error: OSError) -> InputError:
    """LostError, unless the rights or the key are at fault and not the file: no row may be left out for those."""
    if isinstance(error, PermissionError):
        return InputError(f"{group.where}: cannot be read ({reason(error)}); see whether you may read it")
    said = "vanished since the run began" if isinstance(error, FileNotFoundError) else reason(error)
    return LostError(f"{group.where}: {said}; restore the file, or name another output to start anew", said)


def read_stretches(
    source: Source, stretches: Iterable[Stretch]
) -> Iterator[tuple[Stretch, int, pa.RecordBatch | Lost]]:
    """The decoded rows of many stretches; of a remote file, the next stretch is fetched while one is decoded."""
    todo = list(stretches)
    ahead: Promise | None = None
    for number, stretch in enumerate(todo):
        fetched, ahead = ahead, None
        if number + 1 < len(todo) and not is_local(source.fs):
            # this stretch first: the two would share the line
            fetched = fetched or Promise(functools.partial(fetch, source, stretch.group))
            ahead = Promise(functools.partial(fetch, source, todo[number + 1].group))
        for begin, batch in read_stretch(source, stretch, fetched):
            part = [batch]
            del batch
            yield stretch, begin, part.pop()


def _decoded(source: Source, columns: Columns, stretch: Stretch, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The stretch's rows from `row` on; the ones before were handed out earlier.

    Where a batch of READ_ROWS cannot be decoded they are decoded anew in smaller ones, as far as those go. Nothing is
    held while the caller has a batch (hence the lists of one), and after the last not even the file.
    """
    group, position = stretch.group, 0
    # whole multiples of FINE_ROWS: what is lost of a damaged row group does not depend on where the stretch ends
    size = min(READ_ROWS, -(-stretch.stop // FINE_ROWS) * FINE_ROWS)
    held = [columns]
    del columns
    batches = _batches(source, held[0], group.index, size)
    while position < stretch.stop:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if size <= FINE_ROWS:
                raise DecodeError(reason(error)) from error
            row, position, size = max(row, position), 0, FINE_ROWS
            batches = _batches(source, held[0], group.index, size)
            continue
        if batch is None:
            raise DecodeError(f"{position} rows where its footer promises {group.rows}")
        begin, end, first = max(row - position, 0), min(stretch.stop - position, batch.num_rows), position
        position += batch.num_rows
        part = [batch.slice(begin, end - begin)] if begin < end else []
        del batch
        if position >= stretch.stop:
            batches.close()
            held.clear()
        if part:
            yield first + begin, part.pop()


def _check_indices(name: str, column: pa.Array) -> None:
    """Arrow takes indices into a dictionary as they come, and a damaged header may have cut the dictionary short."""
    if pa.types.is_dictionary(column.type) and len(column):
        last = pc.max(column.indices).as_py()
        if last is not None and last >= len(column.dictionary):
            raise pa.ArrowInvalid(f"column '{name}': index {last} into a dictionary of {len(column.dictionary)}")


def _batches(source: Source, columns: Any, group: int, rows: int) -> Generator[pa.RecordBatch, None, None]:
    with pq.ParquetFile(
        pa.PythonFile(columns, mode="r"),
        metadata=columns.metadata,
        page_checksum_verification=True,
        pre_buffer=False,  # all is in memory; a chunk is asked for whole
        read_dictionary=list(source.texts),
    ) as file:
        decoded = file.iter_batches(rows, [group], source.columns, use_threads=False)
        while (batch := next(decoded, None)) is not None:
            for name in source.texts:
                _check_indices(name, batch.column(name))
            part = [batch]
            del batch  # held by the caller alone
            yield part.pop()
