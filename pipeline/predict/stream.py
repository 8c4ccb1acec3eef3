"""Units of files -> encoded rows and what is kept of them, one decoded batch ahead of whoever takes them.

The bytes, their checks, the retries and the encoding are those of training (pipeline/data).
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data import checks
from pipeline.data.checks import Finding, Where
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.data.history import history_of
from pipeline.data.order import Order, Stretch
from pipeline.data.quarantine import Piece
from pipeline.data.reader import Lost, read_stretch
from pipeline.data.rows import Rows
from pipeline.data.source import Source
from pipeline.predict.plan import Prediction, Unit
from pipeline.storage import filesystem
from schemas.features import StringFeature
from schemas.fusion import FusionFactor
from schemas.job import JobConfig

MISSING_FACTOR = "write it without nulls, or set fusion.factor.missing: NUMBER"


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Some rows of a unit, in the file's order."""

    unit: int
    """Its number in the plan."""
    rows: Rows
    """Encoded; a bad row holds nothing."""
    bad_N: npt.NDArray[np.bool_]
    kept: pa.RecordBatch | int
    """The kept columns; a number of rows where they could not be decoded."""
    column_N: npt.NDArray[np.float64] | None
    """What the fused score's factor reads."""
    bad: list[Piece]
    last: bool
    """Whether the unit ends with it."""


class Chunks:
    """Iterates over the chunks of some units; a thread decodes and encodes the next."""

    def __init__(self, found: Prediction, units: list[int]) -> None:
        own = found.job
        self._found, self._units = found, units
        self._flags = Flags(own.data) if own.data.bad.rows or own.data.bad.corrupt == "quarantine" else None
        history = history_of(own, found.history) if own.history else None
        self._encoder = Encoder(own, self._flags, history, labels=False)
        self._factor = own.fusion.factor if own.fusion is not None else None
        self._keep = found.config.keep
        self._source = _source(own, found, self._factor)
        self._pool = ThreadPoolExecutor(1, "reader")

    def __enter__(self) -> "Chunks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def __iter__(self) -> Iterator[Chunk]:
        chunks = self._all()
        ahead: Future[Chunk | None] = self._pool.submit(next, chunks, None)
        while (chunk := ahead.result()) is not None:
            ahead = self._pool.submit(next, chunks, None)
            yield chunk

    def _all(self) -> Iterator[Chunk]:
        for number in self._units:
            yield from self._of(number, self._found.units[number])

    def _of(self, number: int, unit: Unit) -> Iterator[Chunk]:
        file = self._found.files[unit[0]]
        group, stop = file.group(unit[1]), unit[3]
        for begin, batch in read_stretch(self._source, Stretch(group, unit[2], stop)):
            if isinstance(batch, Lost):
                left = stop - begin
                row_N = np.arange(group.first_row + begin, group.first_row + stop)
                piece = Piece(file.name, group.index, begin, left, "corrupt", "", batch.reason)
                lost = Rows.lost(self._encoder.layout, row_N)
                column_N = None if self._factor is None else np.zeros(left)
                yield Chunk(number, lost, np.ones(left, np.bool_), left, column_N, [piece], last=True)
                return
            last = begin + batch.num_rows == stop
            yield self._encoded(number, batch, Where(group.path, group.index, begin), group.first_row + begin, last)

    def _encoded(self, number: int, batch: pa.RecordBatch, where: Where, first: int, last: bool) -> Chunk:
        rows = self._encoder(batch, np.arange(first, first + batch.num_rows), where)
        bad_N = rows.row_id_N < 0
        bad = self._flags.come_up(rows.row_id_N[bad_N]) if self._flags is not None and bad_N.any() else []
        column_N = None
        if self._factor is not None:
            column_N, findings = _factor_column(self._factor, batch)
            for finding in findings:
                if self._flags is None or finding.kind not in self._flags.kinds:
                    finding.refuse(where)
                assert self._flags is not None
                bad += [
                    Piece("", where.group, where.number(row), 1, finding.kind, finding.column, finding.reason(row))
                    for row in np.flatnonzero(finding.bad_N & ~bad_N)[: self._flags.most].tolist()
                ]
                bad_N = bad_N | finding.bad_N
                column_N = np.where(bad_N, 0.0, column_N)
        name = self._found.files[self._found.units[number][0]].name
        bad = [dataclasses.replace(piece, file=name) for piece in bad]
        return Chunk(number, rows, bad_N, batch.select(self._keep), column_N, bad, last)


def _source(own: JobConfig, found: Prediction, factor: FusionFactor | None) -> Source:
    columns = dict.fromkeys(column for feature in own.features for column in feature.sources)
    columns |= dict.fromkeys([factor.column] if factor is not None else []) | dict.fromkeys(found.config.keep)
    texts = dict.fromkeys(f.source for f in own.features if isinstance(f, StringFeature))
    return Source(
        fs=filesystem(found.config.input, own.data.storage)[0],
        lanes=[],
        columns=list(columns),
        texts=list(texts),
        order=Order((), 1),
        shuffle=None,
        epoch=0,
        storage=own.data.storage,
        lenient=own.data.bad.corrupt == "quarantine",
    )


def _factor_column(factor: FusionFactor, batch: pa.RecordBatch) -> tuple[npt.NDArray[np.float64], list[Finding]]:
    """The column's numbers in 64 bits, `missing` in place of null and NaN; the rows that have none."""
    column: Any = batch.column(factor.column)
    if factor.missing is not None:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        column = column.cast(pa.float64(), safe=False).fill_null(factor.missing)
    nulls = checks.nulls(column, factor.column, MISSING_FACTOR)
    if nulls is not None:
        column = column.fill_null(0)
    x_N = column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
    return x_N, [each for each in (nulls, checks.not_finite(x_N, factor.column)) if each is not None]
