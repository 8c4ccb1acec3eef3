"""Page headers against their footer: every bit that says how a page is read is held."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.pages import (
    DATA_V2,
    DETAILS,
    Chunk,
    PageError,
    check_pages,
    chunks_of,
    group_starts,
    has_checksum,
    leaves_of,
)
from pipeline.data.thrift import ThriftError, struct
from tests.faults.flips import LAYOUTS, whole_file


def chunks(data: bytes) -> Iterator[Chunk]:
    """Every column chunk of the file."""
    footer = memoryview(data)[len(data) - 8 - int.from_bytes(data[-8:-4], "little") :]
    schema = pq.read_metadata(pa.BufferReader(data)).schema
    for start in group_starts(footer, leaves_of(schema)):
        yield from chunks_of(footer, start, leaves_of(schema))


def headers(data: memoryview) -> list[tuple[int, int]]:
    """Where the chunk's page headers begin and end."""
    out, at = [], 0
    while at < len(data):
        header, body = struct(data, at)
        out.append((at, body))
        at = body + header[3]
    return out


def decisive(header: dict[int, Any]) -> tuple[Any, ...]:
    """What of a header decides on the values: all but checksum, statistics and the dictionary's order."""
    details = header[DETAILS[header[1]]]
    parts = [details.get(i) for i in ((1, 3, 4, 5, 6) if header[1] == DATA_V2 else (1, 2) if header[1] == 0 else ())]
    return header[1], header[3], *parts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_footer_says_what_pyarrow_reads_in_it(layout: str) -> None:
    data = whole_file(layout)
    metadata = pq.read_metadata(pa.BufferReader(data))
    theirs = [
        metadata.row_group(g).column(i) for g in range(metadata.num_row_groups) for i in range(metadata.num_columns)
    ]
    for ours, column in zip(chunks(data), theirs, strict=True):
        assert ours.name == column.path_in_schema
        assert ours.values == column.num_values
        assert ours.start == (column.dictionary_page_offset or column.data_page_offset)
        assert ours.end - ours.start == column.total_compressed_size
        assert ours.compressed == (column.compression != "UNCOMPRESSED")
        assert check_pages(memoryview(data)[ours.start : ours.end], ours)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_bit_that_decides_on_the_values_is_held(layout: str) -> None:
    data = whole_file(layout)
    tried = 0
    for chunk in list(chunks(data))[::3]:
        pages = bytearray(data[chunk.start : chunk.end])
        for begin, end in headers(memoryview(pages))[:3]:
            before = decisive(struct(memoryview(pages), begin)[0])
            for bit in range(8 * (end - begin)):
                pages[begin + bit // 8] ^= 1 << bit % 8
                try:
                    header, body = struct(memoryview(pages), begin)
                    changed = body != end or decisive(header) != before
                except (ThriftError, KeyError, TypeError, AttributeError):
                    changed = True
                if changed:
                    tried += 1
                    with pytest.raises(PageError, match=f"column '{chunk.name}': "):
                        check_pages(memoryview(pages), chunk)
                pages[begin + bit // 8] ^= 1 << bit % 8
    assert tried > 300


def test_files_without_checksums_are_told_apart() -> None:
    for checksums in (True, False):
        data = whole_file("required, LZ4", checksums)
        for chunk in chunks(data):
            pages = memoryview(data)[chunk.start : chunk.end]
            assert check_pages(pages, chunk) == has_checksum(pages) == checksums


def test_a_footer_cut_anywhere_is_no_fault_of_the_program() -> None:
    data = whole_file("required, LZ4")
    footer = memoryview(data)[len(data) - 8 - int.from_bytes(data[-8:-4], "little") :]
    schema = leaves_of(pq.read_metadata(pa.BufferReader(data)).schema)
    first, second = group_starts(footer, schema)
    for length in range(0, second - 1, 7):
        with pytest.raises(PageError):
            chunks_of(footer[:length], min(first, length), schema)
