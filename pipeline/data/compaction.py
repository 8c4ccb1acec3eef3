"""An event log -> the same rows in the recommended layout (`parquet_layout`), a day at a time. No torch.

A day is planned from its footers: its rows are cut into near-equal row groups and those into files, so that every file
to write is a stretch of the day's rows and threads write several at once. Each is read again and compared with its
source, column by column, before any is shown:

    OUT/dt=2026-01-01/_compacted.json        first: what the day is made from; makes a torn day known as our own
    OUT/dt=2026-01-01/.part-00000.parquet    hidden while it is written and verified
    OUT/dt=2026-01-01/part-00000.parquet     shown when all files of the day are whole
    OUT/dt=2026-01-01/_SUCCESS               last

Memory: for each thread a row group's decoded rows, and what Parquet's writer holds of it.
"""

import dataclasses
import datetime
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.column_digest import ColumnDigests
from pipeline.data.log_store import LogStore
from pipeline.data.parquet_layout import ROW_GROUP_ROWS, encodings, required, writer_options
from pipeline.data.source_day import SourceDay, read_rows, source_day
from pipeline.storage import filesystem, protocols, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, SUCCESS_MARKER, TRUTH_FILE

FILE_BYTES = 128 << 20
"""Near this size, as the source's bytes go: some row groups, and no day of thousands of files to open."""
RECORD = "_compacted.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a log is rewritten."""

    row_group_rows: int = ROW_GROUP_ROWS
    file_bytes: int = FILE_BYTES
    threads: int = 1


Progress = Callable[[float], None]
"""Told how many rows more are done; half of a row when it is written, half when it is verified."""


@dataclasses.dataclass(frozen=True)
class _Target:
    """How the files of one day are written."""

    folder: str
    schema: pa.Schema
    with_nulls: set[str]
    options: dict[str, Any]
    progress: Progress
    stop: threading.Event
    """Set when the day has failed: its other threads end."""


