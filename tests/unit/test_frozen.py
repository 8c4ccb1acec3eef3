"""Manifests frozen before the run: exactly their files are read, what changed is named, what came since is told."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.files import list_days, plan, plan_files
from pipeline.data.freeze import evaluation_manifest, late_files, plan_from_bytes, plan_job
from pipeline.data.manifest import HISTORY, Manifest
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from tests.logs import DAYS, small_job, small_table, write_log, write_parquet

ROWS = 40
LATE = "part-00009.parquet"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", DAYS, ROWS, files_per_day=2)
    return tmp_path / "log"


def job_of(log: Path | str, changes: dict[str, Any] | None = None, **frozen: str) -> JobConfig:
    return small_job(log, Path(log).parent / "out", {"data.frozen": frozen, **(changes or {})})


def write(path: Path, manifest: Manifest) -> str:
    path.write_bytes(manifest.to_bytes())
    return str(path)


@pytest.fixture
def names(log: Path) -> dict[str, str]:
    """Both manifests of the log as it is."""
    job, folder = small_job(log), log.parent
    assert job.data.eval is not None
    return {
        "train": write(folder / "train.manifest", plan(job, job.data.train)),
        "eval": write(folder / "eval.manifest", plan(job, job.data.eval)),
    }


def test_exactly_its_files_are_read_and_what_came_since_is_told(
    log: Path, names: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for day in DAYS:
        write_parquet(log / f"dt={day}" / LATE, small_table(7))
    made = plan_job(job_of(log, **names), None)
    assert made.training.manifest.rows == 2 * ROWS
    assert made.evaluation is not None
    assert made.evaluation.rows == ROWS
    paths = made.training.manifest.files.column("path").to_pylist()
    assert made.training.late == tuple(f"dt={day}/{LATE}" for day in DAYS[:2])
    assert not set(paths) & set(made.training.late)
    assert made.training.notes() == [
        f"note: 2 files (dt={DAYS[0]}/{LATE}, dt={DAYS[1]}/{LATE}) of the days, not in the manifest that "
        "data.frozen.train names; not read"
    ]
    told = f"note: 1 file (dt={DAYS[2]}/{LATE}) of the days, not in the manifest that data.frozen.eval names; not read"
    assert told in capsys.readouterr().out
    assert late_files(job_of(log, **names), made.training.manifest) == made.training.late
    back = plan_from_bytes(made.to_bytes(), job_of(log, **names))
    assert back.training == made.training


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("what", ["vanished", "changed"])
def test_a_file_that_vanished_or_changed_is_named(log: Path, names: dict[str, str], split: str, what: str) -> None:
    part = log / f"dt={DAYS[2 if split == 'eval' else 1]}" / "part-00001.parquet"
    if what == "vanished":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes() + b"\0")
    said = rf"1 file \({part.parent.name}/{part.name}\) {what} since data\.frozen\.{split} was frozen; restore"
    with pytest.raises(InputError, match=said):
        plan_job(job_of(log, **names), None)


def test_it_may_hold_fewer_files_than_the_days_and_the_log_fewer_days(log: Path) -> None:
    job = small_job(log, changes={"data.eval": ..., "data.train.to": DAYS[2]})
    days = job.data.train
    kept = [file for file in list_days(job, days) if DAYS[1] not in file.path][:-1]
    name = write(log.parent / "fewer.manifest", plan_files(job, days, kept))
    given = job_of(log, {"data.eval": ..., "data.train.to": DAYS[2]}, train=name)
    made = plan_job(given, None).training
    assert made.manifest.rows == ROWS + ROWS // 2
    assert len(made.late) == 3
    # a day of which it holds nothing may be gone, or half written; any other may not
    shutil.rmtree(log / f"dt={DAYS[1]}")
    assert plan_job(given, None).training.manifest == made.manifest
    assert len(late_files(given, made.manifest) or ()) == 1
    (log / f"dt={DAYS[0]}" / "_SUCCESS").unlink()
    with pytest.raises(InputError, match=rf"dt={DAYS[0]}: no _SUCCESS marker"):
        plan_job(given, None)


def test_it_must_be_of_the_jobs_days(log: Path, names: dict[str, str]) -> None:
    said = rf"data\.frozen\.train: frozen of the days {DAYS[0]} to {DAYS[1]}, and the job reads {DAYS[0]} to {DAYS[0]}"
    with pytest.raises(InputError, match=said):
        plan_job(job_of(log, {"data.train.to": DAYS[0]}, **names), None)
    with pytest.raises(InputError, match=r"data\.frozen\.eval: frozen of the days"):
        evaluation_manifest(job_of(log, eval=names["train"]))


def test_what_is_no_manifest_is_named(log: Path, names: dict[str, str]) -> None:
    whole = Path(names["train"]).read_bytes()
    for content in (b"", b"{}", whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        Path(names["train"]).write_bytes(content)
        with pytest.raises(InputError, match=r"^data\.frozen\.train: no whole manifest; freeze the days again"):
            plan_job(job_of(log, **names), None)
    with pytest.raises(InputError, match=r"^data\.frozen\.train: '.*nowhere' cannot be read"):
        plan_job(job_of(log, train=str(log.parent / "nowhere")), None)


def test_the_checkpoints_own_manifest_must_be_it(log: Path, names: dict[str, str]) -> None:
    stored = Path(names["train"]).read_bytes()
    made = plan_job(job_of(log, **names), stored)
    assert made.training.manifest.rows == 2 * ROWS
    job = small_job(log)
    fewer = write(log.parent / "fewer", plan_files(job, job.data.train, list_days(job, job.data.train)[:3]))
    said = r"data\.frozen\.train: '.*fewer' is not the manifest that the run in '.*out' began with"
    with pytest.raises(InputError, match=said):
        plan_job(job_of(log, train=fewer), stored)


def test_a_job_that_reads_other_columns_opens_the_files_again(log: Path, names: dict[str, str]) -> None:
    made = plan_job(job_of(log, {"tasks.order": ...}, **names), None)
    assert made.training.manifest.rows == 2 * ROWS
    with pytest.raises(InputError, match=r"column 'event_time', feature 'age', holds timestamp"):
        plan_job(job_of(log, {"features.age.column": "event_time"}, **names), None)


COUNT = {"name": "clicks", "kind": "count", "column": "item_id"}


def with_count(log: Path, **frozen: str) -> JobConfig:
    features = small_job(log).model_dump(mode="json", by_alias=True)["features"]
    return job_of(log, {"features": [*features, COUNT]}, **frozen)


def test_statistics_of_another_job_are_counted_anew(log: Path, names: dict[str, str]) -> None:
    made = plan_job(with_count(log, **names), None)
    index = made.training.manifest.origin[HISTORY]
    assert list(next(iter(index.values()))) == [DAYS[0]], "none was frozen: counted, for the days before the last"
    frozen = write(log.parent / "counted.manifest", made.training.manifest)
    again = plan_job(with_count(log, train=frozen), None)
    assert again.training.manifest.origin[HISTORY] == index
    other = {**COUNT, "column": "user_id"}
    features = small_job(log).model_dump(mode="json", by_alias=True)["features"]
    job = job_of(log, {"features": [*features, other]}, train=frozen)
    assert plan_job(job, None).training.manifest.origin[HISTORY].keys() != index.keys()


def test_days_are_listed_but_for_those_that_may_be_missing(log: Path) -> None:
    job = small_job(log)
    days = DayRange.model_validate({"from": DAYS[0], "to": "2026-01-05"})
    with pytest.raises(InputError, match="the day 2026-01-04 is missing"):
        list_days(job, days, set(days.days()[4:]))
    assert len(list_days(job, days, set(days.days()[3:]))) == 6
