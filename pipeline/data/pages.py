"""The page headers of a column chunk against its footer: checksums leave headers out. No torch.

A damaged header can drop, add or reinterpret values while every checksum holds. What a header decides stands twice in a
whole file: pages tile the chunk, their values add up to the footer's count, and the footer counts the pages of each
kind and encoding. Source: apache/parquet-format, parquet.thrift.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline.data.patterns import Leaf, leaf_of, page_header, row_group
from pipeline.data.thrift import ThriftError, field_start, list_items, varint

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""PageType."""
DETAILS = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}
"""Field of PageHeader that holds the kind's own header."""
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8
"""Encoding."""
WIDTHS = {0: 1, 1: 32, 2: 64, 3: 96, 4: 32, 5: 64}
"""Bits of a value in PLAIN, by Type: BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE."""
ROW_GROUPS = 4
"""Field of FileMetaData."""


class PageError(ValueError):
    """A footer or page header that contradicts another part of the file."""


class Chunk(NamedTuple):
    """What the footer says of a column chunk."""

    name: str
    start: int
    end: int
    values: int
    rows: int
    kind: int
    encodings: frozenset[int]
    counts: dict[int, int] | None
    """Data pages of each encoding, where the writer counted them."""
    definition_levels: int
    repetition_levels: int
    compressed: bool


def leaves_of(schema: pq.ParquetSchema) -> list[Leaf]:
    """The columns of a file's schema; raises PageError."""
    try:
        columns = [schema.column(i) for i in range(len(schema))]
        return [leaf_of(c.path, c.max_definition_level, c.max_repetition_level) for c in columns]
    except UnicodeDecodeError as error:
        raise PageError("its footer names columns in no text") from error


def group_starts(footer: memoryview, leaves: Sequence[Leaf]) -> list[int]:
    """Where in the footer each row group's description begins; raises PageError."""
    try:
        return list_items(footer, field_start(footer, ROW_GROUPS), functools.partial(row_group, leaves=leaves))
    except ThriftError as error:
        raise PageError(f"its footer holds {error}") from error


