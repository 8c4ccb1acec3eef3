"""SIGTERM and SIGINT to the job as a person runs it: a commit at the next step, 75, the same command goes on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.train.stop import STOPPED
from tests.distributed import warm
from tests.distributed.audit_job import FOLDER, SAVE_SECONDS, STEP_SECONDS, Audit, audited
from tests.distributed.command import ROOT, assert_bitwise, descendants, environment, kill_all
from tests.faults.kills import committed
from tests.logs import DAYS, set_key, small_config, write_config, write_log

ROWS, BATCH = 2000, 16
STEPS = -(-ROWS // BATCH)
SECONDS = 240


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stop")
    write_log(home / "log", DAYS[:1], ROWS, seed=3)
    write_log(home / "log", DAYS[1:2], 20_000, seed=3)
    config = small_config(home / "log", "out", DAYS[:2])
    changes = {
        "train.batch_size": BATCH,
        "train.checkpoint_every": 10**6,
        "train.log_every": 10,
        "data.eval": ...,
        "model.dropout": 0.2,
        "tasks.cart.decay": 0.99,
        "dense_optimizer": {"lr": 0.002, "warmup_steps": 10, "schedule": "cosine"},
    }
    for key, value in changes.items():
        set_key(config, key, value)
    return write_config(home / "job.yaml", config)


class Job:
    """An audited job of its own output and records."""

    def __init__(self, config: Path, name: str, ranks: int = 2) -> None:
        self.config, self.ranks = config, ranks
        self.output, self.audit = config.parent / name, config.parent / f"audit-{name}"
        self.audit.mkdir(exist_ok=True)

    def start(
        self, *overrides: str, flags: tuple[str, ...] = ("--standalone",), step: float = 0.02, save: float = 0
    ) -> subprocess.Popen[str]:
        env = environment() | {FOLDER: str(self.audit), STEP_SECONDS: str(step), SAVE_SECONDS: str(save)}
        words = ["--nproc-per-node", str(self.ranks), *flags, str(self.config), f"output={self.output}", *overrides]
        return warm.Popen(
            audited(words),
            env=env,
            cwd=self.config.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Runs the same command to its end."""
        process = self.start(step=0)
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said
        return said


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the job said up to the line with these words."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def ended(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=SECONDS)[0]
    finally:
        kill_all(process)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    return descendants(process.pid)


