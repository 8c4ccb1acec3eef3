"""KuaiRand's published days: clean ones pass, spoilt ones are stopped."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.daily.checks import check_day
from pipeline.daily.statistics import DayStatistics, day_statistics, edges_of
from pipeline.data.files import plan
from schemas.daily import ChecksConfig
from schemas.events import DayRange
from schemas.job import JobConfig
from tests.logs import override, write_parquet
from tests.poisons import exchanged, reversed_order, rotated, times
from tests.published import days_of, ingested, packaged_job, shared

CHECKS = ChecksConfig(clock_hours=-8, outside=0.001)  # the days are Beijing's; a few rows lie hours outside of theirs


def statistics(job: JobConfig, day: str, recent: list[DayStatistics]) -> DayStatistics:
    date = datetime.date.fromisoformat(day)
    manifest = plan(job, DayRange.model_validate({"from": date, "to": date}))
    return day_statistics(job, date, manifest, lambda text: None, edges_of(recent))


Log = tuple[JobConfig, list[str], list[DayStatistics]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    out = ingested("kuairand", shared("kuairand_pure"), tmp_path_factory.mktemp("days") / "log")
    clock = [f"daily.checks.{key}={getattr(CHECKS, key)}" for key in ("clock_hours", "outside")]
    job = packaged_job("kuairand", out, *clock)
    days = days_of(out)
    found: list[DayStatistics] = []
    for day in days:
        found.append(statistics(job, day, found))
    return job, days, found


def test_twelve_real_days_pass(log: Log) -> None:
    job, days, found = log
    assert len(days) == 12
    for number, today in enumerate(found):
        assert check_day(job, CHECKS, today, found[:number], set()) == []
    assert [day.event_time.outside for day in found if day.event_time.outside] == [2, 5]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"like": lambda c: pa.array(np.zeros(len(c)), c.type)}, {"label_rate:like"}),
        ({"video_id": exchanged}, {"meaning:video_id", "fresh_ids:video_id"}),
        ({"tab": exchanged}, {"distance:tab"}),
        ({"hour": reversed_order}, {"distance:hour"}),
        ({"user_active_degree": rotated}, {"distance:user_active_degree"}),
        ({"register_days": times(24)}, {"mean:register_days", "distance:register_days"}),
        ({"user_id": lambda c: pc.add(c, pc.max(c))}, {"fresh_ids:user_id", "unknown:user"}),
    ],
    ids=[
        "no likes",
        "videos exchanged",
        "tabs exchanged",
        "hours turned",
        "a category rotated",
        "hours for days",
        "users",
    ],
)
def test_a_spoilt_real_day_is_stopped(
    columns: dict[str, Callable[[pa.Array], Any]], words: set[str], log: Log, tmp_path: Path
) -> None:
    job, days, found = log
    clean = pq.read_table(Path(job.data.path) / f"dt={days[-1]}", partitioning=None)
    folder = tmp_path / f"dt={days[-1]}"
    folder.mkdir()
    write_parquet(folder / "part-00000.parquet", override(clean, columns), 65_536)
    (folder / "_SUCCESS").touch()
    spoilt = job.model_copy(update={"data": job.data.model_copy(update={"path": str(tmp_path)})})
    today = statistics(spoilt, days[-1], found[:-1])
    assert {f.word for f in check_day(job, CHECKS, today, found[:-1], set())} == words
