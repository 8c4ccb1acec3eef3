"""The report of runs: every number as it was recorded, every way to end told, nothing said that was not found."""

import json
import math
import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest

from jobs.report import main
from pipeline.journal import Journal
from pipeline.report.charts import _form
from pipeline.run_report.findings import changes, findings, thirds
from pipeline.run_report.record import Run, runs_at
from pipeline.run_report.runs_page import named, runs_page
from pipeline.run_report.settings import flattened
from pipeline.run_report.written import report, report_run
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import small_config
from tests.pages import Told, read
from tests.recorded import ROWS, TASKS, WINDOWS, about, auc, made_run, metrics


def page_of(*places: Path) -> Told:
    return read(report([str(place) for place in places]).html())


def run_of(place: Path) -> Run:
    (run,) = runs_at(str(place))
    return run


# ---- numbers


def test_the_table_is_that_of_the_result(tmp_path: Path) -> None:
    told = page_of(made_run(tmp_path / "a"))
    for task, spaces in metrics().items():
        for space, m in spaces.items():
            if space == "kind":
                continue
            row = told.row("Tasks with a 0/1 label", task if space == "own" else f"{task} (joint)")
            assert row["AUC"] == f"{m['auc']:.4f}"
            assert row["95 % interval"] == f"{m['auc_low']:.4f} - {m['auc_high']:.4f}"
            assert (row["rows"], row["positives"]) == ("4,000", "900")
            assert row["calibration"] == f"{m['calibration']:.3f}"
    assert told.numbers["rows trained"] == f"{WINDOWS * ROWS:,}"
    assert told.numbers["rows/s"] == "21,000"
    assert told.numbers["took"] == "1m15s"
    assert told.numbers["ranks, device, precision"] == "2 x cpu fp32"
    assert told.numbers["peak memory of a rank"] == "1.50 GiB"


