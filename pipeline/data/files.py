"""Stage 1: an event log and its days -> a Manifest of row groups, checked against the job's columns. No torch.

Every footer is read once, in parallel. Global row ids count the rows of the manifest in file order, so that a row has
one id at any number of ranks.
"""

import dataclasses
import datetime
import functools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.contract import SchemaError, check_schema, needs
from pipeline.data.drift import drifted
from pipeline.data.footers import BrokenFileError, Footer, LocalFile, read_footer, remote_range
from pipeline.data.manifest import FILES, Manifest, RowGroup, manifest_of
from pipeline.data.pages import PageError, chunks_of, group_starts, has_checksum, leaves_of
from pipeline.data.quarantine import Piece, QuarantineLog, below_root
from pipeline.storage import LASTING, bounded, filesystem, is_local, patiently, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, SUCCESS_MARKER, DayRange
from schemas.job import JobConfig

__all__ = ["Manifest", "RowGroup", "filesystem", "list_days", "plan"]

LOCAL_THREADS, REMOTE_THREADS = 8, 32
"""Of planning: a local footer costs the processor, a remote one costs waiting."""
FILES_AT_A_TIME = 64
HEADER_BYTES = 4096
"""Of a file's first page, enough for its header."""

In = TypeVar("In")
Out = TypeVar("Out")


class AbsentError(InputError):
    """A day that may still come: no folder, no marker, no file or no row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A file as its folder lists it."""

    path: str
    """Below the log's root."""
    bytes: int
    etag: str = ""


def plan(job: JobConfig, days: DayRange) -> Manifest:
    """The manifest of the days, in order of day and file name.

    Raises InputError for a missing path, day, marker or file, a broken footer or a column the job cannot read.
    """
    return plan_files(job, days, list_days(job, days))


def plan_files(job: JobConfig, days: DayRange, listed: Sequence[Listed]) -> Manifest:
    """The manifest of these files, whatever else lies beside them."""
    fs, root = filesystem(job.data.path, job.data.storage)
    read = _Planner(job, fs, root)
    parts = [listed[i : i + FILES_AT_A_TIME] for i in range(0, len(listed), FILES_AT_A_TIME)]
    files = pa.Table.from_batches(list(_in_parallel(fs, read, parts)), FILES).combine_chunks()
    files, drift = read.leave_out_drifted(files)
    there = set(files.column("path").to_pylist())
    first_of_day = {os.path.dirname(file.path): file for file in reversed(listed) if file.path in there}.values()
    bare = [path for path in _in_parallel(fs, read.without_checksum, list(first_of_day)) if path is not None]
    origin = origin_of(job, days) | {"looked_at": len(first_of_day), "bare": sorted(bare)[:1], "without": len(bare)}
    origin |= {
        "left_out": [dataclasses.asdict(piece) for piece in sorted(read.left_out)],
        "drifted": len(drift),
        "drift": drift[:1],
    }
    manifest = manifest_of(files, root, origin)
    QuarantineLog("planning", job.data.bad, read.left_out).check_budget()
    if not manifest.groups:
        raise AbsentError(
            f"{job.data.path}: the days {days.first} to {days.last} hold no rows; generate or choose others"
        )
    return manifest


def origin_of(job: JobConfig, days: DayRange) -> dict[str, Any]:
    """What a manifest was made for: another of these needs another manifest, or another look at the files."""
    return {
        "path": job.data.path,
        "days": [str(days.first), str(days.last)],
        "columns": sorted(f"{column}: {words}" for column, _, _, words in needs(job)),
    }


def list_days(job: JobConfig, days: DayRange, may_lack: Collection[datetime.date] = ()) -> list[Listed]:
    """The Parquet files of the days, in order of day and name; no file is opened.

    Raises InputError for a day that is missing, unless it is one of those that the log `may_lack`.
    """
    fs, root = filesystem(job.data.path, job.data.storage)

    def files(day: datetime.date) -> list[Listed]:
        try:
            return _day_files(job, fs, root, day)
        except AbsentError:
            if day in may_lack:
                return []
            raise

    per_day = _in_parallel(fs, files, days.days())
    return [file for files in per_day for file in files]


