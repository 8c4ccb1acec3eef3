"""torchrun's elastic restart through the launcher: a lost rank, a lost node, a node that joins; every row once."""

import math
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.distributed.audit_job import Audit
from tests.distributed.command import kill_all
from tests.distributed.test_stop import SECONDS, Job, ended, ranks_of, read_until, wait_for
from tests.faults.kills import committed
from tests.logs import DAYS, put, set_key, small_config, write_config, write_log

ROWS, BATCH, EVERY = 1600, 16, 10
STEPS = ROWS // BATCH


def write_job(home: Path, rows: int = ROWS, **columns: Callable[[pa.Array], pa.Array]) -> Path:
    write_log(home / "log", DAYS[:1], rows, seed=4, row_group_rows=500, **columns)
    config = small_config(home / "log", "out", DAYS[:1])
    changes = {"train.batch_size": BATCH, "train.checkpoint_every": EVERY, "train.log_every": 10}
    for key, value in changes.items():
        set_key(config, key, value)
    return write_config(home / "job.yaml", config)


def steps_of(job: Job, attempt: int) -> list[int]:
    """The steps that the attempt has trained so far."""
    attempts = Audit(job.audit).attempts
    return sorted(attempts[attempt].rows) if len(attempts) > attempt else []


def test_a_killed_rank_is_started_again_from_the_newest_commit(tmp_path: Path) -> None:
    job = Job(write_job(tmp_path), "restarted")
    process = job.start(flags=("--standalone", "--max-restarts", "1"))
    read_until(process, f"step     {4 * EVERY} ")
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 0, said
    first, second = Audit(job.audit).attempts
    assert second.loaded == first.saved[-1]
    assert second.loaded >= 3 * EVERY
    assert f"going on from step {second.loaded}, " in said
    assert "Traceback" not in said
    Audit(job.audit).check(ROWS, 1, STEPS)
    assert committed(job.output) == STEPS


def test_nodes_join_and_are_lost(tmp_path: Path) -> None:
    """One node; a second joins, and the first commits for it; the second is killed whole, the first goes on alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = Job(write_job(tmp_path, ROWS * 2), "nodes", ranks=1)
    flags = ("--nnodes", "1:2", "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", "elastic")
    flags += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1")
    flags += ("--rdzv-conf", "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3")
    stays = job.start(flags=flags, step=0.1)
    joins = None
    try:
        wait_for(lambda: len(steps_of(job, 0)) > 3)
        joins = job.start(flags=flags, step=0.1)
        wait_for(lambda: len(steps_of(job, 1)) > EVERY)
        kill_all(joins)
        said, _ = stays.communicate(timeout=SECONDS)
    finally:
        kill_all(stays)
        if joins is not None:
            kill_all(joins)
    assert stays.returncode == 0, said
    alone, both, again = Audit(job.audit).attempts
    assert [alone.world, both.world, again.world] == [1, 2, 1]
    assert both.loaded == max(alone.rows) + 1, "the regrouping lost no step"
    assert again.loaded == both.saved[-1]
    assert f"nodes join or leave at step {both.loaded}, committed; starting again" in said
    assert f"going on from step {again.loaded}, " in said
    Audit(job.audit).check(2 * ROWS, 1, 2 * STEPS)


def test_a_mistake_of_the_input_is_not_tried_again(tmp_path: Path) -> None:
    nan = {"age": lambda column: pa.array(put(column, ROWS - 7, math.nan))}
    job = Job(write_job(tmp_path, **nan), "mistaken")
    process = job.start(flags=("--standalone", "--max-restarts", "3"), step=0)
    said = ended(process)
    assert process.returncode == 2, said
    assert "column 'age' holds nan" in said
    assert "going on from" not in said
    assert len(list(job.audit.iterdir())) == 2, "two ranks, started once"


def test_a_rank_that_keeps_failing_ends_the_job(tmp_path: Path) -> None:
    job = Job(write_job(tmp_path), "failing", ranks=1)
    process = job.start(flags=("--standalone", "--max-restarts", "1"))
    for attempt in range(2):
        wait_for(lambda attempt=attempt: len(steps_of(job, attempt)) > 1)
        os.kill(ranks_of(process)[0], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 128 + signal.SIGKILL, said
    assert "error: local rank 0" in said
    with pytest.raises(AssertionError):
        Audit(job.audit).check(ROWS, 1, STEPS)  # the check sees rows that are missing
