"""Thrift's compact protocol, as far as Parquet's footers and page headers speak it. No torch.

pyarrow shows no page header, and a damaged footer whose column chunks are looked at from Python ends the process
(an uncaught C++ exception in 26.0). Source: apache/thrift, doc/specs/thrift-compact-protocol.md.
"""

from collections.abc import Callable
from typing import Any

Reading = Callable[[memoryview, int], tuple[Any, int]]
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
LONGEST_VARINT = 10
"""Bytes of a 64-bit integer."""


class ThriftError(ValueError):
    """Bytes that are no such struct."""


def struct(data: memoryview, at: int, number: int = 0) -> tuple[dict[int, Any], int]:
    """The fields by number of the struct that begins at `at`, and where it ends; raises ThriftError.

    Where `number` is given the struct goes on at `at`, behind the field of this number.
    """
    try:
        return _struct(data, at, number)
    except (IndexError, RecursionError):
        raise ThriftError("a struct that its bytes do not hold") from None


def list_items(data: memoryview, at: int, read: Reading) -> list[int]:
    """Where each struct of the list of structs that begins at `at` begins; raises ThriftError.

    `read` gives what a struct holds and where it ends.
    """
    try:
        kind, count, at = list_head(data, at)
        starts = []
        for _ in range(count if kind == STRUCT else 0):
            starts.append(at)
            at = read(data, at)[1]
        return starts
    except (IndexError, RecursionError):
        raise ThriftError("a list that its bytes do not hold") from None


def field_start(data: memoryview, wanted: int) -> int:
    """Where the value of a struct's field begins, the struct beginning at 0; raises ThriftError where it has none."""
    at = number = 0
    try:
        while (head := data[at]) != 0:
            kind, number, at = _field_head(data, at, head, number)
            if number == wanted:
                return at
            _, at = _value(data, at, kind)
    except (IndexError, RecursionError):
        pass
    raise ThriftError(f"a struct without field {wanted}")


def _struct(data: memoryview, at: int, number: int = 0) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    while (head := data[at]) != 0:
        kind, delta = head & 0x0F, head >> 4
        if delta and I16 <= kind <= I64:  # nearly all there is in a page header: without the calls
            number += delta
            at += 1
            value = data[at]
            if value < 0x80:
                at += 1
            else:
                value, at = varint(data, at)
            fields[number] = (value >> 1) ^ -(value & 1)
            continue
        kind, number, at = _field_head(data, at, head, number)
        fields[number], at = _value(data, at, kind)
    return fields, at + 1


def _field_head(data: memoryview, at: int, head: int, number: int) -> tuple[int, int, int]:
    """Kind and number of a field, and where its value begins."""
    at += 1
    if delta := head >> 4:
        return head & 0x0F, number + delta, at
    value, at = varint(data, at)
    return head & 0x0F, (value >> 1) ^ -(value & 1), at


def _value(data: memoryview, at: int, kind: int) -> tuple[Any, int]:
    """A value of the kind, and where it ends."""
    if I16 <= kind <= I64:
        value, at = varint(data, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == STRUCT:
        return _struct(data, at)
    if kind == BINARY:
        length, at = varint(data, at)
        if length > len(data) - at:
            raise IndexError
        return bytes(data[at : at + length]), at + length
    if kind in (LIST, SET):
        item, count, at = list_head(data, at)
        if count > len(data) - at:  # each takes a byte at least
            raise IndexError
        items = []
        for _ in range(count):
            value, at = (data[at], at + 1) if item in (TRUE, FALSE) else _value(data, at, item)
            items.append(value)
        return items, at
    if kind in (TRUE, FALSE):  # a boolean field stands in its head
        return kind == TRUE, at
    if kind in (BYTE, DOUBLE):
        return None, at + (1 if kind == BYTE else 8)
    raise IndexError


def list_head(data: memoryview, at: int) -> tuple[int, int, int]:
    """Kind of a list's items, their number, and where the first begins; raises IndexError."""
    head, at = data[at], at + 1
    count = head >> 4
    if count == 15:
        count, at = varint(data, at)
    return head & 0x0F, count, at


def varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    """An unsigned integer and where it ends; raises IndexError."""
    byte = data[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while byte & 0x80:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > 7 * LONGEST_VARINT:
            raise IndexError
    return value, at
