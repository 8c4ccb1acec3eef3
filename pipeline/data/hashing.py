"""Hashing of strings and integers into table rows: stable over machines, versions and time. No Python per value.

Strings: 64-bit FNV-1a over the UTF-8 bytes (Fowler, Noll, Vo), then MurmurHash3's 64-bit finaliser, since the low
bits of FNV-1a alone are weak under a modulo. Integers: the finaliser alone.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
SHIFT = np.uint64(33)
CACHED = 16_384
"""Strings hashed at a time: their hashes stay in the cache from byte to byte."""

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


def mix(x_N: UInt64) -> UInt64:
    """MurmurHash3's fmix64 of each value."""
    x_N = (x_N ^ (x_N >> SHIFT)) * MIX_1
    x_N = (x_N ^ (x_N >> SHIFT)) * MIX_2
    return x_N ^ (x_N >> SHIFT)


def fnv1a(strings: pa.Array) -> UInt64:
    """FNV-1a of each string, shape [N]; one pass over the values for each byte position."""
    data = strings.cast(pa.large_binary())
    offsets = np.frombuffer(data.buffers()[1], np.int64)[data.offset : data.offset + len(data) + 1]
    raw = np.frombuffer(data.buffers()[2], np.uint8) if data.buffers()[2] else np.zeros(0, np.uint8)
    hash_N = np.empty(len(data), np.uint64)
    for begin in range(0, len(data), CACHED):
        hash_N[begin : begin + CACHED] = _fnv1a(raw, offsets[begin : begin + CACHED + 1])
    return hash_N


def _fnv1a(raw: npt.NDArray[np.uint8], offsets: Int64) -> UInt64:
    length_N = np.diff(offsets)
    longest_first = np.argsort(-length_N, kind="stable")  # so that those that still have bytes stand side by side
    start_N, shortest = offsets[:-1][longest_first], np.sort(length_N)
    mixed_N = np.full(len(length_N), FNV_OFFSET)
    ended = np.searchsorted(shortest, np.arange(length_N.max(initial=0)), side="right")
    for position, left in enumerate((len(length_N) - ended).tolist()):
        mixed_N[:left] ^= raw[start_N[:left] + position]
        mixed_N[:left] *= FNV_PRIME
    hash_N = np.empty_like(mixed_N)
    hash_N[longest_first] = mixed_N
    return hash_N


def through_dictionary(column: pa.Array, rows: Callable[[pa.Array], Int64]) -> Int64:
    """`rows` of each string of a column, shape [N], asked for once a distinct string; -1 where null."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if len(column.dictionary) > len(column):
        # a row group's whole dictionary comes with each of its batches: what the batch does not use is not hashed
        column = column.dictionary_decode().dictionary_encode()
    row_D = np.append(nulls_apart(column.dictionary, rows), -1)  # what a null points to
    index_N = column.indices.cast(pa.int64()).fill_null(len(row_D) - 1).to_numpy()
    return row_D[index_N]


def nulls_apart(strings: pa.Array, rows: Callable[[pa.Array], Int64]) -> Int64:
    """`rows` of each string, shape [N]; -1 where null."""
    row_N = rows(strings)
    if strings.null_count:
        row_N[strings.is_null().to_numpy(zero_copy_only=False)] = -1
    return row_N


def bucket_distinct(strings: pa.Array, rows: int) -> Int64:
    """As `bucket_strings`, for strings that hardly repeat, such as those of a dictionary."""
    return nulls_apart(strings, lambda strings: (mix(fnv1a(strings)) % np.uint64(rows)).view(np.int64))


def bucket_strings(column: pa.Array, rows: int) -> Int64:
    """Table row of each string, shape [N]; -1 where null."""
    return through_dictionary(column, lambda strings: bucket_distinct(strings, rows))


def bucket_integers(id_N: Int64, rows: int) -> Int64:
    """Table row of each 64-bit id, shape [N]."""
    return (mix(id_N.view(np.uint64)) % np.uint64(rows)).astype(np.int64)
