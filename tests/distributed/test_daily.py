"""Daily retraining by its real command: on time, backfilled, killed, refused, skipped, late, in an object store."""

import datetime
import json
import os
import shutil
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.dashboard.panels import keys_of, sections
from pipeline.data.manifest import from_bytes
from pipeline.journal import attempts, series
from schemas.load import load_job
from tests.distributed.command import SECONDS, assert_bitwise
from tests.distributed.daily import DAYS, ROWS, Daily
from tests.faults import daily_kills
from tests.logs import write_log
from tests.s3 import BUCKET, s3_server
from tests.workspaces import untold_keys


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Daily:
    """Two days, run on time; the third is in the log."""
    job = Daily.made(tmp_path_factory.mktemp("daily") / "two")
    for day in DAYS[:2]:
        job.day(day)
    return job


@pytest.fixture(scope="module")
def three(two: Daily, tmp_path_factory: pytest.TempPathFactory) -> Daily:
    """The third as well."""
    job = two.copy(tmp_path_factory.mktemp("daily") / "three")
    job.day(DAYS[2])
    return job


def trained_files(job: Daily, day: str) -> list[str]:
    content = (Path(job.root) / "days" / day / "train.manifest").read_bytes()
    return from_bytes(content, "", "test").files.column("path").to_pylist()


def test_each_day_is_trained_from_the_day_before_and_promoted(three: Daily) -> None:
    assert three.champion() == DAYS[2]
    assert [m.name for m in three.registry.lineage(DAYS[2])] == DAYS[2::-1]
    assert [p.kind for p in three.registry.promotions()] == ["promotion"] * 3
    for day in DAYS[:3]:
        assert three.registry.model(day).days == [day]
        assert trained_files(three, day) == [f"dt={day}/part-00000.parquet"]
        assert three.verdict(day)["blessed"]
    steps = [three.done(day)["train"]["samples"] for day in DAYS[:3]]
    assert all(0 < samples <= ROWS for samples in steps)


def test_every_panel_of_the_workspace_shows_what_the_days_told(three: Daily) -> None:
    job = load_job(str(three.folder / "job.yaml"), [])
    shown = keys_of(sections(job))
    of_days = [key for key in shown if key.startswith("daily/")]
    assert len(of_days) > 20
    days = series([one for one in attempts(Path(three.root)) if one.about["day"] == DAYS[2]])
    assert untold_keys(job, of_days, set(days)) == []
    challenger = series(attempts(Path(three.root) / "days" / DAYS[2] / "challenger"))
    assert untold_keys(job, [key for key in shown if key not in of_days], set(challenger)) == []


def test_the_champion_is_scored_on_the_whole_day_before_anything_trains_on_it(three: Daily) -> None:
    assert three.done(DAYS[0])["score"]["tasks"] == {}
    told = three.done(DAYS[2])["score"]
    assert told["champion"] == DAYS[1]
    assert told["tasks"]["click"]["own"]["rows"] == ROWS
    held = three.done(DAYS[2])["evaluate"]
    assert held["champion"]["click"]["own"]["rows"] == held["challenger"]["click"]["own"]["rows"] < ROWS
    at = [three.done(DAYS[2])[step]["at"] for step in ("score", "train", "evaluate", "gate", "promote")]
    assert at == sorted(at)


def test_no_held_out_user_is_trained_on(three: Daily) -> None:
    done = three.done(DAYS[2])
    held = done["evaluate"]["challenger"]["click"]["own"]["rows"]
    assert done["train"]["samples"] + held == ROWS


def test_a_day_that_is_done_does_nothing_again(three: Daily) -> None:
    before = {name: (Path(three.root) / name).stat().st_mtime_ns for name in three.files()}
    code, printed = three.run("--date", DAYS[1])
    assert code == 0
    assert f"{DAYS[1]}  done before: promoted (promotion 2)" in printed
    assert {name: (Path(three.root) / name).stat().st_mtime_ns for name in three.files()} == before


def test_missed_days_end_as_if_they_had_run_on_time(three: Daily, tmp_path: Path) -> None:
    job = Daily.made(tmp_path / "missed")
    code, printed = job.run("--from", DAYS[0], "--to", DAYS[2])
    assert code == 0, printed
    for day in DAYS[:3]:
        assert_bitwise(job.checkpoint(day), three.checkpoint(day))
        assert job.verdict(day)["comparisons"] == three.verdict(day)["comparisons"]


