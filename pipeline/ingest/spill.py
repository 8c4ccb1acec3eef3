"""Rows on their way through a local disk: dealt to parts by a hash, read again a part at a time. No torch.

What belongs together by a key (a user's views, a sample and its common features) meets in one part, however the files
are ordered; memory is one part, and a few thousand rows of each of the others.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

SCRATCH = ".scratch-"
WAITING_ROWS = 1 << 14
"""Rows of a part that wait before they are written together."""


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[Path]:
    """A folder of the disk that is gone afterwards; inside `folder`, or where the system keeps such."""
    path = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Spill:
    """A table in parts."""

    def __init__(self, folder: Path, name: str, parts: int) -> None:
        self._paths = [folder / f"{name}-{part:05d}.arrows" for part in range(parts)]
        self._writers: list[pa.ipc.RecordBatchStreamWriter | None] = [None] * parts
        self._waiting: list[list[pa.Table]] = [[] for _ in range(parts)]
        self._rows = np.zeros(parts, np.int64)

    def add(self, rows: pa.Table, key_N: npt.NDArray[np.uint64]) -> None:
        """Deals rows out; the same key always goes to the same part."""
        part_N = (key_N % np.uint64(len(self._paths))).astype(np.int64)
        order_N = np.argsort(part_N, kind="stable")
        rows = rows.take(pa.array(order_N))
        edges = np.searchsorted(part_N[order_N], np.arange(len(self._paths) + 1))
        for part in np.flatnonzero(np.diff(edges)).tolist():
            self._waiting[part].append(rows.slice(edges[part], edges[part + 1] - edges[part]))
            self._rows[part] += edges[part + 1] - edges[part]
            if self._rows[part] >= WAITING_ROWS:
                self._write(part)

    def finish(self) -> "Spill":
        """Writes what waits."""
        for part in np.flatnonzero(self._rows).tolist():
            self._write(part)
        for writer in self._writers:
            if writer is not None:
                writer.close()
        return self

    def part(self, number: int) -> pa.Table | None:
        """The rows of a part in the order they came in; None where it has none."""
        if self._writers[number] is None:
            return None
        with pa.memory_map(str(self._paths[number])) as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all()

    def _write(self, part: int) -> None:
        rows = pa.concat_tables(self._waiting[part]).combine_chunks()
        self._waiting[part], self._rows[part] = [], 0
        writer = self._writers[part]
        if writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            writer = self._writers[part] = pa.ipc.new_stream(str(self._paths[part]), rows.schema, options=options)
        writer.write_table(rows)
