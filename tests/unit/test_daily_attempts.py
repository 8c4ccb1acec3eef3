"""Which attempt at a day `--again` runs, and what an attempt that came to nothing leaves behind."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.daily import main
from pipeline.daily.day import attempt_of
from pipeline.daily.ledger import STEPS, Ledger
from pipeline.daily.span import Span
from pipeline.registry import Registry
from schemas.errors import InputError
from tests.logs import small_config, write_config
from tests.models import a_model, champions

DAYS = [f"2026-01-0{n}" for n in range(1, 4)]
DAY = datetime.date.fromisoformat(DAYS[1])


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The first day's model is champion."""
    champions(Registry(str(tmp_path)), str(tmp_path), DAYS[:1])
    return str(tmp_path)


def begin(root: str, attempt: int, steps: int, promoted: bool = False) -> Ledger:
    ledger = Ledger(root, DAY, attempt)
    facts: dict[str, Any] = {"span": Span(DAYS[0], 1, DAYS[1:2], []).facts(), "promoted": promoted, "number": 2}
    for step in STEPS[:steps]:
        ledger.commit(step, facts)
    return ledger


def attempt(root: str, again: bool = True) -> int:
    return attempt_of(root, DAY, again, Registry(root)).attempt


def test_again_begins_a_day_anew_once_it_was_begun(root: str) -> None:
    assert attempt(root) == 1
    begin(root, 1, 3)
    assert (attempt(root), attempt(root, again=False)) == (2, 1)


def test_a_second_attempt_that_was_cut_off_is_gone_on_with(root: str) -> None:
    begin(root, 1, 3)
    for steps in range(1, len(STEPS)):
        begin(root, 2, steps)
        assert attempt(root) == 2
    begin(root, 2, len(STEPS))
    assert attempt(root) == 3, "it came to its end"


def test_an_attempt_whose_run_failed_is_begun_anew_unless_it_went_on_since(root: str) -> None:
    ledger = begin(root, 2, 5)
    ledger.note("alert", {"alert": "failed_validation", "after": "score"})
    assert attempt(root) == 2, "to be validated again"
    ledger.note("alert", {"alert": "failed_run", "after": "score"})
    assert attempt(root) == 3
    begin(root, 2, 6)
    assert attempt(root) == 2


def test_an_attempt_with_a_damaged_record_is_begun_anew(root: str) -> None:
    begin(root, 2, 3)
    (Path(root) / "days" / f"{DAYS[1]}.2" / "02-validate.json").write_text("{")
    assert attempt(root) == 3


def test_an_attempt_whose_champion_was_replaced_is_begun_anew(root: str) -> None:
    begin(root, 2, 3)
    registry = Registry(root)
    registry.register(a_model(root, f"{DAYS[1]}.2", DAYS[0]))
    registry.promote(f"{DAYS[1]}.2", "blessed", expected=1)
    assert attempt(root) == 2, "by itself: only the commit is missing"
    registry.rollback(None, "orders fell")
    assert attempt(root) == 3


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose second day was promoted."""
    config: dict[str, Any] = small_config("log", "root", DAYS[:1])
    config["data"].pop("eval", None)
    config |= {"daily": {}, "tracking": {"mode": "disabled"}}
    write_config(tmp_path / "job.yaml", config)
    monkeypatch.chdir(tmp_path)
    champions(Registry("root"), "root", DAYS[:2])
    begin("root", 1, len(STEPS), promoted=True)
    return tmp_path


def test_again_on_a_day_that_is_champion_leaves_it_done(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=f"was trained up to {DAYS[1]}"):
        main(["job.yaml", "--date", DAYS[1], "--again"])
    capsys.readouterr()
    assert main(["job.yaml", "--date", DAYS[1]]) == 0
    assert "done before: promoted (promotion 2)" in capsys.readouterr().out
    (event,) = Ledger("root", DAY).events()
    assert event["alert"] == "failed_run"
