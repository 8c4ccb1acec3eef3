"""Run a function on N real gloo ranks, each its own process, and bring the results back.

    results = run_ranks(2, check_something, arg)      # check_something(rank, arg), defined at module level

Ranks are forked from one server process that has already imported torch, torchrec and Fulcrum's own modules
(preloaded.py), so a rank starts in milliseconds and the import is paid once a test session. Nothing here waits without
a bound: the start, the process group and the run each have a limit, and a rank that outlives its parent ends itself.
"""

import faulthandler
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_START_S = 180.0  # first use imports torch and torchrec in the fork server: slow on a cold, busy machine
_GROUP_S = 60.0
_EXIT_S = 15.0

fork_server = multiprocessing.get_context("forkserver")
OWN = ("schemas", "pipeline")
"""Packages of ours that the server imports."""
fork_server.set_forkserver_preload(["tests.distributed.preloaded"])


class RankFailureError(RuntimeError):
    """A rank died without an exception of its own (signal, time-out, a result that cannot be pickled)."""


@dataclass
class _Outcome:
    """What a rank leaves behind. `raised` is None where the exception does not pickle; `failure` is its traceback."""

    value: Any = None
    failure: str | None = None
    raised: BaseException | None = None
    at: float = 0.0


def run_ranks(world_size: int, fn: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """Call `fn(rank, *args)` on every rank of a fresh gloo group; return the results in rank order.

    `fn` and `args` must pickle (a module-level function); so must the results. Each rank has one torch thread, the
    parent's environment, working directory and import path, and RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE set.
    The group is initialised through a file, so parallel test runs share no port.

    Raises the exception of the rank that failed first, with the rank's traceback and output as a note; a rank that
    was killed, or that outlives `timeout` seconds, raises RankFailureError with its output and every rank's stack.
    """
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}: at least one rank is needed")
    payload = pickle.dumps((fn, args, dict(os.environ)))
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        home = Path(folder)
        ranks = [
            fork_server.Process(
                target=_rank_main, args=(rank, world_size, folder, payload, timeout), name=f"rank{rank}"
            )
            for rank in range(world_size)
        ]
        try:
            _start(ranks)
            late = _wait(ranks, timeout)
            return _collect(ranks, home, late, timeout)
        finally:
            _kill(ranks)


def _start(ranks: list[ForkServerProcess]) -> None:
    """Start every rank; in a thread, because Process.start() waits for the fork server without a limit."""
    failures: list[BaseException] = []

    def start_all() -> None:
        try:
            for process in ranks:
                process.start()
        except BaseException as error:
            failures.append(error)

    starter = threading.Thread(target=start_all, daemon=True)
    starter.start()
    starter.join(_START_S)
    if starter.is_alive():
        raise RankFailureError(f"the fork server started no rank within {_START_S:.0f} s")
    if failures:
        raise failures[0]


def _wait(ranks: list[ForkServerProcess], timeout: float) -> list[int]:
    """Wait until every rank has ended or one has failed; return the ranks still running at the limit."""
    deadline = time.monotonic() + timeout
    running = dict(enumerate(ranks))
    while running:
        ready = connection.wait([process.sentinel for process in running.values()], deadline - time.monotonic())
        if not ready:
            for process in running.values():  # each rank answers with its stack, even from inside a C call
                _signal(process, signal.SIGUSR1)
            time.sleep(0.5)
            return sorted(running)
        for rank, process in list(running.items()):
            if process.sentinel in ready:
                process.join(_EXIT_S)
                del running[rank]
                if process.exitcode != 0:
                    return []
    return []


