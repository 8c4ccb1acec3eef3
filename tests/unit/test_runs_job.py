"""`./launch.sh runs`: what a stranger reads of runs and days in a terminal, while they are at work as well."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.runs import main
from pipeline.daily.lease import Lease
from pipeline.daily.ledger import Ledger
from pipeline.journal import Journal, attempts
from pipeline.run_report.record import RESULT
from pipeline.run_terminal import watch as watch_module
from pipeline.run_terminal.found import PAUSES, QUIET, at_work, places, run_at, state
from pipeline.run_terminal.watch import Watch
from schemas.errors import InputError
from tests.recorded import ROWS, WINDOWS, about, made_run, made_week, values

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that ended in every way, and a week of days."""
    root = tmp_path_factory.mktemp("runs")
    made_run(root / "good", "good", restart_at=12)
    made_run(root / "deep/wide", "wide", fall=0.1, changes={"train.batch_size": 128})
    made_run(root / "stopped", "stopped", "stopped", "stopped by SIGTERM")
    made_run(root / "failed", "failed", "failed", "InputError: logs/dt=2026-01-02: mend it")
    killed = made_run(root / "killed", "killed", None)
    aged(killed / "journal/0001-train.jsonl", 10 * QUIET)
    made_week(root / "daily")
    return root


