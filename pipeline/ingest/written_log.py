"""Rows of days, in any order -> an event log in the recommended layout, shown whole or not at all. No torch.

    OUT/_ingested.json                       first: whose the folder is; again at the end, with what was written
    OUT/dt=2026-01-01/.part-00000.parquet    hidden until the last row of the last day is written
    OUT/dt=2026-01-01/part-00000.parquet
    OUT/dt=2026-01-01/_SUCCESS               when every file of every day is shown

Memory: for each day under way up to a row group's rows, and what Parquet's writer holds of a file.
"""

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.log_store import LogStore
from pipeline.data.parquet_layout import encodings, writer_options
from pipeline.ingest.spill import SCRATCH, scratch
from pipeline.storage import is_local, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, RESERVED_COLUMNS, SUCCESS_MARKER

RECORD = "_ingested.json"
FILE_BYTES = 128 << 20


def required(name: str, kind: pa.DataType) -> pa.Field:
    """A column without nulls."""
    return pa.field(name, kind, nullable=False)


def ids(name: str) -> pa.Field:
    """A column of lists of ids, without nulls."""
    return required(name, pa.list_(pa.field("element", pa.int64(), nullable=False)))


@dataclasses.dataclass
class DayWritten:
    """What a day of the log holds."""

    rows: int = 0
    positives: dict[str, int] = dataclasses.field(default_factory=dict)
    """By label, its ones."""


class _Day:
    """The files of one day, under hidden names."""

    def __init__(self, store: LogStore, date: datetime.date, schema: pa.Schema, row_group_rows: int) -> None:
        self.folder, self.parts = f"{PARTITION_KEY}={date}", 0
        self._store, self._schema, self._group = store, schema, row_group_rows
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._sink: Any = None

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        while self._rows >= self._group:
            self._write(self._group)

    def finish(self) -> None:
        """Writes what waits, and closes the file."""
        if self._rows:
            self._write(self._rows)
        self._close()

    def abandon(self) -> None:
        """Lets go of the file; it is removed with its folder. Whatever failed is told already."""
        with contextlib.suppress(Exception):
            if self._writer is not None:
                self._writer.close()  # or it would be, once forgotten
        with contextlib.suppress(Exception):
            if self._sink is not None and not is_local(self._store.fs) and hasattr(self._sink, "discard"):
                self._sink.discard()  # closing would finish the upload of half an object
            elif self._sink is not None:
                self._sink.close()
        self._writer = self._sink = None

    def _write(self, rows: int) -> None:
        whole = pa.concat_tables(self._waiting).combine_chunks()
        group, rest = whole.slice(0, rows), whole.slice(rows)
        self._waiting, self._rows = ([rest] if rest.num_rows else []), rest.num_rows
        if self._writer is None:
            path = self._store.path(self.folder, f".part-{self.parts:05d}.parquet")
            self._store.fs.makedirs(self._store.path(self.folder), exist_ok=True)
            self._sink = self._store.fs.open(path, "wb")
            self._writer = pq.ParquetWriter(self._sink, self._schema, **writer_options(*encodings(group)))
            self.parts += 1
        self._writer.write_table(group, row_group_size=group.num_rows)
        if self._sink.tell() >= FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None


