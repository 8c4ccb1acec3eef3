"""Waiting for a day: what it waits for, what it tells, when it gives up, what it does not wait for."""

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.daily.wait import Arrived, Late, wait_for_day
from schemas.daily import WaitConfig
from schemas.errors import InputError
from schemas.job import JobConfig
from tests import faulty
from tests.logs import DAYS, small_job, write_log

DAY = datetime.date.fromisoformat(DAYS[0])


class Clock:
    """Time that passes in sleep alone; what happens meanwhile happens at its second."""

    def __init__(self, at: dict[float, Callable[[], object]] | None = None) -> None:
        self.now, self.slept, self._at = 0.0, [], dict(at or {})
        self.told: list[str] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for second in sorted(s for s in self._at if s <= self.now):
            self._at.pop(second)()

    def wait(self, job: JobConfig, **config: float) -> Arrived:
        wait = WaitConfig.model_validate(config)
        return wait_for_day(job, DAY, wait, self.told.append, sleep=self.sleep, clock=self)


def test_a_day_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 60, files_per_day=2)
    clock = Clock()
    assert clock.wait(small_job(tmp_path), min_rows=60) == Arrived(2, 60, 0.0)
    assert (clock.slept, clock.told) == ([], [])


def test_a_day_is_waited_for_until_folder_marker_and_rows_are_there(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[1:2], 10)
    marker = tmp_path / f"dt={DAY}" / "_SUCCESS"
    clock = Clock(
        {
            100: marker.parent.mkdir,
            200: lambda: write_log(tmp_path, DAYS[:1], 40, success=False),
            300: marker.touch,
            400: lambda: write_log(tmp_path, DAYS[:1], 60),
        }
    )
    found = clock.wait(small_job(tmp_path), minutes=10, poll_seconds=30, min_rows=60)
    assert found == Arrived(1, 60, 420.0)
    asked = [text.partition(": ")[2].removeprefix(f"{tmp_path}/dt=2026-01-01: ") for text in clock.told]
    marked = "no _SUCCESS marker, so the day may still be written"
    rows = f"{tmp_path}: the day 2026-01-01 has 40 rows in 1 files, and daily.wait.min_rows is 60"
    assert asked == ["the day 2026-01-01 is missing"] * 2 + [marked] * 3 + [rows] * 2
    assert clock.told[0].startswith("waiting for 2026-01-01, 0 of 10 minutes: ")
    assert clock.told[6].startswith("waiting for 2026-01-01, 6 of 10 minutes: ")


def test_a_late_day_is_said_to_be_late_with_what_is_missing(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 60, success=False)
    clock = Clock()
    with pytest.raises(
        Late, match=r"2026-01-01 is late: after 2 minutes .*daily.wait.minutes = 2.* no _SUCCESS marker"
    ):
        clock.wait(small_job(tmp_path), minutes=2, poll_seconds=50)
    assert clock.slept == [50, 50, 20]  # and looks once more at the deadline itself
    with pytest.raises(Late, match="after 0 minutes"):
        Clock().wait(small_job(tmp_path))


def test_without_markers_rows_alone_make_a_day(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 60, success=False)
    job = small_job(tmp_path, changes={"data.require_success": False})
    assert Clock().wait(job, min_rows=60).rows == 60
    with pytest.raises(Late, match="60 rows"):
        Clock().wait(job, min_rows=61)


def test_an_empty_partition_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / f"dt={DAY}").mkdir()
    (tmp_path / f"dt={DAY}" / "_SUCCESS").touch()
    with pytest.raises(Late, match=r"no \.parquet file"):
        Clock().wait(small_job(tmp_path))
    write_log(tmp_path, DAYS[:1], 0)
    with pytest.raises(Late, match="hold no rows"):
        Clock().wait(small_job(tmp_path))


def test_what_no_waiting_mends_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such path"):
        Clock().wait(small_job(tmp_path / "nowhere"), minutes=60)
    write_log(tmp_path, DAYS[:1], 60, click=None)
    with pytest.raises(InputError, match="'click', the label of task 'click', is missing"):
        Clock().wait(small_job(tmp_path), minutes=60)
    for path in tmp_path.glob("dt=*/*.parquet"):
        path.write_bytes(b"half a file")
    with pytest.raises(InputError, match="not a whole Parquet file"):
        Clock().wait(small_job(tmp_path), minutes=60)


def test_a_storage_that_does_not_answer_is_asked_again_until_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.register()
    write_log(tmp_path, DAYS[:1], 60)
    monkeypatch.setenv(faulty.SETTINGS, "errors=1")
    changes = {"data.storage": {"retries": 0}}
    job = small_job(f"faulty://{tmp_path}", changes=changes)
    clock = Clock({100: lambda: monkeypatch.setenv(faulty.SETTINGS, "errors=0")})
    assert clock.wait(job, minutes=5, poll_seconds=60) == Arrived(1, 60, 120.0)
    assert "the storage had a bad moment" in clock.told[0]
    monkeypatch.setenv(faulty.SETTINGS, "errors=1")
    with pytest.raises(Late, match="cannot be read after 1 attempt"):
        Clock().wait(job, minutes=1)


def test_a_log_that_may_not_be_read_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, DAYS[:1], 60)

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="see whether you may read it"):
        Clock().wait(small_job(tmp_path), minutes=60)
