"""torchrun's agent with an orderly stop: ranks are told why they are signalled, and given the time to commit.

The agent as it is restarts ranks that stopped on purpose, kills them 30 s after a signal, and sends the same SIGTERM
for a failed peer, for a node that joins and for the job's end. Source: torch/distributed/elastic/agent/server.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from jobs.failure import is_input_error
from jobs.interrupts import Interrupts
from pipeline.train.stop import FAILURE, ORDER, REGROUP, marks

STOP_KEY = "fulcrum/stop"
"""In the store that all launchers of a job share: why the job is to stop."""
ENDED_KEY = "fulcrum/ended"
"""Of how many launchers the ranks have ended since."""
ASK_SECONDS = 1.0
"""Between looks at the store."""
LINGER_SECONDS = 10.0
"""A launcher whose ranks have ended waits so long for the others'."""


class Agent(LocalElasticAgent):
    """One node's agent; `folder` is shared with its ranks, `interrupts` with the launcher."""

    def __init__(self, *args: Any, interrupts: Interrupts, folder: Path, stop_seconds: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._interrupts, self._folder, self._stop_seconds = interrupts, folder, stop_seconds
        self._closing = FAILURE
        self._deadline = self._asked = 0.0
        interrupts.ranks = self._running

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        with self._interruptible():
            super()._rendezvous(worker_group)

    def _exit_barrier(self) -> None:
        if self._interrupts.stopping:
            return  # `_linger` was one, and a node whose ranks the signal has ended comes to no other
        with self._interruptible():
            super()._exit_barrier()

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        for left in self._folder.iterdir():  # by the ranks of an attempt before
            left.unlink()
        self._interrupts.at_once, self._interrupts.started = False, True
        pids = super()._start_workers(worker_group)
        assert self._pcontext is not None
        close = self._pcontext.close

        def close_with_order(death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
            stopping = self._interrupts.stopping
            self._order(stopping or self._closing)
            close(death_sig, self._stop_seconds if stopping or self._closing == REGROUP else timeout)

        setattr(self._pcontext, "close", close_with_order)  # noqa: B010 - mypy has no word for it
        return pids

    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        if self._interrupts.stopping:
            return  # a node would join a job that ends
        self._closing = REGROUP if worker_group.state == WorkerState.HEALTHY else FAILURE
        try:
            super()._restart_workers(worker_group)
        finally:
            self._closing = FAILURE

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        ended = result.state != WorkerState.HEALTHY
        if not self._interrupts.stopping:
            self._asked *= not ended  # at once: ranks may have ended because another node's were stopped
            self._interrupts.stopping = self._why_stop(worker_group)
            if self._interrupts.stopping:
                self._stop(worker_group, self._interrupts.stopping)
        elif time.monotonic() > self._deadline:
            self._interrupts.late = True
            self._signal(signal.SIGKILL)
        if self._interrupts.stopping and ended:
            self._linger(worker_group)
        if self._interrupts.stopping or any(is_input_error(failure) for failure in result.failures.values()):
            self._remaining_restarts = 0  # the ranks would only stop, or fail, again
        return result

    def _why_stop(self, worker_group: WorkerGroup) -> str:
        """By a signal to this launcher, to one of its ranks, or to another node; empty to go on."""
        if self._interrupts.number:
            return signal.Signals(self._interrupts.number).name
        if left := marks(self._folder):
            return str(left[0]["kind"])
        store: Any = worker_group.store
        if worker_group.group_world_size == 1 or time.monotonic() - self._asked < ASK_SECONDS:
            return ""
        self._asked = time.monotonic()
        try:
            return str(store.get(STOP_KEY).decode()) if store.check([STOP_KEY]) else ""
        except RuntimeError:  # its node is gone; the agent finds out by itself
            return ""

    def _stop(self, worker_group: WorkerGroup, why: str) -> None:
        self._deadline = time.monotonic() + self._stop_seconds
        self._order(why)
        self._signal(signal.SIGTERM)
        store: Any = worker_group.store
        if worker_group.group_world_size != 1:
            try:
                store.set(STOP_KEY, why)
            except RuntimeError:  # as above
                return

    def _linger(self, worker_group: WorkerGroup) -> None:
        """Waits until all launchers' ranks have ended.

        One that has not heard of the stop would wait for this node to come back; one that has may need its store.
        """
        store: Any = worker_group.store
        deadline = time.monotonic() + LINGER_SECONDS
        try:
            store.add(ENDED_KEY, 1)
            while store.add(ENDED_KEY, 0) < worker_group.group_world_size and time.monotonic() < deadline:
                time.sleep(0.1)
        except RuntimeError:  # its node is gone: all have ended
            return

    def _order(self, what: str) -> None:
        draft = self._folder / f".{ORDER}"
        draft.write_text(what)
        draft.rename(self._folder / ORDER)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._running():
            os.kill(pid, number)

    def _running(self) -> list[int]:
        """Process ids of this node's ranks; none of them reaped, so that no other process can have their id."""
        handlers = getattr(self._pcontext, "subprocess_handlers", {})
        return [handler.proc.pid for handler in handlers.values() if handler.proc.returncode is None]

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Where no rank runs, a signal ends the launcher at once."""
        self._interrupts.at_once = True
        try:
            yield
        finally:
            self._interrupts.at_once = False
