"""How rows are encoded, as data and files: fields, features, vocabularies, statistics of earlier days. No torch."""

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipeline.data.encode import to_rows
from pipeline.data.files import list_days
from pipeline.data.history import scoring_day
from pipeline.data.history_lookup import History
from pipeline.data.vocabulary_file import Vocabulary
from pipeline.data.vocabulary_lookup import IntegerLookup, lookups, vocabularies
from pipeline.storage import filesystem, reason
from schemas.errors import InputError
from schemas.features import (
    BucketFeature,
    CountFeature,
    FloatFeature,
    HistoryListFeature,
    IdFeature,
    IdListFeature,
    StringFeature,
    TargetEncodingFeature,
)
from schemas.job import JobConfig

LIST = "list of "


@dataclasses.dataclass
class Preprocessing:
    """What bundle.json says of it."""

    fields: list[dict[str, Any]]
    """Columns that are read: name, type, and whether null is a value."""
    features: list[dict[str, Any]]
    """In the YAML's order."""


def write_preprocessing(job: JobConfig, folder: Path, day: datetime.date, tell: Callable[[str], None]) -> Preprocessing:
    """Writes the files below `folder`; `day` is the day whose earlier days' statistics are carried.

    Raises InputError for a vocabulary that is gone or too long, and where the log does not give the statistics.
    """
    out = Preprocessing([], [])
    types = _types(job)
    files = _vocabularies(job, folder)
    history = scoring_day(job, day, tell) if job.history else None
    for feature in job.features:
        told = feature.model_dump(mode="json") | {"column": feature.source}
        table = getattr(feature, "table_name", None)
        if table is not None:
            told |= {"table": table, "rows": job.tables[table].rows}
        if path := getattr(feature, "vocabulary", None):
            told["vocabulary"] = files[path]
        if history is not None and isinstance(feature, CountFeature | TargetEncodingFeature | HistoryListFeature):
            told |= _statistics(job, feature, history, day, folder)
            told["columns"] = list(feature.sources) if not isinstance(feature, HistoryListFeature) else None
        out.features.append(told)
        for name, kind, null in _reads(feature, types):
            _add(out.fields, name, kind, null)
    factor = job.fusion and job.fusion.factor
    if factor:
        _add(out.fields, factor.column, "number", factor.missing is not None)
    return out


def _reads(feature: Any, types: dict[str, str]) -> list[tuple[str, str, bool]]:
    """(column, type, whether null is a value) of each that the feature is encoded from."""
    if isinstance(feature, IdFeature | StringFeature):
        kind = "string" if isinstance(feature, StringFeature) else "integer"
        return [(feature.source, kind, feature.missing == "unknown")]
    if isinstance(feature, IdListFeature):
        ids = [(feature.source, f"{LIST}integer", False)]
        return [*ids, (feature.weights, f"{LIST}number", False)] if feature.weights else ids
    if isinstance(feature, FloatFeature | BucketFeature):
        return [(feature.source, "number", feature.missing is not None)]
    # a null is a value of its own there
    names = [feature.by] if isinstance(feature, HistoryListFeature) else feature.sources
    return [(name, types[name], True) for name in names]


def _add(fields: list[dict[str, Any]], name: str, kind: str, null: bool) -> None:
    """A column, or what one more reader asks of it: an integer is a number too, a null must mean something to all."""
    for field in fields:
        if field["name"] == name:
            if {field["type"], kind} == {"integer", "number"}:
                field["type"] = "integer"
            elif {field["type"], kind} == {f"{LIST}integer", f"{LIST}number"}:
                field["type"] = f"{LIST}integer"
            elif field["type"] != kind:
                raise InputError(
                    f"column '{name}' is read as {field['type']} by one feature and as {kind} by another; such a model "
                    "is not exported"
                )
            field["null"] = field["null"] and null
            return
    fields.append({"name": name, "type": kind, "null": null})