def test_a_day_is_not_begun_while_one_before_it_is_open(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    code, printed = job.run("--date", DAYS[4])
    assert code == 2
    assert f"{DAYS[3]} came to no end; train them first (--from {DAYS[3]} --to {DAYS[4]})" in printed
    code, printed = job.run("--skip", DAYS[3], "--because", "half empty")
    assert code == 0, printed
    job.day(DAYS[4])
    model = job.registry.model(DAYS[4])
    assert (model.days, model.skipped, model.parent) == ([DAYS[4]], [DAYS[3]], DAYS[2])
    code, printed = job.run("--date", DAYS[3])
    assert (code, "skipped: half empty" in printed) == (0, True)


def test_open_days_are_caught_up_with_in_order(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    job.day(DAYS[4], "--catch-up")
    assert [m.name for m in job.registry.lineage(DAYS[4])] == DAYS[4::-1]


def test_the_next_morning_tries_a_failed_day_again_and_begins_none_behind_it(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:4], ROWS // 2)
    assert job.run("--date", DAYS[3], "--catch-up")[0] == 4
    write_log(job.folder / "log", DAYS[4:5], ROWS)
    code, printed = job.run("--date", DAYS[4], "--catch-up")
    assert (code, job.champion()) == (4, DAYS[2]), printed
    assert not (Path(job.root) / "days" / DAYS[4]).exists()
    shutil.rmtree(job.folder / "log" / f"dt={DAYS[3]}")
    write_log(job.folder / "log", DAYS[3:4], ROWS)
    job.day(DAYS[4], "--catch-up")
    assert [m.name for m in job.registry.lineage(DAYS[4])] == DAYS[4::-1]
    assert "done before" in job.day(DAYS[4], "--catch-up")


def test_a_refused_day_leaves_the_champion_and_is_trained_with_the_next(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    floor = "daily.gate.floors={click: 0.99}"
    code, printed = job.run("--date", DAYS[3], floor)
    assert code == 3, printed
    assert job.champion() == DAYS[2]
    assert "0.99" in job.verdict(DAYS[3])["reasons"][0]
    code, again = job.run("--date", DAYS[3], floor)
    assert (code, "refused by the gate" in again) == (3, True)
    other = job.copy(tmp_path / "again")
    other.day(DAYS[3], "--again")
    assert other.champion() == f"{DAYS[3]}.2", "a second attempt stands beside the first"
    assert {model.name for model in other.registry.models()} >= {DAYS[3], f"{DAYS[3]}.2"}
    job.day(DAYS[4])
    assert job.registry.model(DAYS[4]).days == DAYS[3:5]
    assert job.registry.model(DAYS[4]).parent == DAYS[2]
    assert len(trained_files(job, DAYS[4])) == 2


@pytest.mark.parametrize("point", ["train:inside:0.8", "promote:done"])
def test_a_day_that_is_killed_ends_in_the_same_champion(point: str, two: Daily, three: Daily, tmp_path: Path) -> None:
    daily_kills.check_point(two, three, tmp_path / "job", point)


def test_a_stopped_day_goes_on(two: Daily, tmp_path: Path) -> None:
    job = two.copy(tmp_path / "job")
    process = job.start("--date", DAYS[2], "train.max_steps=100000", "train.epochs=200")
    wait_until(lambda: any(Path(job.root).glob(f"days/{DAYS[2]}/challenger/checkpoints/step-*/manifest.json")), process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, printed
    assert "stopped by SIGTERM" in printed
    assert job.champion() == DAYS[1]
    assert list(job.done(DAYS[2]))[-1] == "score"


def wait_until(there: Any, process: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, process.communicate(timeout=SECONDS)[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_two_starts_one_trains(two: Daily, three: Daily, tmp_path: Path) -> None:
    job = two.copy(tmp_path / "job")
    both = [job.start("--date", DAYS[2]) for _ in range(2)]
    told = [process.communicate(timeout=SECONDS)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 75], told
    (refused,) = [text for text, process in zip(told, both, strict=True) if process.returncode == 75]
    assert DAYS[2] in refused
    assert os.uname().nodename in refused
    assert len(job.registry.promotions()) == 3
    assert_bitwise(job.checkpoint(DAYS[2]), three.checkpoint(DAYS[2]))


def test_two_nodes_train_a_day_together(two: Daily, tmp_path: Path) -> None:
    job = two.copy(tmp_path / "job")
    meeting = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}")
    follower = job.start("--date", DAYS[2], flags=(*meeting, "--node-rank", "1"))
    leader = job.start("--date", DAYS[2], flags=(*meeting, "--node-rank", "0"))
    told = [process.communicate(timeout=SECONDS)[0] for process in (leader, follower)]
    assert (leader.returncode, follower.returncode) == (0, 0), told
    assert told[1].count("joining") == 3
    assert job.champion() == DAYS[2]
    result = json.loads((Path(job.root) / "days" / DAYS[2] / "challenger" / "result.json").read_text())
    assert result["ranks"] == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_a_node_whose_leader_never_comes_gives_up(three: Daily) -> None:
    code, printed = three.run("--date", DAYS[3], "daily.lease_seconds=5", "train.timeout_seconds=5",
                              flags=("--nnodes", "2", "--node-rank", "1"))  # fmt: skip
    assert code == 75
    assert "no leader was at work" in printed


def test_a_poisoned_day_is_stopped_and_told(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:4], ROWS // 2)
    code, printed = job.run("--date", DAYS[3])
    assert code == 4, printed
    assert "volume" in printed
    assert list(job.done(DAYS[3])) == ["wait"]
    assert job.champion() == DAYS[2]
    job.day(DAYS[3], "--accept", "volume")
    assert job.champion() == DAYS[3]


def test_a_day_that_is_not_there_is_late(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    code, printed = job.run("--date", DAYS[3])
    assert code == 5, printed
    assert DAYS[3] in printed
    assert job.champion() == DAYS[2]


@pytest.mark.parametrize("policy", ["report", "train", "refuse"])
def test_late_files(policy: str, three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:4], ROWS)
    table = pq.read_table(job.folder / "log" / f"dt={DAYS[2]}" / "part-00000.parquet", partitioning=None)
    pq.write_table(table.slice(0, 50), job.folder / "log" / f"dt={DAYS[2]}" / "part-00009.parquet",
                   write_page_checksum=True)  # fmt: skip
    code, printed = job.run("--date", DAYS[3], f"daily.late_files={policy}")
    assert "part-00009.parquet" in printed
    if policy == "refuse":
        assert (code, job.champion()) == (5, DAYS[2])
        return
    assert code == 0, printed
    files = Counter(os.path.dirname(name) for name in trained_files(job, DAYS[3]))
    assert files == {f"dt={DAYS[3]}": 1} | ({f"dt={DAYS[2]}": 1} if policy == "train" else {})
    if policy == "report":
        return
    write_log(job.folder / "log", DAYS[4:5], ROWS)
    job.day(DAYS[4], f"daily.late_files={policy}")
    assert trained_files(job, DAYS[4]) == [f"dt={DAYS[4]}/part-00000.parquet"], "late files are trained on once"


def test_after_a_rollback_the_next_day_trains_from_the_champion_before(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:4], ROWS)
    job.registry.rollback(None, "orders fell")
    assert job.champion() == DAYS[1]
    job.day(DAYS[3])
    assert job.registry.model(DAYS[3]).parent == DAYS[1]
    assert job.registry.model(DAYS[3]).days == DAYS[2:4]


def test_structure_changes_where_it_is_named(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    more = ("tables.user.rows=60",)
    code, printed = job.run("--date", DAYS[3], *more)
    assert code == 2
    assert "tables.user.rows" in printed
    job.day(DAYS[3], *more, "daily.changes=[tables.user.rows]")
    job.day(DAYS[4], *more, "daily.changes=[tables.user.rows]")
    assert job.champion() == DAYS[4]


def test_alerts_reach_wandb_and_the_run_tells_the_day(tmp_path: Path) -> None:
    job = Daily.made(tmp_path / "job", DAYS[:1], tracking__mode="offline")
    job.day(DAYS[0])
    code, printed = job.run("--date", DAYS[1])
    assert code == 5, printed
    assert len(list(Path(job.root).glob("wandb/offline-run-*"))) == 2


def test_in_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(monkeypatch) as variables:
        job = Daily.made(tmp_path / "job", DAYS[:2], output=f"s3://{BUCKET}/root", tracking__mode="disabled")
        job.environment |= variables
        code, printed = job.run("--from", DAYS[0], "--to", DAYS[1])
        assert code == 0, printed
        from pipeline.registry import Registry

        registry = Registry(f"s3://{BUCKET}/root")
        assert [p.model for p in registry.promotions()] == DAYS[:2]
        assert registry.model(DAYS[1]).parent == DAYS[0]
        code, printed = job.run("--date", DAYS[1])
        assert (code, "done before: promoted" in printed) == (0, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--from", DAYS[0]], "--from and --to go together"),
        (["--from", DAYS[1], "--to", DAYS[0]], "swap them"),
        (["--skip", DAYS[0]], "--because"),
        (["--date", DAYS[0], "daily.gate.tolerance.aux=1"], "did you mean 'auc'?"),
        (["--date", DAYS[0], "daily=null"], "no section `daily`"),
        (["--date", "2026-1-1"], "is no day"),
    ],
)
def test_a_mistake_is_told_at_once(words: list[str], told: str, tmp_path: Path) -> None:
    job = Daily.made(tmp_path / "job", DAYS[:1])
    code, printed = job.run(*words)
    assert code == 2
    assert told in printed
    assert "Traceback" not in printed
    assert not Path(job.root, "days").exists()


def test_a_day_before_the_first_is_refused(tmp_path: Path) -> None:
    job = Daily.made(tmp_path / "job", DAYS[:1])
    day = str(datetime.date.fromisoformat(DAYS[0]) - datetime.timedelta(1))
    code, printed = job.run("--date", day)
    assert (code, "data.train.from" in printed) == (2, True)
    assert json.dumps(job.files()) == "[]" or not Path(job.root, "registry").exists()


def late_file(job: Daily, day: str) -> str:
    """Adds one to the day's folder; its name below the log."""
    folder = job.folder / "log" / f"dt={day}"
    table = pq.read_table(folder / "part-00000.parquet", partitioning=None)
    pq.write_table(table.slice(0, 50), folder / "part-00009.parquet", write_page_checksum=True)
    return f"dt={day}/part-00009.parquet"


def test_late_files_of_a_refused_challenger_are_trained_by_the_next(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:6], ROWS)
    late = late_file(job, DAYS[2])
    assert job.run("--date", DAYS[3], "daily.late_files=train", "daily.gate.floors={click: 0.99}")[0] == 3
    assert late in trained_files(job, DAYS[3])
    job.day(DAYS[4], "daily.late_files=train")
    assert late in trained_files(job, DAYS[4]), "no model of the champion's line has seen it"
    job.day(DAYS[5], "daily.late_files=train")
    assert late not in trained_files(job, DAYS[5])


def test_nothing_of_a_skipped_day_is_late_or_recent(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    assert job.run("--date", DAYS[3], kill_at="vocabulary:before")[0] != 0
    assert "freeze" in job.done(DAYS[3])
    assert job.run("--skip", DAYS[3], "--because", "a broken join")[0] == 0
    late = late_file(job, DAYS[3])
    assert late not in job.day(DAYS[4], "daily.late_files=train")
    assert trained_files(job, DAYS[4]) == [f"dt={DAYS[4]}/part-00000.parquet"]
    assert job.done(DAYS[4])["validate"]["recent"] == DAYS[:3]


def test_a_file_that_was_left_out_as_bad_is_not_late(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:5], ROWS)
    (job.folder / "log" / f"dt={DAYS[3]}" / "part-00009.parquet").write_bytes(b"PAR1 cut short")
    words = ["daily.late_files=refuse", "data.bad.corrupt=quarantine", "data.bad.row_groups_per_day=1"]
    job.day(DAYS[3], *words)
    assert "came after" not in job.day(DAYS[4], *words)


def test_a_day_that_waits_stops_at_once(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    process = job.start("--date", DAYS[3], "daily.wait.minutes=600", "daily.wait.poll_seconds=3600")
    assert process.stdout is not None
    assert "waiting for" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, printed
    assert "stopped by SIGTERM" in printed


def test_each_model_is_judged_by_its_own_spaces(three: Daily, tmp_path: Path) -> None:
    job = three.copy(tmp_path / "job")
    write_log(job.folder / "log", DAYS[3:4], ROWS)
    job.run("--date", DAYS[3], "tasks.order.space=entire", "daily.changes=[tasks.order.space]")
    (joint,) = [
        c["champion"] for c in job.verdict(DAYS[3])["comparisons"]
        if (c["task"], c["space"], c["slice"], c["metric"]) == ("order", "joint", "all", "log_loss")
    ]  # fmt: skip
    told = job.done(DAYS[3])["evaluate"]["champion"]["order"]["joint"]["log_loss"]
    assert joint == pytest.approx(told, rel=1e-5)
