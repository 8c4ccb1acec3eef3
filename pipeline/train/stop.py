"""Stopping on a signal: noted by a rank, agreed by all ranks in the step's one all-reduce, told to the launcher.

From the first training step on, a signal is only noted. Each step carries the ranks' notes to all of them
(pipeline/loss.py), so all learn of it in the same step, finish it, commit and raise `Stopped`. Before the first step
there is nothing to commit and nothing that other ranks could agree on: the rank leaves from inside the handler.

The launcher and its ranks share a folder, named in FULCRUM_HANDOVER. There the launcher writes what its next SIGTERM
means (`ORDER`), and a rank that stopped leaves a mark. torchrun would take another exit code than 0 for a failure and
start the ranks again, so a rank that left a mark exits with 0 and the launcher with 75; without our launcher, under
bare torchrun, the ranks exit with 75 themselves.

No torch here: the handlers are in place before it is imported.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar

STOPPED = 75
"""Exit code of a run that was stopped and goes on with the same command: EX_TEMPFAIL of sysexits.h."""
HANDOVER = "FULCRUM_HANDOVER"
"""Names the folder that the launcher shares with its ranks."""
LAUNCHER = "FULCRUM_LAUNCHER"
"""Holds the launcher's process id."""
ORDER = "order"
"""File in it: what the launcher's SIGTERM means, one of KINDS or FAILURE. Without it, it came from elsewhere."""
REGROUP = "regroup"
"""Nodes join or leave: commit, then wait to be started again among them."""
FAILURE = "failure"
"""A rank has failed: nothing can be agreed on any more, leave."""
KINDS = (signal.SIGTERM.name, signal.SIGINT.name, REGROUP)
"""Why all ranks may stop together; a stop for good comes before a regrouping."""
READER_SECONDS = 10
"""How long a rank that is to stop still waits for its reader: no step, no boundary to commit at."""
ECHO_SECONDS = 2
"""A second signal so soon is the first once more: systemd and Slurm signal launcher and ranks alike."""
BLOCKED_SECONDS = 1.0
"""How long the main thread has to come to its handler before the first step."""
REGROUP_SECONDS = 60
"""How long a rank waits for its own launcher to take part in a regrouping that another node began."""

T = TypeVar("T")


class Stopped(BaseException):
    """All ranks have stopped together. No Exception: it is no failure, and no handler of failures may swallow it."""

    def __init__(self, kind: str, line: str) -> None:
        super().__init__(line)
        self.kind, self.line = kind, line


def farewell(why: str, where: str) -> str:
    """The line of a `Stopped`: what stopped it, and what goes on from there."""
    if why == REGROUP:
        return f"nodes join or leave {where}; starting again"
    return f"stopped by {why} {where}; the same command goes on from there"


