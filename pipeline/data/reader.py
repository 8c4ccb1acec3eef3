"""Stage 2: a stretch of a row group -> decoded Arrow batches. No torch.

The bytes of the wanted columns are fetched first, then checked against the footer the run began with, then decoded
from memory. A failed read of a remote file is tried again from the row it had come to.
"""

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.footers import LocalFile, digest, parsed, read_footer, remote_range
from pipeline.data.manifest import RowGroup
from pipeline.data.order import Stretch
from pipeline.data.pages import Chunk, PageError, check_pages, chunks_of, group_starts, leaves_of
from pipeline.data.patterns import Leaf
from pipeline.data.source import Source
from pipeline.storage import FAULTS, LASTING, REMEDY, Promise, ShortReadError, is_local, pause, reason
from schemas.errors import InputError

READ_ROWS = 65_536
"""Rows decoded at a time: a row group of the recommended layout whole, so that none lies half decoded in a lane."""
FINE_ROWS = 16_384
"""Rows decoded at a time where READ_ROWS could not be: of a damaged row group those before the damage are kept."""
GAP_BYTES = 65_536
"""Unwanted bytes of a remote file that are fetched rather than asked around: cheaper than one more request."""
FOOTERS_KEPT = 64

_reading: dict[int, str] = {}
"""What each reader thread waits for."""


def reading(thread: int | None) -> str:
    """What the thread is reading just now, for a message; empty where it is not."""
    return _reading.get(thread or 0, "")


class Lost(NamedTuple):
    """What stands in the place of a stretch's remaining rows."""

    reason: str


class _DecodeError(Exception):
    """The bytes came, and are not what a whole file holds."""


class _LostError(InputError):
    """No further try brings the rows."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


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
    except _LostError as error:
        if not source.lenient:
            raise InputError(str(error)) from (error.__cause__ or error)
        yield row, Lost(error.reason)


def _read_stretch(source: Source, stretch: Stretch, fetched: "Promise | None") -> Iterator[tuple[int, pa.RecordBatch]]:
    """As `read_stretch`; raises _LostError where it may say Lost."""
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
        except _DecodeError as error:
            if local or last:
                said = f"cannot be decoded{tries} ({error})"
                raise _LostError(f"{group.where}: {said}; write the file again", said) from (error.__cause__ or error)
        except _LostError:
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
    """_LostError, unless the rights or the key are at fault and not the file: no row may be left out for those."""
    if isinstance(error, PermissionError):
        return InputError(f"{group.where}: cannot be read ({reason(error)}); see whether you may read it")
    said = "vanished since the run began" if isinstance(error, FileNotFoundError) else reason(error)
    return _LostError(f"{group.where}: {said}; restore the file, or name another output to start anew", said)


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


def fetch(source: Source, group: RowGroup) -> "Columns":
    """The bytes of the group's wanted columns, with the footer compared and the page headers checked."""
    local = is_local(source.fs)
    if group.file_bytes < 0:
        found = read_footer(source.fs, group.path, None)
        group = dataclasses.replace(group, file_bytes=found.file_bytes, footer=found.digest, footer_bytes=found.length)
    end = group.file_bytes
    begin = end - group.footer_bytes
    if local:
        with LocalFile(group.path) as file:
            if file.size != end:
                raise _changed(group, f"{file.size:,} bytes, not {end:,}")
            footer = _checked_footer(group, file.read(begin, end))
            chunks = _chunks(footer, group, source.columns)
            return Columns(footer.metadata, chunks, [(a, file.read(a, b)) for a, b in spans(chunks, 0)])
    footer = _checked_footer(group, remote_range(source.fs, group.path, begin, end))
    chunks = _chunks(footer, group, source.columns)
    starts, ends = zip(*spans(chunks, GAP_BYTES), strict=True)
    parts = source.fs.cat_ranges([group.path] * len(starts), list(starts), list(ends), on_error="raise")
    for part, a, b in zip(parts, starts, ends, strict=True):
        if len(part) != b - a:
            raise ShortReadError(f"{len(part)} bytes came of the {b - a} from {a} on")
    return Columns(footer.metadata, chunks, list(zip(starts, parts, strict=True)))


