"""What is written: a file for each input, whole or not at all, and what tells of whom it is. No torch.

    OUT/NAME.parquet          as the input's own name; its metadata say of which input and model it is
    OUT/_predict.json         written last: what the whole run came to
    OUT/_quarantine.jsonl     the bad rows, one piece a line; where there are some
    OUT/.parts/               units of files that are cut into several, until the file is whole

Shapes: N rows, T tasks.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.quarantine import Piece
from pipeline.fusion import fused_log_score, outputs
from pipeline.predict.inputs import InputFile
from pipeline.storage import filesystem, is_local, reason
from schemas.errors import InputError
from schemas.job import JobConfig

FORMAT = 1
ROW, SCORE, LOG_SCORE = "row", "score", "log_score"
ABOUT, BAD = b"fulcrum.predict", b"fulcrum.predict.bad"
"""In a file's metadata: of whom it is; its bad rows."""
SUMMARY, QUARANTINE, PARTS = "_predict.json", "_quarantine.jsonl", ".parts"
GROUP_ROWS = 131_072
"""Rows of a row group at most."""


def output_columns(own: JobConfig) -> list[str]:
    """The columns of numbers, in their order."""
    names = list(outputs(own.outputs, np.zeros((1, len(own.tasks)))))
    return names + ([SCORE, LOG_SCORE] if own.fusion is not None else [])


def output_schema(own: JobConfig, kept: pa.Schema) -> pa.Schema:
    """The kept columns, the row's number within its file, and the numbers, which are null on a bad row."""
    fields = [pa.field(field.name, _plain(field.type)) for field in kept]
    fields += [pa.field(ROW, pa.int64(), nullable=False)]
    return pa.schema(fields + [pa.field(name, pa.float64()) for name in output_columns(own)])


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def unit_table(
    own: JobConfig,
    schema: pa.Schema,
    kept: Sequence[pa.RecordBatch | int],
    first: int,
    logit_NT: npt.NDArray[np.float32],
    bad_N: npt.NDArray[np.bool_],
    column_N: npt.NDArray[np.float64] | None,
) -> pa.Table:
    """A unit's rows as they are written.

    `kept` holds the kept columns batch by batch, or how many rows of the log could not be decoded; `first` is the
    number of its first row within the file, `column_N` the numbers that the fused score's factor reads.
    """
    columns: dict[str, Any] = {}
    names = schema.names[: schema.get_field_index(ROW)]
    for at, name in enumerate(names):
        kind = schema.field(name).type
        parts = [pa.nulls(each, kind) if isinstance(each, int) else _cast(each.column(at), kind) for each in kept]
        columns[name] = pa.chunked_array(parts, kind)
    columns[ROW] = pa.array(np.arange(first, first + len(logit_NT)))
    numbers: dict[str, npt.NDArray[np.float64]] = outputs(own.outputs, logit_NT)
    if own.fusion is not None:
        numbers[LOG_SCORE] = fused_log_score(own.fusion.model_dump(mode="json"), own.outputs, logit_NT, column_N)
        with np.errstate(over="ignore", under="ignore"):
            numbers[SCORE] = np.exp(numbers[LOG_SCORE])
    mask = bad_N if bad_N.any() else None
    columns |= {name: pa.array(x_N, pa.float64(), mask=mask) for name, x_N in numbers.items()}
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column if column.type == kind else column.cast(kind)


@dataclasses.dataclass(frozen=True)
class Done:
    """A file of the output that is there."""

    about: dict[str, Any]
    rows: int
    bad: list[Piece]


