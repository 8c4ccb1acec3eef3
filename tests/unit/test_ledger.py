"""The ledger of a day: steps committed once, events in order, days begun and days left out."""

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.daily.ledger import STEPS, Ledger, days, skip, skipped
from schemas.errors import InputError
from tests.s3 import BUCKET, s3_server

DAY = datetime.date(2026, 1, 8)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_steps_are_read_as_they_were_committed_and_in_their_order(root: str) -> None:
    ledger = Ledger(root, DAY, term=5)
    assert ledger.done() == {}
    told = {step: ledger.commit(step, {"sha256": step, "format": 7, "rows": [1, 2]}) for step in STEPS}
    found = Ledger(root, DAY).done()
    assert list(found) == list(STEPS)
    assert found == told
    assert found["gate"]["term"] == 5
    assert datetime.datetime.fromisoformat(found["gate"]["at"]).tzinfo is not None
    assert {key: found["gate"][key] for key in ("sha256", "format", "rows")} == {
        "sha256": "gate",
        "format": 7,
        "rows": [1, 2],
    }


def test_the_first_commit_of_a_step_stands(tmp_path: Path) -> None:
    zombie, successor = Ledger(str(tmp_path), DAY, term=1), Ledger(str(tmp_path), DAY, term=2)
    assert successor.commit("wait", {"rows": 7})["rows"] == 7
    stands = zombie.commit("wait", {"rows": 8})
    assert (stands["rows"], stands["term"]) == (7, 2)
    assert zombie.done() == {"wait": stands}
    assert sorted(path.name for path in (tmp_path / "days/2026-01-08").iterdir()) == ["01-wait.json"]


def test_what_is_committed_is_told_as_it_will_be_read(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), DAY)
    assert ledger.commit("wait", {"pair": (1, 2), "by": {1: "x"}}) == ledger.done()["wait"]


def test_attempts_have_folders_of_their_own(tmp_path: Path) -> None:
    Ledger(str(tmp_path), DAY).commit("wait", {"rows": 1})
    Ledger(str(tmp_path), DAY, 2).commit("wait", {"rows": 2})
    assert Ledger(str(tmp_path), DAY).done()["wait"]["rows"] == 1
    assert Ledger(str(tmp_path), DAY, 2).done()["wait"]["rows"] == 2
    assert (tmp_path / "days/2026-01-08.2/01-wait.json").exists()
    assert days(str(tmp_path)) == [DAY]


def test_a_step_that_is_missing_or_torn_is_named(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), DAY)
    for step in STEPS[:3]:
        ledger.commit(step, {})
    folder = tmp_path / "days/2026-01-08"
    (folder / "notes.txt").write_text("a person's")
    (folder / "verdict.json").write_text("{}")
    assert list(ledger.done()) == list(STEPS[:3])
    whole = (folder / "02-validate.json").read_bytes()
    (folder / "02-validate.json").write_bytes(whole[:20])
    with pytest.raises(InputError, match=r"02-validate\.json: is no whole record \(20 bytes\)"):
        ledger.done()
    with pytest.raises(InputError, match=r"02-validate\.json: is no whole record"):
        ledger.commit("validate", {})
    (folder / "02-validate.json").unlink()
    with pytest.raises(InputError, match=r"02-validate\.json: is missing, and 03-freeze is there; .*--again"):
        ledger.done()


def test_a_step_of_another_name_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Ledger("memory://ledger", DAY).commit("nap", {})


def test_events_come_back_in_order(root: str) -> None:
    ledger = Ledger(root, DAY, term=3)
    assert ledger.events() == []
    told = [ledger.note(kind, {"n": n}) for n, kind in enumerate(("late_files", "alert", "late_files", "accepted"))]
    assert ledger.events() == told
    assert [(e["number"], e["kind"], e["n"], e["term"]) for e in told] == [
        (1, "late_files", 0, 3),
        (2, "alert", 1, 3),
        (3, "late_files", 2, 3),
        (4, "accepted", 3, 3),
    ]
    assert ledger.done() == {}, "events are no steps"


def test_no_event_of_two_that_come_together_is_lost(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def note(number: int) -> None:
        start.wait()
        Ledger(str(tmp_path), DAY).note("alert", {"of": number})

    threads = [threading.Thread(target=note, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = Ledger(str(tmp_path), DAY).events()
    assert sorted(event["of"] for event in events) == [0, 1, 2, 3]
    assert [event["number"] for event in events] == [1, 2, 3, 4]


def test_days_begun_are_listed_once_and_in_order(root: str) -> None:
    assert days(root) == []
    for day, attempt in ((9, 1), (8, 1), (8, 2), (8, 10)):
        Ledger(root, datetime.date(2026, 1, day), attempt).commit("wait", {})
    assert days(root) == [datetime.date(2026, 1, 8), datetime.date(2026, 1, 9)]


def test_skipped_days_keep_their_first_reason(root: str) -> None:
    assert skipped(root) == {}
    skip(root, datetime.date(2026, 1, 9), "no log")
    skip(root, datetime.date(2026, 1, 7), "broken clock")
    skip(root, datetime.date(2026, 1, 9), "another reason")
    assert list(skipped(root).items()) == [
        (datetime.date(2026, 1, 7), "broken clock"),
        (datetime.date(2026, 1, 9), "no log"),
    ]


def test_a_file_that_is_no_days_is_named(tmp_path: Path) -> None:
    skip(str(tmp_path), DAY, "no log")
    (tmp_path / "skipped" / "yesterday.json").write_text("{}")
    with pytest.raises(InputError, match=r"yesterday\.json: is no day's; remove it"):
        skipped(str(tmp_path))