def _checked_footer(group: RowGroup, footer: bytes) -> "_Footer":
    """The footer that the manifest was made from; any other is refused."""
    kept = _footers.get(group.path)
    if kept is not None and kept.digest == group.footer and kept.data == footer:
        return kept
    if digest(footer) != group.footer:
        raise _changed(group, "another footer")
    try:
        metadata = parsed(group.path, footer)
        leaves = leaves_of(metadata.schema)
        kept = _Footer(metadata, footer, group.footer, leaves, group_starts(memoryview(footer), leaves))
    except PageError as error:
        raise _DecodeError(str(error)) from error
    while group.path not in _footers and len(_footers) >= FOOTERS_KEPT:
        with contextlib.suppress(KeyError, StopIteration, RuntimeError):  # another thread may have been quicker
            del _footers[next(iter(_footers))]
    _footers[group.path] = kept
    return kept


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    data: bytes
    digest: bytes
    leaves: list[Leaf]
    groups: list[int]
    """Where each row group's description begins in the data."""


_footers: dict[str, _Footer] = {}
"""The last that were read, by path."""


def _changed(group: RowGroup, how: str) -> _LostError:
    said = f"changed since the run began ({how})"
    return _LostError(f"{group.path}: {said}; restore it, or name another output to start anew", said)


def _chunks(footer: _Footer, group: RowGroup, columns: Sequence[str]) -> list[Chunk]:
    """The chunks of the wanted columns, in the order of the file."""
    names = tuple(leaf.name for leaf in footer.leaves)
    try:
        leaves = chunks_of(memoryview(footer.data), footer.groups[group.index], footer.leaves)
        places = _places(names, tuple(columns))
    except (PageError, IndexError) as error:
        raise _DecodeError(str(error)) from error
    except KeyError as error:
        raise InputError(f"{group.path}: column '{error.args[0]}' is missing; write the file with it") from None
    chunks = sorted((leaves[place] for place in places), key=lambda chunk: chunk.start)
    end = 1
    for chunk in chunks:
        if not end <= chunk.start < chunk.end <= group.file_bytes - group.footer_bytes:
            raise _DecodeError(f"column '{chunk.name}': its footer points outside of the file or into another column")
        end = chunk.end
    return chunks


@functools.lru_cache(FOOTERS_KEPT)
def _places(leaves: tuple[str, ...], columns: tuple[str, ...]) -> frozenset[int]:
    """Which leaves belong to the columns; raises KeyError with the name of a column that has none."""
    below: dict[str, list[int]] = {}
    for place, leaf in enumerate(leaves):
        for prefix in itertools.accumulate(leaf.split("."), lambda path, part: f"{path}.{part}"):
            below.setdefault(prefix, []).append(place)
    # by place: of 'age' and 'age.years' both names ask for the second
    return frozenset(place for name in columns for place in below[name])


def spans(chunks: Sequence[Chunk], gap: int) -> list[tuple[int, int]]:
    """Where the chunks lie, those at most `gap` bytes apart joined."""
    out: list[tuple[int, int]] = []
    for chunk in chunks:
        if out and chunk.start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], max(out[-1][1], chunk.end))
        else:
            out.append((chunk.start, chunk.end))
    return out


class Columns:
    """Column chunks in memory, as the file that Arrow reads them from."""

    closed = False

    def __init__(self, metadata: pq.FileMetaData, chunks: Sequence[Chunk], parts: Sequence[tuple[int, bytes]]) -> None:
        self.metadata = metadata
        self._at = 0
        self._size = max(chunk.end for chunk in chunks)
        self._data: dict[int, memoryview] = {}
        parts_left = list(parts)
        for chunk in chunks:
            while chunk.start >= parts_left[0][0] + len(parts_left[0][1]):
                parts_left.pop(0)
            start, data = parts_left[0]
            self._data[chunk.start] = memoryview(data)[chunk.start - start : chunk.end - start]
            try:
                check_pages(self._data[chunk.start], chunk)
            except PageError as error:
                raise _DecodeError(str(error)) from error

    def seek(self, offset: int, whence: int = 0) -> int:
        """As any file's."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """As any file's."""
        return self._at

    def read(self, size: int) -> memoryview:
        """Arrow asks for whole chunks; they are handed out without a copy."""
        if self._at not in self._data:
            raise OSError(f"a read of {size} bytes at {self._at}, where no wanted column begins")
        data = self._data[self._at][:size]
        self._at += len(data)
        return data

    def read_buffer(self, size: int) -> memoryview:
        """As `read`."""
        return self.read(size)

    def close(self) -> None:
        """The memory goes with the object."""


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
                raise _DecodeError(reason(error)) from error
            row, position, size = max(row, position), 0, FINE_ROWS
            batches = _batches(source, held[0], group.index, size)
            continue
        if batch is None:
            raise _DecodeError(f"{position} rows where its footer promises {group.rows}")
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
