"""How often each value occurs, in bounded memory, and which values share a row of a hashed table. No torch.

Counts are exact until they need more memory than they are given. From there on a part of the values is kept, those
whose hash begins with b zero bits, each with its exact count (adaptive sampling: Wegman 1984, Flajolet 1990): 2^b times
their number estimates the distinct values, with a standard error of 1.2 / sqrt(values kept).

Who shares a row is exact however many values there are: a row remembers its first value and whether another came.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.hashing import fnv1a, mix
from pipeline.data.vocabulary_file import COUNT, VALUE

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
FRESH_ROWS = 65_536
"""At least so many new counts are gathered before they are merged with the old."""
MERGE_COPIES = 16
"""Merging holds the old counts, the new ones and a hash table of both, and Arrow keeps what it freed: so many times the
old, as measured by the process's growth."""
CLOSE = 4
"""Ids whose range is within so many times their number are counted in an array of the range."""
OCCUPANCY_BYTES = 17
"""A row of a hashed table, in `Occupancy`."""


def hash64(values: pa.Array) -> UInt64:
    """The hash whose remainder is a value's row in a hashed table (see pipeline/data/hashing.py)."""
    return mix(values.to_numpy().view(np.uint64) if pa.types.is_integer(values.type) else fnv1a(values))


def distinct_ids(id_M: Int64) -> tuple[pa.Array, Int64]:
    """The distinct ids and how often each comes."""
    low, high = (int(id_M.min()), int(id_M.max())) if len(id_M) else (0, 0)
    if high - low < CLOSE * len(id_M):
        count_R = np.bincount(id_M - low)
        place_N = np.flatnonzero(count_R)
        return pa.array(place_N + low), count_R[place_N]
    found = pc.value_counts(pa.array(id_M))
    return found.field("values"), found.field("counts").to_numpy()


class ValueCounts:
    """Distinct values and their counts."""

    def __init__(self, kind: pa.DataType) -> None:
        self._held = pa.table({VALUE: pa.array([], kind), COUNT: pa.array([], pa.int64())})
        self._fresh: list[pa.Table] = []
        self._fresh_rows = self._fresh_bytes = 0
        self.bits = 0
        """Leading zero bits of the hashes kept: 0 while all values are."""

    def add(self, values: pa.Array, counts: pa.Array, hash_N: UInt64) -> None:
        """Counts of some values; a value may come again in a later call."""
        table = self._sampled(pa.table({VALUE: values, COUNT: counts}), hash_N)
        self._fresh.append(table)
        self._fresh_rows += table.num_rows
        self._fresh_bytes += table.nbytes
        if self._fresh_rows > max(FRESH_ROWS, self._held.num_rows):
            self._merge()

    def _sampled(self, table: pa.Table, hash_N: UInt64) -> pa.Table:
        if not self.bits:
            return table
        return table.filter(pa.array(hash_N >> np.uint64(64 - self.bits) == 0))

    def _merge(self) -> None:
        if self._fresh:
            both = pa.concat_tables([self._held, *self._fresh])
            summed = both.group_by(VALUE, use_threads=False).aggregate([(COUNT, "sum")])
            self._held = pa.table({VALUE: summed[VALUE], COUNT: summed[f"{COUNT}_sum"]}).combine_chunks()
            self._fresh, self._fresh_rows, self._fresh_bytes = [], 0, 0

    @property
    def nbytes(self) -> int:
        """Memory that it may need at its next merge."""
        return MERGE_COPIES * max(self._held.nbytes, self._fresh_bytes)

    def shrink(self) -> None:
        """Makes room: merges what is new, or else keeps half of the values."""
        if self._fresh:
            self._merge()
            return
        self.bits += 1
        self._held = self._sampled(self._held, hash64(self._held[VALUE].combine_chunks())).combine_chunks()

    def table(self) -> pa.Table:
        """The values kept and their counts."""
        self._merge()
        return self._held

    @property
    def distinct(self) -> int:
        """Distinct values: exact while `bits` is 0, an estimate from there on."""
        return self.table().num_rows << self.bits


def make_room(counts: Sequence[ValueCounts], limit: int) -> None:
    """Shrinks the largest until all of them together keep within `limit` bytes."""
    while sum(c.nbytes for c in counts) > limit:
        max(counts, key=lambda c: c.nbytes).shrink()


class Occupancy:
    """What lies on each of the R rows of a hashed table. 17 bytes a row, whatever the number of values."""

    def __init__(self, rows: int) -> None:
        self._first_R = np.zeros(rows, np.uint64)
        self._shared_R = np.zeros(rows, np.bool_)
        self._lookups_R = np.zeros(rows, np.int64)

    def add(self, row_N: Int64, key_N: UInt64, count_N: Int64) -> None:
        """Look-ups of distinct values, told apart by their keys, on their rows."""
        empty_N = self._lookups_R[row_N] == 0
        self._first_R[row_N[empty_N]] = key_N[empty_N]  # of several the last stays, the others find it
        self._shared_R[row_N[self._first_R[row_N] != key_N]] = True
        np.add.at(self._lookups_R, row_N, count_N)

    @property
    def alone(self) -> int:
        """Values that have a row to themselves."""
        return int(np.count_nonzero((self._lookups_R > 0) & ~self._shared_R))

    @property
    def shared_lookups(self) -> int:
        """Look-ups on rows of more than one value."""
        return int(self._lookups_R[self._shared_R].sum())


def uniform_share(values: int, rows: int) -> float:
    """Expected share of values that a uniform hash puts on another's row: 1 - (1 - 1/R)^(n-1)."""
    if values < 2:
        return 0.0
    return 1.0 if rows == 1 else -math.expm1((values - 1) * math.log1p(-1 / rows))


def rows_for(values: int, share: float) -> int:
    """The fewest rows with which `uniform_share` stays below `share`."""
    if values < 2:
        return 1
    return math.ceil(-1 / math.expm1(math.log1p(-share) / (values - 1)))
