"""What is measured: a model's predictions, the lists they belong to, and the slices of their rows.

Shapes: N rows, T tasks.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.contract import any_need, check_columns
from pipeline.data.footers import read_footer
from pipeline.data.manifest import Manifest
from pipeline.gate.rows import arrow_of_rows, column_of_rows
from pipeline.predictions import Predictions, read_predictions
from pipeline.storage import filesystem
from pipeline.train.scoring import ToScore
from schemas.errors import InputError
from schemas.fusion import FusionFactor
from schemas.job import JobConfig

Mask = npt.NDArray[np.bool_]
OTHERS, NULL = "(others)", "(null)"


@dataclasses.dataclass(frozen=True)
class Slice:
    """Rows that share a value."""

    value: str
    mask_N: Mask


def check_keys(job: JobConfig, manifest: Manifest, columns: dict[str, str], numbers: bool = False) -> None:
    """Raises InputError, naming the configuration's key, where the log lacks one of its columns: keys, or numbers.

    Of the first file alone: before hours of scoring, not instead of reading them.
    """
    fs, _ = filesystem(job.data.path, job.data.storage)
    group = manifest.groups[0]
    schema = read_footer(fs, group.path, group.file_bytes).metadata.schema.to_arrow_schema()
    for key, column in columns.items():
        check_columns([any_need(column, f"which {key} names")], schema, group.path)
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if numbers and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            continue
        if numbers:
            raise InputError(f"{key}: column '{column}' holds {kind} where a number belongs ({group.path})")
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(
                f"{key}: column '{column}' holds {kind} where an integer or a string belongs ({group.path}); name "
                "another column"
            )


def predictions_of(model: ToScore, out: str) -> Predictions:
    """What the scoring wrote of each row, tasks in the order of the model's."""
    return read_predictions(out, model.name)


def list_codes(model: ToScore, column: str, row_N: npt.NDArray[np.int64], key: str) -> npt.NDArray[np.int64]:
    """Which list each row belongs to, numbered from 0 in the order of their first rows."""
    values = arrow_of_rows(model.job, model.rows, column, row_N, key)
    if values.null_count:
        column_of_rows(model.job, model.rows, column, row_N, key)  # which says where
    return pc.dictionary_encode(values).indices.to_numpy().astype(np.int64)


def slices_of(
    model: ToScore, column: str, row_N: npt.NDArray[np.int64], most: int, key: str = "evaluate.slices"
) -> list[Slice]:
    """A slice for each of the column's most frequent values, equals in the order of the values; the others together."""
    values = arrow_of_rows(model.job, model.rows, column, row_N, key)
    counts = pc.value_counts(values.drop_null())
    table = pa.table({"value": counts.field("values"), "count": counts.field("counts")})
    frequent = table.sort_by([("count", "descending"), ("value", "ascending")]).column("value")[:most]
    left_N = np.ones(len(row_N), np.bool_)
    out = []
    for value in frequent:
        mask_N = pc.fill_null(pc.equal(values, value), False).to_numpy(zero_copy_only=False)
        out.append(Slice(str(value.as_py()), mask_N))
        left_N &= ~mask_N
    null_N = values.is_null().to_numpy(zero_copy_only=False)
    for name, mask_N in ((OTHERS, left_N & ~null_N), (NULL, null_N)):
        if mask_N.any():
            out.append(Slice(name, mask_N))
    return out


def number_column(model: ToScore, factor: FusionFactor, row_N: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The numbers that a fused score's factor reads of these rows. Raises InputError where one is missing."""
    column = arrow_of_rows(model.job, model.rows, factor.column, row_N, "fusion.factor.column", numbers=True)
    if factor.missing is not None:
        column = pc.if_else(pc.is_nan(column), None, column).fill_null(factor.missing)
    x_N: npt.NDArray[np.float64] = column.fill_null(np.nan).to_numpy(zero_copy_only=False)
    if not np.isfinite(x_N).all():
        row = int(row_N[int(np.argmin(np.isfinite(x_N)))])
        raise InputError(
            f"fusion.factor.column: '{factor.column}' is null or not finite on row {row:,} of the days, and the fused "
            "score needs a number; set fusion.factor.missing, or mend the log"
        )
    return x_N
