"""Checkpoints on S3 (a moto server) and in memory: the same protocol where nothing can be locked or renamed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.train.checkpoint import Checkpoints
from pipeline.train.checkpoint_store import CheckpointStore, Commit
from pipeline.train.restore import load_training
from schemas.errors import InputError
from tests.distributed.command import run
from tests.distributed.ranks import run_ranks
from tests.distributed.test_checkpoint import progress, refuse, save_steps
from tests.distributed.training import build
from tests.logs import DAYS, set_key, small_config, write_config, write_log
from tests.s3 import BUCKET, s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "log", tmp_path / "out")


def newest(url: str) -> Commit:
    commit = Checkpoints(url, 2).newest()
    assert commit is not None
    return commit


def test_s3_keeps_the_protocol(bucket: str, config: dict[str, Any]) -> None:
    url = f"{bucket}/protocol"
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/step-00000025-0000000a/__0_0.distcp", b"half a save, perhaps another run's")
    fs.pipe_file(f"{root}/step-00000099-0000000a/__0_0.distcp", b"half a save")
    _, *kept = run_ranks(2, save_steps, config, url, [10, 20, 30])[0]
    found = [name.rsplit("/", 1)[-1] for name in fs.ls(root, refresh=True)]
    torn = ["step-00000025-0000000a", "step-00000099-0000000a"]
    assert sorted(found) == sorted([*kept, *torn]), "a young torn attempt may be one that is being written"
    commit = newest(url)
    assert (commit.name, commit.progress, commit.read("log.txt")) == (kept[-1], progress(30), b"30")
    for what in ("training", "model"):
        assert run_ranks(2, refuse, config, url, what) == ["nothing", "nothing"]
    CheckpointStore(url).prune(2, abandoned_seconds=-10)
    found = [name.rsplit("/", 1)[-1] for name in fs.ls(root, refresh=True)]
    assert sorted(found) == sorted([*kept, torn[1]]), "old enough, and of an older step than the newest commit"


def test_a_changed_object_is_named(bucket: str, config: dict[str, Any]) -> None:
    url = f"{bucket}/changed"
    (name,) = run_ranks(2, save_steps, config, url, [10])[0]
    fs, root = fsspec.core.url_to_fs(url)
    path = f"{root}/{name}/__1_0.distcp"
    content = bytearray(fs.cat_file(path))
    content[len(content) // 2] ^= 1
    fs.pipe_file(path, bytes(content))
    told = run_ranks(2, refuse, config, url, "model")
    assert all(f"{url}/{name}/__1_0.distcp: missing, cut short or changed" in text for text in told), told
    fs.pipe_file(f"{root}/{name}/log.txt", b"11")
    fs.invalidate_cache()
    with pytest.raises(InputError, match=r"log\.txt: missing, cut short or changed"):
        newest(url).read("log.txt")


def upload_dies(rank: int, config: dict[str, Any], url: str, background: bool) -> str:
    """The second save's multipart upload fails half-way on rank 1."""
    import s3fs

    fsspec.config.conf["s3"] = {"default_block_size": 5 * 2**20}
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(url, 2, 60, background)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    checkpoints.wait()
    real = s3fs.S3FileSystem._call_s3
    parts = []

    async def call(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "upload_part":
            parts.append(method)
            if rank == 1 and len(parts) > 1:
                raise OSError("the connection was reset")
        return await real(self, method, *args, **kwargs)

    s3fs.S3FileSystem._call_s3 = call
    s3fs.S3FileSystem.call_s3 = fsspec.asyn.sync_wrapper(call)  # what files call, made from the method above
    try:
        checkpoints.save(model, optimizers.all, progress(20), {}, "data")
        checkpoints.wait()
    except InputError as error:
        return str(error)
    return f"nothing ({len(parts)} parts)"


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_an_upload_that_dies_commits_nothing(bucket: str, config: dict[str, Any], background: bool) -> None:
    set_key(config, "tables.session.rows", 500_000)  # 16 MB and more parts than one
    set_key(config, "tables.session.sharding", "row_wise")
    set_key(config, "tables.session.dim", 16)
    url = f"{bucket}/dies-{background}"
    told = run_ranks(2, upload_dies, config, url, background)
    assert told[0] == told[1]
    assert "cannot be written (the connection was reset); the checkpoint before it is whole" in told[0]
    assert newest(url).progress.step == 10


def in_memory(rank: int, config: dict[str, Any]) -> list[str]:
    _, model, optimizers, _ = build(config, rank, 1)
    checkpoints = Checkpoints("memory://run/checkpoints", 2)
    for step in (10, 20, 30):
        checkpoints.save(model, optimizers.all, progress(step), {}, "data")
    commit = newest("memory://run/checkpoints")
    load_training(commit, model, optimizers.all)
    return [*checkpoints.store.commits(), str(commit.progress.step)]


def test_memory(config: dict[str, Any]) -> None:
    ((second, third, newest_step),) = run_ranks(1, in_memory, config)
    assert (second[:13], third[:13], newest_step) == ("step-00000020", "step-00000030", "30")


def test_the_job_writes_to_a_url_and_goes_on_from_it(bucket: str, tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 100)
    config = small_config(tmp_path / "log", f"{bucket}/runs/small")
    set_key(config, "train.checkpoint_every", 2)
    set_key(config, "train.async_checkpoint", True)
    set_key(config, "tracking.mode", "offline")
    path = write_config(tmp_path / "job.yaml", config)
    printed = run(path)
    assert f"checkpoint  {bucket}/runs/small/checkpoints/step-00000007-" in printed
    assert list((tmp_path / "runs/small/wandb").glob("offline-run-*")), "what is not a checkpoint lies here"
    commits = CheckpointStore(f"{bucket}/runs/small/checkpoints").commits()
    assert [name[:13] for name in commits] == ["step-00000004", "step-00000006", "step-00000007"]
    assert "trained to its end already" in run(path, "tracking.mode=disabled")
    fs, root = fsspec.core.url_to_fs(f"{bucket}/runs/small/checkpoints")
    fs.rm(f"{root}/{commits[-1]}", recursive=True)
    printed = run(path, "tracking.mode=disabled", flags=("--nproc-per-node", "1"))
    assert "going on from step 6" in printed


def test_a_bucket_that_is_not_there_is_told_before_a_rank_starts(bucket: str, tmp_path: Path) -> None:
    from jobs.train import check_output
    from schemas.load import parse_job

    config = small_config(tmp_path / "log", "s3://no-such-bucket/run")
    set_key(config, "tracking.folder", str(tmp_path / "local"))
    with pytest.raises(InputError, match=r"output: 's3://no-such-bucket/run' cannot be written \(.*bucket.*\)"):
        check_output(parse_job(config, "test"))
    assert (tmp_path / "local").is_dir()
