"""Features made of earlier days, by their statistics as they stood on the day of the export.

Shapes: N rows, M elements of all N lists of a column, K keys.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .columns import Column, Columns, Float64, Int64, Lists
from .hashing import fnv1a, mix

NULL = -(2**63)
CROSS = np.uint64(0x9E3779B97F4A7C15)
LEAST_SHARE = 1e-6


class EarlierDays:
    """One feature's statistics."""

    def __init__(self, feature: Mapping[str, Any], folder: Path) -> None:
        self._feature = feature
        with np.load(folder / feature["statistics"], allow_pickle=False) as arrays:
            self._arrays = dict(arrays)

    def numbers(self, columns: Columns) -> Float64:
        """A count or a target encoding of each row."""
        feature = self._feature
        rows = len(columns[feature["columns"][0]])
        key_M, row_M = _keys(columns, feature["columns"])
        count_M = self._found("count_K", key_M)
        if feature["kind"] == "count":
            x_N = _mean(count_M, row_M, rows, 0.0)
            if feature["per_day"]:
                x_N = x_N / max(feature["days_looked_at"], 1)
            return np.log1p(x_N) if feature["transform"] == "log1p" else x_N
        lift = feature["transform"] == "lift"
        if not feature["all_count"]:
            if lift:
                return np.zeros(rows)
            prior = feature["default"]
        else:
            prior = feature["all_sum"] / feature["all_count"]
        m = feature["smoothing"]
        x_N = _mean((self._found("sum_K", key_M) + m * prior) / (count_M + m), row_M, rows, prior)
        if feature["transform"] == "none":
            return x_N
        if not feature["binary"]:
            return x_N - prior
        return _logit(x_N) - _logit(np.full(1, prior)) if lift else _logit(x_N)

    def lists(self, columns: Columns) -> tuple[Int64, Int64]:
        """Offsets [N + 1] and table rows [M] of each row's last values."""
        key_N, _ = _keys(columns, [self._feature["by"]])
        at_N, found_N = self._place(key_N)
        edge_K = self._arrays["offset_K"]
        begin_N = edge_K[at_N]
        length_N = np.where(found_N, edge_K[np.minimum(at_N + 1, len(edge_K) - 1)] - begin_N, 0)
        offset_N = np.concatenate([[0], np.cumsum(length_N)])
        at_M = np.arange(offset_N[-1]) + np.repeat(begin_N - offset_N[:-1], length_N)
        return offset_N, self._arrays["row_M"][at_M].astype(np.int64)

    def _place(self, key_M: Int64) -> tuple[Int64, Any]:
        key_K = self._arrays["key_K"]
        if not len(key_K):
            return np.zeros(len(key_M), np.int64), np.zeros(len(key_M), np.bool_)
        at_M = np.minimum(np.searchsorted(key_K, key_M), len(key_K) - 1)
        return at_M, key_K[at_M] == key_M

    def _found(self, name: str, key_M: Int64) -> Float64:
        at_M, found_M = self._place(key_M)
        x_K = self._arrays[name]
        return np.where(found_M, x_K[at_M], 0.0) if len(x_K) else np.zeros(len(key_M))


def _keys(columns: Columns, names: list[str]) -> tuple[Int64, Int64 | None]:
    """64-bit keys of the columns' values; of a list, with the row of each of its elements."""
    first = columns[names[0]]
    if isinstance(first, Lists):
        return _plain(first.elements), np.repeat(np.arange(len(first)), np.diff(first.offset_N))
    if len(names) == 1:
        return _plain(first), None
    key_N = mix(_plain(first).view(np.uint64))
    for name in names[1:]:
        column = columns[name]
        assert isinstance(column, Column)
        key_N = mix(key_N * CROSS + _plain(column).view(np.uint64))
    return key_N.view(np.int64), None


def _plain(column: Column) -> Int64:
    if column.kind == "string":
        key_N = mix(fnv1a(column.values)).view(np.int64)
        key_N = key_N if column.at_N is None else key_N[column.at_N]
        key_N = np.where(key_N == -1, NULL, key_N)
    else:
        key_N = column.values
    return np.where(column.null_N, np.int64(NULL), key_N)


def _mean(x_M: Float64, row_M: Int64 | None, rows: int, empty: float) -> Float64:
    if row_M is None:
        return x_M
    length_N = np.bincount(row_M, minlength=rows)
    return np.where(length_N > 0, np.bincount(row_M, x_M, rows) / np.maximum(length_N, 1), empty)


def _logit(p: Float64) -> Float64:
    p = np.clip(p, LEAST_SHARE, 1 - LEAST_SHARE)
    return np.log(p) - np.log1p(-p)
