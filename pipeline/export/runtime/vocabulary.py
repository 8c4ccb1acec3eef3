"""Values -> rows of a table through a vocabulary: a value's place in its file is its row."""

from itertools import pairwise, repeat
from pathlib import Path

import numpy as np

from .columns import Int64


class Integers:
    """Integers by their order."""

    def __init__(self, value_V: Int64) -> None:
        self._row_V = np.argsort(value_V, kind="stable")
        self._value_V = value_V[self._row_V]

    def __call__(self, id_M: Int64, unknown: int) -> Int64:
        """The row of each id; `unknown` for those that are not listed."""
        at_M = np.minimum(np.searchsorted(self._value_V, id_M), len(self._value_V) - 1)
        return np.where(self._value_V[at_M] == id_M, self._row_V[at_M], unknown)


class Strings:
    """Strings, byte by byte."""

    def __init__(self, values: list[bytes]) -> None:
        self._rows = dict(zip(values, range(len(values)), strict=True))

    def __call__(self, strings: list[bytes], unknown: int) -> Int64:
        """The row of each string; `unknown` for those that are not listed."""
        return np.fromiter(map(self._rows.get, strings, repeat(unknown)), np.int64, len(strings))


def integers_of(path: Path) -> Integers:
    """The vocabulary of a file: `value`."""
    with np.load(path, allow_pickle=False) as arrays:
        return Integers(arrays["value"])


def strings_of(path: Path) -> Strings:
    """The vocabulary of a file: `bytes` and `length` of its strings end to end."""
    with np.load(path, allow_pickle=False) as arrays:
        raw = arrays["bytes"].tobytes()
        edges = np.concatenate([[0], np.cumsum(arrays["length"])]).tolist()
    return Strings([raw[begin:end] for begin, end in pairwise(edges)])
