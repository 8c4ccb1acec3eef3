"""Page headers and column chunks in the form that writers give them, each taken apart by regular expressions. No torch.

What stands in another form, or is damaged, matches nothing and is left to thrift.py. What matches gives the fields that
thrift.py finds there, less those that nobody asks for: statistics are stepped over. There is one way alone to match:
each byte says what follows it, so nothing is ever tried again (hence the possessive quantifiers).
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.data.thrift import BINARY, FALSE, I32, I64, STRUCT, TRUE, list_head, struct, varint

LONGEST_BOUND = 32
"""Bytes of a least or greatest value in statistics, beyond which thrift.py reads them."""
FIRST_IS_LIST = b"\x19"
"""The head of a struct's field 1 that is a list."""
NUMBERS_KEPT = 20_000
V = rb"(?:[\x80-\xff]{0,9}+[\x00-\x7f])"
"""An integer of variable length."""


class Leaf(NamedTuple):
    """A column of the file's schema."""

    name: str
    parts: list[bytes]
    """Of its path, as a column chunk names it."""
    path: bytes
    """The same as the chunk has it; empty where that is no plain case."""
    definition_levels: int
    repetition_levels: int


def leaf_of(name: str, definition_levels: int, repetition_levels: int) -> Leaf:
    """The column of this name."""
    parts = [part.encode() for part in name.split(".")]
    path = b""
    if len(parts) < 15 and all(len(part) < 128 for part in parts):
        path = bytes([len(parts) << 4 | BINARY]) + b"".join(bytes([len(part)]) + part for part in parts)
    return Leaf(name, parts, path, definition_levels, repetition_levels)


def _heads(kind: int) -> bytes:
    """The first byte of a field of the kind, whatever its number."""
    return b"[" + b"".join(b"\\x%02x" % (delta << 4 | kind) for delta in range(1, 16)) + b"]"


def _list(kind: int, item: bytes, most: int) -> bytes:
    """Up to `most` items of the kind behind the byte that counts them."""
    return b"(?:" + b"|".join(b"\\x%02x" % (n << 4 | kind) + item * n for n in range(most + 1)) + b")"


# the bounds of numbers first
_BOUND = b"|".join(b"\\x%02x.{%d}" % (n, n) for n in sorted(range(LONGEST_BOUND + 1), key=lambda n: n not in (4, 8)))
_STATISTICS = (
    rb"(?:%b(?:%b)|%b%b|%b|%b)*+\x00" % (_heads(BINARY), _BOUND, _heads(I64), V, _heads(TRUE), _heads(FALSE))
)  # fmt: skip
_PAGE = re.compile(
    rb"\x15(%b)\x15(%b)\x15(%b)(?:\x15(%b))?+(?:" % (V, V, V, V)
    # a data page (field 5) or a dictionary (field 7), behind a checksum (field 4) or without
    + rb"(?(4)\x1c|\x2c)\x15(%b)\x15(%b)\x15(%b)\x15(%b)(?:\x1c%b)?+\x00" % (V, V, V, V, _STATISTICS)
    + rb"|(?(4)\x3c|\x4c)\x15(%b)\x15(%b)[\x11\x12]?+\x00)\x00" % (V, V),
    re.DOTALL,
)
_CHUNK = re.compile(rb"\x26%b\x1c\x15(%b)\x19(%b)\x19" % (V, V, _list(I32, rb"[\x00-\x7f]", 9)))
"""As far as its path."""
_PAGES = rb"\x15%b\x15%b\x15%b\x00" % (V, V, V)
_HISTOGRAM = _list(I64, V, 8)
_REST = re.compile(
    rb"\x15(%b)\x16(%b)\x16%b\x16(%b)\x26(%b)" % (V, V, V, V, V)
    # the dictionary's place (field 11), the statistics (12), the pages of each encoding (13)
    + rb"(?:\x26(%b)(?:\x1c%b\x19|\x29)|\x3c%b\x19|\x49)" % (V, _STATISTICS, _STATISTICS)
    + rb"(%b)" % _list(STRUCT, _PAGES, 6)
    # sizes (field 16); where the page indices lie
    + rb"(?:\x3c(?:\x16%b)?+(?:[\x19\x29\x39]%b)*+\x00)?+\x00" % (V, _HISTOGRAM)
    + rb"(?:\x16%b\x15%b)?+(?:\x16%b\x15%b)?+\x00" % (V, V, V, V),
    re.DOTALL,
)
_COUNT = re.compile(rb"\x15(%b)\x15(%b)\x15(%b)\x00" % (V, V, V))


def page_header(data: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header that begins at `at`, and where it ends; raises ThriftError."""
    match = _PAGE.match(data, at)
    if match is None:
        return struct(data, at)
    kind, unpacked, size, checksum, values, encoding, definition, repetition, entries, plain = match.groups()
    header: dict[int, Any] = {1: _number(kind), 2: _number(unpacked), 3: _number(size)}
    if checksum is not None:
        header[4] = checksum  # nobody asks for its value: Arrow verifies it
    if values is not None:
        header[5] = {1: _number(values), 2: _number(encoding), 3: _number(definition), 4: _number(repetition)}
    else:
        header[7] = {1: _number(entries), 2: _number(plain)}
    return header, match.end()


def row_group(data: memoryview, at: int, leaves: Sequence[Leaf]) -> tuple[dict[int, Any], int]:
    """The fields of the row group that begins at `at`, and where it ends; raises ThriftError.

    `leaves` are the columns that it is expected to have a chunk of each.
    """
    if data[at : at + 1] == FIRST_IS_LIST:
        try:
            kind, count, here = list_head(data, at + 1)
        except IndexError:
            kind = count = here = 0
        if kind == STRUCT and count == len(leaves):
            columns = []
            for leaf in leaves:
                column, here = _column_chunk(data, here, leaf)
                columns.append(column)
            rest, end = struct(data, here, number=1)
            return {1: columns} | rest, end
    return struct(data, at)


def _column_chunk(data: memoryview, at: int, leaf: Leaf) -> tuple[dict[int, Any], int]:
    match = _CHUNK.match(data, at)
    if match is None or not leaf.path:
        return struct(data, at)
    path = match.end()
    rest = _REST.match(data, path + len(leaf.path))
    if rest is None or data[path : path + len(leaf.path)] != leaf.path:
        return struct(data, at)
    kind, encodings = match.groups()
    codec, values, size, start, dictionary, counts = rest.groups()
    column: dict[int, Any] = {1: _number(kind), 2: [byte >> 1 ^ -(byte & 1) for byte in encodings[1:]], 3: leaf.parts}
    column |= {4: _number(codec), 5: _number(values), 7: _number(size), 9: _number(start)}
    if dictionary is not None:
        column[11] = _number(dictionary)
    column[13] = [{1: _number(a), 2: _number(b), 3: _number(c)} for a, b, c in _COUNT.findall(counts, 1)]
    return {3: column}, rest.end()


class _Numbers(dict[bytes, int]):
    """Zigzag numbers by their digits; most that a log's headers hold come again and again."""

    def __missing__(self, digits: bytes) -> int:
        value, _ = varint(digits, 0)
        value = value >> 1 ^ -(value & 1)
        if len(self) < NUMBERS_KEPT:
            self[digits] = value
        return value


_number = _Numbers().__getitem__
