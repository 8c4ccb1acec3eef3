"""What training would refuse of a log, column by column, counted instead of refused. No torch.

The same checks as the encoder's (pipeline/data/checks.py), each on the whole batch, whatever the others find.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data import checks
from pipeline.data.checks import Finding, Where
from pipeline.data.quarantine import below_root
from pipeline.profile.targets import Mask
from schemas.features import BucketFeature, FloatFeature, IdFeature, IdListFeature, LookingBack, StringFeature
from schemas.job import JobConfig
from schemas.tasks import TaskSpec

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclasses.dataclass
class Refused:
    """One thing that is wrong with one column."""

    column: str
    feature: str
    """The feature or task that reads it so."""
    kind: str
    """labels or values: the setting of data.bad that leaves such rows out."""
    rows: int
    first: str
    """File, row group, row and value of the first."""


class Refusals:
    """Counts what training would refuse."""

    def __init__(self, job: JobConfig) -> None:
        self._job = job
        self._found: dict[tuple[str, str, str, int], Refused] = {}

    @property
    def found(self) -> list[Refused]:
        """Everything so far, in the order in which it was met."""
        return list(self._found.values())

    def add(self, batch: pa.RecordBatch, trained_TN: Mask, where: Where) -> None:
        """Checks one batch; `trained_TN` says which rows each task is trained on."""
        for feature in self._job.features:
            if isinstance(feature, LookingBack):
                continue  # takes any value, null too
            for number, check in enumerate(_checks(feature, batch)):
                self._count(check(), feature.name, number, where)
        for task, trained_N in zip(self._job.tasks, trained_TN, strict=True):
            for number, check in enumerate(_task_checks(task, batch, trained_N)):
                self._count(check(), task.name, number, where)

    def _count(self, finding: Finding | None, feature: str, number: int, where: Where) -> None:
        if finding is None:
            return
        rows = int(np.count_nonzero(finding.bad_N))
        key = feature, finding.column, finding.kind, number
        if key not in self._found:
            row = int(np.argmax(finding.bad_N))
            first = f"{below_root(where.path)}, row group {where.group}, {where.row(row)}: {finding.reason(row)}"
            self._found[key] = Refused(finding.column, feature, finding.kind, 0, first)
        self._found[key].rows += rows


Check = Callable[[], Finding | None]
Feature = IdFeature | IdListFeature | StringFeature | FloatFeature | BucketFeature


def _checks(feature: Feature, batch: pa.RecordBatch) -> list[Check]:
    """What a feature's columns must pass."""
    column, name = batch.column(feature.source), feature.source
    if isinstance(feature, IdFeature | StringFeature):
        if feature.missing == "unknown":
            return []
        return [lambda: checks.nulls(column, name, "")]
    if isinstance(feature, IdListFeature):
        return _list_checks(feature, batch)
    given = feature.missing is not None
    return [
        lambda: None if given else checks.nulls(column, name, ""),
        lambda: _not_finite(column, name, given),
        lambda: _too_large(feature, column),
    ]


def _list_checks(feature: IdListFeature, batch: pa.RecordBatch) -> list[Check]:
    column = batch.column(feature.source)
    if not feature.weights:
        return [lambda: checks.null_lists(column, feature.source)]
    weights, name = batch.column(feature.weights), feature.weights
    offset_N, weight_offset_N = _offsets(column), _offsets(weights)

    def numbers() -> tuple[npt.NDArray[np.float32], pa.Array]:
        exact = weights.flatten()
        exact = exact if pa.types.is_float32(exact.type) else exact.cast(pa.float64(), safe=False)
        with np.errstate(over="ignore"):
            return exact.fill_null(0).to_numpy().astype(np.float32, copy=False), exact

    weight_M, exact = numbers()
    return [
        lambda: checks.null_lists(column, feature.source),
        lambda: checks.null_lists(weights, name),
        lambda: checks.unlike_lengths(offset_N, weight_offset_N, (feature.source, name)),
        lambda: checks.unfit_weights(weight_M, exact, weight_offset_N, name),
        lambda: checks.negative_weights(weight_M, weight_offset_N, name) if feature.pooling == "mean" else None,
    ]