class Stop:
    """What this rank has been told about stopping."""

    def __init__(self) -> None:
        self._kind: str | None = None
        self._since = 0.0
        self._leaves = True
        self._waiting = False

    def install(self) -> None:
        """Takes over SIGTERM and SIGINT. Only the process's main thread may call it."""
        signal.signal(signal.SIGTERM, self._received)
        signal.signal(signal.SIGINT, self._received)
        signal.signal(signal.SIGALRM, self._reader_is_late)
        heard, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        threading.Thread(target=self._leave_for, args=(heard,), name="stop", daemon=True).start()

    def defer(self) -> None:
        """From here on a signal is noted for all ranks to agree on; until here the rank leaves at once."""
        self._leaves = False

    def undefer(self) -> None:
        """From here on a signal ends the rank at once again, one that was noted included: nobody is left to agree."""
        self._leaves = True
        if self._kind is not None:
            self._leave("after the last step; the same command goes on")

    def signals(self) -> list[float]:
        """What this rank has been told, one number for each of KINDS, to be summed over ranks."""
        return [float(kind == self._kind) for kind in KINDS]

    @staticmethod
    def agreed(counts: list[float]) -> str | None:
        """What all ranks do, from the sum of `signals` over them: one of KINDS, or None to go on."""
        return next((kind for kind, count in zip(KINDS, counts, strict=True) if count), None)

    def waited(self, batches: Iterator[T]) -> Generator[T, None, None]:
        """The same batches; a rank that is to stop does not wait long for the next. Closing it closes `batches`."""
        try:
            while True:
                self._waiting = True
                if self._kind is not None:
                    signal.setitimer(signal.ITIMER_REAL, READER_SECONDS)
                batch = next(batches, None)
                self._waiting = False
                if self._kind is not None:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                if batch is None:
                    return
                yield batch
        finally:
            self._waiting = False
            if isinstance(batches, Generator):
                batches.close()

    def farewell(self, stopped: Stopped) -> int:
        """Says that the ranks have stopped, and returns this rank's exit code."""
        if stopped.kind != REGROUP:
            return _told(stopped.kind, stopped.line)
        _say(stopped.line)
        if self._kind is None:
            # another node's launcher has asked; ours will, and takes an end before that for the end of the job
            self._leaves = True
            time.sleep(REGROUP_SECONDS)
            raise RuntimeError(f"waited {REGROUP_SECONDS} s for the launcher to regroup, as another node's has")
        return 0

    def _received(self, number: int, frame: Any) -> None:
        order = _order() if number == signal.SIGTERM else None
        if order == FAILURE:
            os._exit(128 + number)
        if self._kind is None:
            self._since = time.monotonic()
        elif HANDOVER not in os.environ and time.monotonic() - self._since > ECHO_SECONDS:
            os._exit(128 + number)  # under the launcher it is the launcher that counts
        if self._kind in (None, REGROUP):
            self._kind = order or signal.Signals(number).name
        if self._leaves:
            self._leave("before the first step, nothing to commit; the same command starts again")
        if self._waiting:
            signal.setitimer(signal.ITIMER_REAL, READER_SECONDS)

    def _leave_for(self, heard: int) -> None:
        """Leaves in the place of a main thread that waits inside a library, where no handler runs: ranks that meet."""
        while number := os.read(heard, 1)[0]:
            if self._leaves and number in (signal.SIGTERM, signal.SIGINT):
                time.sleep(BLOCKED_SECONDS)
                if self._leaves:
                    self._received(number, None)

    def _reader_is_late(self, number: int, frame: Any) -> None:
        if self._waiting:
            self._leave(
                f"while waiting for the reader, {READER_SECONDS} s without a batch, not committed; "
                "the same command goes on from the newest checkpoint"
            )

    def _leave(self, what: str) -> None:
        """Ends the rank from inside a handler: an exception could come out anywhere, as another one."""
        assert self._kind is not None
        code = 0 if self._kind == REGROUP else _told(self._kind, f"stopped by {self._kind} {what}")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _order() -> str | None:
    """What the launcher's signal means; None where it did not come from there."""
    try:
        return (Path(os.environ[HANDOVER]) / ORDER).read_text()
    except (KeyError, OSError):
        return None


def _told(kind: str, line: str) -> int:
    """Leaves the mark for the launcher; the exit code that goes with it."""
    said = _say(line)
    if HANDOVER not in os.environ:
        return STOPPED
    mark = {"kind": kind, "line": line, "said": said}
    name = f"rank-{os.environ.get('LOCAL_RANK', 0)}"
    draft = Path(os.environ[HANDOVER]) / f".{name}"
    draft.write_text(json.dumps(mark))
    draft.rename(draft.with_name(name))
    return 0


def _say(line: str) -> bool:
    """Rank 0 speaks for all."""
    if os.environ.get("RANK", "0") != "0":
        return False
    # one write, past Python's buffers: inside a handler they may be in use
    os.write(sys.stderr.fileno(), f"{line}\n".encode())
    return True


def marks(folder: Path) -> list[dict[str, Any]]:
    """What the ranks of this launcher left behind as they stopped, in their order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*"))]
