"""The event-log contract: where rows lie and which columns are reserved.

    PATH/dt=2026-01-01/part-00000.parquet
    PATH/dt=2026-01-01/_SUCCESS              the day is complete

One row is one exposure of one item to one user. `user_id` and `event_time` are reserved, `dt` is the partition key
and no column of the files. Labels are 0/1 columns of an integer or boolean type, or numbers. Nulls are refused unless a
feature declares what they mean (`missing`).
"""

import datetime
import os
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from schemas.strict import Strict

PARTITION_KEY = "dt"
SUCCESS_MARKER = "_SUCCESS"
TRUTH_FILE = "_truth.json"
"""Beside the partitions of a generated log: its declared truth, with each task's best attainable AUC."""

USER_COLUMN = "user_id"
TIME_COLUMN = "event_time"
RESERVED_COLUMNS = (USER_COLUMN, TIME_COLUMN)


class DayRange(Strict):
    """Whole days, both ends included."""

    first: Annotated[datetime.date, Field(alias="from")]
    """First day, as 2026-01-01."""
    last: Annotated[datetime.date, Field(alias="to")]
    """Last day, included."""

    @model_validator(mode="after")
    def _ordered(self) -> "DayRange":
        if self.last < self.first:
            raise ValueError(f"'to' ({self.last}) lies before 'from' ({self.first}); swap them")
        return self

    def days(self) -> list[datetime.date]:
        """Every day of the range, in order."""
        return [self.first + datetime.timedelta(n) for n in range((self.last - self.first).days + 1)]


class StorageConfig(Strict):
    """How patiently storage is read. Credentials are never here: drivers take them from the environment."""

    retries: Annotated[int, Field(ge=0, le=100)] = 4
    """Times a failed read is tried again before the job fails."""
    timeout_seconds: Annotated[int, Field(ge=1)] = 60
    """The longest a read of a remote file may take: a listing, a footer, or a row group's columns."""
    backoff_seconds: Annotated[float, Field(ge=0, le=60)] = 0.2
    """Pause before the first retry; each further one is twice as long, at most 10 seconds."""


class BadConfig(Strict):
    """What becomes of bad data, kind by kind: the run ends, or the piece is left out, logged and counted."""

    corrupt: Literal["error", "quarantine"] = "error"
    """A file that cannot be opened, a row group that cannot be decoded, a file that vanished or changed. What may not
    be read for want of rights ends the run either way."""
    schema_: Annotated[Literal["error", "quarantine"], Field(alias="schema")] = "error"
    """A file in which a column of the job is missing or of another type."""
    drift: Literal["report", "error", "quarantine"] = "report"
    """A file whose schema is not that of most files, though the job can read it."""
    labels: Literal["error", "quarantine"] = "error"
    """A label or an indicator that is null or out of range."""
    values: Literal["error", "quarantine"] = "error"
    """A feature that is null, NaN, infinite or too large; lists and weights that do not match;
    a sample weight that is no weight."""
    rows_per_day: Annotated[int, Field(ge=0)] = 0
    """Rows of one day that may be left out; one more ends the run."""
    row_groups_per_day: Annotated[int, Field(ge=0)] = 0
    """Row groups of one day that may be lost; one more ends the run."""

    @property
    def files(self) -> list[str]:
        """The kinds under quarantine that cost row groups."""
        return [kind for kind in ("corrupt", "schema_", "drift") if getattr(self, kind) == "quarantine"]

    @property
    def rows(self) -> list[str]:
        """The kinds under quarantine that cost single rows."""
        return [kind for kind in ("labels", "values") if getattr(self, kind) == "quarantine"]


class HistoryConfig(Strict):
    """The earlier days that counts and target encodings are made of."""

    first: Annotated[datetime.date | None, Field(alias="from")] = None
    """First day of the history; none = the first training day, which then has no history itself."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Folder or fsspec URL of the days' statistics, to be shared by the runs on a log; none = OUTPUT/statistics."""
    memory_mib: Annotated[int, Field(ge=16)] = 2048
    """The most that a day's statistics may take while they are counted, and all days' in each rank."""


