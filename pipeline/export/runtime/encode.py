"""Columns -> what the network reads: rows of tables, numbers, lists with their weights. As training encodes them.

Shapes: N rows, I features of one id, F numbers, M elements of all N lists of a feature.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import Column, Columns, Float64, Int64, Lists
from .errors import FieldError
from .hashing import fnv1a, mix
from .history import EarlierDays
from .vocabulary import integers_of, strings_of

Float32 = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """N rows as the network reads them."""

    number_NF: Float32
    id_NI: Int64
    lists: list[tuple[Int64, Int64, Float32]]
    """Of each list feature: rows of its table [M], offsets [N + 1], weights [M]."""

    def __len__(self) -> int:
        return len(self.number_NF)


class Encoder:
    """The features of a model, in the order that its network reads them."""

    def __init__(self, features: Sequence[Mapping[str, Any]], folder: Path) -> None:
        self._numbers = [f for f in features if f["kind"] in ("float", "count", "target_encoding")]
        self._lists = [f for f in features if f["kind"] in ("ids", "history")]
        self._ids = [f for f in features if f["kind"] in ("id", "string", "bucket")]
        listed = {f["name"]: f["vocabulary"] for f in features if f.get("vocabulary")}
        strings = {listed[f["name"]] for f in features if f["name"] in listed and f["kind"] == "string"}
        of_strings = {file: strings_of(folder / file) for file in strings}
        of_integers = {file: integers_of(folder / file) for file in set(listed.values()) - strings}
        self._strings_known = {name: of_strings[file] for name, file in listed.items() if file in strings}
        self._integers_known = {name: of_integers[file] for name, file in listed.items() if file not in strings}
        looking_back = ("count", "target_encoding", "history")
        self._earlier = {f["name"]: EarlierDays(f, folder) for f in features if f["kind"] in looking_back}

    def __call__(self, columns: Columns, rows: int) -> Encoded:
        """N encoded rows. Raises FieldError for a value that training would refuse."""
        number_NF = np.empty((rows, len(self._numbers)), np.float32)
        for at, feature in enumerate(self._numbers):
            number_NF[:, at] = self._number(feature, columns)
        id_NI = np.empty((rows, len(self._ids)), np.int64)
        for at, feature in enumerate(self._ids):
            id_NI[:, at] = self._id(feature, columns[feature["column"]])
        return Encoded(number_NF, id_NI, [self._list(feature, columns) for feature in self._lists])

    def _id(self, feature: Mapping[str, Any], column: Column | Lists) -> Int64:
        assert isinstance(column, Column)
        if feature["kind"] == "bucket":
            x_N = finite(feature["column"], column, feature["missing"])
            return np.searchsorted(feature["boundaries"], x_N, side="right")
        strings = feature["kind"] == "string"
        row_N = self._strings(feature, column) if strings else self._rows(feature, column.values)
        return np.where(column.null_N, feature["rows"], row_N) if column.null_N.any() else row_N

    def _strings(self, feature: Mapping[str, Any], column: Column) -> Int64:
        vocabulary = self._strings_known.get(feature["name"])
        if vocabulary is None:
            row_D = (mix(fnv1a(column.values)) % np.uint64(feature["rows"])).astype(np.int64)
        else:
            row_D = vocabulary(column.values, feature["rows"])
        return row_D if column.at_N is None else row_D[column.at_N]

    def _rows(self, feature: Mapping[str, Any], id_M: Int64) -> Int64:
        """Table rows of integers; the table's last for those out of vocabulary."""
        rows = feature["rows"]
        if feature["name"] in self._integers_known:
            return self._integers_known[feature["name"]](id_M, rows)
        if feature["hash"]:
            return (mix(id_M.view(np.uint64)) % np.uint64(rows)).astype(np.int64)
        # unsigned, a negative id is a large one as well
        return np.minimum(id_M.view(np.uint64), np.uint64(rows)).astype(np.int64)

    def _number(self, feature: Mapping[str, Any], columns: Columns) -> Float64:
        if feature["kind"] != "float":
            return self._earlier[feature["name"]].numbers(columns)
        column = columns[feature["column"]]
        assert isinstance(column, Column)
        x_N = finite(feature["column"], column, feature["missing"])
        if feature["transform"] == "log1p":
            x_N = np.log1p(np.maximum(x_N, 0))
        elif feature["transform"] == "standardize":
            x_N = (x_N - feature["mean"]) / feature["std"]
        with np.errstate(over="ignore"):
            large_N = ~np.isfinite(x_N.astype(np.float32))
        if large_N.any():
            raise FieldError(feature["column"], int(np.argmax(large_N)), "is too large for 32 bits")
        return x_N

    def _list(self, feature: Mapping[str, Any], columns: Columns) -> tuple[Int64, Int64, Float32]:
        if feature["kind"] == "history":
            offset_N, row_M = self._earlier[feature["name"]].lists(columns)
        else:
            lists = columns[feature["column"]]
            assert isinstance(lists, Lists)
            offset_N, row_M = lists.offset_N, self._rows(feature, lists.elements.values)
        if feature["kind"] == "ids" and feature["weights"]:
            return row_M, offset_N, _weights(feature, columns, offset_N)
        if feature["pooling"] == "sum":
            return row_M, offset_N, np.ones(len(row_M), np.float32)
        length_N = np.diff(offset_N)
        return row_M, offset_N, np.repeat(1.0 / np.maximum(length_N, 1).astype(np.float32), length_N)


