"""The report of days of retraining: what became of each, to which task, and what to do, as a stranger would read it."""

import datetime
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.daily.ledger import Ledger, skip
from pipeline.journal import Journal, Outcome
from pipeline.run_report.days import days_at
from pipeline.run_report.days_page import _brief
from pipeline.run_report.written import report, report_days, report_run
from pipeline.run_terminal.listing import days_block
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import small_config
from tests.pages import Told, read
from tests.recorded import TASKS, WINDOWS, auc, made_run, made_week


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_week(tmp_path_factory.mktemp("week"))


@pytest.fixture(scope="module")
def told(week: Path) -> Told:
    return read(report([str(week)]).html())


def test_the_week_is_told_in_one_sentence(told: Told) -> None:
    assert (
        "7 days: 4 promoted, 1 refused, 1 skipped, 1 failed its checks. Champion is now 2026-01-06." in told.paragraphs
    )


def test_each_day_has_its_outcome_its_reason_and_what_to_do(told: Told) -> None:
    days = {day: told.row("What became of each day", f"2026-01-0{day}") for day in range(1, 8)}
    assert [days[day]["outcome"] for day in days] == [
        "promoted",
        "promoted",
        "refused",
        "promoted",
        "skipped",
        "promoted",
        "failed its checks",
    ]
    assert days[1]["why"] == "the first champion."
    assert days[2]["why"] == "no task lost beyond tolerance and noise against champion 2026-01-01."
    assert days[3]["why"].startswith("order (own space, all held-out rows): AUC 0.6100 -> 0.5900")
    assert days[3]["what to do"] == "Nothing: champion 2026-01-04 was trained on its rows too."
    assert days[5]["why"] == "half of the log was lost."
    assert "order: rate .12 where the recent days have .05" in days[7]["why"]
    assert "--date 2026-01-07 --accept label_rate:order" in days[7]["what to do"]
    assert "--skip 2026-01-07" in days[7]["what to do"]


def test_only_what_needs_a_person_is_asked_of_one(told: Told) -> None:
    asked = [words for words in told.paragraphs if words.startswith("2026-01-0") and "launch.sh" in words]
    assert [words[:29] for words in asked] == ["2026-01-07 failed its checks."[:29]]


def test_what_came_late_is_worth_knowing(told: Told) -> None:
    assert "2026-01-04: 1 file came after their day was frozen; 0 of them trained with it." in told.paragraphs


def test_which_task_paid_is_plain(told: Told) -> None:
    gains = told.row("Gain of the challenger over the champion", "2026-01-03")
    assert (gains["click"], gains["order"], gains["order (joint)"]) == ("+0.0040", "-0.0200", "+0.0040")
    row = told.row("2026-01-03: AUC", "order")
    assert (row["champion"], row["challenger"], row["the gate says"]) == ("0.6100", "0.5900", "pays")
    assert told.row("2026-01-03: AUC", "click")["the gate says"] == "gained"


def test_the_gain_has_its_interval_and_tolerance(week: Path) -> None:
    html = report([str(week)]).html()
    assert "<title>order: -0.0200 (-0.0260 to -0.0140)</title>" in html, "a delta of the gate is a loss"
    assert "<title>tolerated: -0.0020</title>" in html


def test_the_champion_on_each_day_has_gaps(told: Told) -> None:
    caption = "AUC of the champion on all rows of the day"
    assert told.row(caption, "2026-01-02")["click"] == f"{auc('click', WINDOWS):.4f}"
    for day in ("2026-01-01", "2026-01-05", "2026-01-07"):
        assert told.row(caption, day)["click"] == "-"
    assert {f"{task}, AUC" for task in TASKS} <= set(told.captions)


def test_the_days_rows_are_those_of_the_checks(told: Told) -> None:
    row = told.row("Rows and label rates", "2026-01-06")
    assert (row["rows"], row["rate of cart"], row["most unknown ids"]) == ("4,000", "0.1500", "user 6.00%")
    assert told.row("Rows and label rates", "2026-01-07")["rows"] == "-"


def test_each_day_stands_by_itself_newest_first(told: Told) -> None:
    days = [heading for heading in told.headings if heading.startswith("2026-01-0")]
    assert days[0] == "2026-01-07: failed its checks"
    assert days[-1] == "2026-01-01: promoted"
    assert len(days) == 7
    assert "AUC of click: ranker.2026-01-06 from 0.551 to 0.716" in told.labels


