"""Encoded rows as numpy sees them. A step takes a few rows from every lane: cut, permuted and joined here, they cost a
handful of calls, where Arrow would spend one a column and piece. No torch.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data.encode import weight_key

Offsets = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
PIECE_ROWS = 1024
"""Lists permuted at a time."""


class Layout:
    """Where each column of an encoded batch lies in Rows."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        flat = [(f.name, f.type.to_pandas_dtype()) for f in schema if not pa.types.is_list(f.type)]
        self.kinds = list(dict.fromkeys(kind for _, kind in flat))
        self.names = [[name for name, kind in flat if kind is wanted] for wanted in self.kinds]
        self.place = {name: (m, row) for m, names in enumerate(self.names) for row, name in enumerate(names)}
        """Matrix and its row, by name of a column of one value a row."""
        lists = [name for name in schema.names if name not in self.place]
        weights = {weight_key(name) for name in lists}
        self.lists = {
            name: [n for n in (name, weight_key(name)) if n in lists] for name in lists if name not in weights
        }
        """The columns that have a list's offsets, by its name: itself and its weights."""

    def empty(self, rows: int) -> list[npt.NDArray]:
        """Room for the columns of one value a row."""
        return [np.empty((len(n), rows), kind) for n, kind in zip(self.names, self.kinds, strict=True)]


@dataclasses.dataclass(frozen=True)
class Rows:
    """N encoded rows."""

    layout: Layout
    matrices: list[npt.NDArray]
    """[C, N] for each dtype: the columns of one value a row."""
    offsets: dict[str, Offsets]
    """[N + 1] for each list: row n's elements are offsets[n] .. offsets[n + 1] of the values."""
    values: dict[str, npt.NDArray]
    """Elements of a list, and its weights under their own name."""

    @staticmethod
    def of(batch: pa.RecordBatch, layout: Layout) -> "Rows":
        """An encoded batch; one value a row is copied, lists stay where they are."""
        matrices = layout.empty(batch.num_rows)
        for name, (m, c) in layout.place.items():
            matrices[m][c] = _numpy(batch.column(name))
        offsets: dict[str, Offsets] = {}
        values: dict[str, npt.NDArray] = {}
        for name, columns in layout.lists.items():
            offset_N = _numpy(batch.column(name).offsets)
            offsets[name] = offset_N - offset_N[0]
            values |= {column: _numpy(batch.column(column).flatten()) for column in columns}
        return Rows(layout, matrices, offsets, values)

    @staticmethod
    def permuted(batch: pa.RecordBatch, layout: Layout, row_N: Int64) -> "Rows":
        """These rows of an encoded batch, in this order."""
        matrices = layout.empty(len(row_N))
        for name, (m, c) in layout.place.items():
            # clip: numpy copies once more where it checks, and row_N is a permutation
            np.take(_numpy(batch.column(name)), row_N, out=matrices[m][c], mode="clip")
        offsets: dict[str, Offsets] = {}
        values: dict[str, npt.NDArray] = {}
        for name, columns in layout.lists.items():
            lists = [batch.column(column) for column in columns]
            offsets[name], elements = _permuted_lists(_numpy(lists[0].offsets), [x.flatten() for x in lists], row_N)
            values |= dict(zip(columns, elements, strict=True))
        return Rows(layout, matrices, offsets, values)

    @staticmethod
    def joined(layout: Layout, parts: "Sequence[Rows]") -> "Rows":
        """All rows of the parts, one part after another."""
        if not parts:
            return Rows.of(pa.RecordBatch.from_pylist([], layout.schema), layout)
        matrices = [np.concatenate([p.matrices[m] for p in parts], axis=1) for m in range(len(layout.kinds))]
        offsets: dict[str, Offsets] = {}
        values: dict[str, npt.NDArray] = {}
        for name, columns in layout.lists.items():
            pieces, base = [np.zeros(1, np.int32)], 0
            for part in parts:
                offset_N = part.offsets[name]
                pieces.append(offset_N[1:] + (base - offset_N[0]))
                base = pieces[-1][-1] if len(offset_N) > 1 else base
            offsets[name] = np.concatenate(pieces)
            for column in columns:
                values[column] = np.concatenate([p.elements(name, column) for p in parts])
        return Rows(layout, matrices, offsets, values)

    @property
    def num_rows(self) -> int:
        """N."""
        return self.matrices[0].shape[1]

    def slice(self, offset: int, length: int | None = None) -> "Rows":
        """`length` rows from `offset` on, in the same memory; named as Arrow names it."""
        stop = self.num_rows if length is None else min(offset + length, self.num_rows)
        offsets = {name: offset_N[offset : stop + 1] for name, offset_N in self.offsets.items()}
        return Rows(self.layout, [x_CN[:, offset:stop] for x_CN in self.matrices], offsets, self.values)

    def column(self, name: str) -> npt.NDArray:
        """A column of one value a row, [N]."""
        m, c = self.layout.place[name]
        return self.matrices[m][c]

    def elements(self, name: str, column: str) -> npt.NDArray:
        """The elements of all rows' lists, end to end; of the list itself or of its weights."""
        offset_N = self.offsets[name]
        return self.values[column][offset_N[0] : offset_N[-1]]


def _permuted_lists(offset_N: Offsets, flat: list[pa.Array], row_N: Int64) -> tuple[Offsets, list[npt.NDArray]]:
    """Lists at these rows, end to end: their offsets, and the elements of all columns that have these offsets."""
    offset_N = offset_N - offset_N[0]
    start_N, length_N = offset_N[row_N].astype(np.int64), np.diff(offset_N)[row_N]
    edge_N = np.zeros(len(row_N) + 1, np.int64)
    np.cumsum(length_N, out=edge_N[1:])
    shift_N = start_N - edge_N[:-1]
    values = [_numpy(x) for x in flat]
    out = [np.empty(edge_N[-1], x.dtype) for x in values]
    # a piece at a time: the places of all elements together would not stay in the cache
    for first in range(0, len(row_N), PIECE_ROWS):
        piece = slice(first, first + PIECE_ROWS)
        begin, end = edge_N[first], edge_N[min(piece.stop, len(row_N))]
        place_M = np.repeat(shift_N[piece], length_N[piece])
        place_M += np.arange(begin, end)
        for value_M, out_M in zip(values, out, strict=True):
            np.take(value_M, place_M, out=out_M[begin:end], mode="clip")
    return edge_N.astype(np.int32), out


def _numpy(column: pa.Array) -> npt.NDArray:
    """The column's memory itself; a missed null would raise here."""
    return column.to_numpy(zero_copy_only=True)