def _in_parallel(fs: Any, act: Callable[[In], Out], items: Sequence[In]) -> Iterator[Out]:
    """`act` of each item in their order; the first failure ends it."""
    threads = LOCAL_THREADS if is_local(fs) else REMOTE_THREADS
    if len(items) < 2:
        yield from map(act, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(act, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Planner:
    """Footers -> rows of FILES. A schema equal to one that has passed is not looked at again."""

    def __init__(self, job: JobConfig, fs: Any, root: str) -> None:
        self._job, self._fs, self._root = job, fs, root
        self._passed: list[tuple[pq.ParquetSchema, bytes | None, pa.Schema]] = []
        self._lock = threading.Lock()
        self._schema_of: dict[str, pa.Schema] = {}
        self._groups_of: dict[str, int] = {}
        self.left_out: list[Piece] = []
        """Files that must not be read."""

    def __call__(self, listed: Sequence[Listed]) -> pa.RecordBatch:
        """Some files' rows of FILES."""
        rows = [(file, *found) for file in listed if (found := self._kept(file)) is not None]
        columns: dict[str, Iterable[Any]] = {
            "path": [file.path for file, *_ in rows],
            "bytes": [footer.file_bytes for _, footer, _ in rows],
            "footer": [footer.digest for _, footer, _ in rows],
            "footer_bytes": [footer.length for _, footer, _ in rows],
            "etag": [file.etag for file, *_ in rows],
            "rows": [[rows for rows, _ in groups] for *_, groups in rows],
            "group_bytes": [[size for _, size in groups] for *_, groups in rows],
        }
        return pa.record_batch([pa.array(columns[f.name], f.type) for f in FILES], schema=FILES)

    def _kept(self, file: Listed) -> tuple[Footer, list[tuple[int, int]]] | None:
        """What is known of the file; None where it is left out. Raises InputError where it may not be."""
        bad = self._job.data.bad
        try:
            return self._file(file)
        except BrokenFileError as error:
            if bad.corrupt == "error":
                raise
            kind, column, why = "corrupt", "", str(error).removeprefix(f"{self._root}/{file.path}: ").split(";", 1)[0]
        except SchemaError as error:
            if bad.schema_ == "error":
                raise
            kind, column, why = "schema", error.column, error.reason
        self._leave_out(file.path, kind, column, why)
        return None

    def _leave_out(self, path: str, kind: str, column: str, why: str) -> None:
        piece = Piece(below_root(path), -1, 0, -1, kind, column, why, max(1, self._groups_of.get(path, 1)))
        self.left_out.append(piece)

    def leave_out_drifted(self, files: pa.Table) -> tuple[pa.Table, list[str]]:
        """The files to be read, and those among them whose schema is not that of most. Raises InputError."""
        paths, policy = files.column("path").to_pylist(), self._job.data.bad.drift
        found = drifted(paths, self._schema_of)
        if not found or policy == "report":
            return files, [f"{drift.path}: {drift.reason}" for drift in found]
        if policy == "error":
            raise InputError(
                f"{self._root}/{found[0].path}: its schema is not that of most files: {found[0].reason}; write it "
                "again, or set data.bad.drift to report or quarantine"
            )
        for drift in found:
            self._leave_out(drift.path, "drift", drift.column, drift.reason)
        out = {drift.path for drift in found}
        return files.filter(pa.array([path not in out for path in paths])).combine_chunks(), []

    def _file(self, file: Listed) -> tuple[Footer, list[tuple[int, int]]]:
        footer = self._footer(file)
        metadata = footer.metadata
        self._groups_of[file.path] = metadata.num_row_groups
        self._schema_of[file.path] = self._checked(metadata, f"{self._root}/{file.path}")
        found = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        groups = [(group.num_rows, group.total_byte_size) for group in found]
        if metadata.num_rows != sum(rows for rows, _ in groups) or any(rows < 0 for rows, _ in groups):
            raise BrokenFileError(
                f"{self._root}/{file.path}: not a whole Parquet file (its footer counts {metadata.num_rows} rows, its "
                f"row groups {sum(rows for rows, _ in groups)}); write it again"
            )
        return dataclasses.replace(footer, tail=b""), groups

    def _footer(self, file: Listed) -> Footer:
        path, storage = f"{self._root}/{file.path}", self._job.data.storage
        # the listing's size is of no use for a local file: the open file tells its own
        read = functools.partial(read_footer, self._fs, path, file.bytes)
        try:
            return patiently(lambda: bounded(read, self._fs, storage), storage, path)
        except PermissionError as error:  # of rights or an expired key, not of the file: never left out
            raise InputError(f"{path}: cannot be read ({reason(error)}); see whether you may read it") from error
        except LASTING as error:
            raise BrokenFileError(
                f"{path}: not a whole Parquet file ({reason(error)}); see whether you may read it"
            ) from error

    def _checked(self, metadata: pq.FileMetaData, path: str) -> pa.Schema:
        """The file's schema, one object for all files that share it."""
        schema, arrow = metadata.schema, (metadata.metadata or {}).get(b"ARROW:schema")
        for other, others, passed in self._passed:
            if arrow == others and schema.equals(other):
                return passed
        found = schema.to_arrow_schema()
        check_schema(self._job, found, path)
        with self._lock:  # another thread may have met it meanwhile
            passed = next((p for _, _, p in self._passed if p.equals(found)), found)
            self._passed.append((schema, arrow, passed))
        return passed

    def without_checksum(self, file: Listed) -> str | None:
        """The file's path where the first page of its first column carries no checksum."""
        footer, path = self._footer(file), f"{self._root}/{file.path}"
        group = next((i for i in range(footer.metadata.num_row_groups) if footer.metadata.row_group(i).num_rows), None)
        if group is None or footer.metadata.num_columns == 0:
            return None
        begin = footer.file_bytes - len(footer.tail)
        words = memoryview(footer.tail)[-footer.length :]
        try:
            leaves = leaves_of(footer.metadata.schema)
            chunk = chunks_of(words, group_starts(words, leaves)[group], leaves)[0]
        except (PageError, IndexError):
            return None  # left to whoever reads the pages
        end = min(chunk.end, chunk.start + HEADER_BYTES)
        if not 0 < chunk.start < end <= footer.file_bytes:
            return None
        if chunk.start >= begin:
            head = footer.tail[chunk.start - begin : end - begin]
        elif is_local(self._fs):
            with LocalFile(path) as opened:
                head = opened.read(chunk.start, end)
        else:
            storage = self._job.data.storage
            fetch = functools.partial(remote_range, self._fs, path, chunk.start, end)
            head = patiently(lambda: bounded(fetch, self._fs, storage), storage, path)
        return None if has_checksum(memoryview(head)) else path


def _day_files(job: JobConfig, fs: Any, root: str, day: datetime.date) -> list[Listed]:
    """The Parquet files of one day, sorted."""
    name = f"{PARTITION_KEY}={day}"
    folder, storage = f"{root}/{name}", job.data.storage
    try:
        entries = patiently(lambda: bounded(lambda: _entries(fs, folder), fs, storage), storage, folder)
    except (FileNotFoundError, NotADirectoryError):
        if not fs.exists(root):
            raise InputError(f"data.path: no such path '{job.data.path}'; name the root of an event log") from None
        raise AbsentError(f"{folder}: the day {day} is missing; write it or change data.train / data.eval") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({reason(error)}); see whether you may read it") from error
    if job.data.require_success and SUCCESS_MARKER not in {file.path for file in entries}:
        raise AbsentError(
            f"{folder}: no {SUCCESS_MARKER} marker, so the day may still be written; wait for it, "
            "or set data.require_success=false"
        )
    files = sorted(
        (f for f in entries if f.path.endswith(".parquet") and not f.path.startswith((".", "_"))), key=lambda f: f.path
    )
    if not files:
        raise AbsentError(f"{folder}: an empty partition, no .parquet file; write the day or leave it out of the range")
    return [Listed(f"{name}/{file.path}", file.bytes, file.etag) for file in files]


def _size(entry: os.DirEntry[str]) -> int:
    """Of a log's file; whatever else lies there may go while one looks, or be a link to nothing."""
    try:
        return entry.stat().st_size if entry.name.endswith(".parquet") else 0
    except FileNotFoundError:
        return 0  # whoever opens it says so by its name


def _entries(fs: Any, folder: str) -> list[Listed]:
    """What lies in the folder, by name alone; seen afresh, not from a driver's cache."""
    if is_local(fs):
        with os.scandir(folder) as found:  # a tenth of what fsspec's listing costs
            return [Listed(entry.name, _size(entry)) for entry in found]
    fs.invalidate_cache(folder)
    entries = fs.ls(folder, detail=True)
    names = [(entry["name"].rstrip("/").rsplit("/", 1)[-1], entry) for entry in entries]
    return [
        Listed(name, int(entry.get("size") or 0), str(entry.get("ETag") or entry.get("etag") or "").strip('"'))
        for name, entry in names
    ]
