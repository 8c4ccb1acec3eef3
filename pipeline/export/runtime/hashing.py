"""Strings and integers -> 64-bit hashes, as training makes them: FNV-1a and MurmurHash3's finaliser, in numpy."""

from typing import Any

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]
FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
MIX_1, MIX_2, SHIFT = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53), np.uint64(33)


def mix(x_N: UInt64) -> UInt64:
    """MurmurHash3's fmix64 of each value."""
    x_N = (x_N ^ (x_N >> SHIFT)) * MIX_1
    x_N = (x_N ^ (x_N >> SHIFT)) * MIX_2
    return x_N ^ (x_N >> SHIFT)


def fnv1a(strings: list[bytes]) -> UInt64:
    """FNV-1a of each string: a pass over all of them for each byte position."""
    raw = np.frombuffer(b"".join(strings), np.uint8)
    length_N: npt.NDArray[Any] = np.fromiter(map(len, strings), np.int64, len(strings))
    longest_first = np.argsort(-length_N, kind="stable")
    start_N, shortest = (np.cumsum(length_N) - length_N)[longest_first], np.sort(length_N)
    mixed_N = np.full(len(length_N), FNV_OFFSET)
    ended = np.searchsorted(shortest, np.arange(length_N.max(initial=0)), side="right")
    for position, left in enumerate((len(length_N) - ended).tolist()):
        mixed_N[:left] ^= raw[start_N[:left] + position]
        mixed_N[:left] *= FNV_PRIME
    hash_N = np.empty_like(mixed_N)
    hash_N[longest_first] = mixed_N
    return hash_N
