"""S3 for real: a moto server, a log in it, the job through its launcher, and no credential told anywhere."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from pipeline.data.files import plan
from schemas.errors import InputError
from tests.distributed import warm
from tests.distributed.command import ROOT, SECONDS, assert_bitwise, command, environment
from tests.logs import DAYS, small_config, small_job, write_config, write_log
from tests.s3 import BUCKET, s3_server

CANARIES = ("AKIACANARYCANARY1", "canarySecret/with+signs0123456789", "canaryToken//abcdef0123456789")
ROWS = 150


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, *CANARIES) as variables:
        yield variables


@dataclass
class Ran:
    """A job through the launcher."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def losses(self) -> list[str]:
        """The progress lines and the closing table, without speed and time left."""
        kept = [line for line in self.out.splitlines() if line.startswith(("step", "click", "cart", "fav", "order"))]
        return [" ".join(re.sub(r"[\d,.]+ rows/s|\S+ left", "", line).split()) for line in kept]


def run(folder: Path, data: str, *overrides: str, trace: bool = False) -> Ran:
    """The small job on two ranks, tracked offline."""
    folder.mkdir()
    config = small_config(data, folder / "out")
    config["tracking"] = {"mode": "offline"}
    config["data"]["storage"] = {"retries": 1, "backoff_seconds": 0}
    write_config(folder / "job.yaml", config)
    env = environment() | ({"FULCRUM_TRACE": "1"} if trace else {})
    done = warm.run(
        command(folder / "job.yaml", *overrides), env=env, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return Ran(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture(scope="module")
def logs(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same log here and there."""
    here, there = tmp_path_factory.mktemp("s3") / "log", f"s3://{BUCKET}/events"
    for root in (here, there):
        write_log(root, DAYS, ROWS, row_group_rows=40, files_per_day=2)
    return here, there


def test_days_in_s3_are_planned_as_those_on_disk(logs: tuple[Path, str]) -> None:
    here, there = (small_job(log) for log in logs)
    local, remote = plan(here, here.data.train), plan(there, there.data.train)
    assert remote.fingerprint == local.fingerprint
    assert [g.where.split("dt=")[1] for g in remote.groups] == [g.where.split("dt=")[1] for g in local.groups]
    assert all(len(tag) == 32 for tag in remote.files.column("etag").to_pylist()), "the listing's own"
    for log, said in (
        (f"s3://{BUCKET}/nowhere", rf"data\.path: no such path 's3://{BUCKET}/nowhere'; name the root"),
        ("s3://no-such-bucket/log", r"data\.path: no such path 's3://no-such-bucket/log'"),
    ):
        job = small_job(log, changes={"data.storage": {"retries": 0}})
        with pytest.raises(InputError, match=said):
            plan(job, job.data.train)
    job = small_job(there.data.path, changes={"data.train.from": "2025-12-31"})
    with pytest.raises(InputError, match=rf"{BUCKET}/events/dt=2025-12-31: the day 2025-12-31 is missing"):
        plan(job, job.data.train)


def test_the_job_trains_from_s3_as_from_disk_and_tells_no_credential(logs: tuple[Path, str], tmp_path: Path) -> None:
    here, there = logs
    local, remote = run(tmp_path / "local", str(here)), run(tmp_path / "remote", there)
    assert (local.code, remote.code) == (0, 0), remote.out + remote.err
    assert len(local.losses) > 8
    assert remote.losses == local.losses
    newest = [sorted((ran.folder / "out/checkpoints").glob("step-*"))[-1] for ran in (local, remote)]
    assert_bitwise(*newest)
    searched = search(remote.folder)
    assert any("wandb" in name for name in searched)
    assert any(name.endswith("manifest.json") for name in searched)


@pytest.mark.parametrize("failure", ["no day", "no bucket", "damaged", "refused"])
def test_a_job_that_fails_there_is_one_message_without_credentials(
    logs: tuple[Path, str], tmp_path: Path, failure: str
) -> None:
    data, overrides, said = logs[1], [], ""
    if failure == "no day":
        overrides, said = ["data.eval.from=2026-01-09", "data.eval.to=2026-01-09"], "the day 2026-01-09 is missing"
    elif failure == "no bucket":
        data, said = "s3://no-such-bucket/log", "data.path: no such path 's3://no-such-bucket/log'"
    elif failure == "refused":
        data, said = f"s3://{CANARIES[0]}:{CANARIES[1]}@logs/events", "data.path: the URL carries credentials"
    else:
        data, said = f"s3://{BUCKET}/damaged", "row group 0: cannot be decoded after 2 attempts (column '"
        [path, *_] = write_log(data, DAYS, ROWS)
        fs = fsspec.filesystem("s3")
        whole = bytearray(fs.cat_file(path))
        whole[4:300] = bytes(296)
        fs.pipe_file(path, bytes(whole))
    ran = run(tmp_path / "plain", data, *overrides)
    traced = run(tmp_path / "traced", data, *overrides, trace=True)
    assert (ran.code, traced.code) == (2, 2)
    assert said in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" in traced.err
    if failure == "refused":
        (tmp_path / "plain/job.yaml").unlink()  # where the user wrote them
        (tmp_path / "traced/job.yaml").unlink()
    search(tmp_path)


def search(folder: Path) -> list[str]:
    """Every byte below the folder for the canaries; returns the names of the files."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        for canary in CANARIES:
            assert canary.encode() not in data, path
    return [str(path) for path in files]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"x{CANARIES[1]}y")
    with pytest.raises(AssertionError):
        search(tmp_path)


def test_a_log_is_generated_into_s3(server: dict[str, str], tmp_path: Path) -> None:
    options = ["--days", "2", "--rows-per-day", "300", "--users", "50", "--items", "30", "--row-group-rows", "100"]
    for out in (str(tmp_path / "log"), f"s3://{BUCKET}/generated"):
        done = warm.run(
            [sys.executable, "-m", "jobs.generate", "--out", out, *options],
            env=environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
    fs = fsspec.filesystem("s3")
    root = f"{BUCKET}/generated/"
    there = {name.removeprefix(root): fs.cat_file(name) for name in fs.find(root)}
    here = {str(p.relative_to(tmp_path / "log")): p.read_bytes() for p in (tmp_path / "log").rglob("*") if p.is_file()}
    assert there == here
