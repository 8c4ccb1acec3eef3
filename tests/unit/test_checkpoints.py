"""Which checkpoint a command means, and a rank that is alone again after its last step."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.checkpoints import named_checkpoint
from pipeline.registry import Registry
from pipeline.train.stop import STOPPED
from schemas.errors import InputError
from tests.logs import small_job
from tests.models import STEP, champions

ROOT = Path(__file__).parents[2]


def test_the_runs_own_what_is_named_or_the_registrys(tmp_path: Path) -> None:
    job = small_job("log", "runs/ranker/")
    champions(Registry(str(tmp_path)), tmp_path, ["2026-01-01", "2026-01-02"])
    for given, address in [
        (None, "runs/ranker/checkpoints"),
        ("runs/other/checkpoints", "runs/other/checkpoints"),
        ("s3://bucket/a@b/checkpoints", "s3://bucket/a@b/checkpoints"),
        (f"{tmp_path}@champion", f"{tmp_path}/days/2026-01-02/challenger/checkpoints/{STEP}"),
        (f"{tmp_path}@2026-01-01", f"{tmp_path}/days/2026-01-01/challenger/checkpoints/{STEP}"),
    ]:
        assert named_checkpoint(job, given, "predict.checkpoint") == address, given


def test_a_model_that_is_not_there_is_refused_by_the_key(tmp_path: Path) -> None:
    job = small_job("log")
    with pytest.raises(InputError, match=r"fuse\.checkpoint: '.*' has no champion yet; name a checkpoint"):
        named_checkpoint(job, f"{tmp_path}@champion", "fuse.checkpoint")
    with pytest.raises(InputError, match=r"fuse\.checkpoint: .*no model '2026-01-09' is registered"):
        named_checkpoint(job, f"{tmp_path}@2026-01-09", "fuse.checkpoint")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_after_the_last_step_ends_the_rank_at_once(when: str) -> None:
    """Deferred as long as others take part; noted meanwhile, it is not forgotten."""
    kill = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.01)"
    order = (kill, "stop.undefer()") if when == "before" else ("stop.undefer()", kill)
    code = "import os, signal, time; from pipeline.train.stop import Stop; stop = Stop(); stop.install(); stop.defer()"
    code = "; ".join([code, *order, "time.sleep(5); print('went on')"])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == STOPPED, done
    assert "stopped by SIGTERM after the last step; the same command goes on" in done.stderr or when == "after"
    assert "went on" not in done.stdout