def _types(job: JobConfig) -> dict[str, str]:
    """Of the columns that are keys of earlier days' statistics, the type that the log has."""
    if not job.history:
        return {}
    names = {name for f in job.history for name in ([f.by] if isinstance(f, HistoryListFeature) else f.sources)}
    first = list_days(job, job.data.train)[0]
    fs, root = filesystem(job.data.path, job.data.storage)
    where = f"{root}/{first.path}"
    try:
        with fs.open(where, "rb") as stream:
            schema = pq.read_schema(stream)
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(f"{where}: its columns cannot be read ({reason(error)}); restore the log") from error
    return {name: _type(schema.field(name).type) for name in names}


def _type(kind: pa.DataType) -> str:
    if pt.is_list(kind) or pt.is_large_list(kind):
        return LIST + _type(kind.value_type)
    return "integer" if pt.is_integer(kind) else "string"


def _vocabularies(job: JobConfig, folder: Path) -> dict[str, str]:
    """Writes each vocabulary once; by its path, the file below the bundle."""
    written: dict[str, str] = {}
    found = vocabularies(job)
    for feature in job.valued:
        if feature.vocabulary and feature.vocabulary not in written:
            name = f"vocabularies/{feature.table_name}.npz"
            if name in written.values():
                name = f"vocabularies/{feature.table_name}-{len(written)}.npz"
            _save(folder, name, _vocabulary(found[feature.name]))
            written[feature.vocabulary] = name
    return written


def _vocabulary(vocabulary: Vocabulary) -> dict[str, npt.NDArray[Any]]:
    values = vocabulary.values
    if pt.is_integer(values.type):
        return {"value": values.to_numpy()}
    values = pa.concat_arrays([values])
    edge_V = np.frombuffer(values.buffers()[1], np.int64)[: len(values) + 1]
    raw = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    return {"bytes": raw[edge_V[0] : edge_V[-1]], "length": np.diff(edge_V)}


def _statistics(job: JobConfig, feature: Any, history: History, day: datetime.date, folder: Path) -> dict[str, Any]:
    """Writes what a feature's values come to before the day; what bundle.json says of it."""
    name = f"statistics/{feature.name}.npz"
    if isinstance(feature, HistoryListFeature):
        key_K, offset_K, value_M = history.standing_lists(feature, day)
        order_K = np.argsort(key_K, kind="stable")
        length_K = np.diff(offset_K)[order_K]
        edge_K = np.concatenate([[0], np.cumsum(length_K)])
        at_M = np.arange(edge_K[-1]) + np.repeat(offset_K[:-1][order_K] - edge_K[:-1], length_K)
        row_M = np.empty(len(value_M), np.int32)
        lookup = lookups(job).get(feature.name)
        if isinstance(lookup, IntegerLookup):
            row_M[:] = lookup(value_M)
        else:
            to_rows(value_M, job.tables[feature.table_name].rows, feature.hash, row_M)
        _save(folder, name, {"key_K": key_K[order_K], "offset_K": edge_K, "row_M": row_M[at_M]})
        return {"statistics": name, "vocabulary": None, "as_of": str(day)}
    key_K, before, days = history.standing(feature, day)
    kept_K = np.flatnonzero((before.count_M != 0) | (before.sum_M != 0))
    kept_K = kept_K[np.argsort(key_K[kept_K], kind="stable")]
    arrays = {"key_K": key_K[kept_K], "count_K": before.count_M[kept_K], "sum_K": before.sum_M[kept_K]}
    _save(folder, name, arrays)
    told: dict[str, Any] = {"statistics": name, "as_of": str(day), "days_looked_at": days}
    if isinstance(feature, TargetEncodingFeature):
        kinds = {task.name: task.kind for task in job.tasks}
        told |= {"all_count": before.count, "all_sum": before.sum, "binary": kinds[feature.task] == "binary"}
    return told


def _save(folder: Path, name: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
