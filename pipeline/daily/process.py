"""The torchrun steps as processes of the real commands: stopped in an orderly way, gone when this process is gone."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STOPPED = 75
LOOK_SECONDS = 0.5
LAUNCHER = "jobs.launch"
"""What `./launch.sh train` and `score` run."""


class StoppedError(Exception):
    """The day was told to stop, or has lost its lease; the same command goes on."""


class Runner:
    """Runs one job after another under torchrun; SIGTERM and SIGINT reach the one at work."""

    def __init__(self, flags: Sequence[str]) -> None:
        self._flags = list(flags)
        self._child: subprocess.Popen[bytes] | None = None
        self.stopped_by = ""
        """Why no further process is started; empty while there is no reason."""

    def install(self) -> None:
        """Takes over both signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)

    def check(self) -> None:
        """Raises StoppedError where the day is to stop."""
        if self.stopped_by:
            raise StoppedError(self.stopped_by)

    def sleep(self, seconds: float) -> None:
        """Waits. Raises StoppedError as soon as the day is to stop: a signal alone does not end a sleep."""
        until = time.monotonic() + seconds
        self.check()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
            self.check()

    def run(self, kind: str, job_yaml: bytes, meeting: Sequence[str] = ()) -> int:
        """Runs `jobs.launch KIND FLAGS job.yaml` to its end; its exit code. Raises StoppedError if it was stopped.

        `meeting`: more flags, by which the nodes of this one run meet.
        """
        self.check()
        with tempfile.TemporaryDirectory(prefix="fulcrum-day-") as folder:
            path = Path(folder) / "job.yaml"
            path.write_bytes(job_yaml)
            command = [sys.executable, "-m", LAUNCHER, kind, *self._flags, *meeting, str(path)]
            sys.stdout.flush()
            # a session of its own: Ctrl-C comes to this process, which passes it on once
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                preexec_fn=functools.partial(_die_with, os.getpid()),
            )
            if self.stopped_by:  # it came in between
                self._child.send_signal(signal.SIGTERM)
            code = self._child.wait()
            self._child = None
        if self.stopped_by or code == STOPPED:
            raise StoppedError(self.stopped_by or "its training was stopped")
        return code

    def stop(self, why: str, kill: bool = False) -> None:
        """Ends the process at work, and starts no other; from any thread."""
        self.stopped_by = self.stopped_by or why
        if (child := self._child) is not None:
            child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    def _signalled(self, number: int, frame: Any) -> None:
        again = bool(self.stopped_by)
        self.stop(f"stopped by {signal.Signals(number).name}", kill=again)
        if again:
            os._exit(128 + number)


def _die_with(parent: int) -> None:
    """In the new process: asks Linux to end it when its parent is gone, which would else leave it training."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(128 + signal.SIGKILL)  # it was gone before we asked
