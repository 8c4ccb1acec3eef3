"""Stage 3: a decoded Arrow batch -> checked, encoded Rows. No Python per row.

    id, string, bucket   a row of the table; the table's own last row where out of vocabulary
    ids                  lists of them, with float32 weights where the feature has some
    float                float32, transformed
    count, encoding      float32, from the statistics of earlier days (history_lookup.py)
    label, indicator     int8, 0 or 1
    regression label     float32, clipped; 0 outside of the rows it is trained on, which are not checked
    sample weight        float32; likewise

Everything a log may break is found here, where file, row group and column are known: a column is checked, then encoded.
A finding ends the run, or flags its rows (flags.py) and the batch is encoded once more without them: where nothing is
found, quarantine costs nothing. Rows that the pass does not read (holdout.py) go before anything is checked.

Shapes: N rows, M elements of all N lists of a column.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data import checks
from pipeline.data.checks import Finding, Where
from pipeline.data.flags import UNREAD, Flags
from pipeline.data.hashing import bucket_distinct, bucket_integers, bucket_strings
from pipeline.data.history_lookup import History, day_of
from pipeline.data.holdout import Holdout
from pipeline.data.quarantine import Piece, below_root
from pipeline.data.rows import MATRICES, Float32, Int8, Int32, Int64, Layout, Lists, Rows, Value
from pipeline.data.spaces import Spaces
from pipeline.data.vocabulary_lookup import StringLookup, lookups
from schemas.features import (
    BucketFeature,
    FloatFeature,
    HistoryFeature,
    HistoryListFeature,
    IdFeature,
    IdListFeature,
    ListFeature,
    StringFeature,
)
from schemas.job import JobConfig

MISSING_UNKNOWN = "write it without nulls, or set the feature's missing: unknown"
MISSING_NUMBER = "write it without nulls, or set the feature's missing: NUMBER"
TARGET = "the label of a regression task is a finite number"
WEIGHT = "a sample weight is a finite number, 0 or more,"
COUNTED_BOUNDARIES = 24
"""Up to here it is quicker to compare with each boundary than to search."""


class Encoder:
    """Checks and encodes one Arrow batch after another."""

    def __init__(
        self,
        job: JobConfig,
        flags: Flags | None = None,
        history: History | None = None,
        holdout: Holdout | None = None,
        labels: bool = True,
    ) -> None:
        """Without `labels` those of the tasks are not read, and stand at 0: for rows that are to be scored."""
        self.job, self._supervised = job, labels
        self.layout = Layout(job)
        self._lookups = lookups(job)
        self._flags, self._holdout = flags, holdout
        one_id: dict[type, Callable[[Any, pa.RecordBatch, Where, Int32], bool]] = {
            IdFeature: self._id,
            StringFeature: self._string,
            BucketFeature: self._bucket,
        }
        by_name = {f.name: f for f in job.features}
        self._ids = [(by_name[name], one_id[type(by_name[name])]) for name in self.layout.ids]
        self._numbers = [(at, f) for at, f in enumerate(job.dense) if isinstance(f, FloatFeature)]
        self._history = history
        self._of_history = [(at, f) for at, f in enumerate(job.dense) if isinstance(f, HistoryFeature)]
        assert history is not None or not job.history, "counts and target encodings need the days before"
        self._lists = [f for f in job.features if isinstance(f, ListFeature)]
        self._spaces = Spaces(job)

    def __call__(self, batch: pa.RecordBatch, row_ids: Int64, where: Where) -> Rows:
        """The encoded batch, its bad rows and those that are not read flagged; `where` goes into errors.

        Raises InputError for what is not under quarantine.
        """
        flag_N, kept_N, undrawn = -1 - row_ids, np.arange(batch.num_rows), self._holdout
        while True:
            try:
                if undrawn is None:
                    good = self._encoded(batch, row_ids[kept_N], where)
                    return good if len(kept_N) == len(row_ids) else _in_places(self.layout, good, flag_N, kept_N)
                self._found(undrawn.nulls(batch), where)
                out_N, undrawn = ~undrawn.read(batch, day_of(where.path)), None
                flag_N[kept_N[out_N]] -= UNREAD
            except _BadRows as bad:
                self._flag(bad.finding, row_ids[kept_N], where)
                out_N = bad.finding.bad_N
            if out_N.any():
                batch, kept_N = batch.filter(pa.array(~out_N)), kept_N[~out_N]
                where = dataclasses.replace(where, kept_N=kept_N)

    def _encoded(self, batch: pa.RecordBatch, row_ids: Int64, where: Where) -> Rows:
        """The encoded batch. Raises InputError, and _BadRows where rows are to be left out."""
        rows = Rows.empty(self.layout, batch.num_rows)
        rows.row_id_N[:] = row_ids
        unknown: set[str] = set()
        for (feature, encode), id_N in zip(self._ids, rows.id_IN, strict=True):
            if encode(feature, batch, where, id_N):
                unknown.add(feature.name)
        for at, number in self._numbers:
            self._float(number, batch, where, rows.number_FN[at])
        if self._history is not None and self._of_history:
            places, numbers = zip(*self._of_history, strict=True)
            for at, x_N in zip(places, self._history.numbers(numbers, batch, day_of(where.path)), strict=True):
                rows.number_FN[at] = x_N
        for feature in self._lists:
            if isinstance(feature, HistoryListFeature):
                rows.lists[feature.name], some = self._last(feature, batch, where)
            else:
                rows.lists[feature.name], some = self._list(feature, batch, where)
            if some:
                unknown.add(feature.name)
        if self._supervised:
            self._labels(batch, where, rows)
            if self.layout.values:
                self._values(batch, where, rows)
        else:
            for x_XN in (rows.label_TN, rows.indicator_JN, rows.value_VN):
                x_XN[:] = 0
        return dataclasses.replace(rows, unknown=frozenset(unknown))

    def _found(self, finding: Finding | None, where: Where) -> None:
        """What becomes of a finding: the log is refused, or the rows are left out."""
        if finding is not None:
            if self._flags is not None and finding.kind in self._flags.kinds:
                raise _BadRows(finding)
            finding.refuse(where)

    def _flag(self, finding: Finding, row_id_N: Int64, where: Where) -> None:
        assert self._flags is not None
        file = below_root(where.path)
        for count, row in enumerate(np.flatnonzero(finding.bad_N).tolist()):
            reason = finding.reason(row) if count < self._flags.most else "and many more"
            piece = Piece(file, where.group, where.number(row), 1, finding.kind, finding.column, reason)
            self._flags.row(int(row_id_N[row]), piece)

    def _rows(self, feature: IdFeature | ListFeature | StringFeature) -> int:
        return self.job.tables[feature.table_name].rows

    def _id(self, feature: IdFeature, batch: pa.RecordBatch, where: Where, out_N: Int32) -> bool:
        """Like every encoder of one id a row: fills `out_N` and says whether some may be out of vocabulary."""
        column = batch.column(feature.source)
        if not column.null_count:
            return self._to_rows(feature, _integers(column), out_N)
        if feature.missing == "error":
            self._found(checks.nulls(column, feature.source, MISSING_UNKNOWN), where)
        self._to_rows(feature, _integers(column.fill_null(0)), out_N)
        out_N[column.is_null().to_numpy(zero_copy_only=False)] = self._rows(feature)
        return True

    def _to_rows(self, feature: IdFeature | ListFeature, id_N: npt.NDArray[np.integer], out_N: Int32) -> bool:
        if not feature.vocabulary:
            return to_rows(id_N, self._rows(feature), feature.hash, out_N)
        out_N[:] = self._lookups[feature.name](id_N.astype(np.int64, copy=False))
        return True

    def _string(self, feature: StringFeature, batch: pa.RecordBatch, where: Where, out_N: Int32) -> bool:
        column, rows = batch.column(feature.source), self._rows(feature)
        lookup = self._lookups[feature.name] if feature.vocabulary else None
        if pa.types.is_dictionary(column.type) and len(column.dictionary) <= len(column):
            strings, indices = column.dictionary, column.indices
            row_D = lookup.distinct(strings) if isinstance(lookup, StringLookup) else bucket_distinct(strings, rows)
            if not indices.null_count and not (row_D < 0).any():
                np.take(row_D.astype(np.int32), indices.to_numpy(), out=out_N, mode="clip")
                return bool(feature.vocabulary)
        row_N = lookup(column) if isinstance(lookup, StringLookup) else bucket_strings(column, rows)
        null_N = row_N < 0
        some = bool(null_N.any())
        if some and feature.missing == "error":
            self._found(checks.null_strings(null_N, feature.source, MISSING_UNKNOWN), where)
        out_N[:] = np.where(null_N, rows, row_N)
        return some or bool(feature.vocabulary)

    def _bucket(self, feature: BucketFeature, batch: pa.RecordBatch, where: Where, out_N: Int32) -> bool:
        x_N = self._finite(feature, batch, where)
        if len(feature.boundaries) > COUNTED_BOUNDARIES:
            out_N[:] = np.searchsorted(feature.boundaries, x_N, side="right")
            return False
        count_N = np.zeros(len(x_N), np.int8)
        for boundary in feature.boundaries:
            count_N += x_N >= boundary
        out_N[:] = count_N
        return False

    def _float(
        self, feature: FloatFeature, batch: pa.RecordBatch, where: Where, out_N: npt.NDArray[np.float32]
    ) -> None:
        column = batch.column(feature.source)
        if pa.types.is_float32(column.type) and feature.transform == "none" and not column.null_count:
            x_N: npt.NDArray[np.floating] = column.to_numpy()
            if np.isfinite(x_N).all():
                out_N[:] = x_N
                return
        x_N = self._finite(feature, batch, where)
        y_N = x_N
        if feature.transform == "log1p":
            y_N = np.log1p(np.maximum(x_N, 0))
        elif feature.transform == "standardize":
            assert feature.mean is not None
            assert feature.std is not None
            y_N = (x_N - feature.mean) / feature.std
        with np.errstate(over="ignore"):
            out_N[:] = y_N
        self._found(checks.too_large(out_N, x_N, feature.source), where)

    def _finite(
        self, feature: FloatFeature | BucketFeature, batch: pa.RecordBatch, where: Where
    ) -> npt.NDArray[np.float64]:
        """The column in 64 bits, `missing` in place of null and NaN; an integer above 2^53 is rounded."""
        column = batch.column(feature.source)
        if feature.missing is not None:
            if pa.types.is_floating(column.type):
                column = pc.if_else(pc.is_nan(column), None, column)
            column = column.cast(pa.float64(), safe=False).fill_null(feature.missing)
        self._found(checks.nulls(column, feature.source, MISSING_NUMBER), where)
        x_N = column.to_numpy().astype(np.float64, copy=False)
        self._found(checks.not_finite(x_N, feature.source), where)
        return x_N

    def _list(self, feature: IdListFeature, batch: pa.RecordBatch, where: Where) -> tuple[Lists, bool]:
        """The lists, and whether some of their ids may be out of vocabulary."""
        offset_N, values = self._list_parts(batch.column(feature.source), feature.source, where)
        id_M = np.empty(len(values), np.int32)
        unknown = self._to_rows(feature, _integers(values), id_M)
        if not feature.weights:
            return Lists(offset_N, id_M, None), unknown
        weight_offset_N, weights = self._list_parts(batch.column(feature.weights), feature.weights, where)
        names = feature.source, feature.weights
        self._found(checks.unlike_lengths(offset_N, weight_offset_N, names), where)
        exact = weights if pa.types.is_float32(weights.type) else weights.cast(pa.float64(), safe=False)
        with np.errstate(over="ignore"):
            weight_M = exact.to_numpy().astype(np.float32)  # a copy: Arrow's memory may go
        self._found(checks.unfit_weights(weight_M, exact, offset_N, feature.weights), where)
        if feature.pooling == "mean":
            self._found(checks.negative_weights(weight_M, offset_N, feature.weights), where)
            weight_M = over_their_sum(weight_M, offset_N)
        return Lists(offset_N, id_M, weight_M), unknown

    def _last(self, feature: HistoryListFeature, batch: pa.RecordBatch, where: Where) -> tuple[Lists, bool]:
        """The lists of earlier days' values, and whether some may be out of vocabulary."""
        assert self._history is not None
        offset_N, value_M = self._history.lists(feature, batch, day_of(where.path))
        id_M = np.empty(len(value_M), np.int32)
        unknown = self._to_rows(feature, value_M, id_M)
        return Lists(offset_N.astype(np.int32), id_M, None), unknown

    def _list_parts(self, column: pa.Array, name: str, where: Where) -> tuple[Int32, pa.Array]:
        """Offsets from 0 and the flat values of a list column."""
        self._found(checks.null_lists(column, name), where)
        offset_N = column.offsets.to_numpy()
        return (offset_N - offset_N[0]).astype(np.int32, copy=False), column.flatten()

    def _labels(self, batch: pa.RecordBatch, where: Where, rows: Rows) -> None:
        tasks, exposed_TN = self.job.tasks, None
        for task, label_N in zip(tasks, rows.label_TN, strict=True):
            if task.kind == "binary":
                self._zero_or_one(batch, where, task.source, "label", label_N)
            else:
                label_N[:] = 0
        if self.layout.indicators:
            columns = [task.indicator for task in tasks if task.indicator]
            for name, indicator_N in zip(columns, rows.indicator_JN, strict=True):
                self._zero_or_one(batch, where, name, "indicator", indicator_N)
            exposed_TN = self._spaces.exposed(rows.indicator_JN)
        if self.job.data.funnel in ("error", "quarantine"):
            for child, parent in enumerate(self.job.parents):
                if parent is not None:
                    names = tasks[child].source, tasks[parent].source
                    child_N = rows.label_TN[child] if exposed_TN is None else rows.label_TN[child] & exposed_TN[child]
                    self._found(checks.broken_funnel(child_N, rows.label_TN[parent], *names), where)

    def _zero_or_one(self, batch: pa.RecordBatch, where: Where, name: str, what: str, out_N: Int8) -> None:
        column = batch.column(name)
        article = "an" if what == "indicator" else "a"
        self._found(checks.nulls(column, name, f"{article} {what} is 0 or 1 on every row", "labels"), where)
        given_N = column.cast(pa.int8()).to_numpy() if pa.types.is_boolean(column.type) else column.to_numpy()
        self._found(checks.not_labels(given_N, name, what), where)
        out_N[:] = given_N

    def _values(self, batch: pa.RecordBatch, where: Where, rows: Rows) -> None:
        """Fills in the regression labels and sample weights; `rows` has its labels and indicators."""
        # as the collator will find them: what is promoted there is promoted in a copy here
        label_TN, exposed_TN = rows.label_TN.copy(), self._spaces.exposed(rows.indicator_JN)
        self._spaces.funnel(label_TN, exposed_TN)
        own_TN = self._spaces.own(label_TN, exposed_TN)
        trained_TN = self._spaces.trained(label_TN, rows.indicator_JN, exposed_TN, own_TN)
        for value, out_N in zip(self.layout.values, rows.value_VN, strict=True):
            self._value(value, batch.column(value.column), trained_TN[value.task] != 0, where, out_N)

    def _value(
        self, value: Value, column: pa.Array, trained_N: npt.NDArray[np.bool_], where: Where, out_N: Float32
    ) -> None:
        task = self.job.tasks[value.task]
        what, kind = (WEIGHT, "values") if value.weight else (TARGET, "labels")
        remedy = f"{what} on every row that task '{task.name}' is trained on"
        self._found(checks.nulls(column, value.column, remedy, kind, trained_N), where)
        x_N = column.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
        if value.weight:
            self._found(checks.not_weights(x_N, trained_N, value.column), where)
        else:
            self._found(checks.not_targets(x_N, trained_N, value.column), where)
            x_N = x_N if task.clip is None else np.clip(x_N, *task.clip)
        with np.errstate(over="ignore"):
            out_N[:] = np.where(trained_N, x_N, 0)
        if not value.weight:
            self._found(checks.too_large(out_N, x_N, value.column, "set the task's clip", "labels"), where)


