"""A published text file -> blocks of whole lines -> Arrow tables, with every complaint at its line. No torch.

A block is some megabytes of whole lines, parsed at once; memory is one block, whatever the file's size. Plain or
compressed (.gz, .bz2, .xz: whatever fsspec tells by the name), on any fsspec file system.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from pipeline.storage import reason
from schemas.errors import InputError

BLOCK_BYTES = 16 << 20
SHOWN = 60
"""Characters of a bad line that a message shows."""
_BLANK = re.compile(rb"(?:^|\n)\r?\n")
LINE_END = b"\n"
_AGAIN = "download it again"
_COLUMN = re.compile(r"CSV column #(\d+): ")
_ROW = re.compile(r"Row #(\d+): ")


@dataclass(frozen=True)
class Format:
    """How the lines of a file look."""

    what: str
    """The file in the publisher's words, for messages: `a log of KuaiRand (log_*.csv)`."""
    columns: Mapping[str, pa.DataType]
    """Columns to read and their types. Without a header, all columns there are, in the file's order."""
    header: bool = True
    """Whether the first line names the columns; then others may be there, in any order."""
    may_be_empty: tuple[str, ...] = ()
    """Numbers that may be left out: read as nulls."""


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file."""

    path: str
    first: int
    """Number of the first line, from 1."""
    lines: bytes


@dataclass(frozen=True)
class Rows:
    """Some rows of a file, and where they stand in it."""

    table: pa.Table
    path: str
    first: int
    """Number of the first row's line, from 1."""
    what: str
    lines: bytes = b""
    unit: str = "line"

    def refuse(self, row: int, why: str) -> NoReturn:
        """Raises InputError for a row, counted from 0."""
        line = f", in {shown(self.lines.split(LINE_END, row + 1)[row])}" if self.lines else ""
        raise InputError(f"{self.path}, {self.unit} {self.first + row:,}: {why}{line}; expected {self.what}")

    def check(self, holds: pa.ChunkedArray | pa.Array, column: str, why: str) -> None:
        """Raises InputError for the first row on which `holds` is false or null. `why` says what its value is not."""
        holds = pc.fill_null(holds, False)
        if not pc.all(holds, min_count=0).as_py():
            row = pc.index(holds, False).as_py()
            self.refuse(row, f"column '{column}': {self.table.column(column)[row].as_py()!r} {why}")


def tables(fs: Any, path: str, form: Format) -> Iterator[Rows]:
    """The file's rows in its order, some ten thousands at a time. Raises InputError naming file and line."""
    names = list(form.columns)
    for block in blocks(fs, path, form.what):
        if block.first == 1:
            head = block.lines.partition(b"\n")[0]
            if form.header:
                names = _header(path, head, form)
                block = Block(path, 2, block.lines[len(head) + 1 :])
            else:
                _check_width(path, head, form)
        if block.lines.strip(b"\r\n"):
            yield parse(block, names, form)


def blocks(fs: Any, path: str, what: str) -> Iterator[Block]:
    """Blocks of whole lines. Raises InputError where the file ends within a line, or is an empty or a web page."""
    first, rest = 1, b""
    try:
        with fs.open(path, "rb", compression="infer") as file:
            while chunk := file.read(BLOCK_BYTES):
                if first == 1 and not rest:
                    chunk = chunk.removeprefix(b"\xef\xbb\xbf")
                    _refuse_page(path, chunk, what)
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    lines, rest = rest + chunk[:cut], chunk[cut:]
                    yield Block(path, first, lines)
                    first += lines.count(b"\n")
                else:
                    rest += chunk
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: cut off within its compressed data, after line {first - 1:,}; {_AGAIN}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); {_AGAIN}, or see whether you may read it"
        ) from error
    if rest:
        raise InputError(
            f"{path}, line {first:,}: the file ends within this line, {shown(rest)}; {_AGAIN}. If the line is whole, "
            "end it with a newline"
        )
    if first == 1:
        raise InputError(f"{path}: is empty; expected {what}")