def test_without_a_result_the_table_is_that_of_the_journal(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    before = page_of(folder).tables["Tasks with a 0/1 label."]
    (folder / "result.json").unlink()
    assert page_of(folder).tables["Tasks with a 0/1 label."] == before


def test_a_result_of_an_earlier_end_is_not_shown_as_this_one(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    Journal(folder, "small", "train", WINDOWS * ROWS, about("small", folder)).values(
        (WINDOWS + 1) * ROWS, {"train/click/auc": 0.6}
    )
    told = page_of(folder)
    assert "Nothing was evaluated" in told.text
    assert "Tasks with a 0/1 label." not in told.tables


def test_thirds_are_those_of_the_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    samples = np.sort(rng.choice(10_000, 200, replace=False))
    frame = pd.Series(rng.random(200), index=samples)
    low, high = samples[0], samples[-1]
    want = (
        frame[frame.index <= low + (high - low) / 3].mean(),
        frame[frame.index >= high - (high - low) / 3].mean(),
    )
    points = [(int(x), float(y)) for x, y in frame.items()]
    assert thirds(points) == pytest.approx(want)
    assert thirds([*points[:-1], (points[-1][0], math.inf)]) is not None, "what is infinite has no mean"
    assert thirds(points[:2]) is None


def test_changes_are_gains_and_falls_of_the_mse(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    journal = Journal(folder, "r", "train", 0, about("r", folder, {"tasks.order.kind": "regression"}))
    for n in range(1, 10):
        journal.values(n, {"train/click/auc": 0.5 + n / 100, "train/order/mse": 2.0 - n / 10})
    got = changes(run_of(folder))
    assert got["click"] == pytest.approx(0.06)
    assert got["order"] == pytest.approx((1.8 - 1.2) / 1.8 * 100)
    told = read(report([str(folder)]).html())
    assert "Fall of the MSE, per cent" in told.captions
    assert "MSE of order: r from 1.9 to 1.1" in told.labels


def test_learning_curves_are_those_of_the_attempts_that_stand(tmp_path: Path) -> None:
    whole, cut = made_run(tmp_path / "a"), made_run(tmp_path / "b", restart_at=10)
    one, other = (report([str(place)]).html() for place in (whole, cut))
    pattern = r'<path class="line" d="([^"]*)"'
    assert re.findall(pattern, one) == re.findall(pattern, other)
    assert one.count("another attempt began here") == 0
    assert other.count("another attempt began here") == len([*TASKS, "cart (joint)", "order (joint)"])
    told = read(other)
    assert f"This was attempt 2; before it: killed after {12 * ROWS:,} rows." in told.text
    assert [row[1] for row in told.tables["Attempts of small."][1:]] == ["killed", "finished"]


def test_of_many_attempts_the_newest_are_listed(tmp_path: Path) -> None:
    for n in range(33):
        Journal(tmp_path, "small", "train", n * ROWS, about("small", tmp_path)).values((n + 1) * ROWS, {})
    told = page_of(tmp_path)
    _, *rows = told.tables["Attempts of small, the newest 30 of 33."]
    assert [row[0] for row in rows] == [str(n) for n in range(4, 34)]
    assert (rows[0][5], rows[-1][5]) == (f"{3 * ROWS:,}", f"{32 * ROWS:,}")


def test_a_curve_begins_and_ends_as_it_was_told(tmp_path: Path) -> None:
    told = page_of(made_run(tmp_path / "a"))
    assert f"AUC of click: small from {auc('click', 1):.3g} to {auc('click', WINDOWS):.3g}" in told.labels


def test_gates_are_told_by_task(tmp_path: Path) -> None:
    told = page_of(made_run(tmp_path / "own", own=0.7))
    for task in TASKS:
        row = told.row("Level 1, last third", task)
        assert (row["on its own experts"], row["on shared ones"], row["on others"]) == ("70.0%", "10.0%", "20.0%")
    assert told.row("Level 1, last third", "shared")["on shared ones"] == "70.0%"
    entropy = -(0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1)) / math.log(4)
    assert told.row("Level 1, last third", "click")["entropy"] == f"{entropy:.2f}"
    hints = report([str(tmp_path / "own")]).html()
    assert "<title>click, cart.0: 0.100</title>" in hints
    assert "<title>click, click.0: 0.700</title>" in hints


def test_cosines_are_told_both_ways(tmp_path: Path) -> None:
    html = report([str(made_run(tmp_path / "a"))]).html()
    for pair in ("click, order", "order, click"):
        assert f"<title>{pair}: -0.300</title>" in html


def test_curves_of_the_evaluation_are_drawn(tmp_path: Path) -> None:
    told = page_of(made_run(tmp_path / "a"))
    assert "Calibration of order (joint)" in told.labels
    assert "Scores of click" in told.labels


def test_stitches_are_shown(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    journal = Journal(folder, "s", "train", 0, about("s", folder))
    for n in (1, 2, 3):
        journal.values(n, {"stitches/1/click/cart": 0.2, "stitches/1/click/click": 0.8, "train/click/auc": 0.6})
    told = page_of(folder)
    assert "Level 1: shares of the tasks' units that each task takes" in told.headings
    assert "Weights of gate click over the run" in told.labels


# ---- ends


ENDS = [
    ("finished", "", "Finished: trained on 12,000 rows and evaluated on 2026-01-03."),
    ("stopped", "stopped by SIGTERM at step 40, committed", "The same command goes on from there."),
    ("failed", "InputError: dt=2026-01-02/a.parquet: no column 'x'; write it", "What has to be mended: dt=2026-01-02"),
    ("failed", "RuntimeError: boom\n  at line 3", "The program broke off: RuntimeError: boom. See the trace"),
    ("failed", "", "No reason was recorded"),
    (None, "", "Its record has no end: it is still at work, or it was killed."),
]


@pytest.mark.parametrize(("outcome", "why", "said"), ENDS)
def test_every_end_is_told_with_what_to_do(tmp_path: Path, outcome: Any, why: str, said: str) -> None:
    told = page_of(made_run(tmp_path / "a", outcome=outcome, why=why))
    assert said in told.text
    assert told.numbers["outcome"] == (outcome or "no end recorded")


def test_a_run_that_told_nothing_is_told_plainly(tmp_path: Path) -> None:
    Journal(tmp_path / "a", "small", "train", 0, about("small", tmp_path / "a")).end("failed", "RuntimeError: early")
    told = page_of(tmp_path / "a")
    for words in (
        "Failed after 0 rows",
        "Nothing was evaluated",
        "No run told anything while it trained",
        "No curves were recorded",
        "No gates were recorded",
        "No gradients were recorded",
        "No speed was recorded",
    ):
        assert words in told.text, words


def test_a_result_alone_is_a_report_too(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    for path in (folder / "journal").iterdir():
        path.unlink()
    told = page_of(folder)
    assert "its journal is not here" in told.text
    assert told.row("Tasks with a 0/1 label", "click")["AUC"] == f"{auc('click', WINDOWS):.4f}"
    assert "No configuration was recorded" in told.text


# ---- findings


def test_a_sound_run_has_no_finding(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    journal = Journal(folder, "s", "train", 0, about("s", folder))
    for n in range(1, 20):
        journal.values(n * 100, {f"train/{task}/auc": 0.6 + n / 1000 for task in TASKS} | {"data/unknown/user": 0.01})
    assert findings(run_of(folder)) == []
    assert "Nothing stands out." in page_of(folder).text


def test_findings_name_the_task_and_the_remedy(tmp_path: Path) -> None:
    found = "\n".join(findings(run_of(made_run(tmp_path / "a", fall=0.2))))
    assert re.search(r"order: the AUC of its training rows fell by 0\.\d+ .* while click, cart rose: a seesaw", found)
    assert "Calibration is off; predicted over what happened: order 1.25, order (joint) 1.25." in found
    assert "click and order pull the shared parameters apart: mean cosine of their gradients -0.30" in found
    assert "Feature user: 20% of its ids are out of vocabulary" in found
    assert "Training waited for its reader 30% of the time" in found
    assert "cart" not in re.findall(r"^(\w+): the AUC", found, re.MULTILINE)


def test_noise_is_no_seesaw(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    folder = tmp_path / "a"
    journal = Journal(folder, "s", "train", 0, about("s", folder))
    for n in range(1, 60):
        journal.values(n * 100, {f"train/{task}/auc": 0.6 + 0.05 * rng.standard_normal() for task in TASKS})
    assert findings(run_of(folder)) == []


@pytest.mark.parametrize(
    ("cosines", "told"),
    [
        ([0.6, -0.3, -0.29, -0.31, -0.3], True),  # the first is of weights that were drawn
        ([-0.06] * 20, False),  # as good as strangers
        ([0.0, -0.3, -0.3], False),  # two looks
        ([0.0, -0.3, -0.05, -0.4], False),  # three, as apart as chance puts them
        ([0.5, -0.9, 0.4, -0.9, 0.2], False),
        ([0.0, math.nan, -0.3, -0.29, -0.31, -0.3], True),
    ],
)
def test_tasks_pull_apart_where_it_is_beyond_noise(tmp_path: Path, cosines: list[float], told: bool) -> None:
    journal = Journal(tmp_path, "s", "train", 0, about("s", tmp_path))
    for n, cosine in enumerate(cosines):
        journal.values(n + 1, {"gradients/cosine/click~order": cosine})
    assert any("pull the shared parameters apart" in words for words in findings(run_of(tmp_path))) == told


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data/quarantined_rows", 7.0, "7 rows were bad and left out"),
        ("data/quarantined_row_groups", 2.0, "2 row groups could not be read"),
        ("data/late_files", 3.0, "3 files of the training days came after the run had begun"),
        ("data/drifted_files", 1.0, "1 files have another schema"),
        ("data/funnel_broken/order", 4.0, "order: 4 rows have its label 1 and its parent's 0"),
        ("data/unknown/city", 0.4, "Feature city: 40% of its ids are out of vocabulary"),
        ("experts/1/load/cart.0", 0.001, "expert cart.0 gets 0.1% of the gates' weight"),
    ],
)
def test_each_trouble_is_found(tmp_path: Path, key: str, value: float, said: str) -> None:
    journal = Journal(tmp_path, "s", "train", 0, about("s", tmp_path))
    for n in (1, 2, 3):
        journal.values(n, {"train/click/auc": 0.6})
    journal.values(4, {key: value} if "experts" not in key else {})
    if "experts" in key:
        for n in (5, 6, 7):
            journal.values(n, {key: value})
    assert any(said in words for words in findings(run_of(tmp_path))), findings(run_of(tmp_path))
    assert said in page_of(tmp_path).text


def test_evaluations_that_say_little_are_said_to(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["tasks"]["click"]["own"] |= {"positives": 12}
    result["tasks"]["cart"]["own"] |= {"auc": 0.51, "auc_low": 0.49, "auc_high": 0.53}
    path.write_text(json.dumps(result))
    found = "\n".join(findings(run_of(folder)))
    assert "Evaluated on few rows of the rarer class, or few rows: click (12)" in found
    assert "Not told from chance: cart (AUC 0.5100, interval from 0.4900)" in found
    assert "far above that of the evaluation: cart (" in found


def test_alerts_are_findings(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", "train", 0, about("s", tmp_path))
    journal.alert("late files", "two of them", "WARN")
    assert findings(run_of(tmp_path)) == ["late files: two of them"]


# ---- several


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", "one")
    b = made_run(tmp_path / "b", "two", fall=0.05, own=0.25, changes={"train.batch_size": 64})
    told = page_of(a, b)
    assert told.row("What differs", "train.batch_size") == {"setting": "train.batch_size", "one": "32", "two": "64"}
    row = told.row("AUC, with its 95 % interval", "order")
    low, high = (f"{metrics(0.05)['order']['own'][key]:.4f}" for key in ("auc_low", "auc_high"))
    assert row["two"] == f"{auc('order', WINDOWS, 0.05):.4f} ({low} - {high})"
    assert row["one"].startswith(f"{auc('order', WINDOWS):.4f} (")
    assert "two: gain in AUC" in told.captions
    html = report([str(a), str(b)]).html()
    gain = auc("order", WINDOWS, 0.05) - auc("order", WINDOWS)
    assert f"<title>order: {gain:+.4f}</title>" in html
    curve = next(label for label in told.labels if label.startswith("AUC of order:"))
    assert "one from" in curve
    assert "two from" in curve
    assert told.row("Level 1 of one", "click")["on its own experts"] == "60.0%"
    assert told.row("Level 1 of two", "click")["on its own experts"] == "25.0%"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for day in ("01", "02"):
        made_run(tmp_path / day / "challenger")
    runs = [run_of(tmp_path / day / "challenger") for day in ("01", "02")]
    named(runs)
    assert [run.label for run in runs] == ["01/challenger", "02/challenger"]
    twice = [runs[0], run_of(tmp_path / "01" / "challenger")]
    named(twice)
    assert [run.label for run in twice] == ["small (1)", "small (2)"]


def test_runs_of_other_tasks_stand_beside_one_another(tmp_path: Path) -> None:
    a = made_run(tmp_path / "a", "one")
    b = tmp_path / "b"
    journal = Journal(b, "two", "train", 0, about("two", b, {"tasks.order.kind": "regression"}))
    for n in range(1, 5):
        journal.values(n * 100, {"train/order/mse": 1 / n, "train/click/auc": 0.6})
    told = page_of(a, b)
    assert "AUC of each task" in told.headings


def test_settings_are_flat_by_name() -> None:
    tree = {"tasks": [{"name": "click", "weight": 1}], "train": {"lr": [1, 2]}, "eval": None}
    assert flattened(tree) == {"tasks.click.weight": "1", "train.lr": "[1, 2]", "eval": "None"}


# ---- the page and the command


def test_a_page_fetches_nothing_and_holds_no_script(tmp_path: Path) -> None:
    html = report([str(made_run(tmp_path / "a")), str(made_run(tmp_path / "b"))]).html()
    assert "<script" not in html
    assert not re.search(r'(?:src|href)="(?!#)', html)
    assert not re.search(r"@import|url\(", html)


def test_a_secret_of_the_configuration_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_API_KEY", "quite-a-long-secret")
    folder = made_run(tmp_path / "a", changes={"tracking.project": "quite-a-long-secret"})
    assert "quite-a-long-secret" not in report([str(folder)]).html()


def test_the_command_writes_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    a, b = made_run(tmp_path / "a"), made_run(tmp_path / "b")
    main([f"{a}/"])
    assert capsys.readouterr().out == f"{a}/report.html\n"
    assert read((a / "report.html").read_text()).headings[0] == "small"
    monkeypatch.chdir(tmp_path)
    main([str(a), str(b)])
    assert (tmp_path / "report.html").exists()
    main([str(a), "--out", str(tmp_path / "x.html")])
    assert (tmp_path / "x.html").read_text() == (a / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere: no record of a run is here"),
        (["a", "nowhere"], "nowhere: no record of a run is here"),
        (["a", "--out", "missing/x.html"], r"--out: 'missing/x.html' cannot be written \(No such file"),
        (["a", "--days", "0"], "--days: 0 shows nothing"),
    ],
)
def test_what_cannot_be_reported_is_refused(tmp_path: Path, monkeypatch: Any, words: list[str], said: str) -> None:
    made_run(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        main(words)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    (folder / "result.json").write_text('{"name": ')
    with pytest.raises(InputError, match=r"a/result\.json: cannot be read"):
        report([str(folder)])
    (folder / "result.json").unlink()
    path = folder / "journal/0001-train.jsonl"
    path.write_text(path.read_text().replace('"values"', '"valu', 1))
    with pytest.raises(InputError, match=r"0001-train\.jsonl, line 1: not as it was written"):
        report([str(folder)])


# ---- at the end of a job


def job_of(folder: Path, **changes: Any) -> JobConfig:
    return parse_job(small_config("log", folder) | changes, "test")


def test_an_output_in_a_store_gets_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_of(tmp_path, output="memory://bucket/run", tracking={"folder": str(tmp_path / "local")})
    local = made_run(tmp_path / "local")
    (local / "result.json").rename(tmp_path / "result.json")
    fsspec.filesystem("memory").pipe_file("/bucket/run/result.json", (tmp_path / "result.json").read_bytes())
    path = local / "journal/0001-train.jsonl"
    path.write_text(path.read_text().replace(json.dumps(str(local)), '"memory://bucket/run"'))
    report_run(job)
    assert capsys.readouterr().out == f"report      {local}/report.html\n"
    told = read((local / "report.html").read_text())
    assert told.numbers["steps"] == "375", "the result is read from the output"
    assert (
        fsspec.filesystem("memory").cat_file("/bucket/run/report.html").decode() == (local / "report.html").read_text()
    )


def test_a_report_that_fails_says_so_once_and_raises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_run(tmp_path / "a")
    (folder / "report.html").mkdir()
    report_run(job_of(folder))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(
        r"the report could not be written \(.*report\.html.*\); nothing else is touched by that\n", printed.err
    )
    (folder / "result.json").write_text("no JSON")
    report_run(job_of(folder))
    assert capsys.readouterr().err.count("could not be written") == 1


def test_of_a_shared_folder_a_run_reports_itself_alone(tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        made_run(tmp_path, f"small.{day}", evaluated=False)
    assert [run.name for run in runs_at(str(tmp_path))] == ["small.2026-01-01", "small.2026-01-02"]
    report_run(job_of(tmp_path, name="small.2026-01-02"))
    assert read((tmp_path / "report.html").read_text()).headings[0] == "small.2026-01-02"
    assert runs_page(runs_at(str(tmp_path))).title == "Runs: small.2026-01-01, small.2026-01-02"


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([60_100, 60_300, 60_500], ["60,100", "60,300", "60,500"]),
        ([0.0, 10_000.0, 20_000.0], ["0", "10,000", "20,000"]),
        ([1e6, 1.1e6, 1.2e6], ["1e+06", "1.1e+06", "1.2e+06"]),
        ([0.25001, 0.25002, 0.25003], ["0.25001", "0.25002", "0.25003"]),
        ([0.7, 0.75, 0.8], ["0.70", "0.75", "0.80"]),
        ([2e-7, 4e-7], ["2e-07", "4e-07"]),
    ],
)
def test_the_steps_of_an_axis_are_told_apart(steps: list[float], told: list[str]) -> None:
    assert [f"{step:{_form(steps, '.4f')}}" for step in steps] == told


def test_a_result_of_another_attempt_tells_nothing_of_the_last(tmp_path: Path) -> None:
    folder = made_run(tmp_path / "a")
    before = run_of(folder)
    assert before.result is not None
    journal = Journal(folder, before.name, "train", ROWS, about(before.name, folder))
    journal.values(ROWS + 100, {"train/click/auc": 0.6})
    journal.end("failed", "no space")
    assert run_of(folder).result is None


def test_an_evaluation_that_is_no_number_is_told_and_drawn_nowhere(tmp_path: Path) -> None:
    one, other = made_run(tmp_path / "a"), made_run(tmp_path / "b")
    for folder in (one, other):
        result = json.loads((folder / "result.json").read_text())
        result["tasks"]["click"]["own"] |= {"auc": math.nan, "calibration": 0.0}
        (folder / "result.json").write_text(json.dumps(result))
    found = "\n".join(findings(run_of(one)))
    assert "The evaluation's AUC is no number: click." in found
    assert "click 0.00" in found
    for places in ([str(one)], [str(one), str(other)]):
        html = report(places).html()
        assert '"nan' not in html
        assert "NaN" not in html


def test_a_bar_between_runs_is_a_gain_where_the_error_fell(tmp_path: Path) -> None:
    folders = [made_run(tmp_path / name) for name in ("a", "b", "c")]
    for folder, mse in zip(folders, (2.0, 1.5, 3.0), strict=True):
        result = json.loads((folder / "result.json").read_text())
        result["tasks"]["watch"] = {"own": {"rows": 1000, "mse": mse, "mae": 1.0, "r2": 0.1}}
        (folder / "result.json").write_text(json.dumps(result))
    labels = report([str(folder) for folder in folders]).html()
    assert "watch: +25.00" in labels
    assert "watch: -50.00" in labels


def test_of_many_pairs_that_pull_apart_the_worst_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "s", "train", 0, about("s", tmp_path))
    for n in range(8):
        cosines = {f"gradients/cosine/a~b{k}": -0.2 - k / 100 + n / 1000 for k in range(15)}
        journal.values(n + 1, cosines)
    told = [words for words in findings(run_of(tmp_path)) if "apart" in words]
    assert [words.split()[2] for words in told[:5]] == ["b14", "b13", "b12", "b11", "b10"]
    assert told[5:] == ["10 more pairs of tasks pull apart, less than these."]
    assert report([str(tmp_path)]).html().count("Cosine of a and b") == 12
