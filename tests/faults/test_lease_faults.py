"""Leases between real processes: started together, stopped and continued, killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.daily.lease import Held, Lease

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.faults.lease_holders"]


@contextmanager
def holder(root: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease."""
    process = subprocess.Popen([*COMMAND, "hold", str(root), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds 1\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def acquired(root: Path) -> Lease:
    """The lease, as soon as it is free; a minute at the longest."""
    deadline = time.monotonic() + 60
    while True:
        lease = Lease(str(root), 3600, "2026-01-09")
        try:
            lease.acquire()
        except Held:
            assert time.monotonic() < deadline, "in a minute"
            time.sleep(0.05)
        else:
            return lease


def test_of_two_that_start_together_one_holds_it_20_times(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "race", str(tmp_path), "20"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["01"] * 20


def test_a_holder_that_was_stopped_and_replaced_finds_itself_lost(tmp_path: Path) -> None:
    with holder(tmp_path, 1.0) as process:
        os.kill(process.pid, signal.SIGSTOP)
        successor = acquired(tmp_path)
        assert successor.term == 2
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 75
        assert f"2026-01-08 has lost its lease: process {os.getpid()} on " in said
        assert said.count("told process") == 1
        successor.check()
        successor.release()
    assert not (tmp_path / "lease/00000001.released").exists()


def test_a_killed_holders_lease_is_free_at_once(tmp_path: Path) -> None:
    """On its own machine, however long it had left."""
    with holder(tmp_path, 3600) as process:
        process.kill()
        process.wait()
        lease = Lease(str(tmp_path), 3600, "2026-01-09")
        lease.acquire()
        assert lease.term == 2
        lease.release()
