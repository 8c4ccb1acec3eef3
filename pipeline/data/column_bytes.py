"""The first half of stage 2: a row group -> the bytes of its wanted columns, checked against its footer. No torch."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow.parquet as pq

from pipeline.data.footers import LocalFile, digest, parsed, read_footer, remote_range
from pipeline.data.manifest import RowGroup
from pipeline.data.pages import Chunk, PageError, check_pages, chunks_of, group_starts, leaves_of
from pipeline.data.patterns import Leaf
from pipeline.data.source import Source
from pipeline.storage import ShortReadError, is_local
from schemas.errors import InputError

GAP_BYTES = 65_536
"""Unwanted bytes of a remote file that are fetched rather than asked around: cheaper than one more request."""
FOOTERS_KEPT = 64


class DecodeError(Exception):
    """The bytes came, and are not what a whole file holds."""


class LostError(InputError):
    """No further try brings the rows."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


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
        raise DecodeError(str(error)) from error
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


def _changed(group: RowGroup, how: str) -> LostError:
    said = f"changed since the run began ({how})"
    return LostError(f"{group.path}: {said}; restore it, or name another output to start anew", said)


def _chunks(footer: _Footer, group: RowGroup, columns: Sequence[str]) -> list[Chunk]:
    """The chunks of the wanted columns, in the order of the file."""
    names = tuple(leaf.name for leaf in footer.leaves)
    try:
        leaves = chunks_of(memoryview(footer.data), footer.groups[group.index], footer.leaves)
        places = _places(names, tuple(columns))
    except (PageError, IndexError) as error:
        raise DecodeError(str(error)) from error
    except KeyError as error:
        raise InputError(f"{group.path}: column '{error.args[0]}' is missing; write the file with it") from None
    chunks = sorted((leaves[place] for place in places), key=lambda chunk: chunk.start)
    end = 1
    for chunk in chunks:
        if not end <= chunk.start < chunk.end <= group.file_bytes - group.footer_bytes:
            raise DecodeError(f"column '{chunk.name}': its footer points outside of the file or into another column")
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
                raise DecodeError(str(error)) from error

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