def test_one_day_is_told_in_full(week: Path) -> None:
    told = read(report([str(week / "days/2026-01-03")]).html())
    assert told.headings[0] == "ranker: 2026-01-03"
    assert "Who uses which expert" in told.headings
    assert told.row("Level 1, last third", "click")["on its own experts"] == "60.0%"
    assert "the champion stays 2026-01-02" in told.text, "of one day alone, what later days did is not looked at"


def test_some_days_stand_side_by_side(week: Path) -> None:
    told = read(report([str(week / "days" / day) for day in ("2026-01-06", "2026-01-02")]).html())
    assert [row[0] for row in told.tables["What became of each day."][1:]] == ["2026-01-02", "2026-01-06"]


def test_only_the_last_days_are_shown(week: Path) -> None:
    told = read(report([str(week)], days=2).html())
    assert [row[0] for row in told.tables["What became of each day."][1:]] == ["2026-01-06", "2026-01-07"]
    assert "5 earlier days are not shown (--days)." in told.text


def test_challengers_of_two_days_are_compared_as_runs(week: Path) -> None:
    told = read(report([str(week / "days" / day / "challenger") for day in ("2026-01-02", "2026-01-06")]).html())
    assert told.headings[0] == "Runs: ranker.2026-01-02, ranker.2026-01-06"


def open_day(
    root: Path,
    outcome: Outcome | None,
    alert: dict[str, Any] | None = None,
    why: str = "",
    done: tuple[str, ...] = ("wait",),
    training: str = "",
) -> Told:
    """The page of one day that came to no end."""
    day = datetime.date(2026, 1, 1)
    ledger = Ledger(str(root), day)
    span = {"champion": None, "promotion": None, "days": [str(day)], "skipped": []}
    for step in done:
        ledger.commit(step, {"rows": 10, "span": span, "seconds": 1.0} if step == "wait" else {})
    if alert:
        ledger.note("alert", alert)
    journal = Journal(root, "ranker", "daily", 0, {"day": str(day), "attempt": 1})
    if outcome:
        journal.end(outcome, why)
    if training:
        made_run(root / f"days/{day}/challenger", f"ranker.{day}", "failed", training)
    return read(report([str(root)]).html())


def test_a_day_that_was_killed_is_told_as_such(tmp_path: Path) -> None:
    row = open_day(tmp_path, None).row("What became of each day", "2026-01-01")
    assert row["outcome"] == "no end recorded"
    assert "at work still, or was killed" in row["why"]
    assert "--date 2026-01-01: it goes on after its last committed step" in row["what to do"]


def test_a_day_that_was_stopped_goes_on(tmp_path: Path) -> None:
    row = open_day(tmp_path, "stopped", why="stopped by SIGTERM").row("What became of each day", "2026-01-01")
    assert (row["outcome"], row["why"]) == ("stopped", "stopped by SIGTERM.")


def test_a_day_that_is_late_says_what_to_wait_for(tmp_path: Path) -> None:
    alert = {"alert": "late_data", "text": "2026-01-01: no _SUCCESS after 240 minutes", "told": []}
    row = open_day(tmp_path, "failed", alert, "late data", ()).row("What became of each day", "2026-01-01")
    assert (row["outcome"], row["why"]) == ("late", "2026-01-01: no _SUCCESS after 240 minutes.")
    assert "daily.wait.minutes" in row["what to do"]


def test_a_failed_training_tells_its_own_reason(tmp_path: Path) -> None:
    alert = {"alert": "failed_run", "text": "ranker.2026-01-01 ended with exit code 2", "told": []}
    told = open_day(tmp_path, "failed", alert, "failed run", ("wait",), "InputError: dense_optimizer.lr is too high")
    row = told.row("What became of each day", "2026-01-01")
    assert row["outcome"] == "failed"
    assert "Its training said: InputError: dense_optimizer.lr is too high" in row["why"]


def test_days_between_that_nobody_ran_are_named(tmp_path: Path) -> None:
    for number in (1, 4):
        Ledger(str(tmp_path), datetime.date(2026, 1, number)).commit("wait", {"rows": 1, "span": {"days": []}})
    told = read(report([str(tmp_path)]).html())
    assert told.row("What became of each day", "2026-01-02")["outcome"] == "not begun"
    assert told.row("What became of each day", "2026-01-04")["outcome"] == "not finished"


