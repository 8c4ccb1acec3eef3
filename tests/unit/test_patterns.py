"""Page headers and row groups by pattern: what thrift.py finds in the same bytes, whole or damaged."""

import functools
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import patterns
from pipeline.data.pages import Chunk, chunks_of, group_starts, leaves_of
from pipeline.data.patterns import Leaf, leaf_of, page_header, row_group
from pipeline.data.thrift import BYTE, DOUBLE, I64, TRUE, ThriftError, struct
from tests.faults.flips import LAYOUTS, whole_file

OTHERS: dict[str, dict[str, Any]] = {
    "no statistics": {"write_statistics": False},
    "no checksums": {"write_page_checksum": False},
    "page indices": {"write_page_index": True, "compression": "zstd"},
    "streams split": {"use_dictionary": False, "use_byte_stream_split": ["number", "id"]},
    "no dictionary": {"use_dictionary": False, "compression": "none"},
}


def other_file(layout: str) -> bytes:
    """A file of other columns than tests.faults.flips has: strings of any length, a name with a dot."""
    random, rows = np.random.default_rng(0), 500
    inner = pa.array(random.integers(0, 9, 2 * rows))
    table = pa.table(
        {
            "id": pa.array(random.integers(-(2**62), 2**62, rows)),
            "number": pa.array(random.random(rows).astype(np.float32)),
            "text": pa.array(["x" * n for n in random.integers(0, 70, rows)]),
            "a.b": pa.array(random.integers(0, 2, rows).astype(bool)),
            "list": pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32)), inner),
        }
    )
    sink = io.BytesIO()
    options = {"write_page_checksum": True, "row_group_size": 200, "data_page_size": 256} | OTHERS[layout]
    pq.write_table(table, sink, **options)
    return sink.getvalue()


@functools.cache
def file_of(layout: str) -> tuple[bytes, bytes, list[Leaf], list[int]]:
    """A file, its footer, its columns and where the footer describes its row groups."""
    data = whole_file(layout) if layout in LAYOUTS else other_file(layout)
    footer = data[len(data) - 8 - int.from_bytes(data[-8:-4], "little") :]
    leaves = leaves_of(pq.read_metadata(pa.BufferReader(data)).schema)
    return data, footer, leaves, group_starts(memoryview(footer), leaves)


def first_chunks(layout: str) -> list[tuple[Chunk, bytes]]:
    """The column chunks of the first row group with their bytes."""
    data, footer, leaves, starts = file_of(layout)
    return [(chunk, data[chunk.start : chunk.end]) for chunk in chunks_of(memoryview(footer), starts[0], leaves)]


def told(read: Any, *arguments: Any) -> Any:
    """What of a page header or row group is used; None where it cannot be read."""
    try:
        found, end = read(*arguments)
    except ThriftError:
        return None
    if read in (row_group, whole_group):
        return _group(found), end
    header = {key: value for key, value in found.items() if key != 4}
    for field, fields in ((5, (1, 2, 3, 4)), (7, (1, 2))):
        if isinstance(header.get(field), dict):
            header[field] = {key: value for key, value in header[field].items() if key in fields}
    return header, end, 4 in found


def _group(found: dict[int, Any]) -> Any:
    if not isinstance(found.get(1), list) or not all(isinstance(column, dict) for column in found[1]):
        return found
    columns = [column.get(3) for column in found[1]]
    fields = (1, 2, 3, 4, 5, 7, 9, 11, 13)
    return [
        {key: column[key] for key in fields if key in column} if isinstance(column, dict) else column
        for column in columns
    ], {key: value for key, value in found.items() if key != 1}


def whole_group(data: memoryview, at: int) -> Any:
    """As thrift.py reads it."""
    return struct(data, at)


