"""Columns of a pyarrow Table. The one file that imports pyarrow: whoever scores mappings needs none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import LIST, Column, Lists, large, told
from .errors import FieldError


def column_of(table: Any, field: Mapping[str, Any]) -> Column | Lists:
    """The field's column. Raises FieldError where it is missing, or of another type."""
    name, kind = field["name"], field["type"]
    if table.schema.names.count(name) != 1:
        there = "stands there twice" if name in table.schema.names else "is missing"
        raise FieldError(name, None, f"{there}; the model reads it as {told(kind)}")
    column = table.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunk, in older versions
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not kind.startswith(LIST):
        return _plain(name, kind, column)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise FieldError(name, None, f"is of type {column.type}; it must be {told(kind)}")
    # not by offsets: a null list may span elements, which `flatten` leaves out
    length_N = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    offset_N = np.concatenate([[0], np.cumsum(length_N)])
    return Lists(offset_N, _plain(name, kind.removeprefix(LIST), column.flatten()), _nulls(column))


def _plain(name: str, kind: str, column: Any) -> Column:
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    integer, floating = pa.types.is_integer(found), pa.types.is_floating(found)
    text = pa.types.is_string(found) or pa.types.is_large_string(found)
    if not {"integer": integer, "number": integer or floating, "string": text}[kind]:
        raise FieldError(name, None, f"is of type {column.type}; it must be {told(kind)}")
    null_N = _nulls(column)
    if kind == "string":
        coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        if len(coded.dictionary) > len(coded):  # of a whole row group: what these rows do not use is not looked up
            coded = coded.dictionary_decode().dictionary_encode()
        distinct = coded.dictionary.cast(pa.large_binary()).to_pylist()
        if coded.dictionary.null_count:  # rows may point at a null of the dictionary
            null_N = null_N | pc.fill_null(pc.take(coded.dictionary.is_null(), coded.indices), True).to_numpy(
                zero_copy_only=False
            )
        at_N = coded.indices.cast(pa.int64()).fill_null(len(distinct)).to_numpy()
        return Column(kind, [b"" if value is None else value for value in [*distinct, None]], null_N, at_N)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
        null_N = _nulls(column)
    filled = column.fill_null(0) if column.null_count else column
    if kind == "number":
        x_N = filled.cast(pa.float64(), safe=False).to_numpy()
        return Column(kind, x_N, null_N | np.isnan(x_N))
    if filled.type == pa.uint64():
        x_N = filled.to_numpy()
        return Column(kind, x_N.view(np.int64), null_N, large_N=large(x_N))
    return Column(kind, filled.cast(pa.int64()).to_numpy(), null_N)


def _nulls(column: Any) -> Any:
    if not column.null_count:
        return np.zeros(len(column), np.bool_)
    return column.is_null().to_numpy(zero_copy_only=False)