def _collect(ranks: list[ForkServerProcess], home: Path, late: list[int], timeout: float) -> list[Any]:
    outcomes: list[_Outcome | None] = []
    for rank in range(len(ranks)):
        path = home / f"result{rank}"
        outcomes.append(pickle.loads(path.read_bytes()) if path.exists() else None)
    if late:
        stacks = "".join(f"\nrank {rank}:{_output(home, rank)}" for rank in range(len(ranks)))
        raise RankFailureError(f"ranks {late} of {len(ranks)} still running after {timeout:g} s{stacks}")
    # A rank with no result ended by a signal or os._exit; its peers' exceptions (connection closed) only follow.
    dead = [rank for rank, process in enumerate(ranks) if process.exitcode is not None and outcomes[rank] is None]
    if dead:
        rank = dead[0]
        raise RankFailureError(f"rank {rank} ended with code {ranks[rank].exitcode}{_output(home, rank)}")
    failed = [(o.at, rank, o) for rank, o in enumerate(outcomes) if o is not None and o.failure is not None]
    if failed:
        _, rank, first = min(failed, key=lambda item: item[:2])
        note = f"raised in rank {rank} of {len(ranks)}:\n{first.failure}{_output(home, rank)}"
        error = first.raised or RankFailureError(
            "a rank raised an exception that cannot be raised here; its traceback follows"
        )
        error.add_note(note)
        raise error
    broken = [rank for rank, process in enumerate(ranks) if process.exitcode != 0]
    if broken:
        rank = broken[0]
        raise RankFailureError(
            f"rank {rank} returned, then ended with code {ranks[rank].exitcode}{_output(home, rank)}"
        )
    return [outcome.value for outcome in outcomes if outcome is not None]


def _output(home: Path, rank: int) -> str:
    text = (home / f"output{rank}").read_text(errors="replace") if (home / f"output{rank}").exists() else ""
    return f"\n--- output of rank {rank} ---\n{text[-8000:]}" if text.strip() else ""


def _signal(process: ForkServerProcess, number: signal.Signals) -> None:
    """Signal the rank's whole session: whatever it started goes with it."""
    if process.pid is None or process.exitcode is not None:
        return
    try:
        os.killpg(process.pid, number) if number == signal.SIGKILL else os.kill(process.pid, number)
    except ProcessLookupError:  # not yet the leader of its own group, or just gone
        process.kill()


def _kill(ranks: list[ForkServerProcess]) -> None:
    for process in ranks:
        _signal(process, signal.SIGKILL)
    for process in ranks:
        if process.pid is not None:
            process.join(_EXIT_S)


def _rank_main(rank: int, world_size: int, folder: str, payload: bytes, timeout: float) -> None:
    """Body of a rank process: set up, call, leave the outcome in a file, stay until every peer has done so."""
    os.setsid()  # a group of its own, to be killed whole
    home = Path(folder)
    output = os.open(home / f"output{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable(2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    # If the parent is gone and nobody kills this rank, it ends itself.
    faulthandler.dump_traceback_later(timeout + _START_S, exit=True, file=2)
    succeeded = False
    try:
        data = pickle.dumps(_Outcome(value=_call(rank, world_size, home, payload)))
        succeeded = True
    except BaseException as error:
        data = _pickle_failure(error)
    partial = home / f"partial{rank}"
    partial.write_bytes(data)
    partial.rename(home / f"result{rank}")  # whole or absent
    if not succeeded:
        sys.exit(1)
    # A rank that closes its sockets while a peer is inside its last collective can break the peer's.
    deadline = time.monotonic() + timeout
    while not all((home / f"result{peer}").exists() for peer in range(world_size)):
        if time.monotonic() > deadline or not home.exists():
            sys.exit(1)
        time.sleep(0.002)
    if dist.is_initialized():
        dist.destroy_process_group()


def _call(rank: int, world_size: int, home: Path, payload: bytes) -> Any:
    fn, args, environment = pickle.loads(payload)
    os.environ.clear()  # the fork server keeps the environment of its own start
    os.environ.update(environment)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size)
    )
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name need not resolve
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{home}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=_GROUP_S),
    )
    return fn(rank, *args)


def _pickle_failure(error: BaseException) -> bytes:
    text, now = traceback.format_exc(), time.monotonic()
    if not isinstance(error, Exception):  # a rank's sys.exit or interrupt must not end the parent
        return pickle.dumps(_Outcome(failure=text, at=now))
    try:
        data = pickle.dumps(_Outcome(failure=text, raised=error, at=now))
        pickle.loads(data)  # an exception with its own __init__ may pickle and not come back
        return data
    except Exception:
        return pickle.dumps(_Outcome(failure=text, at=now))