class _BadRows(Exception):  # noqa: N818 - found, and no error
    """Rows that are to be left out."""

    def __init__(self, finding: Finding) -> None:
        super().__init__()
        self.finding = finding


def _in_places(layout: Layout, good: Rows, flag_N: Int64, kept_N: Int64) -> Rows:
    """The good rows in their places `kept_N`, the others under their flags."""
    rows = Rows.lost(layout, np.arange(len(flag_N)))
    rows.row_id_N[:] = flag_N
    rows.row_id_N[kept_N] = good.row_id_N
    for name in MATRICES:
        getattr(rows, name)[:, kept_N] = getattr(good, name)
    for name, lists in good.lists.items():
        length_N = np.zeros(len(flag_N), np.int32)
        length_N[kept_N] = np.diff(lists.offset_N)
        offset_N = np.zeros(len(flag_N) + 1, np.int32)
        np.cumsum(length_N, out=offset_N[1:])
        rows.lists[name] = dataclasses.replace(lists, offset_N=offset_N)
    return dataclasses.replace(rows, unknown=good.unknown)


def to_rows(id_N: npt.NDArray[np.integer], rows: int, hashed: bool, out_N: Int32) -> bool:
    """Fills `out_N` with the ids' table rows: `rows` for those outside 0 .. rows - 1. Returns whether there are any."""
    if hashed:
        out_N[:] = bucket_integers(id_N.astype(np.int64, copy=False), rows)
        return False
    # unsigned, a negative id is a large one as well
    unsigned_N = id_N.view(f"u{id_N.itemsize}")
    if not unsigned_N.size or unsigned_N.max() < rows:
        np.copyto(out_N, id_N, casting="unsafe")
        return False
    np.copyto(out_N, np.minimum(unsigned_N, unsigned_N.dtype.type(rows)), casting="unsafe")
    return True


def _integers(column: pa.Array) -> npt.NDArray[np.integer]:
    """The column's memory, in 32 or 64 bits: enough for `to_rows` to tell a negative id from one of a table."""
    if column.type.bit_width < 32:
        column = column.cast(pa.int64())
    return column.to_numpy()


def over_their_sum(weight_M: npt.NDArray[np.float32], offset_N: Int32) -> npt.NDArray[np.float32]:
    """Each weight over the sum of its list, so that a sum of weighted rows is their weighted mean."""
    length_N = np.diff(offset_N)
    filled_N = length_N > 0
    exact_M = weight_M.astype(np.float64)
    sum_N = np.add.reduceat(exact_M, offset_N[:-1][filled_N]) if len(weight_M) else np.empty(0)
    # a list whose weights are all 0 pools to zeros, like an empty one
    total_M = np.repeat(np.where(sum_N > 0, sum_N, 1.0), length_N[filled_N])
    return np.divide(exact_M, total_M, out=total_M).astype(np.float32)
