"""One day of a log as compaction reads it: its footers, its one schema, its rows. No torch."""

import dataclasses
import datetime
import difflib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.parquet_file import open_parquet
from pipeline.data.parquet_layout import fields_with_nulls, leaf_count, loosest, nullable_fields, required
from pipeline.storage import reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, RESERVED_COLUMNS, SUCCESS_MARKER

READ_ROWS = 65_536
FOOTER_THREADS = 8


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """What a file's footer says."""

    path: str
    size: int
    """Bytes of the whole file."""
    groups: tuple[int, ...]
    """Rows of each row group."""
    schema: pa.Schema
    bytes_of: dict[str, int]
    """Compressed bytes by column."""
    nulls_of: dict[str, int | None]
    """Nulls by column, empty lists and their like counted too; None where the statistics do not say."""

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.groups)

    @property
    def name(self) -> str:
        """Its name in the day's folder."""
        return self.path.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class SourceDay:
    """The files of one day, all of one schema but for nullability."""

    fs: Any
    date: datetime.date
    files: tuple[SourceFile, ...]
    schema: pa.Schema
    """Of the columns that are kept; nullable where any file says so."""

    @property
    def rows(self) -> int:
        """Rows of the day."""
        return sum(file.rows for file in self.files)

    @property
    def row_groups(self) -> int:
        """Row groups of the day."""
        return sum(len(file.groups) for file in self.files)

    @property
    def column_bytes(self) -> int:
        """Compressed bytes of the columns that are kept."""
        return sum(file.bytes_of[name] for file in self.files for name in self.schema.names)

    @cached_property
    def nullable(self) -> set[str]:
        """The fields that may hold nulls, as `history.element`."""
        return set().union(*(nullable_fields(field) for field in self.schema))

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """The day's rows start .. stop in order. Raises InputError naming file and row group."""
        base = 0
        for file in self.files:
            begin, end = max(start - base, 0), min(stop - base, file.rows)
            if begin < end:
                for batch in read_rows(self.fs, file.path, begin, end, self.schema.names):
                    yield self._loosened(batch)
            base += file.rows

    def _loosened(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch under the day's schema: files may differ in what they declare nullable."""
        if batch.schema != self.schema:
            return batch.cast(self.schema)
        return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)

    def sample(self, rows: int) -> pa.Table:
        """The first rows of the day."""
        return pa.Table.from_batches(self.read(0, min(rows, self.rows)), self.schema).unify_dictionaries()

    def with_nulls(self, threads: int) -> set[str]:
        """The fields that hold a null somewhere in the day. Decodes only the columns of which no footer tells."""
        found, unknown = set(), []
        for field in self.schema:
            if not nullable_fields(field):
                continue
            counts = [file.nulls_of[field.name] for file in self.files]
            if all(count == 0 for count in counts):
                continue
            if not pa.types.is_nested(field.type) and any(counts):
                found.add(field.name)
            else:
                unknown.append(field.name)
        if unknown:
            with ThreadPoolExecutor(threads) as pool:
                for names in pool.map(lambda file: self._nulls_in(file, unknown), self.files):
                    found |= names
        return found

    def check_nulls(self, batch: pa.RecordBatch, with_nulls: set[str]) -> None:
        """Raises InputError where the batch holds a null in a field of which the footers said that it holds none."""
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            for field in fields_with_nulls(name, array) - with_nulls:
                raise InputError(
                    f"dt={self.date}: column '{field}' holds nulls where the file's own statistics say that it holds "
                    "none; write that day again"
                )

    def _nulls_in(self, file: SourceFile, columns: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for batch in read_rows(self.fs, file.path, columns=columns):
            for name in columns:
                found |= fields_with_nulls(name, batch.column(name))
        return found


def source_day(
    fs: Any, root: str, date: datetime.date, columns: Sequence[str] | None = None, require_success: bool = True
) -> SourceDay:
    """Reads the day's footers. Raises InputError for a missing day, marker, file or column, and for unlike schemas.

    With `columns` only these are kept, and the reserved ones.
    """
    paths = _files(fs, root, date, require_success)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        files = tuple(pool.map(lambda path: _footer(fs, path), paths))
    schema = files[0].schema
    for file in files:
        _check_same(files[0], file)
    wanted = schema.names if columns is None else list(dict.fromkeys([*RESERVED_COLUMNS, *columns]))
    for name in wanted:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(schema.names)}"
            raise InputError(f"{files[0].path}: no column '{name}'; {hint}")
    fields = [loosest([file.schema.field(name) for file in files]) for name in schema.names if name in wanted]
    return SourceDay(fs, date, files, pa.schema(fields, schema.metadata))


