"""The columns a job reads, checked against a file's Arrow schema before a row is decoded. No torch."""

import difflib
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.types as pt

from schemas.errors import InputError
from schemas.events import RESERVED_COLUMNS, TIME_COLUMN
from schemas.features import HistoryFeature, HistoryListFeature, IdFeature, IdListFeature, StringFeature
from schemas.job import JobConfig

ZERO_ONE = "an integer or boolean 0/1"
KEY = "an integer or a string"


class SchemaError(InputError):
    """A file whose columns do not fit the job."""

    def __init__(self, path: str, column: str, reason: str, text: str) -> None:
        super().__init__(f"{path}: {text}")
        self.column, self.reason = column, reason


def _text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or (pt.is_dictionary(kind) and _text(kind.value_type))


def _number(kind: pa.DataType) -> bool:
    return pt.is_floating(kind) or pt.is_integer(kind)


def _list_of(element: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: (pt.is_list(kind) or pt.is_large_list(kind)) and element(kind.value_type)


def _label(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or pt.is_boolean(kind)


def _key(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or _text(kind)


def _time(kind: pa.DataType) -> bool:
    return pt.is_integer(kind) or pt.is_timestamp(kind) or pt.is_date(kind)


def _key_or_list(kind: pa.DataType) -> bool:
    return _key(kind) or _list_of(_key)(kind)


Need = tuple[str, str, Callable[[pa.DataType], bool], str]
"""(column, who reads it, test of its Arrow type, that type in words)"""


def needs(job: JobConfig) -> list[Need]:
    """Everything the job reads."""
    out = input_needs(job)
    for task in job.tasks:
        fits, words = (_label, ZERO_ONE) if task.kind == "binary" else (_number, "a number")
        out.append((task.source, f"the label of task '{task.name}'", fits, words))
        if task.indicator:
            out.append((task.indicator, f"the indicator of task '{task.name}'", _label, ZERO_ONE))
        if task.sample_weight:
            out.append((task.sample_weight, f"the sample weight of task '{task.name}'", _number, "a number"))
    if job.data.holdout:
        out.append((job.data.holdout.column, "by which rows are held out", _key, KEY))
    return out


def input_needs(job: JobConfig) -> list[Need]:
    """What the job's features read."""
    out: list[Need] = []
    for feature in job.features:
        who = f"feature '{feature.name}'"
        if isinstance(feature, IdFeature):
            out.append((feature.source, who, pt.is_integer, "an integer"))
        elif isinstance(feature, IdListFeature):
            out.append((feature.source, who, _list_of(pt.is_integer), "a list of integers"))
            if feature.weights:
                out.append((feature.weights, who, _list_of(_number), "a list of numbers"))
        elif isinstance(feature, HistoryListFeature):
            out.append((feature.source, who, pt.is_integer, "an integer"))
            out.append((feature.by, who, _key, KEY))
            out.append((TIME_COLUMN, who, _time, "a time or an integer"))
        elif isinstance(feature, HistoryFeature):
            value, words = (_key, KEY) if feature.columns else (_key_or_list, f"{KEY}, or a list of them")
            out += [(column, who, value, words) for column in feature.sources]
        elif isinstance(feature, StringFeature):
            out.append((feature.source, who, _text, "a string"))
        else:
            out.append((feature.source, who, _number, "a number"))
    return out


def number_need(column: str, who: str) -> Need:
    """That of a column of numbers."""
    return column, who, _number, "a number"


def any_need(column: str, who: str) -> Need:
    """That of a column of any type."""
    return column, who, lambda kind: True, "any type"


def check_schema(job: JobConfig, schema: pa.Schema, path: str) -> None:
    """Raises SchemaError for a column that is missing or of a type the job cannot read."""
    for column in RESERVED_COLUMNS:
        if column not in schema.names:
            text = f"the reserved column '{column}' is missing; every event log has it"
            raise SchemaError(path, column, "is missing", text)
    check_columns(needs(job), schema, path)


def check_columns(wanted: Sequence[Need], schema: pa.Schema, path: str) -> None:
    """Raises SchemaError for a wanted column that is missing, stands there twice, or is of another type."""
    for column, who, fits, words in wanted:
        if schema.names.count(column) > 1:
            text = f"column '{column}', {who}, stands there twice; write it once"
            raise SchemaError(path, column, "stands there twice", text)
        if column not in schema.names:
            close = difflib.get_close_matches(column, schema.names, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else f"the file has {', '.join(schema.names)}"
            raise SchemaError(path, column, "is missing", f"column '{column}', {who}, is missing; {hint}")
        kind = schema.field(column).type
        if not fits(kind):
            raise SchemaError(
                path,
                column,
                f"holds {kind} where {words} belongs",
                f"column '{column}', {who}, holds {kind} where {words} belongs; "
                "write it with that type or change the feature's kind",
            )