def parse(block: Block, names: Sequence[str], form: Format) -> Rows:
    """The block's rows. `names`: the file's columns in order."""
    convert = pa_csv.ConvertOptions(
        column_types=dict(form.columns),
        include_columns=list(form.columns),
        null_values=[""],
        strings_can_be_null=False,
    )
    # blank lines at the end of a file mean nothing
    rows = Rows(pa.table({}), block.path, block.first, form.what, block.lines.rstrip(b"\r\n") + LINE_END)
    if blank := _BLANK.search(rows.lines):  # to Arrow a row of nulls
        rows.refuse(rows.lines.count(LINE_END, 0, blank.end() - 1), "an empty line")
    try:
        table = _stripped(_read(rows.lines, names, convert, threads=True))
    except pa.ArrowInvalid:
        _refuse(rows, names, convert)
    rows = replace(rows, table=table)
    for name, column in zip(form.columns, table.columns, strict=True):
        if column.null_count and name not in form.may_be_empty:
            rows.refuse(pc.index(column.is_valid(), False).as_py(), f"column '{name}' is empty")
    return rows


def shown(text: bytes) -> str:
    """A line as a message shows it."""
    words = repr(text[:SHOWN].decode("utf-8", "replace"))
    return words + (" ..." if len(text) > SHOWN else "")


def _read(lines: bytes, names: Sequence[str], convert: pa_csv.ConvertOptions, threads: bool, **more: Any) -> pa.Table:
    return pa_csv.read_csv(
        pa.py_buffer(lines),
        read_options=pa_csv.ReadOptions(column_names=list(names), use_threads=threads, block_size=1 << 20),
        parse_options=pa_csv.ParseOptions(ignore_empty_lines=False, **more),
        convert_options=convert,
    )


def _stripped(table: pa.Table) -> pa.Table:
    """Strings without the spaces around them: some publishers put one behind each comma."""
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(i, field.name, pc.utf8_trim_whitespace(table.column(i)))
    return table


def _refuse(rows: Rows, names: Sequence[str], convert: pa_csv.ConvertOptions) -> NoReturn:
    """Finds the first bad line, a row at a time, and raises InputError."""
    unlike: list[tuple[int, int]] = []

    def note(row: pa_csv.InvalidRow) -> str:
        unlike.append((row.number, row.actual_columns))
        return "skip"

    why, told = "", None
    try:
        _read(rows.lines, names, convert, False, invalid_row_handler=note)
    except pa.ArrowInvalid as error:
        why = str(error).partition("\n")[0]
        told = _ROW.search(why)
    if unlike and (told is None or unlike[0][0] <= int(told[1])):
        number, width = unlike[0]
        rows.refuse(number - 1, f"{width} columns instead of {len(names)}")
    if told is None:
        raise InputError(f"{rows.path}, from line {rows.first:,}: {why}; expected {rows.what}")
    column = _COLUMN.search(why)
    name = f"column '{list(convert.include_columns)[int(column[1])]}': " if column else ""
    rows.refuse(int(told[1]) - 1, name + why.rpartition(": ")[2])


def _header(path: str, head: bytes, form: Format) -> list[str]:
    """The file's columns. Raises InputError where one that is needed is missing."""
    names = [name.strip().strip('"') for name in head.decode("utf-8", "replace").split(",")]
    missing = [name for name in form.columns if name not in names]
    if missing:
        raise InputError(f"{path}, line 1: no column '{missing[0]}' in {shown(head)}; expected {form.what}")
    twice = [name for name in form.columns if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}, line 1: column '{twice[0]}' stands there twice; expected {form.what}")
    return names


def _check_width(path: str, head: bytes, form: Format) -> None:
    width = head.count(b",") + 1
    if width != len(form.columns):
        raise InputError(
            f"{path}, line 1: {width} columns instead of {len(form.columns)}, in {shown(head)}; expected {form.what}"
        )


def _refuse_page(path: str, chunk: bytes, what: str) -> None:
    if chunk.lstrip()[:1] == b"<":
        raise InputError(f"{path}: is a web page, {shown(chunk.lstrip())}; {_AGAIN}: expected {what}")
