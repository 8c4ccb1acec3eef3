"""Single columns of a manifest's rows, in the bounded memory of a row group. No torch.

A row's id is its place in the manifest, so the row groups say where it lies.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from pipeline.data.manifest import Manifest, RowGroup
from pipeline.data.order import Order, Stretch
from pipeline.data.reader import Lost, read_stretches
from pipeline.data.source import Source
from pipeline.storage import filesystem
from schemas.errors import InputError
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]
KEY = "daily.gate"


def column_of_rows(job: JobConfig, manifest: Manifest, column: str, row_N: Int64, key: str = KEY) -> npt.NDArray[Any]:
    """Values of one integer or string column on these rows of the manifest, ascending: int64, or str objects.

    `key` is the configuration's that asks for it. Raises InputError for a column that is missing, of another type or
    null, and for rows that the manifest does not hold.
    """
    values = arrow_of_rows(job, manifest, column, row_N, key)
    if values.null_count:
        first = int(row_N[int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))])
        group = _group_of(manifest, first)
        raise InputError(
            f"{group.where}, row {first - group.first_row}: column '{column}' ({key}) is null; write it with a value "
            "on every row"
        )
    if pt.is_integer(values.type):
        return values.to_numpy(zero_copy_only=False)
    return values.to_numpy(zero_copy_only=False).astype(object)


def arrow_of_rows(
    job: JobConfig, manifest: Manifest, column: str, row_N: Int64, key: str, numbers: bool = False
) -> pa.Array:
    """As `column_of_rows`, as int64 or large_string, with nulls; where `numbers` are asked for, as float64."""
    if len(row_N) and (int(row_N[-1]) >= manifest.rows or int(row_N[0]) < 0 or (np.diff(row_N) <= 0).any()):
        raise InputError(
            f"predictions: their rows {row_N[0]:,} to {row_N[-1]:,} do not ascend within the {manifest.rows:,} of the "
            "manifest; score the models on the day's frozen manifest"
        )
    rows_G = np.array([group.rows for group in manifest.groups], np.int64)
    first_G = np.cumsum(rows_G) - rows_G
    begin_G = np.searchsorted(row_N, first_G)
    end_G = np.append(begin_G[1:], len(row_N))
    stretches = []
    for at in np.flatnonzero(end_G > begin_G).tolist():
        group, inside_N = manifest.groups[at], row_N[begin_G[at] : end_G[at]] - first_G[at]
        stretches.append(Stretch(group, int(inside_N[0]), int(inside_N[-1]) + 1))
    out: list[pa.Array] = []
    for stretch, begin, values in columns_of(job, stretches, column, key, lenient=False, numbers=numbers):
        first = stretch.group.first_row + begin
        a, b = np.searchsorted(row_N, [first, first + len(values)])
        out.append(values.take(pa.array(row_N[a:b] - first)))
    if not out:
        return pa.array([], pa.int64())
    return pa.concat_arrays(out)


def columns_of(
    job: JobConfig, stretches: Sequence[Stretch], column: str, key: str, lenient: bool, numbers: bool = False
) -> Iterator[tuple[Stretch, int, pa.Array]]:
    """The column's values of some stretches, each batch with its first row in the row group; checksums verified.

    With `lenient`, what cannot be decoded is passed over, as training leaves it out.
    """
    source = Source(
        fs=filesystem(job.data.path, job.data.storage)[0],
        lanes=[list(stretches)],
        columns=[column],
        texts=[],
        order=Order((sum(stretch.rows for stretch in stretches),), 1),
        shuffle=None,
        epoch=0,
        storage=job.data.storage,
        lenient=lenient,
    )
    kind: pa.DataType | None = None
    try:
        for stretch, begin, batch in read_stretches(source, stretches):
            if isinstance(batch, Lost):
                continue
            values = (
                batch.column(0).cast(pa.float64(), safe=False)
                if numbers
                else _keyed(batch.column(0), column, stretch.group, key)
            )
            if kind is not None and values.type != kind:
                raise InputError(
                    f"{stretch.group.path}: column '{column}' holds {values.type}, other files hold {kind}; "
                    "write them alike"
                )
            kind = values.type
            yield stretch, begin, values
    except InputError as error:
        if key in str(error):
            raise
        raise InputError(f"{key}: {error}") from error


def stretches_of(manifest: Manifest) -> list[Stretch]:
    """All rows of the manifest."""
    return [Stretch(group, 0, group.rows) for group in manifest.groups]


def _keyed(values: pa.Array, column: str, group: RowGroup, key: str) -> pa.Array:
    """As int64 or large_string."""
    if pt.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pt.is_string(values.type) or pt.is_large_string(values.type):
        return values.cast(pa.large_string())
    if pt.is_uint64(values.type):  # its bits: values are told apart, not ordered
        return values.view(pa.int64())
    if pt.is_integer(values.type):
        return values.cast(pa.int64())
    raise InputError(
        f"{group.path}: column '{column}' ({key}) holds {values.type} where an integer or a string belongs; name "
        "another column"
    )


def _group_of(manifest: Manifest, row: int) -> RowGroup:
    return next(group for group in manifest.groups if group.first_row <= row < group.first_row + group.rows)