@pytest.mark.parametrize("layout", [*LAYOUTS, *OTHERS])
def test_a_page_header_says_what_thrift_reads_in_it_whole_or_damaged(layout: str) -> None:
    for chunk, pages in first_chunks(layout)[::2]:
        data = bytearray(pages)
        header, body = struct(memoryview(data), 0)
        second = body + header[3]
        for begin in {0, second} - {len(data)}:
            assert told(page_header, memoryview(data), begin) == told(struct, memoryview(data), begin), chunk.name
            _, end = struct(memoryview(data), begin)
            for bit in range(8 * begin, 8 * end):
                data[bit // 8] ^= 1 << bit % 8
                assert told(page_header, memoryview(data), begin) == told(struct, memoryview(data), begin), bit
                data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("layout", ["required, LZ4", "no checksums", "no statistics"])
def test_a_page_header_says_the_same_with_any_byte_in_the_place_of_another(layout: str) -> None:
    for _, pages in first_chunks(layout)[:2]:
        data = bytearray(pages)
        header, body = struct(memoryview(data), 0)
        second = body + header[3]
        for begin in {0, second} - {len(data)}:
            _, end = struct(memoryview(data), begin)
            for place in range(begin, end):
                was = data[place]
                for byte in range(256):
                    data[place] = byte
                    found = told(page_header, memoryview(data), begin)
                    assert found == told(struct, memoryview(data), begin), (place, byte)
                data[place] = was


@pytest.mark.parametrize("layout", [*LAYOUTS, *OTHERS])
def test_a_row_group_says_what_thrift_reads_in_it_whole_or_damaged(layout: str) -> None:
    _, footer, leaves, starts = file_of(layout)
    data, start = bytearray(footer[starts[0] : starts[1]]), 0
    whole = told(row_group, memoryview(data), start, leaves)
    assert whole == told(whole_group, memoryview(data), start)
    for bit in range(0, 8 * len(data), 3):
        data[bit // 8] ^= 1 << bit % 8
        assert told(row_group, memoryview(data), start, leaves) == told(whole_group, memoryview(data), start), bit
        data[bit // 8] ^= 1 << bit % 8
    for length in range(0, len(data), 5):
        assert told(row_group, memoryview(data)[:length], start, leaves) is None


@pytest.mark.parametrize("layout", ["required, LZ4", "no statistics", "no checksums", "streams split"])
def test_what_arrow_writes_is_read_by_pattern(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the patterns would be right and of no use."""
    _, footer, leaves, starts = file_of(layout)
    chunks = first_chunks(layout)
    read: list[int] = []
    monkeypatch.setattr(patterns, "struct", lambda data, at, number=0: read.append(at) or struct(data, at, number))
    row_group(memoryview(footer), starts[0], leaves)
    # a row group's last fields, bounds longer than LONGEST_BOUND, a name with a dot
    assert len(read) <= 3
    for chunk, pages in chunks:
        read.clear()
        page_header(memoryview(pages), 0)
        assert not read or chunk.name == "text"


def test_a_column_of_many_or_long_parts_has_no_pattern() -> None:
    assert leaf_of("a.bc", 0, 0).path == b"\x28\x01a\x02bc"
    assert leaf_of(".".join("abcdefghijklmno"), 0, 0).path == b""
    assert leaf_of("x" * 128, 0, 0).path == b""


@pytest.mark.parametrize("kind", [BYTE, DOUBLE, TRUE, I64])
def test_a_list_longer_than_its_bytes_ends_at_once(kind: int) -> None:
    """Of 2^56 items: none of a kind may be counted through."""
    data = bytes([0x19, 0xF0 | kind]) + b"\xff" * 7 + b"\x7f" + bytes(40)
    with pytest.raises(ThriftError):
        page_header(memoryview(data), 0)


def test_a_bounded_number_of_numbers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "NUMBERS_KEPT", 3)
    numbers = patterns._Numbers()
    assert [numbers[bytes([2 * n])] for n in range(10)] == list(range(10))
    assert len(numbers) == 3