class WrittenLog:
    """A log under way. A context: where its block fails, nothing is left of it."""

    def __init__(self, out: str, schema: pa.Schema, labels: Sequence[str], row_group_rows: int) -> None:
        """`labels`: columns of 0 and 1 that are counted."""
        assert set(RESERVED_COLUMNS) <= set(schema.names)
        self.store, self._out = LogStore(out), out
        self._schema, self._labels, self._group = schema, labels, row_group_rows
        self._days: dict[datetime.date, _Day] = {}
        self.days: dict[datetime.date, DayWritten] = {}
        self._source: Mapping[str, Any] = {}

    def already(self, source: Mapping[str, Any]) -> bool:
        """Whether the log is there, made from this very source. Raises InputError where other content is.

        What an interrupted run has left is taken away.
        """
        record = self._record()
        if record is None:
            if any(name.startswith(f"{PARTITION_KEY}=") for name in self._names()):
                raise InputError(f"--out: '{self._out}' holds days that were not ingested; choose another folder")
            return False
        if not record.get("complete"):
            self._remove_days()
            return False
        if record.get("source") != json.loads(json.dumps(source)):
            raise InputError(
                f"--out: '{self._out}' holds a log made from another source, or with other options "
                f"({_first_unlike(record.get('source'), source)}); remove it, or choose another folder"
            )
        for day, found in record["days"].items():
            if not self.store.fs.exists(self.store.path(f"{PARTITION_KEY}={day}", SUCCESS_MARKER)):
                raise InputError(f"--out: '{self._out}' holds this log, but {PARTITION_KEY}={day} is no longer whole; "
                                 "remove the folder, and the same command writes it anew")  # fmt: skip
            self.days[datetime.date.fromisoformat(day)] = DayWritten(found["rows"], found["positives"])
        return True

    def begin(self, source: Mapping[str, Any]) -> "WrittenLog":
        """Takes the folder. Raises InputError where it is not to be written."""
        self._source = source
        try:
            self._write_record(complete=False)
        except OSError as error:
            raise self._unwritten(error) from error
        return self

    def __enter__(self) -> "WrittenLog":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            try:
                self._show()
            except BaseException as late:
                self._give_up(late)
                raise
        else:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Leaves nothing. Raises InputError where the place was not to be written."""
        for day in self._days.values():
            day.abandon()
        with contextlib.suppress(OSError):  # else the next run does it
            self._remove_days()
            self.store.fs.rm_file(self.store.path(RECORD))
        if isinstance(error, OSError):
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> InputError:
        return InputError(f"{self._out}: cannot be written ({error.strerror or reason(error)}); mend it")

    def scratch(self) -> AbstractContextManager[Path]:
        """A folder of the disk for rows on their way: in the log's own where that is local."""
        return scratch(self.store.root if is_local(self.store.fs) else None)

    def add(self, date: datetime.date, rows: pa.Table) -> None:
        """Rows of one day; they keep their order within the day."""
        if not rows.num_rows:
            return
        rows = self._checked(rows)
        if date not in self._days:
            self._days[date] = _Day(self.store, date, self._schema, self._group)
            self.days[date] = DayWritten(0, dict.fromkeys(self._labels, 0))
        self._days[date].add(rows)
        self.days[date].rows += rows.num_rows
        for label in self._labels:
            self.days[date].positives[label] += int(pc.sum(rows.column(label)).as_py())

    def add_by_day(self, days: pa.ChunkedArray, rows: pa.Table) -> None:
        """Rows of several days; `days`: the date32 of each."""
        for day in sorted(pc.unique(days).to_pylist()):
            self.add(day, rows.filter(pc.equal(days, pa.scalar(day, pa.date32()))))

    def _checked(self, rows: pa.Table) -> pa.Table:
        rows = rows.select(self._schema.names)
        for field in self._schema:
            assert field.nullable or not rows.column(field.name).null_count, f"nulls in {field.name}"
        return rows.cast(self._schema)

    def _show(self) -> None:
        for date in sorted(self._days):
            self._days[date].finish()
        if not self._days:
            raise InputError(f"{self._out}: there is no row to write; see whether the options leave any day")
        for day in self._days.values():
            for part in range(day.parts):
                self.store.show(day.folder, f".part-{part:05d}.parquet", f"part-{part:05d}.parquet")
        for day in self._days.values():
            self.store.write(lambda sink: None, day.folder, SUCCESS_MARKER)
        self._write_record(complete=True)
        self.days = dict(sorted(self.days.items()))

    def _write_record(self, complete: bool) -> None:
        days = {f"{date}": dataclasses.asdict(day) for date, day in sorted(self.days.items())}
        record = {"complete": complete, "source": self._source, "days": days}
        self.store.write(lambda sink: sink.write(json.dumps(record, indent=1).encode()), RECORD)

    def _record(self) -> dict[str, Any] | None:
        self.store.fs.invalidate_cache()
        path = self.store.path(RECORD)
        if not self.store.fs.exists(path):
            return None
        try:
            return dict(json.loads(self.store.fs.cat_file(path)))
        except ValueError as error:
            raise InputError(f"{path}: not readable ({error}); remove {self._out}") from error

    def _names(self) -> list[str]:
        if not self.store.fs.isdir(self.store.root):
            return []
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in self.store.fs.ls(self.store.root, detail=False)]

    def _remove_days(self) -> None:
        """Takes away the days of a log that was not finished, and what lay on its way to them."""
        for name in self._names():
            if name.startswith((f"{PARTITION_KEY}=", SCRATCH)):
                self.store.fs.rm(self.store.path(name), recursive=True)


def _first_unlike(there: Any, asked: Mapping[str, Any]) -> str:
    there, asked = dict(there or {}), json.loads(json.dumps(asked))
    for key in [*asked, *there]:
        if there.get(key) != asked.get(key):
            return f"{key}: {there.get(key)}, now {asked.get(key)}"
    return "unreadable"


def by_column(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Columns by name as a table of this schema's types; nulls are checked where they are written."""
    loose = pa.schema([pa.field(field.name, field.type) for field in schema])
    return pa.table([_typed(columns[field.name], field.type) for field in loose], schema=loose)


def _typed(values: Any, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values if values.type == kind else values.cast(kind)
    return pa.array(values, kind)


def midnight_ms(date: datetime.date) -> int:
    """The UTC midnight a date begins with, in ms since 1970."""
    return (date - datetime.date(1970, 1, 1)).days * 86_400_000
