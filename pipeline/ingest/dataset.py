"""What a data set that can be ingested is made of, and the run that writes it. No torch."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipeline.ingest.written_log import DayWritten, WrittenLog
from pipeline.storage import filesystem
from schemas.errors import InputError

Options = dict[str, Any]


def whole_number(text: str) -> int:
    """An option's value: 0 or more. Raises ValueError."""
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


@dataclass(frozen=True)
class Option:
    """An option of one data set's sub-command."""

    flag: str
    help: str
    default: Any = None
    kind: Callable[[str], Any] = str
    values: int | None = None
    metavar: str | tuple[str, ...] | None = None
    choices: Sequence[str] | None = None


@dataclass(frozen=True)
class About:
    """A data set in words."""

    name: str
    title: str
    source: str
    licence: str
    cite: str
    files: str
    """The files that --from must hold."""
    rows: str
    """What becomes of them."""


class Source(Protocol):
    """The files of one data set, found and named; nothing of them read yet."""

    @property
    def schema(self) -> pa.Schema:
        """Of the log's files."""

    @property
    def labels(self) -> Sequence[str]:
        """Columns of 0 and 1 that are counted."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a finished log is recognised by: files with their sizes, options."""

    def write(self, log: WrittenLog, progress: "Progress") -> list[str]:
        """Every row into the log; returns what there is to tell. Raises InputError."""


@dataclass(frozen=True)
class Dataset:
    """A data set and how its files are opened."""

    about: About
    open: Callable[["Folder", Options], Source]
    """Raises InputError for a file that is missing."""
    row_group_rows: int
    options: tuple[Option, ...] = ()


@dataclass
class Ingested:
    """What was done."""

    days: dict[Any, DayWritten]
    labels: Sequence[str]
    seconds: float
    told: list[str]
    fresh: bool
    """False where the log was there already."""


class Progress:
    """Rows read so far, told as they come."""

    def __init__(self, tell: Callable[[str, int, float], None]) -> None:
        self.rows = 0
        self._tell, self._began = tell, time.perf_counter()

    def __call__(self, what: str, rows: int) -> None:
        """`what`: the file or the stage under way."""
        self.rows += rows
        self._tell(what, self.rows, time.perf_counter() - self._began)


class Folder:
    """The folder that --from names."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fs, self.root = filesystem(path)
        self.root = self.root.rstrip("/")
        if not self.fs.isdir(self.root):
            raise InputError(f"--from: no such folder '{path}'")
        listed = self.fs.ls(self.root, detail=True)
        self.sizes = {entry["name"].rsplit("/", 1)[-1]: int(entry["size"] or 0) for entry in listed}

    def find(self, *names: str, what: str, need: bool = True) -> str:
        """The path of the first of these files that is there, plain or as .gz; "" where none is and none is needed."""
        for name in names:
            for there in (name, f"{name}.gz"):
                if there in self.sizes:
                    return f"{self.root}/{there}"
        if not need:
            return ""
        wanted = " or ".join(names)
        some = ", ".join(sorted(self.sizes)[:6]) or "nothing"
        raise InputError(f"--from: '{self.path}' has no {wanted} ({what}); it holds {some}")

    def matching(self, pattern: str, wanted: str = "") -> list[str]:
        """Paths of the files whose names match, plain or as .gz; `wanted` names what must be there."""
        found = [name for name in sorted(self.sizes) if re.fullmatch(rf"(?:{pattern})(?:\.gz)?", name)]
        if wanted and not found:
            some = ", ".join(sorted(self.sizes)[:6]) or "nothing"
            raise InputError(f"--from: '{self.path}' has no {wanted}; it holds {some}")
        for name in found:  # rows that come in two forms would be there twice
            other = next((o for o in found if o.endswith(".parquet") and not name.endswith(".parquet")), f"{name}.gz")
            if other in found:
                raise InputError(f"--from: '{self.path}' holds both {name} and {other}; keep one form of the same rows")
        return [f"{self.root}/{name}" for name in found]

    def identity(self, *paths: str) -> dict[str, int]:
        """Names and sizes of some files."""
        names = [path.rsplit("/", 1)[-1] for path in paths if path]
        return {name: self.sizes[name] for name in sorted(names)}


def ingest(dataset: Dataset, source: str, out: str, options: Options, rows: int | None, progress: Progress) -> Ingested:
    """Writes the log; a finished one of the same files and options is left alone. Raises InputError."""
    began = time.perf_counter()
    group = rows or dataset.row_group_rows
    files = dataset.open(Folder(source), options)
    identity = {"dataset": dataset.about.name, "row_group_rows": group, **files.identity}
    log = WrittenLog(out, files.schema, files.labels, group)
    if log.already(identity):
        return Ingested(log.days, files.labels, time.perf_counter() - began, [], fresh=False)
    with log.begin(identity):
        told = files.write(log, progress)
    return Ingested(log.days, files.labels, time.perf_counter() - began, told, fresh=True)