class HoldoutConfig(Strict):
    """Rows of the training days that are never trained on: those of some users, drawn anew each day."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the users of a day."""
    column: Annotated[str, Field(min_length=1)] = USER_COLUMN
    """Integer or string column whose values are held out whole, so that no session lies on both sides."""
    eval: Literal["held", "all"] = "held"
    """What `data.eval` reads of its days: the held-out rows, or all."""


class FrozenConfig(Strict):
    """Manifests frozen earlier: exactly these files are read, and one that changed since is refused."""

    train: Annotated[str, Field(min_length=1)] | None = None
    """File or URL of the training manifest; none = the days are listed."""
    eval: Annotated[str, Field(min_length=1)] | None = None
    """File or URL of the evaluation's."""


class DataConfig(Strict):
    """Which logs are read, and how they are streamed."""

    path: Annotated[str, Field(min_length=1)]
    """Root of the event log: a folder or any fsspec URL that holds dt=YYYY-MM-DD partitions."""
    train: DayRange
    """Days trained on, as {from: 2026-01-01, to: 2026-01-04}."""
    eval: DayRange | None = None
    """Days evaluated on after training; none = no evaluation."""
    require_success: bool = True
    """Refuse a day without its _SUCCESS marker."""
    funnel: Literal["error", "drop", "promote", "quarantine"] = "error"
    """A positive label under a negative parent (an order without a click): error; drop = keep the row out of the
    child's space and count it; promote = the parent's label becomes 1; quarantine = leave the row out."""
    bad: BadConfig = BadConfig()
    """What becomes of bad data."""
    shuffle_rows: Annotated[int, Field(ge=0)] = 524_288
    """Rows held for shuffling, over all ranks together; 0 = the log's own order. Bounds the loader's memory."""
    lanes: Annotated[int, Field(ge=1, le=4096)] = 16
    """Parallel streams the log is cut into, shared out among the ranks: at least the number of ranks. The order of
    rows depends on it and not on the number of ranks."""
    prefetch_batches: Annotated[int, Field(ge=1)] = 4
    """Ready batches the reader thread keeps ahead of the training step."""
    storage: StorageConfig = StorageConfig()
    """How patiently storage is read."""
    history: HistoryConfig = HistoryConfig()
    """The earlier days that counts and target encodings are made of."""
    holdout: HoldoutConfig | None = None
    """Rows of the training days that are evaluated and never trained on; none = every row is trained on."""
    frozen: FrozenConfig = FrozenConfig()
    """Manifests frozen earlier."""

    @property
    def history_from(self) -> datetime.date:
        """First day of the history."""
        return self.history.first or self.train.first

    @property
    def quarantine(self) -> bool:
        """Whether anything may be left out."""
        return bool(self.bad.files or self.bad.rows or self.funnel == "quarantine")

    @model_validator(mode="after")
    def _budgeted(self) -> "DataConfig":
        rows = [f"bad.{kind}" for kind in self.bad.rows] + ["funnel"] * (self.funnel == "quarantine")
        files = [f"bad.{kind.rstrip('_')}" for kind in self.bad.files]
        for kinds, budget in ((rows, "rows_per_day"), (files, "row_groups_per_day")):
            if kinds and not getattr(self.bad, budget):
                raise ValueError(
                    f"data.{kinds[0]}=quarantine needs a budget; set data.bad.{budget} to what a day may lose, or "
                    f"data.{kinds[0]}=error"
                )
        return self

    @model_validator(mode="after")
    def _history_before(self) -> "DataConfig":
        if self.history_from > self.train.first:
            raise ValueError(
                f"data.history.from ({self.history_from}) lies after the first training day ({self.train.first}); "
                "name that day or an earlier one"
            )
        return self

    @model_validator(mode="after")
    def _history_apart(self) -> "DataConfig":
        folder = self.history.folder
        if folder is not None and _place(folder) == _place(self.path):
            raise ValueError(
                f"data.history.folder: '{folder}' is the log itself, whose days would hold the statistics as rows; "
                "name a folder of their own"
            )
        return self

    @field_validator("path")
    @classmethod
    def _no_trailing_slash(cls, path: str) -> str:
        return path.rstrip("/") or path


def _place(url: str) -> str:
    """The folder, however it is written."""
    path = url.removeprefix("file://").rstrip("/")
    return path if "://" in path else os.path.realpath(path)