def _offsets(column: pa.Array) -> npt.NDArray[np.int32]:
    offset_N = column.offsets.to_numpy()
    return (offset_N - offset_N[0]).astype(np.int32, copy=False)


def _task_checks(task: TaskSpec, batch: pa.RecordBatch, trained_N: Mask) -> list[Check]:
    """What a task's columns must pass."""
    label, name = batch.column(task.source), task.source
    if task.kind == "binary":
        out: list[Check] = [
            lambda: checks.nulls(label, name, "", "labels"),
            lambda: _not_zero_or_one(label, name, "label"),
        ]
    else:
        x_N = label.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
        clipped_N = x_N if task.clip is None else np.clip(x_N, *task.clip)
        out = [
            lambda: checks.nulls(label, name, "", "labels", trained_N),
            lambda: checks.not_targets(x_N, trained_N, name),
            lambda: _overflow(np.where(trained_N & np.isfinite(x_N), clipped_N, 0), x_N, name, "labels"),
        ]
    if task.indicator:
        indicator, column = task.indicator, batch.column(task.indicator)
        out += [
            lambda: checks.nulls(column, indicator, "", "labels"),
            lambda: _not_zero_or_one(column, indicator, "indicator"),
        ]
    if task.sample_weight:
        weight, weights = task.sample_weight, batch.column(task.sample_weight)
        weight_N = weights.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
        out += [
            lambda: checks.nulls(weights, weight, "", "values", trained_N),
            lambda: checks.not_weights(weight_N, trained_N, weight),
        ]
    return out


def _not_zero_or_one(column: pa.Array, name: str, what: str) -> Finding | None:
    if pa.types.is_boolean(column.type):
        return None
    given_N = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
    found = checks.not_labels(given_N, name, what)
    # the check names those above 1 first; here both are counted
    return found and dataclasses.replace(found, bad_N=(given_N != 0) & (given_N != 1))


def _not_finite(column: pa.Array, name: str, missing_given: bool) -> Finding | None:
    """Infinities, and NaN where nothing stands for it; nulls are told apart."""
    if not pa.types.is_floating(column.type):
        return None
    x_N = column.fill_null(0).to_numpy() if column.null_count else column.to_numpy()
    if missing_given and not np.isfinite(x_N).all():
        x_N = np.where(np.isnan(x_N), 0, x_N)
    return checks.not_finite(x_N, name)


def _too_large(feature: FloatFeature | BucketFeature, column: pa.Array) -> Finding | None:
    """Numbers that do not fit 32 bits once transformed. A transform is monotone: its ends tell."""
    if isinstance(feature, BucketFeature) or (pa.types.is_float32(column.type) and feature.transform != "standardize"):
        return None
    ends = pc.min_max(column).as_py()
    low_high = [x for x in ends.values() if x is not None and np.isfinite(x)]
    fits = bool((np.abs(_transformed(feature, np.array(low_high, np.float64))) <= FLOAT32_MAX).all())
    if fits and (len(low_high) == 2 or column.null_count == len(column)):
        return None
    x_N = column.cast(pa.float64(), safe=False).fill_null(0).to_numpy()
    y_N = np.where(np.isfinite(x_N), _transformed(feature, np.where(np.isfinite(x_N), x_N, 0)), 0)
    return _overflow(y_N, x_N, feature.source)


def _transformed(feature: FloatFeature, x_N: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if feature.transform == "log1p":
        return np.log1p(np.maximum(x_N, 0))
    if feature.transform == "standardize":
        assert feature.mean is not None
        assert feature.std is not None
        return (x_N - feature.mean) / feature.std
    return x_N


def _overflow(
    y_N: npt.NDArray[np.float64], x_N: npt.NDArray[np.float64], name: str, kind: str = "values"
) -> Finding | None:
    with np.errstate(over="ignore"):
        return checks.too_large(y_N.astype(np.float32), x_N, name, kind=kind)