class Compaction:
    """Rewrites days of one log into another."""

    def __init__(self, source: str, out: str, settings: Settings) -> None:
        self.fs, self.root = filesystem(source)
        self.store = LogStore(out)
        self.settings = settings
        _check_apart(source, out, self.fs, self.root.rstrip("/"), self.store)
        # memory:// gives all readers of a file one handle, which threads would move under each other
        self._threads = 1 if "memory" in protocols(self.fs) + protocols(self.store.fs) else settings.threads

    def finished(self, day: SourceDay) -> bool:
        """Whether the day was rewritten before. Raises InputError where `out` holds another day of this date."""
        folder = self._folder(day.date)
        names = self._names(folder)
        if SUCCESS_MARKER not in names and RECORD not in names and not any(_is_shown(n) for n in names):
            return False
        where = self.store.path(folder)
        strangers = [n for n in names if _is_shown(n) and not n.startswith("part-")]
        if RECORD not in names or strangers:
            raise InputError(f"{where}: holds a day that was not written by compact; choose another --out")
        if SUCCESS_MARKER not in names:
            return False
        try:
            found = json.loads(self.store.fs.cat_file(self.store.path(folder, RECORD)))
        except ValueError as error:
            raise InputError(f"{where}/{RECORD}: not readable ({error}); remove {where}") from error
        for key, value in self._record(day).items():
            if found.get(key) != value:
                raise InputError(f"{where}: made from other {key}; remove that folder, or choose another --out")
        rows = self.written(day.date).rows
        if rows != day.rows:
            raise InputError(f"{where}: holds {rows:,} of {day.rows:,} rows; remove that folder and compact it again")
        return True

    def rewrite(self, day: SourceDay, progress: Progress) -> SourceDay:
        """Writes the day anew. Raises InputError where the source cannot be read or the target not be written."""
        folder = self._folder(day.date)
        for name in self._names(folder):  # what an interrupted run has left
            if name.lstrip(".").startswith("part-"):
                self._guarded(partial(self.store.fs.rm_file, self.store.path(folder, name)), folder, name)
        record = json.dumps(self._record(day), indent=1).encode()
        self._write(lambda sink: sink.write(record), folder, RECORD)
        with_nulls = day.with_nulls(self._threads)
        schema = pa.schema([required(field, with_nulls) for field in day.schema], day.schema.metadata)
        options = writer_options(*encodings(day.sample(self.settings.row_group_rows)))
        target = _Target(folder, schema, with_nulls, options, progress, threading.Event())
        files = {f"part-{number:05d}.parquet": edges for number, edges in enumerate(self._bounds(day))}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="compact") as pool:
            parts = [pool.submit(self._part, day, target, f".{name}", edges) for name, edges in files.items()]
            try:
                for part in as_completed(parts):
                    part.result()
            except BaseException:
                target.stop.set()  # where it is not a file that failed: an interrupt
                pool.shutdown(cancel_futures=True)
                raise
        for name in files:
            self._guarded(partial(self.store.show, folder, f".{name}", name), folder, name)
        self._write(lambda sink: None, folder, SUCCESS_MARKER)
        return self.written(day.date)

    def written(self, date: datetime.date) -> SourceDay:
        """A finished day of the new log."""
        return source_day(self.store.fs, self.store.root.rstrip("/"), date)

    def copy_truth(self) -> None:
        """A generated log's declared truth goes with its days."""
        if self.fs.exists(f"{self.root}/{TRUTH_FILE}"):
            truth = self.fs.cat_file(f"{self.root}/{TRUTH_FILE}")
            self._write(lambda sink: sink.write(truth), TRUTH_FILE)

    def _bounds(self, day: SourceDay) -> list[list[int]]:
        """For each file to write the day's rows at which its row groups begin, and at which the last one ends."""
        groups = -(-day.rows // self.settings.row_group_rows)
        files = max(1, min(groups, round(day.column_bytes / self.settings.file_bytes)))
        edges = [day.rows * g // groups for g in range(groups + 1)] if groups else [0]
        cuts = [groups * f // files for f in range(files + 1)]
        return [edges[a : b + 1] for a, b in itertools.pairwise(cuts)]

    def _part(self, day: SourceDay, target: _Target, name: str, edges: list[int]) -> None:
        """Writes and verifies one file, unless another has failed."""
        if target.stop.is_set():
            return
        try:
            self._written_and_read(day, target, name, edges)
        except BaseException:
            target.stop.set()  # here and not where it is waited for: no thread begins another file
            raise

    def _written_and_read(self, day: SourceDay, target: _Target, name: str, edges: list[int]) -> None:
        """One file: the rows between the first and the last of the edges."""
        wanted, found = ColumnDigests(), ColumnDigests()

        def fill(sink: Any) -> None:
            with pq.ParquetWriter(sink, target.schema, **target.options) as writer:
                rows = day.read(edges[0], edges[-1])
                for batches in _cut(rows, [b - a for a, b in itertools.pairwise(edges)]):
                    if target.stop.is_set():
                        return
                    for batch in batches:
                        day.check_nulls(batch, target.with_nulls)
                        wanted.update(batch)
                    table = pa.Table.from_batches(batches).unify_dictionaries().cast(target.schema)
                    writer.write_table(table, row_group_size=table.num_rows)
                    target.progress(table.num_rows / 2)

        self._write(fill, target.folder, name)
        if target.stop.is_set():
            return
        path = self.store.path(target.folder, name)
        for batch in read_rows(self.store.fs, path):
            if target.stop.is_set():
                return
            found.update(batch)
            target.progress(batch.num_rows / 2)
        unlike = wanted.unlike(found)
        if unlike or found.rows != edges[-1] - edges[0]:
            raise InputError(
                f"{path}: does not read back as its source ({found.rows:,} of {edges[-1] - edges[0]:,} rows; unlike "
                f"columns: {', '.join(unlike) or 'none'}); nothing was shown. See whether disk and memory are sound"
            )

    def _record(self, day: SourceDay) -> dict[str, Any]:
        """What the day is made from; a rerun compares it. No URL: it may hold credentials."""
        return {
            "files": [[file.name, file.size, file.rows] for file in day.files],
            "columns": day.schema.names,
            "row_group_rows": self.settings.row_group_rows,
            "file_bytes": self.settings.file_bytes,
        }

    def _folder(self, date: datetime.date) -> str:
        return f"{PARTITION_KEY}={date}"

    def _names(self, folder: str) -> list[str]:
        """What lies in a folder of the new log."""
        self.store.fs.invalidate_cache()
        if not self.store.fs.exists(self.store.path(folder)):
            return []
        entries = self.store.fs.ls(self.store.path(folder), detail=False)
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries]

    def _write(self, fill: Callable[[Any], Any], *name: str) -> None:
        self._guarded(lambda: self.store.write(fill, *name), *name)

    def _guarded(self, work: Callable[[], Any], *name: str) -> None:
        try:
            work()
        except OSError as error:
            path = self.store.path(*name)
            raise InputError(
                f"{path}: cannot be written ({error.strerror or reason(error)}); mend it and run the same command again"
            ) from error


def _cut(batches: Iterator[pa.RecordBatch], sizes: list[int]) -> Iterator[list[pa.RecordBatch]]:
    """The same rows, as many at a time as the sizes say."""
    rest = None
    for size in sizes:
        pieces: list[pa.RecordBatch] = []
        while size:
            rest = rest if rest is not None and rest.num_rows else next(batches)
            pieces.append(rest.slice(0, size))
            rest = rest.slice(pieces[-1].num_rows)
            size -= pieces[-1].num_rows
        yield pieces


def _is_shown(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith((".", "_"))


def _check_apart(source: str, out: str, fs: Any, root: str, store: LogStore) -> None:
    """Raises InputError where the new log would lie in the old one."""
    target = store.root.rstrip("/")
    if protocols(fs) != protocols(store.fs):
        return
    if "file" in protocols(fs):
        root, target = os.path.realpath(root), os.path.realpath(target)
    if target == root or target.startswith(f"{root}/"):
        raise InputError(f"--out: '{out}' lies in --from '{source}'; the log is never rewritten in place")
