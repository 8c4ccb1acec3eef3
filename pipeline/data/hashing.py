"""Hashing of strings and integers into table rows: stable over machines, versions and time. No Python per value.

Strings: 64-bit FNV-1a over the UTF-8 bytes (Fowler, Noll, Vo), then MurmurHash3's 64-bit finaliser, since the low
bits of FNV-1a alone are weak under a modulo. Integers: the finaliser alone.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FNV_OFFSET = np.uint64(0xCBF29CE484222325)
FNV_PRIME = np.uint64(0x100000001B3)
MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
SHIFT = np.uint64(33)

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
    start_N, length_N = offsets[:-1], np.diff(offsets)
    hash_N = np.full(len(data), FNV_OFFSET)
    active = np.flatnonzero(length_N)
    for position in range(int(length_N.max(initial=0))):
        active = active[length_N[active] > position]
        hash_N[active] = (hash_N[active] ^ raw[start_N[active] + position]) * FNV_PRIME
    return hash_N


def bucket_strings(column: pa.Array, rows: int) -> npt.NDArray[np.int64]:
    """Table row of each string through the column's dictionary, shape [N]; -1 where null."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if len(column.dictionary) > len(column):
        # a row group's whole dictionary comes with each of its batches: what the batch does not use is not hashed
        column = column.dictionary_decode().dictionary_encode()
    bucket_D = (mix(fnv1a(column.dictionary)) % np.uint64(rows)).astype(np.int64)
    bucket_D[column.dictionary.is_null().to_numpy(zero_copy_only=False)] = -1
    bucket_D = np.append(bucket_D, -1)  # what a null points to
    index_N = column.indices.cast(pa.int64()).fill_null(len(bucket_D) - 1).to_numpy()
    return bucket_D[index_N]


def bucket_integers(id_N: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.int64]:
    """Table row of each 64-bit id, shape [N]."""
    return (mix(id_N.view(np.uint64)) % np.uint64(rows)).astype(np.int64)