def _weights(feature: Mapping[str, Any], columns: Columns, offset_N: Int64) -> Float32:
    """The weights of a list's elements; over their sum where they are pooled to a mean."""
    name, lists = feature["weights"], columns[feature["weights"]]
    assert isinstance(lists, Lists)
    unlike_N = np.diff(lists.offset_N) != np.diff(offset_N)
    if unlike_N.any():
        row = int(np.argmax(unlike_N))
        raise FieldError(
            name,
            row,
            f"has {np.diff(lists.offset_N)[row]} numbers, {feature['column']} {np.diff(offset_N)[row]}",
        )
    with np.errstate(over="ignore"):
        weight_M = lists.elements.values.astype(np.float32)
    bad_M = ~np.isfinite(weight_M)
    if feature["pooling"] == "mean":
        bad_M |= weight_M < 0
    if bad_M.any():
        element = int(np.argmax(bad_M))
        wanted = "a finite number, 0 or more" if feature["pooling"] == "mean" else "a finite number of 32 bits"
        raise FieldError(name, lists.row_of(element), f"holds {lists.elements.values[element]}; a weight is {wanted}")
    if feature["pooling"] == "sum":
        return weight_M
    length_N = np.diff(offset_N)
    exact_M, filled_N = weight_M.astype(np.float64), length_N > 0
    sum_N = np.add.reduceat(exact_M, offset_N[:-1][filled_N]) if len(weight_M) else np.empty(0)
    # a list whose weights are all 0 pools to zeros, like an empty one
    return (exact_M / np.repeat(np.where(sum_N > 0, sum_N, 1.0), length_N[filled_N])).astype(np.float32)


def finite(name: str, column: Column, missing: float | None) -> Float64:
    """The column's numbers in 64 bits, `missing` in place of null and NaN. Raises FieldError for infinities."""
    x_N: Float64 = column.values.astype(np.float64)
    if column.large_N is not None:
        x_N = np.where(column.large_N, column.values.view(np.uint64).astype(np.float64), x_N)
    if missing is not None:
        x_N = np.where(column.null_N, missing, x_N)
    bad_N = ~np.isfinite(x_N)
    if bad_N.any():
        row = int(np.argmax(bad_N))
        raise FieldError(name, row, f"is {x_N[row]}; it must be a finite number")
    if missing is None and (null := column.first_null()) is not None:
        raise FieldError(name, null, "is null or missing; it must be a number")
    return x_N
