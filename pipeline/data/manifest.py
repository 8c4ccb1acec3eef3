"""The frozen manifest: what a run reads, file by file and row group by row group. No torch.

Stored as one Arrow table, a row a file, it costs 16 bytes a row group and some 60 bytes a file beside its name. Row
groups become objects only while somebody looks at them.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import InputError

MAGIC = b"fulcrum manifest 1\n"
DIGEST_BYTES = 16
HISTORY = "history"
"""In a manifest's origin: the statistics of earlier days that its rows are encoded with (history.py)."""

FILES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # below the log's root
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("footer", pa.binary(DIGEST_BYTES), nullable=False),  # BLAKE2b of the footer
        pa.field("footer_bytes", pa.int32(), nullable=False),  # with its length and magic: the file's last bytes
        pa.field("etag", pa.string(), nullable=False),  # the store's own, where its listing gives one
        pa.field("rows", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False),  # a row group each
        pa.field("group_bytes", pa.list_(pa.field("element", pa.int64(), nullable=False)), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group: the unit of reading."""

    path: str
    index: int
    rows: int
    first_row: int
    """Global id of its first row."""
    file_bytes: int = -1
    """Size of its file, as it was frozen; -1 = not known, not compared."""
    footer: bytes = b""
    """Hash of its file's footer."""
    footer_bytes: int = 0
    """Length of that footer with its length and magic."""

    @property
    def where(self) -> str:
        """For error messages."""
        return f"{self.path}, row group {self.index}"


class RowGroups(Sequence[RowGroup]):
    """The row groups that hold rows, in the order of files; each is made when it is asked for."""

    def __init__(self, files: pa.Table, root: str) -> None:
        self._files, self._root = files, root
        column: dict[str, pa.Array] = {name: _one_chunk(files, name) for name in files.column_names}
        count_F = np.diff(column["rows"].offsets.to_numpy())
        rows_G = column["rows"].flatten().to_numpy()
        file_G = np.repeat(np.arange(len(count_F), dtype=np.int32), count_F)
        index_G = np.arange(len(rows_G)) - np.repeat(np.cumsum(count_F) - count_F, count_F)
        first_G = np.cumsum(rows_G) - rows_G
        kept = rows_G > 0
        self.rows_G: npt.NDArray[np.int64] = rows_G[kept]
        """Rows of each."""
        self._file_G, self._index_G = file_G[kept], index_G[kept].astype(np.int32)
        self._first_G = first_G[kept]
        self._column = column

    def __len__(self) -> int:
        return len(self.rows_G)

    @overload
    def __getitem__(self, at: int) -> RowGroup: ...
    @overload
    def __getitem__(self, at: slice) -> list[RowGroup]: ...
    def __getitem__(self, at: int | slice) -> RowGroup | list[RowGroup]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        file = int(self._file_G[at])
        return RowGroup(
            f"{self._root}/{self._column['path'][file]}",
            int(self._index_G[at]),
            int(self.rows_G[at]),
            int(self._first_G[at]),
            self._column["bytes"][file].as_py(),
            self._column["footer"][file].as_py(),
            self._column["footer_bytes"][file].as_py(),
        )

    def __iter__(self) -> Iterator[RowGroup]:
        return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The frozen list of what a run reads."""

    groups: Sequence[RowGroup] = dataclasses.field(compare=False)
    fingerprint: str
    """Hash of every file's name under the log's root, its size, its footer, and its row groups' rows and bytes."""
    files: pa.Table = dataclasses.field(default_factory=FILES.empty_table, repr=False, compare=False)
    """One row a file, with the columns of FILES."""
    origin: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)
    """Of which log, days and columns it was made."""

    @property
    def rows(self) -> int:
        """All rows of the manifest."""
        return self.groups[-1].first_row + self.groups[-1].rows if self.groups else 0

    def to_bytes(self) -> bytes:
        """The manifest with a hash of itself in front, for a checkpoint."""
        about = {"fingerprint": self.fingerprint, "origin": self.origin}
        sink = io.BytesIO()
        table = self.files.replace_schema_metadata({"manifest": json.dumps(about)})
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        body = sink.getvalue()
        return MAGIC + hashlib.sha256(body).digest() + body


def manifest_of(files: pa.Table, root: str, origin: dict[str, Any]) -> Manifest:
    """The manifest of these files, below the root inside its filesystem."""
    return Manifest(RowGroups(files, root), fingerprint(files), files, origin)


def from_bytes(data: bytes, root: str, source: str) -> Manifest:
    """The manifest that `to_bytes` wrote, its files below `root`; `source` names it in errors.

    Raises InputError where the bytes are not such a manifest, or damaged.
    """
    begin = len(MAGIC) + hashlib.sha256().digest_size
    if not data.startswith(MAGIC):
        raise InputError(f"{source}: no manifest that this version reads; go on with the version that wrote it")
    if hashlib.sha256(data[begin:]).digest() != data[len(MAGIC) : begin]:
        raise InputError(f"{source}: damaged; restore it, or remove its checkpoint to go on from the one before")
    with pa.ipc.open_stream(data[begin:]) as reader:
        table = reader.read_all()
    about = json.loads(table.schema.metadata[b"manifest"])
    table = table.replace_schema_metadata(None)
    return Manifest(RowGroups(table, root), about["fingerprint"], table, about["origin"])


def fingerprint(files: pa.Table) -> str:
    """SHA-256 over names, sizes, footers and row groups; not over ETags, which another store gives anew."""
    digest = hashlib.sha256()
    for name in files.column_names:
        column = _one_chunk(files, name)
        if name != "etag":
            parts = [column.offsets, column.flatten()] if pa.types.is_list(column.type) else [column]
            for part in parts:
                digest.update(f"{name}\0{len(part)}\n".encode())
                for text in part.to_pylist() if name == "path" else [_memory(part)]:
                    digest.update(text.encode() + b"\0" if isinstance(text, str) else text)
    return digest.hexdigest()


def _memory(column: pa.Array) -> bytes:
    """The values' own bytes, whatever memory they are a slice of."""
    if isinstance(column, pa.FixedSizeBinaryArray):
        return b"".join(column.to_pylist())
    return column.to_numpy().tobytes()


def _one_chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
