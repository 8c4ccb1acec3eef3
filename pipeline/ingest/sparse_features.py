"""Ali-CCP's own list format: `205\\x0241\\x031.0\\x01206\\x027\\x031.0` -> columns of ids and of weights. No torch.

\\x01 stands between features, \\x02 between a field and its id, \\x03 between the id and its value.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.lines import Rows

I64 = npt.NDArray[np.int64]
BETWEEN, BEFORE_ID, BEFORE_VALUE = "\x01", "\x02", "\x03"


class SparseFeatures:
    """The features of some rows, taken apart: feature f of row `row_F[f]` has a field, an id and a value."""

    def __init__(self, rows: Rows, column: str) -> None:
        """`column`: the lists. Raises InputError naming the line of a list that is none."""
        texts = rows.table.column(column).combine_chunks()
        lists = pc.split_pattern(texts, BETWEEN)
        self._rows = len(lists)
        self._row_F = np.repeat(np.arange(self._rows), pc.list_value_length(lists).to_numpy())
        pieces = lists.flatten()
        halves = pc.split_pattern(pieces, BEFORE_ID)
        self._check(rows, column, halves, 2)
        self._field = halves.flatten().take(pa.array(np.arange(0, 2 * len(pieces), 2))).dictionary_encode()
        numbers = pc.split_pattern(halves.flatten().take(pa.array(np.arange(1, 2 * len(pieces), 2))), BEFORE_VALUE)
        self._check(rows, column, numbers, 2)
        flat = numbers.flatten()
        ids, values = (flat.take(pa.array(np.arange(n, 2 * len(pieces), 2))) for n in (0, 1))
        self._check_numbers(rows, column, ids, r"^\d{1,18}$")
        self._check_numbers(rows, column, values, r"^-?\d+(\.\d+)?([eE][-+]?\d+)?$")
        self._id_F = ids.cast(pa.int64()).to_numpy()
        self._value_F = values.cast(pa.float32()).to_numpy()

    def _check(self, rows: Rows, column: str, lists: pa.ListArray, parts: int) -> None:
        self._refuse_first(rows, column, pc.equal(pc.list_value_length(lists), parts))

    def _check_numbers(self, rows: Rows, column: str, texts: pa.Array, pattern: str) -> None:
        self._refuse_first(rows, column, pc.match_substring_regex(texts, pattern))

    def _refuse_first(self, rows: Rows, column: str, holds: pa.Array) -> None:
        if not pc.all(holds, min_count=0).as_py():
            row = int(self._row_F[pc.index(holds, False).as_py()])
            rows.refuse(row, f"column '{column}': no list of FIELD\\x02ID\\x03VALUE, joined by \\x01")

    def counts(self) -> I64:
        """Features of each row."""
        return np.bincount(self._row_F, minlength=self._rows)

    def one(self, fields: Mapping[str, str]) -> tuple[dict[str, pa.Array], int]:
        """For each field, column name -> field: its id, null where it has none; the first where it has several.

        Also the number of ids that were left out so.
        """
        out, left = {}, 0
        for name, field in fields.items():
            at_F = self._at(field)
            row_U, first_U = np.unique(self._row_F[at_F], return_index=True)
            left += len(at_F) - len(row_U)
            id_N = np.zeros(self._rows, np.int64)
            id_N[row_U] = self._id_F[at_F[first_U]]
            none_N = np.ones(self._rows, bool)
            none_N[row_U] = False
            out[name] = pa.array(id_N, mask=none_N)
        return out, left

    def many(self, fields: Mapping[str, str], longest: int) -> tuple[dict[str, pa.Array], int]:
        """For each field its ids as lists, and under NAME_weight their values: the largest `longest`, largest first.

        Also the number of ids that were left out.
        """
        out, left = {}, 0
        for name, field in fields.items():
            at_F = self._at(field)
            row_F, value_F = self._row_F[at_F], self._value_F[at_F]
            order = np.lexsort((np.arange(len(at_F)), -value_F, row_F))
            length_N = np.bincount(row_F, minlength=self._rows)
            begin_N = np.cumsum(length_N) - length_N
            kept = order[np.arange(len(at_F)) - np.repeat(begin_N, length_N) < longest]
            left += len(at_F) - len(kept)
            offsets = np.concatenate([[0], np.cumsum(np.minimum(length_N, longest))]).astype(np.int32)
            out[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(self._id_F[at_F][kept]))
            out[f"{name}_weight"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(value_F[kept]))
        return out, left

    def fields(self) -> list[str]:
        """Every field there is."""
        return list(self._field.dictionary.to_pylist())

    def _at(self, field: str) -> I64:
        """Places of a field's features."""
        code = pc.index(self._field.dictionary, field).as_py()
        return np.flatnonzero(self._field.indices.to_numpy() == code) if code >= 0 else np.zeros(0, np.int64)
