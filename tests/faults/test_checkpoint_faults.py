"""A rank killed inside a save, a full disk, a disk gone read-only: the commit before loads, and one message tells."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.train import checkpoint_store, pieces
from pipeline.train.checkpoint import Checkpoints
from tests.distributed.command import ROOT, environment
from tests.distributed.ranks import RankFailureError, run_ranks
from tests.distributed.test_checkpoint import newest, progress, refuse, save_steps
from tests.distributed.training import build
from tests.logs import DAYS, set_key, small_config, write_config, write_log

MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "log", tmp_path / "out")


def killed(rank: int, config: dict[str, Any], folder: str, victim: int, where: str, background: bool) -> None:
    """kill -9 of one rank inside the second save."""

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(folder, 2, 60, background)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    checkpoints.wait()
    if rank == victim and where == "write":
        pieces._NotedStream.write = die  # type: ignore[method-assign]
    if rank == victim and where == "rename":  # the manifest is a draft, every other file is whole
        checkpoint_store.Path.rename = die  # type: ignore[method-assign]
    if rank == victim and where == "manifest":
        checkpoint_store.CheckpointStore.commit = die  # type: ignore[method-assign]
    checkpoints.save(model, optimizers.all, progress(20), {}, "data")
    checkpoints.wait()


@pytest.mark.parametrize(
    ("victim", "where", "background"),
    [(1, "write", False), (1, "write", True), (0, "write", False), (0, "manifest", True)],
)
def test_kill_9_inside_a_save(
    tmp_path: Path, config: dict[str, Any], victim: int, where: str, background: bool
) -> None:
    with pytest.raises(RankFailureError, match=f"rank {victim} ended with code -9"):
        run_ranks(2, killed, config, str(tmp_path), victim, where, background)
    torn = [p for p in tmp_path.glob("step-00000020-*") if not (p / "manifest.json").exists()]
    assert len(torn) == 1
    assert newest(tmp_path).progress.step == 10
    assert run_ranks(2, refuse, config, str(tmp_path), "training") == ["nothing", "nothing"]
    run_ranks(2, save_steps, config, str(tmp_path), [20, 30])
    assert not torn[0].exists()


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*MOUNT, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="no tmpfs here; test_checkpoint.py fills a file-size limit instead")
@pytest.mark.parametrize(("fault", "background"), [("full", "true"), ("read-only", "false")])
def test_a_disk_that_takes_no_more(tmp_path: Path, config: dict[str, Any], fault: str, background: str) -> None:
    """The whole job on a small tmpfs: one error, exit code 2, and it goes on once there is room."""
    write_log(tmp_path / "log", DAYS, 320)
    set_key(config, "tables.session.rows", 40_000)  # a checkpoint of 1.5 MB
    set_key(config, "train.checkpoint_every", 5)
    set_key(config, "train.log_every", 5)
    set_key(config, "train.async_checkpoint", background == "true")
    set_key(config, "output", str(tmp_path / "disk" / "out"))
    path = write_config(tmp_path / "job.yaml", config)
    (tmp_path / "disk").mkdir()
    job = f"{sys.executable} -m jobs.launch --nproc-per-node 2 {path}"
    disk = tmp_path / "disk"
    saves = disk / "out" / "checkpoints"
    harm, mend = {
        "full": (f"! dd if=/dev/zero of={disk}/filler bs=64k 2>/dev/null", f"rm {disk}/filler"),
        # a mount over it: the disk's own cannot change under the open lock file
        "read-only": (f"mount --bind {saves} {saves} && mount -o remount,bind,ro {saves}", f"umount {saves}"),
    }[fault]
    script = f"""
        mount -t tmpfs -o size=12m tmpfs {disk} || exit 99
        {job} > {tmp_path}/first 2>&1 &
        until grep -q 'checkpoint step 5:' {tmp_path}/first; do sleep 0.02; done
        {harm} || exit 98
        wait $!
        echo first $?
        {mend}
        {job} > {tmp_path}/second 2>&1
        echo second $?
    """
    done = subprocess.run(
        [*MOUNT, script], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    first, second = (tmp_path / "first").read_text(), (tmp_path / "second").read_text()
    assert done.stdout.split() == ["first", "2", "second", "0"], first + second
    assert first.count("error: ") == 1
    assert "cannot be written" in first
    assert {"full": "No space left on device", "read-only": "Read-only file system"}[fault] in first
    assert "Traceback" not in first
    assert "going on from step " in second
    assert "checkpoint step 20: blocked" in second