def days_of(fs: Any, root: str) -> list[datetime.date]:
    """The days that the log holds, in order."""
    try:
        entries = fs.ls(root, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"--from: no such path '{root}'; name the root of an event log") from None
    names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries]
    out = []
    for name in names:
        key, _, day = name.partition("=")
        if key == PARTITION_KEY:
            try:
                out.append(datetime.date.fromisoformat(day))
            except ValueError:
                raise InputError(f"{root}/{name}: '{day}' is no day; a partition is dt=YYYY-MM-DD") from None
    if not out:
        raise InputError(f"--from: '{root}' holds no partition dt=YYYY-MM-DD; name the root of an event log")
    return sorted(out)


def read_rows(
    fs: Any, path: str, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows start .. stop of a file, page checksums verified. Raises InputError naming file and row group."""
    with open_parquet(fs, path) as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        base = 0
        for group, rows in enumerate(groups):
            begin, end = max(start - base, 0), rows if stop is None else min(stop - base, rows)
            if begin < end:
                yield from _stretch(file, f"{path}, row group {group}", group, begin, end, columns)
            base += rows


def _stretch(
    file: pq.ParquetFile, where: str, group: int, begin: int, end: int, columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """The rows begin .. end of a row group."""
    position = 0
    try:
        for batch in file.iter_batches(READ_ROWS, [group], columns, use_threads=False):
            first, last = max(begin - position, 0), min(end - position, batch.num_rows)
            position += batch.num_rows
            if first < last:
                yield (batch if columns is None else batch.select(columns)).slice(first, last - first)
            if position >= end:
                return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: cannot be decoded ({reason(error)}); write the file again") from error
    if position < end:
        raise InputError(f"{where}: holds {position} rows, fewer than its footer promises; write the file again")


def _files(fs: Any, root: str, date: datetime.date, require_success: bool) -> list[str]:
    folder = f"{root}/{PARTITION_KEY}={date}"
    try:
        entries = fs.ls(folder, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: the day {date} is missing; write it or change --days") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error}); see whether you may read it") from error
    names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries}
    if require_success and SUCCESS_MARKER not in names:
        raise InputError(
            f"{folder}: no {SUCCESS_MARKER} marker, so the day may still be written; wait for it, or give "
            "--allow-unfinished"
        )
    files = sorted(n for n in names if n.endswith(".parquet") and not n.startswith((".", "_")))
    if not files:
        raise InputError(f"{folder}: an empty partition, no .parquet file; write the day or leave it out of --days")
    return [f"{folder}/{name}" for name in files]


def _footer(fs: Any, path: str) -> SourceFile:
    with open_parquet(fs, path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        bytes_of: dict[str, int] = {}
        nulls_of: dict[str, int | None] = {}
        first = 0
        for field in schema:
            leaves = range(first, first + leaf_count(field.type))
            first = leaves.stop
            chunks = [group.column(leaf) for group in groups if group.num_rows for leaf in leaves]
            known = [count for count in map(_nulls, chunks) if count is not None]
            bytes_of[field.name] = sum(chunk.total_compressed_size for chunk in chunks)
            nulls_of[field.name] = sum(known) if len(known) == len(chunks) else None
        return SourceFile(path, fs.size(path), tuple(g.num_rows for g in groups), schema, bytes_of, nulls_of)


def _nulls(chunk: pq.ColumnChunkMetaData) -> int | None:
    statistics = chunk.statistics
    return statistics.null_count if statistics is not None and statistics.has_null_count else None


def _check_same(first: SourceFile, file: SourceFile) -> None:
    """Raises InputError where a file's columns or types differ from those of the day's first file."""
    for name in file.schema.names:
        if file.schema.names.count(name) > 1:
            raise InputError(f"{file.path}: column '{name}' stands there twice; write it once")
    for missing, there, place in (
        (set(first.schema.names) - set(file.schema.names), first, file),
        (set(file.schema.names) - set(first.schema.names), file, first),
    ):
        for name in sorted(missing):
            raise InputError(
                f"{place.path}: column '{name}' is missing, which {there.name} of the same day has; write them alike"
            )
    for field in first.schema:
        here = file.schema.field(field.name)
        if not _alike(here, field):
            raise InputError(
                f"{file.path}: column '{field.name}' holds {here.type} where {first.name} of the same day holds "
                f"{field.type}; write them alike"
            )


def _alike(a: pa.Field, b: pa.Field) -> bool:
    """Whether two fields are one but for nullability."""
    return required(a, set()).type == required(b, set()).type
