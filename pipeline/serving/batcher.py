"""Requests that come together are scored together: a bounded queue, and one thread for the network. No framework.

A request is taken on whole or not at all; whatever was taken on is scored, also while the service stops.
"""

import asyncio
import dataclasses
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from pipeline.serving.limits import Limits
from pipeline.serving.metrics import Metrics

Rows = Sequence[dict[str, Any]]
Scores = dict[str, list[float]]
Scorer = Callable[[Rows], dict[str, Any]]
"""Rows -> arrays by column; raises ValueError with `field` and `row` for a row that it refuses."""


class QueueFullError(Exception):
    """More rows wait than may."""


class StoppingError(Exception):
    """The service takes nothing on any more."""


@dataclasses.dataclass
class _Waiting:
    rows: Rows
    answer: asyncio.Future[Scores]


class Batcher:
    """One at a time through the network, as many together as wait."""

    def __init__(self, score: Scorer, limits: Limits, metrics: Metrics) -> None:
        self._score, self._limits, self._metrics = score, limits, metrics
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        """Rows taken on and not answered."""
        self._come = asyncio.Event()
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to score; in the event loop."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    @property
    def alive(self) -> bool:
        """Whether what is taken on will be answered."""
        return self._task is not None and not self._task.done()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for a task that is gone."""
        error = None if task.cancelled() else task.exception()
        for each in self._waiting:
            if not each.answer.done():
                each.answer.set_exception(RuntimeError(f"scoring has ended: {error!r}"))
                each.answer.exception()  # looked at: who hung up does not
        self._waiting.clear()
        self._stopping = True

    async def submit(self, rows: Rows) -> Scores:
        """The rows' scores. Raises QueueFullError, StoppingError, and the scorer's ValueError for rows it refuses."""
        if self._stopping:
            raise StoppingError
        if self._rows + len(rows) > self._limits.queue_rows:
            raise QueueFullError
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        self._rows += len(rows)
        self._waiting.append(waiting)
        self._metrics.queue_rows = self._rows
        self._come.set()
        try:
            # shielded: who hangs up does not cancel the batch that the others wait for
            return await asyncio.shield(waiting.answer)
        finally:
            self._rows -= len(rows)
            self._metrics.queue_rows = self._rows

    async def stop(self) -> None:
        """Takes nothing on any more, and returns once all that was taken on is scored."""
        self._stopping = True
        self._come.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._waiting:
                if self._stopping:
                    return
                self._come.clear()
                await self._come.wait()
                continue
            if self._limits.wait_ms and not self._stopping and self._ready() < self._limits.batch_rows:
                await asyncio.sleep(self._limits.wait_ms / 1000)
            batch = self._next()
            results = await loop.run_in_executor(self._thread, self._scored, [each.rows for each in batch])
            for each, result in zip(batch, results, strict=True):
                if each.answer.done():
                    continue
                if isinstance(result, BaseException):
                    each.answer.set_exception(result)
                    each.answer.exception()  # looked at: who hung up does not
                else:
                    each.answer.set_result(result)

    def _ready(self) -> int:
        return sum(len(each.rows) for each in self._waiting)

    def _next(self) -> list[_Waiting]:
        """The requests that came first, as many as fit a batch; at least one."""
        batch = [self._waiting.popleft()]
        rows = len(batch[0].rows)
        while self._waiting and rows + len(self._waiting[0].rows) <= self._limits.batch_rows:
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].rows)
        return batch

    def _scored(self, requests: list[Rows]) -> list[Scores | BaseException]:
        """Each request's scores, or what is wrong with it; in the network's thread."""
        if len(requests) > 1:
            with suppress(BaseException):  # of one of them: each is asked on its own
                return _apart(self._timed([row for rows in requests for row in rows]), requests)
        out: list[Scores | BaseException] = []
        for rows in requests:
            try:
                out += _apart(self._timed(rows), [rows])
            except ValueError as error:
                out.append(error)
            except BaseException as error:  # SystemExit and StopIteration too, which no future takes
                traceback.print_exception(error)
                out.append(RuntimeError(f"scoring failed: {error!r}"))
        return out

    def _timed(self, rows: Rows) -> dict[str, Any]:
        with self._metrics.batch(len(rows)):
            return self._score(rows)


def _apart(scores: dict[str, Any], requests: list[Rows]) -> list[Scores | BaseException]:
    out: list[Scores | BaseException] = []
    begin = 0
    for rows in requests:
        end = begin + len(rows)
        out.append({name: x_N[begin:end].tolist() for name, x_N in scores.items()})
        begin = end
    return out
