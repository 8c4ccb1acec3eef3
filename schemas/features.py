"""FeatureSpec: a column of the log -> ids into a table, or a number for the dense input.

Counts and target encodings are numbers made of the log's earlier days (pipeline/data/history.py).

Every table has one row more than declared: its own out-of-vocabulary row, where unknown, negative and too-large ids
go. They are counted, never clipped onto a real id.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.strict import Strict

Sharding = Literal["auto", "table_wise", "row_wise", "column_wise", "data_parallel"]


class TableSpec(Strict):
    """One embedding table."""

    rows: Annotated[int, Field(ge=1, le=2**31 - 2)]
    """Ids 0 .. rows-1 have a row each; one more row, the last, takes everything out of vocabulary."""
    dim: Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
    """Width of a row; a multiple of 4, as the fused kernels need."""
    sharding: Sharding = "auto"
    """How the table lies over the ranks: auto (TorchRec's planner chooses), table_wise, row_wise, column_wise or
    data_parallel."""
    init_scale: Annotated[float, Field(gt=0)] | None = None
    """Rows start uniform in [-init_scale, init_scale]; default 1 / sqrt(rows + 1), as TorchRec does."""


class _Feature(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the feature: the key of its embedding and, unless `column` says otherwise, its column."""
    column: str = ""
    """Column of the log; default: the feature's name."""

    @property
    def source(self) -> str:
        """The column the feature is read from."""
        return self.column or self.name

    @property
    def sources(self) -> list[str]:
        """Every column it reads."""
        return [self.source]


class _Embedded(_Feature):
    table: str = ""
    """Table the ids point into; default: the table of the feature's own name. Features may share one."""

    @property
    def table_name(self) -> str:
        """The table the feature's ids point into."""
        return self.table or self.name


class _Valued(_Embedded):
    vocabulary: Annotated[str, Field(min_length=1)] | None = None
    """Parquet file whose column `value` lists the values that have a row: a value's row is its place in the file, and
    all others are out of vocabulary. A path or an fsspec URL; not with `hash`."""

    @model_validator(mode="after")
    def _one_encoding(self) -> Self:
        if self.vocabulary and getattr(self, "hash", False):
            raise ValueError("'hash' and 'vocabulary' are two ways to find a value's row; keep one of them")
        return self


class IdFeature(_Valued):
    """One integer id a row."""

    kind: Literal["id"]
    hash: bool = False
    """Spread arbitrary 64-bit ids over the table by hashing; otherwise ids are row numbers."""
    missing: Literal["error", "unknown"] = "error"
    """What a null means: refuse the log, or count it as out of vocabulary."""


class IdListFeature(_Valued):
    """A list of integer ids a row, pooled into one vector. An empty list pools to zeros."""

    kind: Literal["ids"]
    pooling: Literal["sum", "mean"] = "mean"
    """How the rows of a list become one vector. With weights, mean divides by the sum of the weights."""
    weights: Annotated[str, Field(min_length=1)] | None = None
    """Column with one float weight an id, of the same lengths."""
    hash: bool = False
    """Spread arbitrary 64-bit ids over the table by hashing; otherwise ids are row numbers."""

    @property
    def sources(self) -> list[str]:
        """The column of ids, and that of their weights."""
        return [self.source, self.weights] if self.weights else [self.source]


class HistoryListFeature(_Valued):
    """The values of a column in the last rows of earlier days with the row's key, pooled into one vector like `ids`."""

    kind: Literal["history"]
    by: Annotated[str, Field(min_length=1)]
    """Column of the key, an id or a string: of the user whose rows are looked back on."""
    task: str | None = None
    """Binary task whose label must be 1 in those rows, in its own space; none = all rows."""
    last: Annotated[int, Field(ge=1, le=1000)] = 20
    """The most values a row gets: the newest."""
    days: Annotated[int, Field(ge=1)] | None = None
    """Calendar days before the row's own that are looked at; none = all since data.history.from."""
    pooling: Literal["sum", "mean"] = "mean"
    """How the rows of a list become one vector."""
    hash: bool = False
    """Spread arbitrary 64-bit ids over the table by hashing; otherwise ids are row numbers."""

    @property
    def weights(self) -> None:
        """It has none."""
        return None

    @property
    def sources(self) -> list[str]:
        """The column of the values, and that of the key."""
        return [self.source, self.by]


class StringFeature(_Valued):
    """One string a row, looked up in its vocabulary, or hashed into its table (64-bit FNV-1a, mixed, modulo rows)."""

    kind: Literal["string"]
    missing: Literal["error", "unknown"] = "error"
    """What a null means: refuse the log, or count it as out of vocabulary."""


class FloatFeature(_Feature):
    """One number a row, for the dense input."""

    kind: Literal["float"]
    transform: Literal["none", "log1p", "standardize"] = "none"
    """none; log1p = log(1 + max(x, 0)); standardize = (x - mean) / std."""
    mean: float | None = None
    """Mean of the column, for standardize."""
    std: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the column, for standardize."""
    missing: float | None = None
    """Value that stands for null and NaN; without it both are refused."""

    @model_validator(mode="after")
    def _needs(self) -> "FloatFeature":
        given = self.mean is not None and self.std is not None
        if self.transform == "standardize" and not given:
            raise ValueError("transform 'standardize' needs both 'mean' and 'std'")
        if self.transform != "standardize" and (self.mean is not None or self.std is not None):
            raise ValueError(f"'mean' and 'std' belong to transform 'standardize', not '{self.transform}'")
        return self


class BucketFeature(_Embedded):
    """One number a row, cut at the boundaries into a bucket with its own embedding."""

    kind: Literal["bucket"]
    boundaries: Annotated[list[float], Field(min_length=1)]
    """Rising cuts: bucket i holds boundaries[i-1] <= x < boundaries[i]."""
    missing: float | None = None
    """Value that stands for null and NaN; without it both are refused."""

    @model_validator(mode="after")
    def _rising(self) -> "BucketFeature":
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError("boundaries must rise strictly")
        return self


class _History(_Feature):
    columns: Annotated[list[str], Field(min_length=2)] | None = None
    """Columns whose values together are the value, each an id or a string; instead of `column`."""
    days: Annotated[int, Field(ge=1)] | None = None
    """Calendar days before the row's own that are looked at; none = all since data.history.from."""

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if self.columns and self.column:
            raise ValueError("'column' and 'columns' are two ways to name the value; keep one of them")
        if self.columns and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns {self.columns} name one column twice; name each once")
        return self

    @property
    def sources(self) -> list[str]:
        """The column of the value, or the columns whose values are crossed."""
        return list(self.columns) if self.columns else [self.source]


class CountFeature(_History):
    """How many rows of earlier days hold the row's value; a number for the dense input.

    The value is an id, a string, or a list of them: then the mean over its elements, 0 where it is empty. A null is a
    value of its own.
    """

    kind: Literal["count"]
    transform: Literal["log1p", "none"] = "log1p"
    """log1p = log(1 + count); none."""
    per_day: bool = False
    """Divide the count by the number of earlier days looked at, so that it does not grow with them."""


class TargetEncodingFeature(_History):
    """The smoothed mean of a task's label over rows of earlier days with the row's value; for the dense input.

    (s + smoothing * prior) / (n + smoothing): n rows of the value in the task's own space, s the sum of their labels,
    prior the mean over all values. Of a list, the mean over its elements; the prior where it is empty. A null is a
    value of its own.
    """

    kind: Literal["target_encoding"]
    task: str
    """Task whose label is meant."""
    smoothing: Annotated[float, Field(gt=0)] = 20.0
    """As many rows of the prior's mean are added to each value's own."""
    transform: Literal["lift", "logit", "none"] = "lift"
    """lift = logit minus the prior's logit, of a regression task mean minus prior: 0 says nothing is known; logit =
    log odds; none = the mean itself."""
    default: float | None = None
    """The prior where no earlier day has a row; needed by transform logit and none."""

    @model_validator(mode="after")
    def _prior(self) -> Self:
        if self.transform == "lift" and self.default is not None:
            raise ValueError("'default' belongs to transform 'logit' or 'none': the lift of a prior over itself is 0")
        if self.transform != "lift" and self.default is None:
            raise ValueError(f"transform '{self.transform}' needs 'default', the mean where no earlier day has a row")
        return self


HistoryFeature = CountFeature | TargetEncodingFeature
"""Numbers made of earlier days."""
LookingBack = CountFeature | TargetEncodingFeature | HistoryListFeature
"""All that is made of earlier days."""
DenseFeature = FloatFeature | CountFeature | TargetEncodingFeature
"""Features of the dense input, a number each."""
ListFeature = IdListFeature | HistoryListFeature
"""Features of any number of ids a row."""
ValuedFeature = IdFeature | IdListFeature | HistoryListFeature | StringFeature
"""Features of values that a vocabulary may list."""
EmbeddedFeature = IdFeature | IdListFeature | HistoryListFeature | StringFeature | BucketFeature
FeatureSpec = Annotated[
    IdFeature
    | IdListFeature
    | StringFeature
    | FloatFeature
    | BucketFeature
    | CountFeature
    | TargetEncodingFeature
    | HistoryListFeature,
    Field(discriminator="kind"),
]
