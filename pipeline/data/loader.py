"""Stage 6: lanes -> one rank's Batches, read ahead by a thread.

The loader yields exactly `Order.steps` batches on every rank, whatever rows each holds: no rank waits for another at
the end of the log.
"""

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator
from types import TracebackType

from pipeline.batch import Batch
from pipeline.data.collate import Collator
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags, bad_rows
from pipeline.data.history import history_of
from pipeline.data.lanes import lane_rows
from pipeline.data.permute import unflagged
from pipeline.data.quarantine import Piece
from pipeline.data.reader import reading
from pipeline.data.rows import Stream
from pipeline.data.source import Source
from schemas.errors import InputError
from schemas.job import JobConfig

POLL_SECONDS = 0.5


@dataclasses.dataclass
class LoaderClock:
    """Seconds so far, of every loader that it was given to."""

    waited: float = 0.0
    """That the consumer waited for its next batch."""
    worked: float = 0.0
    """That the reader's thread read, decoded, encoded and collated."""


class Loader:
    """Iterates over one rank's batches of one epoch, from `done` rows of the epoch on."""

    def __init__(
        self,
        job: JobConfig,
        source: Source,
        rank: int = 0,
        world: int = 1,
        done: int = 0,
        pin: bool = False,
        clock: LoaderClock | None = None,
    ) -> None:
        self.clock = clock or LoaderClock()
        lanes = source.order.lanes
        if world > lanes:
            raise InputError(
                f"data.lanes: {world} ranks share {lanes} lanes; start at most {lanes}, or set it to "
                f"{world} or more in a new output"
            )
        self.source = source
        self.rank, self.world, self.done = rank, world, done
        self._pin = pin  # page-locked batches, which a GPU fetches while it computes
        self._patience = job.train.timeout_seconds
        self.flags = Flags(job.data) if job.data.quarantine else None
        history = history_of(job, source.history) if job.history else None
        self.encoder = Encoder(job, self.flags, history, source.holdout)
        self._collator = Collator(job)
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(job.data.prefetch_batches)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reader-{rank}", daemon=True)

    def __enter__(self) -> "Loader":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def __iter__(self) -> Iterator[Batch]:
        while (item := self._timed_next()) is not None:
            yield item

    def _timed_next(self) -> Batch | None:
        began = time.perf_counter()
        try:
            return self._next()
        finally:
            self.clock.waited += time.perf_counter() - began

    def _next(self) -> Batch | None:
        """The next batch, None at the end; an error of the reader is raised here."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise RuntimeError("the reader thread died without a word") from None
                if time.monotonic() > deadline:
                    now = reading(self._thread.ident)
                    raise InputError(
                        f"rank {self.rank} has waited {self._patience} s for the reader's next batch"
                        f"{now and f', now at {now}'}; see whether the storage answers, or raise train.timeout_seconds"
                    ) from None
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _run(self) -> None:
        try:
            began = time.perf_counter()
            for batch in self.batches():
                self.clock.worked += time.perf_counter() - began
                if not self._put(batch.pin_memory() if self._pin else batch):
                    return
                began = time.perf_counter()
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> bool:
        """Whether the item went in; False once the consumer has left."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def batches(self) -> Iterator[Batch]:
        """The batches themselves, made in the caller's thread."""
        order, position_L = self.source.order, self.source.order.positions(self.done)
        streams = {
            lane: Stream(lane_rows(self.source, lane, int(position_L[lane]), self.encoder, self.flags))
            for lane in range(self.rank, order.lanes, self.world)
        }
        for end, share_L in order.shares(self.done):
            sizes = share_L.tolist()
            taken = [(lane, part) for lane, stream in streams.items() for part in stream.take(sizes[lane])]
            parts = [part for _, part in taken]
            out: list[Piece] = []
            unread = 0
            if any(part.rows.flagged for part in parts):
                parts, row_id_N = unflagged(self.encoder.layout, parts)
                bad_N = bad_rows(row_id_N)
                unread = len(row_id_N) - len(bad_N)
                out = self.flags.come_up(bad_N) if self.flags is not None else []
            batch = self._collator(parts, order.widest(share_L, self.world), self.source.epoch, end)
            rows_of = dict.fromkeys(streams, 0)
            for (lane, _), part in zip(taken, parts, strict=True):
                rows_of[lane] += part.num_rows
            yield dataclasses.replace(batch, left_out=tuple(out), unread=unread, lanes=tuple(rows_of.items()))
