"""Stage 3: a decoded Arrow batch -> checked, encoded columns, one a feature and one a label. No torch.

    id, string, bucket   int64, a row of the table; the table's own last row where out of vocabulary
    ids                  list<int64>; `<name>/weight` list<float32> beside it where the feature has weights
    float                float32, transformed
    label                `label/<task>` int8
    `row/id`             int64, the global row id

Everything a log may break is found here, where file, row group and column are known.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.hashing import bucket_integers, bucket_strings
from schemas.errors import InputError
from schemas.features import BucketFeature, FeatureSpec, FloatFeature, IdFeature, IdListFeature, StringFeature
from schemas.job import JobConfig

ROW_ID = "row/id"
Int64 = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Where:
    """A place in the log, for error messages."""

    path: str
    group: int
    first: int
    """Row of the row group at which the batch begins."""

    def __str__(self) -> str:
        return f"{self.path}, row group {self.group}"

    def row(self, index: int) -> str:
        """The row group's row that stands at `index` of the batch."""
        return f"row {self.first + index}"


def label_key(task: str) -> str:
    """Column of a task's label in an encoded batch."""
    return f"label/{task}"


def weight_key(feature: str) -> str:
    """Column of a list feature's weights in an encoded batch."""
    return f"{feature}/weight"


class Encoder:
    """Checks and encodes one Arrow batch after another."""

    def __init__(self, job: JobConfig) -> None:
        self.job = job
        self.schema = _schema(job)
        self._encode: dict[type, Callable[[Any, pa.RecordBatch, Where], list[tuple[str, pa.Array]]]] = {
            IdFeature: self._id,
            IdListFeature: self._ids,
            StringFeature: self._string,
            FloatFeature: self._float,
            BucketFeature: self._bucket,
        }

    def __call__(self, batch: pa.RecordBatch, row_ids: Int64, where: Where) -> pa.RecordBatch:
        """The encoded batch; `where` (file and row group) goes into errors. Raises InputError."""
        columns: list[tuple[str, pa.Array]] = [(ROW_ID, pa.array(row_ids))]
        for feature in self.job.features:
            columns += self._encode[type(feature)](feature, batch, where)
        columns += self._labels(batch, where)
        by_name = dict(columns)
        return pa.RecordBatch.from_arrays([by_name[name] for name in self.schema.names], schema=self.schema)

    def _rows(self, feature: FeatureSpec) -> int:
        assert not isinstance(feature, FloatFeature)
        return self.job.tables[feature.table_name].rows

    def _id(self, feature: IdFeature, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        column = batch.column(feature.source)
        missing_N = None
        if column.null_count:
            if feature.missing == "error":
                raise _null(feature.source, where, "write it without nulls, or set the feature's missing: unknown")
            missing_N = column.is_null().to_numpy(zero_copy_only=False)
            column = column.fill_null(0)
        id_N = self._to_rows(feature, _integers(column))
        if missing_N is not None:
            id_N = np.where(missing_N, self._rows(feature), id_N)
        return [(feature.name, pa.array(id_N))]

    def _to_rows(self, feature: IdFeature | IdListFeature, id_N: Int64) -> Int64:
        rows = self._rows(feature)
        if feature.hash:
            return bucket_integers(id_N, rows)
        # unsigned, a negative id is a large one as well
        return np.minimum(id_N.view(np.uint64), np.uint64(rows)).view(np.int64)

    def _ids(self, feature: IdListFeature, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        offsets, values = _list_parts(batch.column(feature.source), feature.source, where)
        id_M = self._to_rows(feature, _integers(values))
        out = [(feature.name, pa.ListArray.from_arrays(pa.array(offsets), pa.array(id_M), _list(pa.int64())))]
        if feature.weights:
            weight_offsets, weights = _list_parts(batch.column(feature.weights), feature.weights, where)
            if not np.array_equal(offsets, weight_offsets):
                row = int(np.flatnonzero(np.diff(offsets) != np.diff(weight_offsets))[0])
                raise InputError(
                    f"{where}: {where.row(row)} has lists of unlike lengths in '{feature.source}' and "
                    f"'{feature.weights}'; write one weight an id"
                )
            weight_M = _finite_weights(weights, offsets, feature.weights, where)
            if feature.pooling == "mean":
                weight_M = _divide_by_sum(weight_M, offsets, feature.weights, where)
            out.append(
                (
                    weight_key(feature.name),
                    pa.ListArray.from_arrays(pa.array(offsets), pa.array(weight_M), _list(pa.float32())),
                )
            )
        return out

    def _string(self, feature: StringFeature, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        row_N = bucket_strings(batch.column(feature.source), self._rows(feature))
        if feature.missing == "error" and (row_N < 0).any():
            raise _null(feature.source, where, "write it without nulls, or set the feature's missing: unknown")
        return [(feature.name, pa.array(np.where(row_N < 0, self._rows(feature), row_N)))]

    def _float(self, feature: FloatFeature, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        x_N = _numbers(feature, batch, where)
        out_N = x_N
        if feature.transform == "log1p":
            out_N = np.log1p(np.maximum(x_N, 0))
        elif feature.transform == "standardize":
            assert feature.mean is not None
            assert feature.std is not None
            out_N = (x_N - feature.mean) / feature.std
        dense_N = _float32(out_N)
        if not np.isfinite(dense_N).all():
            row = int(np.argmin(np.isfinite(dense_N)))
            raise InputError(
                f"{where}: column '{feature.source}' holds {x_N[row]} ({where.row(row)}), too large for 32 bits; "
                "mend the log, or choose a transform that brings it into range"
            )
        return [(feature.name, pa.array(dense_N))]

    def _bucket(self, feature: BucketFeature, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        x_N = _numbers(feature, batch, where)
        return [(feature.name, pa.array(np.searchsorted(feature.boundaries, x_N, side="right").astype(np.int64)))]

    def _labels(self, batch: pa.RecordBatch, where: Where) -> list[tuple[str, pa.Array]]:
        labels = [_label(batch.column(task.source), task.source, where) for task in self.job.tasks]
        if self.job.data.funnel == "error":
            for child, parent in enumerate(self.job.parents):
                if parent is not None:
                    self._check_funnel(child, parent, labels, where)
        return [(label_key(t.name), pa.array(label_N)) for t, label_N in zip(self.job.tasks, labels, strict=True)]

    def _check_funnel(self, child: int, parent: int, labels: list[npt.NDArray[np.int8]], where: Where) -> None:
        broken_N = labels[child] > labels[parent]
        count = int(np.count_nonzero(broken_N))
        if count:
            names = self.job.tasks[child].source, self.job.tasks[parent].source
            have = "row has" if count == 1 else "rows have"
            raise InputError(
                f"{where}: {count} {have} '{names[0]}' = 1 and '{names[1]}' = 0, the first is "
                f"{where.row(int(np.argmax(broken_N)))}; mend the log, or set data.funnel to drop or promote"
            )


def _schema(job: JobConfig) -> pa.Schema:
    """The columns of an encoded batch, none of them nullable."""
    kinds: list[tuple[str, pa.DataType]] = [(ROW_ID, pa.int64())]
    for feature in job.features:
        if isinstance(feature, IdListFeature):
            kinds.append((feature.name, _list(pa.int64())))
            if feature.weights:
                kinds.append((weight_key(feature.name), _list(pa.float32())))
        else:
            kinds.append((feature.name, pa.float32() if isinstance(feature, FloatFeature) else pa.int64()))
    kinds += [(label_key(task.name), pa.int8()) for task in job.tasks]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds])


def _list(element: pa.DataType) -> pa.ListType:
    return pa.list_(pa.field("item", element, nullable=False))


def _null(column: str, where: Where, remedy: str) -> InputError:
    return InputError(f"{where}: column '{column}' holds nulls; {remedy}")


def _integers(column: pa.Array) -> Int64:
    if column.type == pa.uint64():
        return column.to_numpy().view(np.int64)  # 2^63 and above become negative: out of vocabulary or hashed
    return column.cast(pa.int64()).to_numpy()


def _list_parts(column: pa.Array, name: str, where: Where) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Offsets from 0 and the flat values of a list column; refuses nulls of both kinds."""
    values = column.flatten()
    if column.null_count or values.null_count:
        raise _null(name, where, "write an empty list for a row without ids, and no null inside a list")
    offsets = column.offsets.to_numpy()
    return (offsets - offsets[0]).astype(np.int32), values


def _float32(x_N: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """The numbers in 32 bits, infinite where they do not fit."""
    with np.errstate(over="ignore"):
        return x_N.astype(np.float32, copy=False)


def _numbers(feature: FloatFeature | BucketFeature, batch: pa.RecordBatch, where: Where) -> npt.NDArray[np.float64]:
    column = batch.column(feature.source)
    if feature.missing is not None:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        column = column.cast(pa.float64(), safe=False).fill_null(feature.missing)
    elif column.null_count:
        raise _null(feature.source, where, "write it without nulls, or set the feature's missing: NUMBER")
    x_N = column.cast(pa.float64(), safe=False).to_numpy()  # an integer above 2^53 is rounded
    if not np.isfinite(x_N).all():
        row = int(np.argmin(np.isfinite(x_N)))
        raise InputError(
            f"{where}: column '{feature.source}' holds {x_N[row]} ({where.row(row)}); "
            "write finite numbers, or say what NaN stands for with the feature's missing: NUMBER"
        )
    return x_N


def _label(column: pa.Array, name: str, where: Where) -> npt.NDArray[np.int8]:
    if column.null_count:
        raise _null(name, where, "a label is 0 or 1 on every row")
    if not pa.types.is_boolean(column.type):
        low, high = pc.min_max(column).values()
        bad = high if high.as_py() > 1 else low
        if bad.as_py() not in (0, 1):
            row = pc.index(column, bad).as_py()
            raise InputError(f"{where}: label '{name}' holds {bad} ({where.row(row)}); a label is 0 or 1, mend the log")
    return column.cast(pa.int8()).to_numpy()


def _finite_weights(
    column: pa.Array, offsets: npt.NDArray[np.int32], name: str, where: Where
) -> npt.NDArray[np.float32]:
    """A list column's flat weights in 32 bits; refuses what does not fit them."""
    exact = column if pa.types.is_float32(column.type) else column.cast(pa.float64(), safe=False)
    weight_M = _float32(exact.to_numpy())
    finite_M = np.isfinite(weight_M)
    if not finite_M.all():
        element = int(np.argmin(finite_M))
        row = int(np.searchsorted(offsets, element, side="right")) - 1
        raise InputError(
            f"{where}: column '{name}' holds {exact[element].as_py()} ({where.row(row)}); "
            "write finite weights that fit 32 bits"
        )
    return weight_M


def _divide_by_sum(
    weight_M: npt.NDArray[np.float32], offsets: npt.NDArray[np.int32], name: str, where: Where
) -> npt.NDArray[np.float32]:
    """Each weight over the sum of its list, so that a sum of weighted rows is their weighted mean."""
    if (weight_M < 0).any():
        raise InputError(f"{where}: column '{name}' holds negative weights; pooling: mean needs weights >= 0")
    length_N = np.diff(offsets)
    row_M = np.repeat(np.arange(len(length_N)), length_N)
    total_N = np.bincount(row_M, weights=weight_M, minlength=len(length_N))
    # a list whose weights are all 0 pools to zeros, like an empty one
    total_M = np.repeat(np.where(total_N > 0, total_N, 1.0), length_N)
    return np.divide(weight_M, total_M, out=total_M).astype(np.float32)
