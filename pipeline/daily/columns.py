"""One column of one day, in bounded memory: what is missing, mean and spread, a histogram, a sample of its values.

Values (ids, strings, lists' elements) are counted in SLOTS slots of a hash, numbers between edges that the first day
fixes, so that days are comparable; and in each slot the positives of the job's first task, since a column whose values
are exchanged among themselves may look the same and tell something else. The sample of a column of values holds those
with the lowest hashes: days that share a value share it in their samples, and so the share of values that another day
never had is estimated without keeping all of them (bottom-k sampling: Cohen and Kaplan 2007). No torch.

Shapes: N rows or elements of a batch, D distinct values, R slots, K sampled values.
"""

import base64
import dataclasses
import math
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.value_counts import distinct_ids, hash64
from pipeline.data.vocabulary_file import signed
from pipeline.profile import numbers

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]
SLOTS = 256
"""Of a hash."""
GROUPS = 64
"""Of numbers, of near-equal counts on the first day."""
SAMPLED = 512
"""Values a day's sample holds; a column of fewer values is known whole."""
BINNED = 65_536
"""Numbers of a batch that are put into the histogram: all rows', of lists' weights every so many."""
IN_LISTS = ("elements", "weights")
"""Kinds of which a row has many, or none."""
ALL = 1 << 32
"""Above every sampled hash."""


@dataclasses.dataclass(frozen=True)
class Sums:
    """A mean with its spread."""

    rows: int = 0
    mean: float = 0.0
    std: float = 0.0
    """Of the values themselves, not of their mean."""

    @classmethod
    def share(cls, rows: int, ones: int) -> "Sums":
        """Of 0/1 values."""
        mean = ones / rows if rows else 0.0
        return cls(rows, mean, math.sqrt(mean * (1 - mean)))

    @classmethod
    def of(cls, parts: "list[Sums]") -> "Sums":
        """All values together."""
        rows = sum(part.rows for part in parts)
        if not rows:
            return cls()
        mean = sum(part.rows * part.mean for part in parts) / rows
        square = sum(part.rows * (part.std**2 + (part.mean - mean) ** 2) for part in parts) / rows
        return cls(rows, mean, math.sqrt(square))


@dataclasses.dataclass(frozen=True)
class Edges:
    """Where the groups of a column of numbers begin, as bins (profile/numbers.py) about a centre."""

    centre: float
    cuts: list[int]


@dataclasses.dataclass(frozen=True)
class Sample:
    """The values of a column with the lowest hashes."""

    below: int
    """All values whose hash of 32 bits lies below this are in it."""
    hash_K: npt.NDArray[np.uint32]
    """Rising."""
    count_K: Int64
    """Look-ups of each."""


@dataclasses.dataclass(frozen=True)
class ColumnDay:
    """What is kept of a column."""

    column: str
    kind: str
    """id, string, elements (of a list); number, length (of a list), weights (of a list); or other."""
    used_by: str
    missing: Sums
    """Share of null, or NaN."""
    values: Sums = Sums()
    """Of numbers."""
    count_R: Int64 = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """The histogram; empty without values."""
    one_R: Int64 = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """The first task's positives in it; empty where they are not counted."""
    edges: Edges | None = None
    sample: Sample | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by."""
        return self.column, self.kind

    def to_json(self) -> dict[str, Any]:
        """As plain data; arrays as base64 of their compressed bytes."""
        out: dict[str, Any] = {"column": self.column, "kind": self.kind, "used_by": self.used_by}
        out |= {"missing": dataclasses.asdict(self.missing), "values": dataclasses.asdict(self.values)}
        out |= {"histogram": _packed(self.count_R), "positives": _packed(self.one_R)}
        if self.edges:
            out["edges"] = {"centre": self.edges.centre, "cuts": _packed(np.array(self.edges.cuts, np.int64))}
        if self.sample:
            packed = {"hashes": _packed(self.sample.hash_K), "counts": _packed(self.sample.count_K)}
            out["sample"] = {"below": self.sample.below} | packed
        return out

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> "ColumnDay":
        """What `to_json` wrote."""
        edges, sample = told.get("edges"), told.get("sample")
        return cls(
            told["column"],
            told["kind"],
            told["used_by"],
            Sums(**told["missing"]),
            Sums(**told["values"]),
            _unpacked(told["histogram"], np.int64),
            _unpacked(told["positives"], np.int64),
            Edges(edges["centre"], _unpacked(edges["cuts"], np.int64).tolist()) if edges else None,
            Sample(sample["below"], _unpacked(sample["hashes"], np.uint32), _unpacked(sample["counts"], np.int64))
            if sample
            else None,
        )


def _packed(array: npt.NDArray[Any]) -> str:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes(), 9)).decode()


def _unpacked(text: str, kind: Any) -> npt.NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.dtype(kind).newbyteorder("<")).astype(kind)


class Watch:
    """A column of which one looks at what is missing alone; base of the others."""

    def __init__(self, column: str, kind: str, used_by: str) -> None:
        self.column, self.kind, self.used_by = column, kind, used_by
        self.rows = self.missing = 0

    def add(self, column: pa.Array, one_N: pa.Array) -> None:
        """Counts one batch; `one_N` is true where the first task's label is 1."""
        if self.kind in IN_LISTS:
            column, one_N = column.flatten(), None
        self.rows += len(column)
        self.missing += column.null_count
        self._add(column)
        if one_N is not None:
            self._add_ones(column.filter(one_N))

    def day(self) -> ColumnDay:
        """What it came to."""
        missing = Sums.share(self.rows, self.missing)
        return ColumnDay(self.column, self.kind, self.used_by, missing, **self._more())

    def _add(self, column: pa.Array) -> None:
        """Counts what is not missing."""

    def _add_ones(self, column: pa.Array) -> None:
        """Counts the positives' values."""

    def _more(self) -> dict[str, Any]:
        """The further fields of ColumnDay."""
        return {}