def test_a_skipped_day_says_what_it_had_failed_of(tmp_path: Path) -> None:
    open_day(tmp_path, "failed", {"alert": "failed_validation", "text": "volume: half", "told": []})
    skip(str(tmp_path), datetime.date(2026, 1, 1), "lost")
    row = read(report([str(tmp_path)]).html()).row("What became of each day", "2026-01-01")
    assert (row["outcome"], row["why"]) == ("skipped", "lost. Before, it failed its checks: volume: half.")


def refused(root: Path, number: int, days: list[int], accepted: list[str]) -> None:
    ledger = Ledger(str(root), datetime.date(2026, 1, number))
    ledger.commit("wait", {"rows": 1, "span": {"champion": "c", "days": [f"2026-01-0{n}" for n in days]}})
    ledger.commit("validate", {"accepted": accepted, "statistics": {"rows": 1, "tasks": {}, "unknown": {}}})
    for step in ("freeze", "vocabulary", "score", "train", "evaluate"):
        ledger.commit(step, {})
    ledger.commit("gate", {"reasons": ["order: worse"]})
    ledger.commit("promote", {"promoted": False})
    ledger.commit("retention", {})


def test_days_refused_in_a_row_want_a_person(tmp_path: Path) -> None:
    words = [f"what '{column}' tells fell; if it is right, --accept meaning:{column}" for column in ("age", "price")]
    refused(tmp_path, 3, [3], [*words, "AUC fell; if it is right, --accept auc_drop:click"])
    page = read(report([str(tmp_path)]).html()).text
    assert "in a row" not in page
    assert page.count("a person accepted") == 2, "a rule once"
    assert "--accept meaning:age. And 1 more of this rule." in page
    refused(tmp_path, 4, [3, 4], [])
    skip(str(tmp_path), datetime.date(2026, 1, 5), "no log")
    refused(tmp_path, 6, [3, 4, 6], [])
    told = read(report([str(tmp_path)]).html()).text
    assert "3 days in a row were refused, 2026-01-03 to 2026-01-06, and the champion gets old." in told
    assert "A person let 2026-01-03 pass its checks (meaning, auc_drop): begin there." in told
    assert "--skip 2026-01-03 --because TEXT, and try the last day anew, --date 2026-01-06 --again" in told
    in_terminal = " ".join(days_block(days_at(str(tmp_path), 7), "runs/ranker").split())
    assert "3 days in a row were refused, 2026-01-03 to 2026-01-06" in in_terminal
    skip(str(tmp_path), datetime.date(2026, 1, 3), "bad")
    skip(str(tmp_path), datetime.date(2026, 1, 6), "bad")
    assert "in a row" not in read(report([str(tmp_path)]).html()).text


def test_a_refused_day_is_advised_by_what_came_after(tmp_path: Path) -> None:
    def what_to_do(day: str) -> str:
        return read(report([str(tmp_path)]).html()).row("What became of each day", day)["what to do"]

    refused(tmp_path, 3, [3], [])
    assert what_to_do("2026-01-03").startswith("Nothing at once: the champion stays c, and the next day's challenger")
    refused(tmp_path, 4, [4], [])
    ledger = Ledger(str(tmp_path), datetime.date(2026, 1, 5))
    ledger.commit("wait", {"rows": 1, "span": {"champion": "c", "days": ["2026-01-04", "2026-01-05"]}})
    ledger.commit("validate", {"accepted": [], "statistics": {"rows": 1, "tasks": {}, "unknown": {}}})
    for step in ("freeze", "vocabulary", "score", "train", "evaluate", "gate"):
        ledger.commit(step, {})
    ledger.commit("promote", {"promoted": True})
    ledger.commit("retention", {})
    assert what_to_do("2026-01-03") == "Nothing: champion 2026-01-05 came after it, without its rows."
    assert what_to_do("2026-01-04") == "Nothing: champion 2026-01-05 was trained on its rows too."


def test_a_day_begun_behind_an_open_one_waits_for_it(tmp_path: Path) -> None:
    open_day(tmp_path, "failed", {"alert": "failed_validation", "text": "volume: half", "told": []})
    Journal(tmp_path, "ranker", "daily", 0, {"day": "2026-01-02", "attempt": 1}).end(
        "failed", "error: train them first"
    )
    (tmp_path / "days/2026-01-02").mkdir()
    told = read(report([str(tmp_path)]).html())
    row = told.row("What became of each day", "2026-01-02")
    assert (row["outcome"], row["why"]) == ("not begun", "its command did nothing: 2026-01-01 is open.")
    assert row["what to do"].startswith("Nothing before 2026-01-01 is done or left out; then run ./launch.sh daily")
    assert "1 failed its checks, 1 not begun" in told.text


