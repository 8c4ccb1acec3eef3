"""A bundle: verified, loaded, and its scores of rows.

    bundle = Bundle("BUNDLE")
    bundle.score([{"user_id": 7, "item_id": 12, ...}, ...])      # rows as mappings
    bundle.score_columns({"user_id": [7, ...], ...})             # columns as lists or numpy arrays
    bundle.score_table(pyarrow_table)                            # where pyarrow is installed

Each returns float64 columns of N rows: p.TASK and joint.TASK of a binary task, value.TASK of a regression task, and
with a fused score `score` and `log_score`.

Shapes: N rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .calibration import calibrated
from .columns import Column, Columns, by_field, checked, columns_of
from .encode import Encoded, Encoder, finite
from .engines import network
from .errors import BundleError, FieldError
from .fusion import fused_log_score, outputs
from .integrity import checked as verified

AT_ONCE = 16_384
"""Rows that go through the network together at most."""
Float64 = npt.NDArray[np.float64]


class Bundle:
    """An exported model. Not for several threads at once: give each its own, or a lock."""

    def __init__(self, folder: str | Path, engine: str = "torch", threads: int | None = None) -> None:
        """Reads the bundle; `engine` runs its network, on so many threads: torch, aoti or onnx.

        Raises BundleError, naming the file, where it is not as it was exported.
        """
        self.folder = Path(folder)
        self.about: dict[str, Any] = verified(self.folder)
        """What bundle.json says."""
        self.fields: list[dict[str, Any]] = self.about["fields"]
        """Name, type and `null` of each column that is read."""
        self.tasks: list[dict[str, Any]] = self.about["tasks"]
        self._encoder = Encoder(self.about["features"], self.folder)
        self._fusion, self._calibration = self.about["fusion"], self.about["calibration"]
        self.network = network(self.folder, engine, threads)
        """The network alone: numbers, ids, lists -> logits; at least two rows, and two elements of each list."""
        self._unknown = [feature["rows"] for feature in self.about["features"] if feature["kind"] in ("ids", "history")]

    @property
    def columns(self) -> list[str]:
        """The columns of a score."""
        names = list(outputs(self.tasks, np.zeros((1, len(self.tasks)))))
        return names + (["score", "log_score"] if self._fusion else [])

    def score(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Float64]:
        """Scores of rows as mappings; a field that a row lacks is null. Raises FieldError naming field and row."""
        return self.score_columns(by_field(rows, self.fields), len(rows))

    def score_columns(self, values: Mapping[str, Any], rows: int | None = None) -> dict[str, Float64]:
        """Scores of columns as lists or numpy arrays, by field; other columns are not read. Raises FieldError."""
        columns = columns_of(values, self.fields)
        return self._scores(columns, len(next(iter(columns.values()))) if rows is None else rows)

    def score_table(self, table: Any) -> dict[str, Float64]:
        """Scores of a pyarrow Table or RecordBatch; other columns are not read. Raises FieldError."""
        from .arrow import column_of  # pyarrow, where it is asked for

        columns = {field["name"]: column_of(table, field) for field in self.fields}
        return self._scores(checked(columns, self.fields), table.num_rows)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> Encoded:
        """What the network reads of the rows."""
        return self._encoder(columns_of(by_field(rows, self.fields), self.fields), len(rows))

    def logits(self, encoded: Encoded) -> npt.NDArray[np.float32]:
        """The network's logits_NT, before calibration."""
        return self.network(*_inputs(encoded, self._unknown))[:-1]

    def _scores(self, columns: Columns, rows: int) -> dict[str, Float64]:
        if not rows:
            return {name: np.empty(0) for name in self.columns}
        factor_N = self._factor(columns)
        encoded = self._encoder(columns, rows)
        parts = [self.logits(_cut(encoded, at, min(at + AT_ONCE, rows))) for at in range(0, rows, AT_ONCE)]
        trained_NT = np.concatenate(parts)
        if not np.isfinite(trained_NT).all():
            row = int(np.argmin(np.isfinite(trained_NT).all(axis=1)))
            raise FieldError(None, row, "the model's output is not a finite number; its values lie too far out")
        maps = self._calibration["maps"] if self._calibration else {}
        logit_NT = calibrated(trained_NT, self.tasks, maps)
        out = outputs(self.tasks, logit_NT)
        if self._fusion:
            log_N = fused_log_score(self._fusion, self.tasks, logit_NT, factor_N)
            with np.errstate(over="ignore", under="ignore"):
                out |= {"score": np.exp(log_N), "log_score": log_N}
        return out

    def _factor(self, columns: Columns) -> Float64 | None:
        factor = self._fusion and self._fusion["factor"]
        if not factor:
            return None
        column = columns[factor["column"]]
        assert isinstance(column, Column)
        return finite(factor["column"], column, factor["missing"])


def _cut(encoded: Encoded, begin: int, end: int) -> Encoded:
    if (begin, end) == (0, len(encoded)):
        return encoded
    lists = []
    for row_M, offset_N, weight_M in encoded.lists:
        part = slice(offset_N[begin], offset_N[end])
        lists.append((row_M[part], offset_N[begin : end + 1] - offset_N[begin], weight_M[part]))
    return Encoded(encoded.number_NF[begin:end], encoded.id_NI[begin:end], lists)


def _inputs(encoded: Encoded, unknown: Sequence[int]) -> tuple[Any, ...]:
    """The network's inputs, with one row more of two unknown ids a list: it never sees fewer than two of anything."""
    number_NF = np.concatenate([encoded.number_NF, np.zeros((1, encoded.number_NF.shape[1]), np.float32)])
    id_NI = np.concatenate([encoded.id_NI, np.zeros((1, encoded.id_NI.shape[1]), np.int64)])
    lists = [
        (
            np.append(row_M, [last, last]),
            np.append(offset_N, len(row_M) + 2),
            np.append(weight_M, np.zeros(2, np.float32)),
        )
        for (row_M, offset_N, weight_M), last in zip(encoded.lists, unknown, strict=True)
    ]
    return number_NF, id_NI, lists


__all__ = ["Bundle", "BundleError", "FieldError"]
