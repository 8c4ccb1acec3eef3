"""Which days a challenger trains on, before there is a champion and after: none that came to no end."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.daily.ledger import STEPS, Ledger, skip, skipped
from pipeline.daily.span import first_open, skip_open, span_of
from pipeline.registry import Registry
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import small_job
from tests.models import champions

DAYS = [f"2026-01-0{n}" for n in range(1, 9)]


def date(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def job(root: Path, **daily: str) -> JobConfig:
    return small_job(root / "log", root, {"daily": daily, "data.eval": None}, DAYS[:1])


def begin(root: Path, day: str, steps: int = 2) -> None:
    """So many steps of the day are committed."""
    for step in STEPS[:steps]:
        Ledger(str(root), date(day)).commit(step, {"promoted": False})


def refuse(root: Path, day: str) -> None:
    """The day's challenger was refused."""
    begin(root, day, len(STEPS))


def span(root: Path, day: str, **daily: str) -> tuple[list[str], list[str]]:
    found = span_of(job(root, **daily), str(root), Registry(str(root)), date(day))
    return found.days, found.skipped


def test_the_first_champion_learns_from_days_that_no_run_began(tmp_path: Path) -> None:
    assert span(tmp_path, DAYS[3]) == (DAYS[:4], [])


@pytest.mark.parametrize("champion", [False, True])
def test_a_day_that_came_to_no_end_is_never_trained_on_in_silence(tmp_path: Path, champion: bool) -> None:
    if champion:
        champions(Registry(str(tmp_path)), str(tmp_path), DAYS[:2])
    begin(tmp_path, DAYS[2])  # it failed its checks, say
    words = f"{DAYS[3]}: .*{DAYS[2]} came to no end; train them first .--from {DAYS[2]} --to {DAYS[3]}"
    with pytest.raises(InputError, match=words):
        span(tmp_path, DAYS[3])
    assert first_open(str(tmp_path), Registry(str(tmp_path)), date(DAYS[3])) == date(DAYS[2])
    skip(str(tmp_path), date(DAYS[2]), "half of it was lost")
    days, left_out = span(tmp_path, DAYS[3])
    assert DAYS[2] not in days
    assert left_out == [DAYS[2]]
    assert first_open(str(tmp_path), Registry(str(tmp_path)), date(DAYS[3])) == date(DAYS[3])


def test_a_day_between_runs_is_open_too(tmp_path: Path) -> None:
    refuse(tmp_path, DAYS[2])
    with pytest.raises(InputError, match=f"there is no champion yet, and {DAYS[3]} came to no end"):
        span(tmp_path, DAYS[4])
    assert first_open(str(tmp_path), Registry(str(tmp_path)), date(DAYS[4])) == date(DAYS[3])


def test_an_open_day_is_skipped_where_that_is_declared(tmp_path: Path) -> None:
    begin(tmp_path, DAYS[2])
    refuse(tmp_path, DAYS[4])
    told: Any = {"missing_days": "skip", "refused_days": "leave_out"}
    found = span_of(job(tmp_path, **told), str(tmp_path), Registry(str(tmp_path)), date(DAYS[5]))
    assert (found.days, found.skipped) == ([*DAYS[:2], DAYS[5]], DAYS[2:5])
    assert not skipped(str(tmp_path))
    skip_open(str(tmp_path), found, date(DAYS[5]))
    assert list(skipped(str(tmp_path))) == [date(day) for day in DAYS[2:4]], "a refused day came to an end"
    assert span(tmp_path, DAYS[5], **told) == (found.days, found.skipped), "a run cut off in between goes on alike"


def test_a_refused_first_day_is_trained_again_or_left_out(tmp_path: Path) -> None:
    refuse(tmp_path, DAYS[2])
    assert span(tmp_path, DAYS[3]) == (DAYS[:4], [])
    assert span(tmp_path, DAYS[3], refused_days="leave_out") == ([*DAYS[:2], DAYS[3]], [DAYS[2]])


def test_a_day_before_the_first_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"2025-12-31: lies before data.train.from .{DAYS[0]}"):
        span(tmp_path, "2025-12-31")


def test_a_day_that_was_trained_on_is_told(tmp_path: Path) -> None:
    champions(Registry(str(tmp_path)), str(tmp_path), DAYS[:2])
    with pytest.raises(InputError, match=f"champion {DAYS[1]} was trained up to {DAYS[1]}"):
        span(tmp_path, DAYS[1])