def test_a_reason_that_is_a_floor_comes_first_and_all_are_told(week: Path, tmp_path: Path) -> None:
    refused(tmp_path, 3, [3], [])
    path = tmp_path / "days/2026-01-03/08-gate.json"
    assert path.exists(), sorted(each.name for each in path.parent.iterdir())
    told = read(report([str(week)]).html())
    reasons = told.row("What the gate held against it, calibration too.", "2026-01-03")
    assert reasons["why it was refused"].startswith("order (own space, all held-out rows): AUC 0.6100 -> 0.5900")
    assert _brief("a: worse\nb: worse\nc: AUC .5, below its floor .6").startswith("c: AUC .5, below its floor .6. a: w")


def test_what_only_scored_has_no_report_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal(tmp_path, "ranker", "eval", 0, {"models": {}}).end("finished")
    report_run(job_of(str(tmp_path)))
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "report.html").exists()


def test_a_second_attempt_stands_for_the_day(tmp_path: Path) -> None:
    open_day(tmp_path, "failed", {"alert": "failed_run", "text": "boom", "told": []})
    Ledger(str(tmp_path), datetime.date(2026, 1, 1), 2).commit("wait", {"rows": 1, "span": {"days": []}})
    Journal(tmp_path, "ranker", "daily", 0, {"day": "2026-01-01", "attempt": 2}).end("stopped", "stopped by SIGINT")
    told = read(report([str(tmp_path)]).html())
    assert told.row("What became of each day", "2026-01-01.2")["outcome"] == "stopped"
    assert "2026-01-01.2: attempt 2 at the day" in told.text
    first = read(report([str(tmp_path / "days/2026-01-01")]).html())
    assert first.row("What became of each day", "2026-01-01")["outcome"] == "failed", "each has its own record"


def job_of(output: str, **changes: Any) -> JobConfig:
    return parse_job(small_config("log", output) | {"name": "ranker", **changes}, "test")


def test_a_store_is_read_and_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_week(tmp_path / "week")
    monkeypatch.chdir(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "week").rglob("*.json"):
        memory.pipe_file(f"/bucket/daily/{path.relative_to(tmp_path / 'week')}", path.read_bytes())
    day = "2026-01-06"
    text = f"name: ranker.{day}\ntracking: {{folder: runs/ranker/{day}}}\n"
    memory.pipe_file(f"/bucket/daily/days/{day}/challenger.yaml", text.encode())
    (tmp_path / "runs/ranker").mkdir(parents=True)
    (tmp_path / "week/journal").rename(tmp_path / "runs/ranker/journal")
    (tmp_path / f"week/days/{day}/challenger").rename(tmp_path / f"runs/ranker/{day}")
    report_days(job_of("memory://bucket/daily"))
    assert capsys.readouterr().out == "report      runs/ranker/report.html\n"
    html = (tmp_path / "runs/ranker/report.html").read_text()
    assert memory.cat_file("/bucket/daily/report.html").decode() == html
    told = read(html)
    assert told.row("What became of each day", "2026-01-07")["outcome"] == "failed its checks"
    assert f"AUC of click: ranker.{day} from 0.551 to 0.716" in told.labels, "its training's record lies here"


def test_a_job_without_a_day_fails_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_days(job_of(str(tmp_path)))
    printed = capsys.readouterr()
    assert "the report could not be written" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["week/days/2026-01-09"], "week/days/2026-01-09: no such day was begun"),
        (["week", "week/days/2026-01-02/challenger"], "stand on pages of their own"),
        (["week", "other"], "stand on pages of their own"),
    ],
)
def test_what_cannot_stand_together_is_refused(
    week: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[str], said: str
) -> None:
    (tmp_path / "week").symlink_to(week)
    skip(str(tmp_path / "other"), datetime.date(2026, 1, 1), "lost")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        report(places)


def test_a_changed_ledger_is_named(tmp_path: Path) -> None:
    made_week(tmp_path)
    path = tmp_path / "days/2026-01-02/06-train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "facts": {}}))
    with pytest.raises(InputError, match=r"06-train\.json: changed since it was written"):
        report([str(tmp_path)])


def test_damage_of_a_day_that_is_not_shown_does_not_matter(tmp_path: Path) -> None:
    made_week(tmp_path)
    (tmp_path / "days/2026-01-02/06-train.json").write_text("")
    assert [day.name for day in days_at(str(tmp_path), 2).days] == ["2026-01-06", "2026-01-07"]
