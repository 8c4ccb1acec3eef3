"""The runs as processes of the real command, in turn or several at a time, stopped in an orderly way.

One thread looks after all of them: a process is tied to the thread that starts it (`_die_with`).
"""

import ctypes
import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.compare.runs import JOB, Run
from pipeline.report.text import duration
from schemas.errors import InputError

LAUNCHER = "jobs.launch"
"""What `./launch.sh train` runs."""
SECONDS_BETWEEN_LINES = 10.0
LOOK_SECONDS = 0.1
TAIL_BYTES = 8192
STOPPED = 75
"""Exit code of a run that was told to stop and goes on with the same command."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that did not finish."""

    run: Run
    why: str


@dataclasses.dataclass
class _Child:
    """A run under way."""

    run: Run
    number: int
    """Of all runs, from 1."""
    slot: int
    """Its share of the GPUs."""
    process: "subprocess.Popen[bytes]"
    began: float
    log_begins: int
    """Bytes of the log that earlier attempts wrote."""
    stopped: bool = False
    """Whether it was told to stop."""

    def tail(self) -> str:
        """The end of what this attempt has printed."""
        with self.run.log.open("rb") as file:
            file.seek(max(self.log_begins, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")

    def line(self) -> str:
        """Its last line of progress."""
        lines = [line for line in self.tail().splitlines() if line.startswith(("step ", "evaluat"))]
        return re.sub(r" {2,}", "  ", lines[-1]) if lines else "starting"

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.began

    def seconds_left(self) -> float | None:
        """By the share of rows that it has trained; None where that is not known yet."""
        line = self.line()
        share = re.search(r"\( *(\d+)%\)", line)
        done = int(share[1]) / 100 if share and line.startswith("step") else 0
        return self.seconds() * (1 - done) / done if done else None


class Processes:
    """Runs what is left to run, `jobs` at a time, each on a share of `devices` (none on a CPU)."""

    def __init__(self, jobs: int, ranks: int, devices: Sequence[str], say: Callable[[str], None]) -> None:
        self._jobs, self._ranks, self._devices, self._say = jobs, ranks, devices, say
        self._children: list[_Child] = []
        self._took: list[float] = []
        self.stopped_by = 0
        """The signal that ended it early; 0 for none."""

    def run(self, todo: Sequence[Run], done: int, summary: Callable[[Run], str]) -> list[Failure]:
        """Runs them all but where a signal comes; the failures. `done` runs had finished before.

        `summary` is what is said of a run that has finished; where it raises InputError, the run has failed. The first
        SIGINT or SIGTERM has the runs commit and stop; a second one ends them at once, and this process too.
        """
        handlers = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        waiting, failures, told = deque(enumerate(todo, start=done + 1)), [], time.monotonic()
        total = done + len(todo)
        try:
            while (waiting and not self.stopped_by) or self._children:
                while waiting and len(self._children) < self._jobs and not self.stopped_by:
                    number, run = waiting.popleft()
                    try:
                        self._start(number, run, total)
                    except OSError as error:  # a full disk
                        why = f"{run.folder}: cannot be started ({error.strerror})"
                        self._say(f"run {number} of {total}  {run.words}: FAILED: {why}")
                        failures.append(Failure(run, why))
                if self.stopped_by:
                    self._stop()
                for child in [child for child in self._children if child.process.poll() is not None]:
                    self._children.remove(child)
                    failure = self._ended(child, total, len(waiting), summary)
                    if failure is not None:
                        failures.append(failure)
                if time.monotonic() - told > SECONDS_BETWEEN_LINES:
                    told = time.monotonic()
                    self._progress(total, len(waiting))
                time.sleep(LOOK_SECONDS)
        finally:
            for child in self._children:
                child.process.kill()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return failures

    def _start(self, number: int, run: Run, total: int) -> None:
        run.prepare()
        slot = min(set(range(self._jobs)) - {child.slot for child in self._children})
        command = [sys.executable, "-m", LAUNCHER, "--nproc-per-node", str(self._ranks), str(run.folder / JOB)]
        with run.log.open("ab") as log:
            begins = log.tell()
            # a session of its own: Ctrl-C comes to this process, which passes it on once
            process = subprocess.Popen(
                command,
                env=self._environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=functools.partial(_die_with, os.getpid()),
            )
        self._children.append(_Child(run, number, slot, process, time.monotonic(), begins))
        self._say(f"run {number} of {total}  {run.words}: started, log in {run.log}")

    def _environment(self, slot: int) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // (self._jobs * self._ranks))
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        if self._devices:
            own = self._devices[slot * self._ranks : (slot + 1) * self._ranks]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return environment

    def _ended(self, child: _Child, total: int, waiting: int, summary: Callable[[Run], str]) -> Failure | None:
        run, took, code = child.run, child.seconds(), child.process.returncode
        head = f"run {child.number} of {total}  {run.words}"
        if code == 0:
            try:
                told = summary(run)
            except InputError as error:  # it has read other rows than were planned
                self._say(f"{head}: FAILED: {error}")
                return Failure(run, str(error))
            self._took.append(took)
            self._say(f"{head}: done in {duration(took)}, {told}{self._left(waiting)}")
            return None
        if code == STOPPED or (self.stopped_by and code == -signal.SIGTERM):  # before it could take the signal
            self._say(f"{head}: stopped; the same command goes on from there")
            return Failure(run, "stopped before its end")
        why = _complaint(child.tail(), code)
        self._say(f"{head}: FAILED: {why}\n  its log: {run.log}")
        return Failure(run, why)

    def _progress(self, total: int, waiting: int) -> None:
        for child in self._children:
            self._say(f"  {child.run.words}: {child.line()}")
        ended = total - waiting - len(self._children)
        self._say(f"  {ended} of {total} runs ended{self._left(waiting)}")

    def _left(self, waiting: int) -> str:
        """How long it will take from here; empty where no run is left, or none is known well enough."""
        under_way = [(child.seconds(), child.seconds_left()) for child in self._children]
        wholes = self._took + [passed + left for passed, left in under_way if left is not None]
        if not wholes or not (waiting or under_way):
            return ""
        mean = sum(wholes) / len(wholes)
        left = sum(max(mean - passed, 0) if rest is None else rest for passed, rest in under_way) + waiting * mean
        return f", about {duration(left / min(self._jobs, waiting + len(under_way)))} left"

    def _signalled(self, number: int, frame: Any) -> None:
        if self.stopped_by:
            for child in self._children:
                child.process.kill()  # its ranks die with it
            os._exit(128 + number)
        self.stopped_by = number  # the loop stops them: one may be half started now

    def _stop(self) -> None:
        for child in self._children:
            if not child.stopped:
                child.stopped = True
                child.process.send_signal(signal.SIGTERM)


def _complaint(text: str, code: int) -> str:
    """Why a run failed: the first lines of its last error, or how it ended."""
    begins = [found.end() for found in re.finditer(r"^error: ", text, re.MULTILINE)]
    if begins:
        return "\n".join(text[begins[-1] :].strip().splitlines()[:5])
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _die_with(parent: int) -> None:
    """In the new process: asks Linux to end it when its parent is gone, which would else leave it training."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)  # it was gone before we asked