def aged(path: Path, seconds: float) -> None:
    """Moves a record into the past."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line | {"time": line["time"] - seconds}) + "\n" for line in lines))


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def line_of(text: str, begin: object) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{begin} ")]
    return line


def joined(text: str) -> str:
    """With its wrapped lines on one."""
    return " ".join(text.split())


def test_the_list_has_every_run_its_state_and_what_it_came_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, folder)
    cells = line_of(text, folder / "good").split()
    assert cells[1] == "finished"
    assert cells[5:7] == ["2", f"{WINDOWS * ROWS:,}"], "two attempts, all rows"
    told = run_at(str(folder / "good")).metrics()
    assert f"click {told['click']['auc']:.4f}, cart {told['cart']['auc']:.4f}" in text
    for name in ("stopped", "failed", "killed"):
        assert line_of(text, folder / name).split()[1] == name
    assert line_of(text, folder / "deep/wide").split()[1] == "finished"
    assert str(folder / "daily/days") not in text, "a day's training is the day's"


def test_the_list_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = joined(said(capsys, folder))
    assert f"{folder}/stopped: Stopped after 12,000 rows: stopped by SIGTERM. The same command goes on" in text
    assert f"{folder}/failed: Failed after 12,000 rows. What has to be mended: logs/dt=2026-01-02: mend it" in text
    assert f"{folder}/killed: its record ends without an end after 12,000 rows" in text
    assert f"{folder}/good:" not in text


def test_a_week_is_plain_to_a_stranger(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, folder / "daily")
    assert "7 days, 4 promoted, 1 refused, 1 skipped, 1 failed its checks; champion 2026-01-06" in text
    outcomes = {n: line_of(text, f"2026-01-0{n}") for n in (1, 2, 4, 6)}
    assert all(line.split()[1] == "promoted" for line in outcomes.values())
    (row,) = [line for line in text.splitlines() if line.startswith("2026-01-03  refused ") and "->" in line]
    assert "0.6378 -> 0.5878" in row, "which task paid"
    flat = joined(text)
    assert "2026-01-03 refused order (own space, all held-out rows): AUC 0.6100 -> 0.5900, a fall of 0.0200" in flat
    assert "to do: Nothing: champion 2026-01-04 was trained on its rows too." in flat
    assert "2026-01-05 skipped half of the log was lost" in flat
    assert "2026-01-07 failed its checks label_rate:order: order: rate .12" in flat
    assert "./launch.sh daily CONFIG.yaml --date 2026-01-07 --accept label_rate:order" in flat


def test_only_the_last_days_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, folder / "daily", "--days", "2")
    assert "2026-01-05" not in text
    assert "(5 earlier days are not shown; --days)" in text


def test_a_day_without_an_end_is_at_work_while_somebody_holds_the_lease(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "daily"
    shutil.copytree(folder / "daily", root)
    (day,) = [one for one in attempts(root) if one.about["day"] == "2026-01-07"]
    lines = day.path.read_text().splitlines()
    day.path.write_text(lines[0] + "\n")
    shutil.rmtree(root / "days/2026-01-07/events")
    with Lease(str(root), 60, "2026-01-07"):
        text = said(capsys, root)
        assert any(line.startswith("2026-01-07  at work ") and line.endswith(" -") for line in text.splitlines())
        assert f"after wait: ./launch.sh runs watch {root}" in text
    text = joined(said(capsys, root))
    assert "2026-01-07 killed its command went after wait without an end, and nobody is at work now" in text
    assert "to do: Run ./launch.sh daily CONFIG.yaml --date 2026-01-07: it goes on" in text


def test_a_damaged_record_hides_no_other_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path / "good", "good")
    path = made_run(tmp_path / "torn", "torn") / "journal/0001-train.jsonl"
    path.write_text(path.read_text().replace('"line"', "line", 3))
    text = said(capsys, tmp_path)
    assert line_of(text, tmp_path / "torn").split()[1] == "unread"
    assert line_of(text, tmp_path / "good").split()[1] == "finished"
    assert "0001-train.jsonl, line 1: not as it was written" in joined(text)


def test_at_work_is_who_spoke_within_two_minutes_or_three_of_its_longest_pauses(tmp_path: Path) -> None:
    Journal(tmp_path, "run", "train", 0, {"tasks": []})
    (told,) = attempts(tmp_path)
    assert at_work(told, told.last + QUIET)
    assert not at_work(told, told.last + QUIET + 1)
    slow = dataclasses.replace(told, points=[(told.began + 300, 1, {})], last=told.began + 300)
    assert at_work(slow, slow.last + PAUSES * 300)
    assert not at_work(slow, slow.last + PAUSES * 300 + 1)
    run = run_at(str(tmp_path))
    assert state(run) == "at work"
    assert not at_work(dataclasses.replace(told, outcome="finished"), told.last)


def test_one_run_is_shown_in_full(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", folder / "deep/wide")
    assert text.startswith("wide  finished")
    told = run_at(str(folder / "deep/wide")).metrics()
    for row, metrics in told.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{row}  ") and "4,000" in line]
        assert f"{metrics['auc']:.4f}  {metrics['auc_low']:.4f} - {metrics['auc_high']:.4f}" in line
    assert "order: the AUC of its training rows fell" in text, "the seesaw"
    assert "20,200 rows/s (median of 24 windows)" in text


def test_one_day_is_shown_in_full(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", folder / "daily/days/2026-01-03")
    assert "1 day, 1 refused" in text
    (line,) = [line for line in text.splitlines() if line.startswith("order ") and "worse" in line]
    assert line.split() == ["order", "all", "auc", "0.6100", "0.5900", "worse"]
    assert line_of(text, "train").split() == ["train", "1m00s"]
    assert "ranker.2026-01-03  finished" in text
    assert said(capsys, "show", folder / "daily") == said(capsys, folder / "daily")


def test_runs_stand_side_by_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "compare", folder / "good", folder / "deep/wide")
    sides = [run_at(str(folder / name)).metrics()["order"]["auc"] for name in ("good", "deep/wide")]
    cells = line_of(text, "order AUC").split()
    assert cells[2:] == [f"{sides[0]:.4f}", f"{sides[1]:.4f}", f"{sides[1] - sides[0]:+.4f}"]
    assert line_of(text, "train.batch_size").split()[1:] == ["32", "128"]


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said_so in (
        ([], "runs: is not there; name the `output`"),
        (["show", str(tmp_path)], "no record of a run is here"),
        (["show"], "show: name one run"),
        (["compare", "a"], "no record of a run is here"),
        (["watch", "a", "b"], "watch: name one run"),
        (["watch", "nowhere"], "nowhere: is not there"),
        (["watch", "memory://x"], "name the local folder"),
        (["--days", "0"], "--days: 0 shows nothing"),
        (["--seconds", "0"], "--seconds: 0 waits for nothing"),
    ):
        with pytest.raises(InputError, match=said_so):
            main(words)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no run"):
        places(["empty"])


def test_the_command_ends_with_2_where_there_is_none(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.runs"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: runs: is not there")


def test_reading_brings_no_torch(folder: Path) -> None:
    code = (
        "import sys; from jobs.runs import main; "
        f"main(['{folder}']); main(['watch', '{folder}/good']); print([m for m in sys.modules if m == 'torch'])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def followed(folder: Path, seconds: float = 20, root: str = "") -> tuple[list[str], threading.Thread, list[int]]:
    """A watch that has begun: what it tells, its thread, its exit code."""
    lines: list[str] = []
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(Watch(folder, lines.append, seconds, root).run()))
    thread.start()
    return lines, thread, codes


def until(lines: list[str], words: str) -> None:
    deadline = time.monotonic() + 20
    while not any(words in line for line in lines):
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "EVERY", 0.01)


@pytest.mark.usefixtures("_quick")
def test_a_run_is_followed_through_a_restart_to_its_end(tmp_path: Path) -> None:
    lines, thread, codes = followed(tmp_path)
    until(lines, f"no run has begun in {tmp_path} yet")
    first = Journal(tmp_path, "run", "train", 0, about("run", tmp_path))
    first.values(500, values(1))
    until(lines, "500 rows")
    with first.path.open("a") as file:
        file.write('{"line": "values", "ti')  # killed in the middle of a line
    second = Journal(tmp_path, "run", "train", 500, about("run", tmp_path))
    until(lines, "500 rows trained before")
    second.values(1000, values(2))
    second.alert("late", "a file came late", "WARN")
    second.values(1000, {"eval/click/auc": 0.75})
    second.end("stopped", "stopped by SIGTERM")
    thread.join(20)
    assert codes == [75]
    text = "\n".join(lines)
    assert f"1,000 rows  click {values(2)['train/click/auc']:.4f}  cart " in text
    assert "20,200 rows/s" in text
    assert "WARN: late\na file came late" in text
    assert "evaluated: click 0.7500" in text
    assert lines[-1].endswith("stopped: stopped by SIGTERM")
    assert sum("began at" in line for line in lines) == 2


def test_a_line_is_told_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    tail = watch_module.Tail(path)
    assert list(tail.lines()) == []
    path.write_text('{"a": 1}\n{"a"')
    assert list(tail.lines()) == [{"a": 1}]
    with path.open("a") as file:
        file.write(": 2}\n")
    assert list(tail.lines()) == [{"a": 2}]
    assert list(tail.lines()) == []


@pytest.mark.usefixtures("_quick")
def test_a_silent_run_is_waited_for_so_long_and_no_longer(tmp_path: Path) -> None:
    Journal(tmp_path, "run", "train", 0, about("run", tmp_path))
    lines: list[str] = []
    assert Watch(tmp_path, lines.append, 0.05).run() == 1
    assert "nothing was told for 0s (--seconds)" in lines[-1]


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize(("outcome", "code"), [("finished", 0), ("refused", 3), ("stopped", 75), ("failed", 1)])
def test_how_it_ended_is_the_exit_code(tmp_path: Path, outcome: str, code: int) -> None:
    Journal(tmp_path, "run", "train", 0, about("run", tmp_path)).end(outcome, "why")  # type: ignore[arg-type]
    assert main(["watch", str(tmp_path)]) == code


@pytest.mark.usefixtures("_quick")
def test_a_day_is_followed_step_by_step(tmp_path: Path) -> None:
    import datetime

    root = tmp_path / "daily"
    (root / "days").mkdir(parents=True)
    journal = Journal(root, "ranker", "gate", 0, {"day": "2026-01-08", "attempt": 2})
    ledger = Ledger(str(root), datetime.date(2026, 1, 8), 2)
    lines, thread, codes = followed(root, root=str(root))
    until(lines, "ranker, day 2026-01-08: began at")
    ledger.commit("wait", {"rows": 10, "seconds": 65.0})
    until(lines, "2026-01-08.2  wait done, 1m05s")
    ledger.commit("validate", {"seconds": 1.0})
    journal.end("failed", "late data: the day is late")
    thread.join(20)
    assert codes == [1]
    assert any("validate done" in line for line in lines)
    assert lines[-1].endswith("failed: late data: the day is late")


def test_a_torn_record_ends_the_watch_with_its_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "run", "train", 0, about("run", tmp_path))
    with journal.path.open("a") as file:
        file.write("no record\n")
    with pytest.raises(InputError, match=r"0001-train\.jsonl, line 2: not as it was written"):
        Watch(tmp_path, lambda _: None, 5).run()


def test_a_run_that_ended_without_a_journal_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text("{}")
    lines: list[str] = []
    assert Watch(tmp_path, lines.append, 60).run() == 0
    assert lines == [f"{tmp_path}: a run has ended here, and left result.json but no journal to follow"]
