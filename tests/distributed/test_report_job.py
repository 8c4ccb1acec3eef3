"""The report at the end of real jobs: a training, and days of retraining."""

import json
from pathlib import Path

import pytest

from jobs.interrupts import Interrupts
from jobs.launch import _reported_run
from pipeline.journal import Journal
from tests.distributed.command import run
from tests.distributed.daily import DAYS, Daily
from tests.logs import DAYS as LOG_DAYS
from tests.logs import small_config, small_job, write_config, write_log
from tests.pages import read
from tests.recorded import about


def test_a_training_ends_with_its_report(tmp_path: Path) -> None:
    write_log(tmp_path / "log", LOG_DAYS, 400)
    config = small_config("log", "out")
    del config["tracking"]["report"]
    printed = run(write_config(tmp_path / "job.yaml", config))
    assert printed.rstrip().endswith("report      out/report.html")
    told = read((tmp_path / "out/report.html").read_text())
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert told.numbers["rows trained"] == f"{result['samples']:,}"
    assert told.numbers["steps"] == f"{result['step']:,}"
    assert told.numbers["outcome"] == "finished"
    for task, spaces in result["tasks"].items():
        for space, m in spaces.items():
            if space != "kind":
                row = told.row("Tasks with a 0/1 label", task if space == "own" else f"{task} (joint)")
                assert row["AUC"] == f"{m['auc']:.4f}"
                assert (row["rows"], row["positives"]) == (f"{m['rows']:,}", f"{m['positives']:,}")
    assert {"click", "cart (joint)"} <= set(told.captions), "its learning curves"


def test_days_end_with_their_report(tmp_path: Path) -> None:
    job = Daily.made(tmp_path / "job", DAYS[:1], tracking__report=True)
    assert "report      root/report.html" in job.day(DAYS[0])
    code, printed = job.run("--date", DAYS[1])  # of which there is no log
    assert code == 5, printed
    assert printed.rstrip().endswith("report      root/report.html")
    told = read((Path(job.root) / "report.html").read_text())
    assert f"2 days: 1 promoted, 1 late. Champion is now {DAYS[0]}." in told.paragraphs
    row = told.row("What became of each day", DAYS[0])
    assert row["rows trained"] == f"{job.done(DAYS[0])['train']['samples']:,}"
    assert "is late" in told.row("What became of each day", DAYS[1])["why"]
    own = read((Path(job.root) / "days" / DAYS[0] / "challenger/report.html").read_text())
    assert own.headings[0] == f"small.{DAYS[0]}"


@pytest.mark.parametrize("leaves", [SystemExit(75), RuntimeError("boom"), None])
def test_however_the_ranks_end_the_run_is_reported(
    tmp_path: Path, leaves: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    job = small_job("log", tmp_path, {"tracking.report": True})
    interrupts = Interrupts()

    def ranks() -> None:
        with _reported_run(job, interrupts):
            Journal(tmp_path, "small", "train", 0, about("small", tmp_path)).end("stopped", "stopped by SIGTERM")
            if leaves is not None:
                raise leaves

    if leaves is None:
        ranks()
    else:
        with pytest.raises(type(leaves)):
            ranks()
    assert capsys.readouterr().out == f"report      {tmp_path}/report.html\n"
    assert "Stopped after 0 rows" in read((tmp_path / "report.html").read_text()).text
    assert not interrupts.at_once, "a signal now would end it with another word than the run's"


@pytest.mark.parametrize("asked", [True, False])
def test_without_a_record_or_the_wish_there_is_no_report(tmp_path: Path, asked: bool) -> None:
    Journal(tmp_path, "small", "train", 0, about("small", tmp_path)).end("finished")  # of an earlier command
    job = small_job("log", tmp_path, {"tracking.report": asked})
    with _reported_run(job, Interrupts()):
        if not asked:
            Journal(tmp_path, "small", "train", 0, about("small", tmp_path)).end("finished")
    assert not (tmp_path / "report.html").exists()