def hears_sigterm(pid: int) -> bool:
    """Whether the process has begun to watch for it: a rank does before it meets the others."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def stopped_at(said: str, name: str) -> int:
    """The step of the one line that tells of the stop."""
    (step,) = re.findall(
        rf"^stopped by {name} at step (\d+), committed; the same command goes on from there$", said, re.M
    )
    assert said.count("stopped by") == 1
    assert "Traceback" not in said
    return int(step)


def commit_at(output: Path, step: int) -> Path:
    """The one commit of this step."""
    (manifest,) = output.glob(f"checkpoints/step-{step:08d}-*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def uninterrupted(config: Path) -> Path:
    job = Job(config, "whole")
    job.finish()
    return commit_at(job.output, STEPS)


def test_sigterm_to_the_launcher_commits_and_the_same_command_ends_with_the_same_weights(
    config: Path, uninterrupted: Path
) -> None:
    job = Job(config, "launcher")
    process = job.start()
    read_until(process, "step     20 ")
    process.terminate()
    said = ended(process)
    assert process.returncode == STOPPED, said
    step = stopped_at(said, "SIGTERM")
    assert 20 <= step < STEPS
    assert committed(job.output) == step
    assert f"going on from step {step}, " in job.finish()
    assert_bitwise(commit_at(job.output, STEPS), uninterrupted)
    Audit(job.audit).check(ROWS, 1, STEPS)
    assert sum(len(attempt.rows) for attempt in Audit(job.audit).attempts) == STEPS, "no step was trained twice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_one_rank_signalled_stops_all_and_none_is_started_again(config: Path, number: signal.Signals) -> None:
    job = Job(config, f"rank-{number.name}")
    process = job.start(flags=("--standalone", "--max-restarts", "3"))
    read_until(process, "step     20 ")
    os.kill(ranks_of(process)[1], number)
    said = ended(process)
    assert process.returncode == STOPPED, said
    step = stopped_at(said, number.name)
    assert committed(job.output) == step
    (attempt,) = Audit(job.audit).attempts
    assert max(attempt.rows) == step - 1


def test_the_launcher_waits_for_a_save_however_short_torchruns_own_patience(config: Path) -> None:
    job = Job(config, "slow", ranks=1)
    process = job.start(flags=("--standalone", "--shutdown-timeout", "1"), save=2)
    read_until(process, "step     10 ")
    os.kill(process.pid, signal.SIGINT)
    said = ended(process)
    assert process.returncode == STOPPED, said
    assert committed(job.output) == stopped_at(said, "SIGINT")


def test_ranks_that_do_not_commit_in_time_are_killed(config: Path) -> None:
    job = Job(config, "late", ranks=1)
    process = job.start("train.stop_seconds=1", save=SECONDS)
    read_until(process, "step     10 ")
    process.terminate()
    said = ended(process)
    assert process.returncode == STOPPED, said
    assert "stopped by SIGTERM, not committed: they took longer than train.stop_seconds and were killed" in said
    assert committed(job.output) == 0


def test_a_second_signal_ends_at_once(config: Path) -> None:
    job = Job(config, "twice", ranks=1)
    process = job.start(save=SECONDS)
    read_until(process, "step     10 ")
    ranks = ranks_of(process)
    process.terminate()
    while not any(attempt.saving for attempt in Audit(job.audit).attempts):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    said = ended(process)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "ended by a second signal, not committed" in said
    assert committed(job.output) == 0
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks))


def test_a_signal_before_the_first_step_stops_at_once(config: Path) -> None:
    job = Job(config, "early")
    process = job.start()
    wait_for(lambda: len(ranks_of(process)) == 2 and all(map(hears_sigterm, ranks_of(process))))
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert process.returncode == STOPPED, said
    assert said.count("stopped by SIGINT") == 1
    assert "Traceback" not in said
    assert not Audit(job.audit).attempts
    assert committed(job.output) == 0


def test_a_signal_during_evaluation_stops_and_the_same_command_evaluates_again(config: Path) -> None:
    job = Job(config, "evaluating")
    days = f"data.eval={{from: {DAYS[1]}, to: {DAYS[1]}}}"
    process = job.start(days, step=0)
    read_until(process, "evaluating on")
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    said = ended(process)
    assert process.returncode == STOPPED, said
    assert "stopped by SIGTERM while evaluating; the same command goes on from there\n" in said
    assert "Traceback" not in said
    assert committed(job.output) == STEPS


@pytest.mark.parametrize("early", [False, True], ids=["in training", "before the first step"])
def test_a_signal_to_one_node_stops_both(config: Path, early: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = Job(config, f"nodes-{early}", ranks=1)
    flags = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "stop", "--max-restarts", "2")
    flags += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1")
    nodes = [job.start(flags=flags) for _ in range(2)]
    try:
        if early:
            while not all(ranks_of(node) for node in nodes):
                time.sleep(0.05)
        else:
            wait_for(lambda: any(20 in attempt.rows for attempt in Audit(job.audit).attempts))
        nodes[1].terminate()
        said = [node.communicate(timeout=SECONDS)[0] for node in nodes]
    finally:
        for node in nodes:
            kill_all(node)
    assert [node.returncode for node in nodes] == [STOPPED, STOPPED], said
    assert all("stopped by SIGTERM" in text and "Traceback" not in text for text in said), said
    if not early:
        assert committed(job.output) == stopped_at(said[0], "SIGTERM") == stopped_at(said[1], "SIGTERM")
    assert len(Audit(job.audit).attempts) == (not early), "none was started again"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_under_bare_torchrun_the_ranks_exit_with_75_themselves(config: Path) -> None:
    output = config.parent / "bare"
    process = warm.Popen(
        [sys.executable, "-m", "jobs.train", str(config), f"output={output}"],
        env=environment(),
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    read_until(process, "step     10 ")
    process.terminate()
    said = ended(process)
    assert process.returncode == STOPPED == 75, said
    assert committed(output) == stopped_at(said, "SIGTERM")


MEETING = """
import datetime
from pipeline.train.stop import Stop
stop = Stop()
stop.install()
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, 1, True)
print("waits", flush=True)
store.wait(["a key that no rank sets"], datetime.timedelta(seconds=100))
"""


def test_a_rank_that_waits_for_the_others_to_meet_leaves_at_once() -> None:
    """Inside torch's store no Python handler runs before the wait is over."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEETING],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    read_until(process, "waits")
    time.sleep(1)  # from the line that it prints into the store's own wait
    process.terminate()
    try:
        said, _ = process.communicate(timeout=50)
    finally:
        process.kill()
    assert process.returncode == STOPPED == 75
    assert said.count("stopped by SIGTERM before the first step, nothing to commit") == 1


READER = """
import signal, sys, time
import pipeline.train.stop as stop
stop.READER_SECONDS = 0.5
mine = stop.Stop()
mine.install()
mine.defer()
def batches():
    yield 1
    if sys.argv[1] == "stuck":
        print("stuck", flush=True)
        time.sleep(60)
    print("late", flush=True)
    time.sleep(1 / 10)
    yield 2
for batch in mine.waited(batches()):
    print(batch, flush=True)
time.sleep(1)
print("done", mine.agreed(mine.signals()), flush=True)
"""


@pytest.mark.parametrize("reader", ["stuck", "late"])
def test_a_rank_that_is_to_stop_does_not_wait_long_for_its_reader(reader: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, reader],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    read_until(process, reader)
    process.terminate()
    said = ended(process)
    if reader == "stuck":
        assert process.returncode == STOPPED
        assert said.startswith("stopped by SIGTERM while waiting for the reader, ")
    else:  # the batch came in time: the step boundary is near, and nothing ends later
        assert process.returncode == 0
        assert said == "2\ndone SIGTERM\n"
