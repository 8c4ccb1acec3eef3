"""Values of a column, or of several crossed, -> 64-bit keys of their statistics. No torch, no Python per value.

An integer is its own key. Strings and crosses are hashed to 64 bits: of 10 million, two share a key with a probability
of 3 in a million. A null is a value of its own, and stands beside the least integer, -2^63.

Shapes: N rows, M elements of all N lists of a column.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipeline.data.hashing import fnv1a, mix, through_dictionary
from pipeline.data.vocabulary_file import signed

Int64 = npt.NDArray[np.int64]
NULL = -(2**63)
CROSS = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd: a cross depends on the order of its columns."""


class Keys(NamedTuple):
    """The keys of N rows."""

    key_M: Int64
    row_M: Int64 | None
    """The row of each; None where each row has one."""


def keys_of(batch: pa.RecordBatch, columns: tuple[str, ...]) -> Keys:
    """The keys of the columns' values: of one column, a list has any number of them."""
    first = batch.column(columns[0])
    if len(columns) == 1:
        if pt.is_list(first.type) or pt.is_large_list(first.type):
            # not by offsets: a null list may span elements, which `flatten` leaves out
            length_N = pc.fill_null(pc.list_value_length(first), 0).to_numpy().astype(np.int64, copy=False)
            return Keys(_keys(first.flatten()), np.repeat(np.arange(len(first)), length_N))
        return Keys(_keys(first), None)
    key_N = mix(_keys(first).view(np.uint64))
    for column in columns[1:]:
        key_N = mix(key_N * CROSS + _keys(batch.column(column)).view(np.uint64))
    return Keys(key_N.view(np.int64), None)


def _keys(values: pa.Array) -> Int64:
    if pt.is_integer(values.type):
        key_N = signed(values.fill_null(0) if values.null_count else values)
        if values.null_count:
            key_N = np.where(values.is_null().to_numpy(zero_copy_only=False), np.int64(NULL), key_N)
        return key_N
    key_N = through_dictionary(values, lambda strings: mix(fnv1a(strings)).view(np.int64))
    key_N[key_N == -1] = NULL
    return key_N
