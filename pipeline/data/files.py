"""Stage 1: an event log and its days -> a Manifest of row groups, checked against the job's columns. No torch.

Every footer is read once, in parallel. Global row ids count the rows of the manifest in file order, so that a row has
one id at any number of ranks.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.contract import check_schema
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, SUCCESS_MARKER, DayRange
from schemas.job import JobConfig

FOOTER_THREADS = 8


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """One row group: the unit of reading."""

    path: str
    index: int
    rows: int
    first_row: int
    """Global id of its first row."""

    @property
    def where(self) -> str:
        """For error messages."""
        return f"{self.path}, row group {self.index}"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The frozen list of what a run reads."""

    groups: tuple[RowGroup, ...]
    fingerprint: str
    """Hash of every file's name under the log's root, its size, and its row groups' rows and bytes."""

    @property
    def rows(self) -> int:
        """All rows of the manifest."""
        return self.groups[-1].first_row + self.groups[-1].rows if self.groups else 0


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URL, and the path inside it."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: no filesystem for this kind of path: {error}") from error
    return fs, path


def open_parquet(fs: Any, path: str, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file with its page checksums verified; local files are opened by Arrow itself.

    The string columns named in `dictionaries` come out dictionary-encoded.
    """
    local = isinstance(fs.protocol, tuple) and "file" in fs.protocol
    try:
        source = path if local else fs.open(path, "rb")
        return pq.ParquetFile(
            source, page_checksum_verification=True, pre_buffer=not local, read_dictionary=list(dictionaries)
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({_first_line(error)}); write it again") from error


def plan(job: JobConfig, days: DayRange) -> Manifest:
    """The manifest of the days, in order of day and file name.

    Raises InputError for a missing path, day, marker or file, a broken footer or a column the job cannot read.
    """
    fs, root = filesystem(job.data.path)
    paths = [path for day in days.days() for path in _day_files(job, fs, root, day)]
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        footers = list(pool.map(lambda path: _footer(fs, path), paths))
    groups: list[RowGroup] = []
    digest = hashlib.sha256()
    first_row = 0
    for path, (sizes, schema, size) in zip(paths, footers, strict=True):
        check_schema(job, schema, path)
        digest.update(f"{path.removeprefix(root)}\0{size}\0{sizes}\n".encode())
        for index, (rows, _) in enumerate(sizes):
            if rows:
                groups.append(RowGroup(path, index, rows, first_row))
            first_row += rows
    if not groups:
        raise InputError(
            f"{job.data.path}: the days {days.first} to {days.last} hold no rows; generate or choose others"
        )
    return Manifest(tuple(groups), digest.hexdigest())


def _day_files(job: JobConfig, fs: Any, root: str, day: datetime.date) -> list[str]:
    """The Parquet files of one day, sorted."""
    folder = f"{root}/{PARTITION_KEY}={day}"
    try:
        entries = fs.ls(folder, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        if not fs.exists(root):
            raise InputError(f"data.path: no such path '{job.data.path}'; name the root of an event log") from None
        raise InputError(f"{folder}: the day {day} is missing; write it or change data.train / data.eval") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({_first_line(error)}); see whether you may read it") from error
    names = {entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries}
    if job.data.require_success and SUCCESS_MARKER not in names:
        raise InputError(
            f"{folder}: no {SUCCESS_MARKER} marker, so the day may still be written; wait for it, "
            "or set data.require_success=false"
        )
    files = sorted(n for n in names if n.endswith(".parquet") and not n.startswith((".", "_")))
    if not files:
        raise InputError(f"{folder}: an empty partition, no .parquet file; write the day or leave it out of the range")
    return [f"{folder}/{name}" for name in files]


def _footer(fs: Any, path: str) -> tuple[list[tuple[int, int]], pa.Schema, int]:
    """Rows and bytes of each row group, the Arrow schema and the file's size in bytes."""
    with open_parquet(fs, path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return [(group.num_rows, group.total_byte_size) for group in groups], file.schema_arrow, fs.size(path)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].rstrip(".")