class Output:
    """The folder or URL that is written to."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, root = filesystem(self.url)
        self.root = root.rstrip("/")
        self.local = is_local(self.fs)

    def done(self, file: InputFile) -> Done | None:
        """What is there under the file's name; None for nothing. Raises InputError for what was not written here."""
        path = f"{self.root}/{file.name}"
        try:
            with self.fs.open(path, "rb") as source:
                metadata = pq.read_metadata(source)
        except FileNotFoundError:
            return None
        except Exception as error:  # each driver has exceptions of its own
            raise InputError(f"{self.url}/{file.name}: cannot be read ({reason(error)}); {OTHER}") from error
        told = metadata.metadata or {}
        if ABOUT not in told:
            raise InputError(f"{self.url}/{file.name}: was not written by a prediction; {OTHER}")
        return Done(json.loads(told[ABOUT]), metadata.num_rows, pieces_of(told.get(BAD, b"[]")))

    def part(self, about: dict[str, Any], file: InputFile, unit: tuple[int, int, int]) -> str:
        """The name of a unit's part, which no other file, unit, model or setting has."""
        what = json.dumps([about, file.name, unit], sort_keys=True)
        return f"{hashlib.sha256(what.encode()).hexdigest()[:40]}.arrow"

    def parts(self) -> set[str]:
        """The parts that are there."""
        folder = f"{self.root}/{PARTS}"
        self.fs.invalidate_cache()
        if not self.fs.exists(folder):
            return set()
        names = [path.rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)]
        return {name for name in names if name.endswith(".arrow") and not name.startswith(".")}

    def remove_parts(self, keep: set[str]) -> None:
        """Removes what lies among the parts, but for these."""
        folder = f"{self.root}/{PARTS}"
        with self._told(PARTS):
            if not self.fs.exists(folder):
                return
            for path in self.fs.ls(folder, detail=False):
                if path.rsplit("/", 1)[-1] not in keep:
                    self.fs.rm_file(path)
            if not keep and self.local:
                os.rmdir(folder)

    def write_part(self, name: str, table: pa.Table, bad: Sequence[Piece]) -> None:
        """Writes a unit's rows, whole or not at all."""
        table = table.replace_schema_metadata({BAD: told(bad)})
        with self._whole(f"{PARTS}/{name}") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def read_part(self, name: str) -> tuple[pa.Table, list[Piece]]:
        """What `write_part` wrote."""
        path = f"{self.root}/{PARTS}/{name}"
        try:
            with self.fs.open(path, "rb") as source, pa.ipc.open_file(source) as reader:
                table = reader.read_all()
        except Exception as error:  # each driver has exceptions of its own
            raise InputError(
                f"{self.url}/{PARTS}/{name}: cannot be read ({reason(error)}); remove it, and the same command goes on"
            ) from error
        return table, pieces_of((table.schema.metadata or {}).get(BAD, b"[]"))

    def bad_of_part(self, name: str) -> list[Piece]:
        """Its bad rows."""
        return self.read_part(name)[1]

    def write(
        self,
        file: InputFile,
        schema: pa.Schema,
        about: dict[str, Any],
        bad: Sequence[Piece],
        tables: Iterable[pa.Table],
    ) -> None:
        """Writes a file of the output, whole or not at all."""
        schema = schema.with_metadata({ABOUT: json.dumps(about, sort_keys=True), BAD: told(bad)})
        with (
            self._whole(file.name) as sink,
            pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for table in tables:
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=GROUP_ROWS)

    def write_small(self, name: str, content: str) -> None:
        """Writes a text, whole or not at all."""
        with self._whole(name) as sink:
            sink.write(content.encode())

    def remove_small(self, name: str) -> None:
        """Removes it, where it is there."""
        with self._told(name):
            if self.fs.exists(f"{self.root}/{name}"):
                self.fs.rm_file(f"{self.root}/{name}")

    def finished(self, files: int) -> bool:
        """Whether a summary is there, of as many files."""
        try:
            return bool(json.loads(self.fs.cat_file(f"{self.root}/{SUMMARY}"))["files"] == files)
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def strays(self, names: set[str]) -> list[str]:
        """Parquet files below the output that none of these names explains."""
        self.fs.invalidate_cache()
        found = [path[len(self.root) + 1 :] for path in self.fs.find(self.root)]
        visible = [n for n in found if n.endswith(".parquet") and not any(part[0] in "._" for part in n.split("/"))]
        return sorted(set(visible) - names)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Any]:
        """A sink whose content is there under the name once the block has ended well."""
        path = f"{self.root}/{name}"
        folder, base = path.rsplit("/", 1)
        draft = f"{folder}/.{base}.draft" if self.local else path
        with self._told(name):
            if self.local:
                os.makedirs(folder, exist_ok=True)
            sink: Any = open(draft, "wb") if self.local else self.fs.open(path, "wb")  # noqa: SIM115
            try:
                yield sink
                if self.local:
                    sink.flush()
                    os.fsync(sink.fileno())
                sink.close()
                if self.local:
                    os.replace(draft, path)
            except BaseException:
                # one after another, whatever fails: the failure that brought us here is the one to tell
                for step in [sink.close, functools.partial(os.unlink, draft)] if self.local else [sink.discard]:
                    with contextlib.suppress(Exception):
                        step()
                if not self.local:
                    sink.closed = True  # else its own end would upload what is left
                raise

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """An InputError that names the file for whatever the storage raises."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # each driver has exceptions of its own
            raise InputError(
                f"{self.url}/{name}: cannot be written ({reason(error)}); free space or mend the rights, and the same "
                "command goes on"
            ) from error


OTHER = "name another predict.out, or remove it"


def told(bad: Sequence[Piece]) -> bytes:
    """Bad rows as a file's metadata have them."""
    return json.dumps([dataclasses.astuple(piece) for piece in bad]).encode()


def pieces_of(content: bytes) -> list[Piece]:
    """What `told` wrote."""
    return [Piece(*each) for each in json.loads(content)]
