"""What a scoring run writes of each row: a Parquet file a rank, batch by batch, in the memory of one row group.

A file appears whole or not at all: a draft that is renamed, or an object that is there once its upload is complete.
Which run wrote it stands in its metadata (pipeline/predictions.py).
"""

import contextlib
import functools
import os
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.predictions import ATTEMPT, EXPOSED, LABEL, LOGIT, ROW, SPACE, part_name
from pipeline.storage import filesystem, is_local, reason
from pipeline.train.lane_chunks import Evaluated
from schemas.errors import InputError
from schemas.job import JobConfig

GROUP_ROWS = 65_536
"""Rows of a row group: what is held before it is written."""


class PredictionFile:
    """One rank's file, as a context: on an error nothing of it is left."""

    def __init__(self, folder: str, rank: int, job: JobConfig, attempt: str) -> None:
        self.name = part_name(rank)
        """Below the folder."""
        self.rows = 0
        self._url = f"{folder}/{self.name}"
        self._fs, self._path = filesystem(self._url)
        self._local = is_local(self._fs)
        self._draft = f"{os.path.dirname(self._path)}/.{self.name}.draft" if self._local else self._path
        self._tasks = [task.name for task in job.tasks]
        self._indicators = any(task.indicator for task in job.tasks)
        self._schema = _schema(self._tasks, self._indicators).with_metadata({ATTEMPT: attempt})
        self._pending: list[pa.Table] = []

    def __enter__(self) -> "PredictionFile":
        with self._told():
            if self._local:
                os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._sink: Any = open(self._draft, "wb") if self._local else self._fs.open(self._path, "wb")
            self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd", write_page_checksum=True)
        return self

    def add(self, rows: Evaluated) -> None:
        """Takes in what the model says of some rows. Raises InputError where it cannot be written."""
        kinds = [(LOGIT, rows.logits_BT, False), (LABEL, rows.labels_BT, False), (SPACE, rows.space_BT, True)]
        if self._indicators:
            assert rows.exposed_BT is not None
            kinds.append((EXPOSED, rows.exposed_BT, True))
        columns = {ROW: rows.row_ids_B.cpu().numpy()}
        for kind, x_BT, flag in kinds:
            x_TB = x_BT.detach().float().cpu().numpy().T
            columns |= {f"{kind}{task}": x_B != 0 if flag else x_B for task, x_B in zip(self._tasks, x_TB, strict=True)}
        self._pending.append(pa.table({name: pa.array(columns[name]) for name in self._schema.names}, self._schema))
        if sum(table.num_rows for table in self._pending) >= GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        table = pa.concat_tables(self._pending)
        with self._told():
            self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows += table.num_rows
        self._pending = []

    def close(self) -> dict[str, int]:
        """Ends the file, which is there from now on; its size by name."""
        if self._pending:
            self._write()
        with self._told():
            self._writer.close()
            if self._local:
                self._sink.flush()
                os.fsync(self._sink.fileno())
            self._sink.close()
            if self._local:
                os.replace(self._draft, self._path)
            self._fs.invalidate_cache()
            return {self.name: int(self._fs.size(self._path))}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        # one after another, whatever fails: the failure that brought us here is the one to tell
        steps = [self._writer.close, self._sink.close if self._local else self._sink.discard]
        for step in [*steps, *([functools.partial(os.unlink, self._draft)] if self._local else [])]:
            with contextlib.suppress(Exception):
                step()
        if not self._local:
            self._sink.closed = True  # else its own end would upload what is left

    @contextlib.contextmanager
    def _told(self) -> Any:
        """An InputError that names the file for whatever the storage raises."""
        try:
            yield
        except Exception as error:  # each driver has exceptions of its own
            raise InputError(
                f"{self._url}: cannot be written ({reason(error)}); free space or mend the rights, or name another "
                "score.out"
            ) from error


def _schema(tasks: list[str], indicators: bool) -> pa.Schema:
    kinds = [(LOGIT, pa.float32()), (LABEL, pa.float32()), (SPACE, pa.bool_())]
    kinds += [(EXPOSED, pa.bool_())] if indicators else []
    fields = [pa.field(f"{kind}{task}", type_, nullable=False) for kind, type_ in kinds for task in tasks]
    return pa.schema([pa.field(ROW, pa.int64(), nullable=False), *fields])