class ValueWatch(Watch):
    """Ids, strings, elements."""

    def __init__(self, column: str, kind: str, used_by: str) -> None:
        super().__init__(column, kind, used_by)
        self._count_R, self._one_R = np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64)
        self._below = ALL
        self._hash_K, self._sample_K = np.zeros(0, np.uint32), np.zeros(0, np.int64)

    def _add(self, column: pa.Array) -> None:
        values, count_D = distinct(column)
        hash_D = hash64(values)
        np.add.at(self._count_R, _slots(hash_D), count_D)
        top_D = hash_D >> np.uint64(32)
        low_D = top_D < self._below
        if low_D.any():
            self._merge(top_D[low_D].astype(np.uint32), count_D[low_D])

    def _add_ones(self, column: pa.Array) -> None:
        values, count_D = distinct(column)
        np.add.at(self._one_R, _slots(hash64(values)), count_D)

    def _merge(self, hash_D: npt.NDArray[np.uint32], count_D: Int64) -> None:
        self._hash_K, at = np.unique(np.concatenate([self._hash_K, hash_D]), return_inverse=True)
        summed_K = np.zeros(len(self._hash_K), np.int64)
        np.add.at(summed_K, at, np.concatenate([self._sample_K, count_D]))
        if len(self._hash_K) > SAMPLED:
            self._below = int(self._hash_K[SAMPLED])
        self._hash_K, self._sample_K = self._hash_K[:SAMPLED], summed_K[:SAMPLED]

    def _more(self) -> dict[str, Any]:
        one_R = self._one_R[:0] if self.kind in IN_LISTS else self._one_R
        sample = Sample(self._below, self._hash_K, self._sample_K)
        return {"count_R": self._count_R, "one_R": one_R, "sample": sample}


def _slots(hash_D: UInt64) -> Int64:
    return (hash_D & np.uint64(SLOTS - 1)).view(np.int64)


class NumberWatch(Watch):
    """Numbers; of lists their lengths, or the weights in them."""

    def __init__(self, column: str, kind: str, used_by: str, edges: Edges | None) -> None:
        super().__init__(column, kind, used_by)
        self._edges = edges
        self._centre = edges.centre if edges else None
        self._count_R, self._one_R = (np.zeros((1 << numbers.BITS) + 1, np.int64) for _ in range(2))
        self._finite, self._total, self._squares = 0, 0.0, 0.0

    def _add(self, column: pa.Array) -> None:
        x_N = self._numbers(column)
        if not np.isfinite(x_N).all():
            self.missing += int(np.count_nonzero(np.isnan(x_N)))
            x_N = x_N[np.isfinite(x_N)]
        if not len(x_N):
            return
        if self._centre is None:
            self._centre = float(np.median(x_N))
        off_N = np.clip(x_N - self._centre, -numbers.FURTHEST, numbers.FURTHEST)
        self._finite += len(x_N)
        self._total += float(off_N.sum())
        self._squares += float(off_N @ off_N)
        every = -(-len(x_N) // BINNED)
        np.add.at(self._count_R, numbers.bins(x_N[::every], self._centre), 1)

    def _add_ones(self, column: pa.Array) -> None:
        x_N = self._numbers(column)
        x_N = x_N[np.isfinite(x_N)]
        if self._centre is not None:
            np.add.at(self._one_R, numbers.bins(x_N, self._centre), 1)

    def _numbers(self, column: pa.Array) -> Float64:
        """Without the nulls, which are counted."""
        if self.kind == "length":
            length_N = np.diff(column.offsets.to_numpy()).astype(np.float64)
            return length_N[column.is_valid().to_numpy(zero_copy_only=False)] if column.null_count else length_N
        if pa.types.is_temporal(column.type):
            column = column.view(pa.int64() if column.type.bit_width == 64 else pa.int32())
        return column.drop_null().cast(pa.float64(), safe=False).to_numpy()

    def _more(self) -> dict[str, Any]:
        if self._centre is None or not self._finite:
            return {"edges": self._edges}
        edges = self._edges or Edges(self._centre, _cuts(self._count_R))
        off = self._total / self._finite
        std = math.sqrt(max(0.0, self._squares / self._finite - off**2))
        count_R, one_R = (np.add.reduceat(fine_R, [0, *edges.cuts]) for fine_R in (self._count_R, self._one_R))
        values = Sums(self._finite, self._centre + off, std)
        return {
            "values": values,
            "count_R": count_R,
            "one_R": one_R[:0] if self.kind in IN_LISTS else one_R,
            "edges": edges,
        }


def _cuts(count_R: Int64) -> list[int]:
    group_R = numbers.quantile_groups(count_R, GROUPS)
    return (np.flatnonzero(np.diff(group_R)) + 1).tolist()


def distinct(column: pa.Array) -> tuple[pa.Array, Int64]:
    """The distinct values of a column of integers, booleans or strings, nulls left out, and how often each comes."""
    column = column.drop_null()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_integer(column.type):
        return distinct_ids(signed(column))
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    count_D = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
    there_D = np.flatnonzero(count_D)
    return column.dictionary.take(pa.array(there_D)).cast(pa.large_string()), count_D[there_D]


def watch(column: str, kind: str, used_by: str, edges: Edges | None) -> Watch:
    """How a column of this kind is looked at."""
    if kind in ("id", "string", "elements"):
        return ValueWatch(column, kind, used_by)
    if kind in ("number", "length", "weights"):
        return NumberWatch(column, kind, used_by, edges)
    return Watch(column, kind, used_by)
