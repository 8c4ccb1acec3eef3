"""Which files are scored, cut into units of work: a row group, or a piece of a large one. No torch.

What a file is cut into depends on the file alone, so that a run goes on with what another number of ranks has left.
"""

import dataclasses
import datetime
import functools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.data.contract import SchemaError, any_need, check_columns, input_needs, number_need
from pipeline.data.footers import BrokenFileError, Footer, read_footer
from pipeline.data.manifest import RowGroup
from pipeline.storage import LASTING, bounded, filesystem, is_local, patiently, reason
from schemas.errors import InputError
from schemas.events import PARTITION_KEY
from schemas.job import JobConfig
from schemas.predict import PredictConfig

UNIT_ROWS = 262_144
"""Rows of a unit at most: of a larger row group a later piece decodes what lies before it once more."""
LOCAL_THREADS, REMOTE_THREADS = 8, 32
DAY = re.compile(rf"{PARTITION_KEY}=(\d{{4}}-\d{{2}}-\d{{2}})")


@dataclasses.dataclass(frozen=True)
class InputFile:
    """A file to be scored, as it was when the run began."""

    name: str
    """Below the input's root, and below the output's."""
    path: str
    """Inside its filesystem."""
    size: int
    """Bytes."""
    footer: bytes
    """Hash of its footer."""
    footer_bytes: int
    rows_G: tuple[int, ...]
    """Rows of each row group."""
    schema: bytes
    """Its Arrow schema, serialized: equal ones are one object."""
    version: str = ""
    """Of its content, by its storage: an ETag, or when it was written last."""

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.rows_G)

    @property
    def day(self) -> datetime.date | None:
        """Of the partition it lies in, dt=DAY."""
        parts = self.name.split("/")
        found = DAY.fullmatch(parts[-2]) if len(parts) > 1 else None
        return None if found is None else datetime.date.fromisoformat(found[1])

    def group(self, index: int) -> RowGroup:
        """One of its row groups, rows numbered within the file."""
        first = sum(self.rows_G[:index])
        return RowGroup(self.path, index, self.rows_G[index], first, self.size, self.footer, self.footer_bytes)

    def units(self) -> Iterator[tuple[int, int, int]]:
        """Its units in the order of its rows: row group, first row in it, row after the last."""
        for group, rows in enumerate(self.rows_G):
            for begin in range(0, rows, UNIT_ROWS):
                yield group, begin, min(begin + UNIT_ROWS, rows)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A file that cannot be read, under data.bad."""

    name: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True, order=True)
class Listed:
    """A file that was found."""

    name: str
    """Below the root."""
    path: str
    size: int
    version: str


VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated")
"""Where the storages tell of a file's version."""


def _listed(name: str, path: str, entry: dict[str, Any]) -> Listed:
    version = next((str(entry[key]) for key in VERSIONS if entry.get(key) is not None), "")
    return Listed(name, path, int(entry["size"]), version)


def list_inputs(job: JobConfig, config: PredictConfig) -> list[Listed]:
    """Every Parquet file below the input, by name.

    What begins with a dot or an underscore is not looked at. Raises InputError where there is no file.
    """
    fs, root = filesystem(config.input, job.data.storage)
    root = root.rstrip("/")
    fs.invalidate_cache()

    def find() -> dict[str, Any]:
        return fs.find(root, detail=True)

    found = patiently(lambda: bounded(find, fs, job.data.storage), job.data.storage, f"predict.input: '{config.input}'")
    if list(found) == [root]:  # one file
        return [_listed(root.rsplit("/", 1)[-1], root, found[root])]
    out = []
    for path, entry in found.items():
        name = path[len(root) + 1 :]
        if name.endswith(".parquet") and not any(part[0] in "._" for part in name.split("/")):
            out.append(_listed(name, path, entry))
    if not out:
        raise InputError(
            f"predict.input: '{config.input}' is no Parquet file and holds none; name a file, or a folder with "
            "*.parquet below it"
        )
    return sorted(out)


def read_inputs(own: JobConfig, config: PredictConfig) -> tuple[list[InputFile], list[LeftOut]]:
    """The files with their row groups, checked for the columns that the model reads; those that are left out.

    Raises InputError for a file that cannot be read, or lacks a column, or whose day is not known where a feature
    looks back on earlier days.
    """
    listed = list_inputs(own, config)
    fs, _ = filesystem(config.input, own.data.storage)
    read = functools.partial(_file, own, config, fs)
    files: list[InputFile] = []
    left_out: list[LeftOut] = []
    with ThreadPoolExecutor(LOCAL_THREADS if is_local(fs) else REMOTE_THREADS) as pool:
        try:
            for each in pool.map(read, listed):
                if isinstance(each, LeftOut):
                    left_out.append(each)
                else:
                    files.append(each)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for file in files:
        if own.history and file.day is None:
            raise InputError(
                f"{file.path}: feature '{own.history[0].name}' looks back on earlier days, and the file lies in no "
                f"folder {PARTITION_KEY}=DAY, which says what is earlier; put it into one"
            )
    return files, left_out


def _file(own: JobConfig, config: PredictConfig, fs: Any, listed: Listed) -> InputFile | LeftOut:
    name, path = listed.name, listed.path
    bad = own.data.bad
    try:
        footer = _footer(own, fs, path, listed.size)
        metadata = footer.metadata
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if metadata.num_rows != sum(rows) or any(n < 0 for n in rows):
            raise BrokenFileError(
                f"{path}: not a whole Parquet file (its footer counts {metadata.num_rows} rows, its row groups "
                f"{sum(rows)}); write it again"
            )
        schema = metadata.schema.to_arrow_schema()
        check_columns(_wanted(own, config), schema, path)
    except BrokenFileError as error:
        if bad.corrupt == "error":
            raise
        return LeftOut(name, "corrupt", str(error).removeprefix(f"{path}: ").split(";", 1)[0])
    except SchemaError as error:
        if bad.schema_ == "error":
            raise
        return LeftOut(name, "schema", f"column '{error.column}' {error.reason}")
    kept = pa.schema([schema.field(column) for column in config.keep])
    serialized = kept.remove_metadata().serialize().to_pybytes()
    size, version = footer.file_bytes, listed.version
    return InputFile(name, path, size, footer.digest, footer.length, tuple(rows), serialized, version)


def _wanted(own: JobConfig, config: PredictConfig) -> Sequence[Any]:
    out = input_needs(own)
    if own.fusion is not None and own.fusion.factor is not None:
        out.append(number_need(own.fusion.factor.column, "the factor of the fused score"))
    return [*out, *(any_need(column, "which predict.keep names") for column in config.keep)]


def _footer(own: JobConfig, fs: Any, path: str, size: int) -> Footer:
    storage = own.data.storage
    read = functools.partial(read_footer, fs, path, size)
    try:
        footer = patiently(lambda: bounded(read, fs, storage), storage, path)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); see whether you may read it") from error
    except LASTING as error:
        raise BrokenFileError(f"{path}: not a whole Parquet file ({reason(error)}); see whether it is there") from error
    return dataclasses.replace(footer, tail=b"")