def chunks_of(footer: memoryview, start: int, leaves: Sequence[Leaf]) -> list[Chunk]:
    """The column chunks of the row group that the footer describes from `start` on; raises PageError."""
    try:
        group, _ = row_group(footer, start, leaves)
        columns = [column[3] for column in group[1]]
        rows = group[3]
        if len(columns) != len(leaves):
            raise PageError(f"its footer has {len(columns)} column chunks for {len(leaves)} columns")
        return [_chunk(column, rows, leaf) for column, leaf in zip(columns, leaves, strict=True)]
    except (ThriftError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise PageError("its footer describes no column chunks") from error


def _chunk(column: dict[int, Any], rows: int, leaf: Leaf) -> Chunk:
    numbers = [column[i] for i in (1, 4, 5, 7, 9)] + [column.get(11, 0), rows]
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError
    start, dictionary = column[9], column.get(11)
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    counts: dict[int, int] = {}
    for stats in column.get(13, []):
        if stats[1] != DICTIONARY:  # pyarrow counts pages of version 2 as of version 1
            encoding = _plainly(stats[2])
            counts[encoding] = counts.get(encoding, 0) + stats[3]
    if column[3] != leaf.parts:
        name = ".".join(part.decode() for part in column[3])
        if name != leaf.name:
            raise PageError(f"its footer names a chunk '{name}' where the schema says '{leaf.name}'")
    return Chunk(
        name=leaf.name,
        start=start,
        end=start + column[7],
        values=column[5],
        rows=rows,
        kind=column[1],
        encodings=frozenset(map(_plainly, column[2])),
        counts=counts or None,
        definition_levels=leaf.definition_levels,
        repetition_levels=leaf.repetition_levels,
        compressed=column[4] != 0,
    )


def _plainly(encoding: int) -> int:
    """PLAIN_DICTIONARY is the old name of RLE_DICTIONARY in data pages, and of PLAIN in the dictionary's."""
    return RLE_DICTIONARY if encoding == PLAIN_DICTIONARY else encoding


def check_pages(data: memoryview, chunk: Chunk) -> bool:
    """Whether the pages of the chunk, whose bytes are `data`, carry checksums.

    Raises PageError where a header contradicts the footer or another header.
    """
    if chunk.values < chunk.rows or (chunk.values != chunk.rows and not chunk.repetition_levels):
        raise _error(chunk, f"the footer counts {chunk.values} values for {chunk.rows} rows")
    at, values, rows, checksums = 0, 0, 0, set()
    counts: dict[int, int] = {}
    while at < len(data):
        try:
            header, body = page_header(data, at)
            kind, encoding, count, page_rows = _check_header(chunk, header, data[body:])
        except (ThriftError, KeyError, TypeError):
            raise _error(chunk, "a page header that cannot be read") from None
        if kind == DICTIONARY and at:
            raise _error(chunk, "a dictionary behind other pages")
        at = body + header[3]
        if at > len(data):
            raise _error(chunk, "a page that leaves its column chunk")
        checksums.add(4 in header)
        if kind != DICTIONARY:
            counts[encoding] = counts.get(encoding, 0) + 1
        values += count
        rows += page_rows
    if values != chunk.values:
        raise _error(chunk, f"{values} values in its pages where the footer counts {chunk.values}")
    if rows not in (0, chunk.rows):
        raise _error(chunk, f"{rows} rows in its pages where the footer counts {chunk.rows}")
    if len(checksums) > 1:
        raise _error(chunk, "pages with and without a checksum")
    _check_counts(chunk, counts)
    return checksums != {False}


def _check_header(chunk: Chunk, header: dict[int, Any], page: memoryview) -> tuple[int, int, int, int]:
    """Kind and encoding of a page, its values (0 in a dictionary) and, where it tells them, its rows."""
    kind, unpacked, size = header[1], header[2], header[3]
    details = header[DETAILS[kind]]
    encoding, count, rows = _plainly(details[4 if kind == DATA_V2 else 2]), details[1], 0
    if size < 0 or unpacked < 0 or count < 0:
        raise _error(chunk, "a page header that cannot be read")
    if not chunk.compressed and unpacked != size:
        raise _error(chunk, "an uncompressed page of two sizes")
    if kind == DATA_V2:
        rows = details[3]
        _check_parts(chunk, details, unpacked, page)
    elif kind == DATA:
        _check_levels(chunk, details)
    # a dictionary's values are in PLAIN, whatever its header calls it
    plain = kind == DICTIONARY or (encoding == PLAIN and not chunk.definition_levels)
    if plain and chunk.kind in WIDTHS:
        expected = (count * WIDTHS[chunk.kind] + 7) // 8
        if unpacked != expected:
            raise _error(chunk, f"a page of {unpacked} bytes where {count} values take {expected}")
    return kind, encoding, 0 if kind == DICTIONARY else count, rows


def has_checksum(head: memoryview) -> bool:
    """Whether the page that begins here carries a checksum; a header that cannot be read is left to `check_pages`."""
    try:
        return 4 in page_header(head, 0)[0]
    except ThriftError:
        return True


def _check_levels(chunk: Chunk, details: dict[int, Any]) -> None:
    """Encodings of the levels of a page of version 1."""
    depths = (chunk.definition_levels, chunk.repetition_levels)
    for depth, encoding in zip(depths, (details[3], details[4]), strict=True):
        if depth and encoding != RLE and encoding not in chunk.encodings:
            raise _error(chunk, "a page whose levels are in an encoding that its footer does not list")


def _check_parts(chunk: Chunk, details: dict[int, Any], unpacked: int, page: memoryview) -> None:
    """Counts, and lengths of the levels, of a page of version 2."""
    values, nulls, rows, definition, repetition = (details[i] for i in (1, 2, 3, 5, 6))
    lengths = ((chunk.definition_levels, definition), (chunk.repetition_levels, repetition))
    if not 0 <= nulls <= values or not 0 <= rows <= values or (nulls and not chunk.definition_levels):
        raise _error(chunk, "a page header whose counts contradict each other")
    if any(length < 0 or (length and not depth) for depth, length in lengths) or definition + repetition > unpacked:
        raise _error(chunk, "a page whose levels are larger than itself")
    levels = (page[:repetition], page[repetition : repetition + definition])
    for depth, data in zip((chunk.repetition_levels, chunk.definition_levels), levels, strict=True):
        if depth and not _holds(data, values, depth.bit_length()):
            raise _error(chunk, "a page whose levels are not as long as its header says")


def _holds(data: memoryview, count: int, width: int) -> bool:
    """Whether levels of `width` bits in runs (RLE / bit-packed hybrid) are `count` and end with the data."""
    at = 0
    try:
        while count > 0:
            head, at = varint(data, at)
            if head & 1:
                count -= 8 * (head >> 1)
                at += width * (head >> 1)
            else:
                count -= head >> 1
                at += (width + 7) // 8
            if not head >> 1:
                return False
    except IndexError:
        return False
    return at == len(data)


def _check_counts(chunk: Chunk, counts: dict[int, int]) -> None:
    """The data pages of each encoding."""
    if chunk.counts is not None and counts != chunk.counts:
        raise _error(chunk, "pages in other encodings than its footer counts")
    if not counts.keys() <= chunk.encodings:
        raise _error(chunk, "a page in an encoding that its footer does not list")


def _error(chunk: Chunk, what: str) -> PageError:
    return PageError(f"column '{chunk.name}': {what}")
