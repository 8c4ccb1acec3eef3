"""The first sections of a page: what became of the runs, key numbers, how well each task does, who gained."""

import math
from collections.abc import Sequence

from pipeline.report.charts import Bar, bar_chart
from pipeline.report.page import Cell, Chart, Page, Row
from pipeline.report.text import duration
from pipeline.run_report.findings import changes, findings, main_key
from pipeline.run_report.record import Run
from pipeline.run_report.words import (
    NOTHING,
    attempts_words,
    count,
    gibibytes,
    interval,
    moment,
    number,
    outcome,
    took,
    where,
)

BINARY = [("AUC", "auc"), ("log loss", "log_loss"), ("NE", "ne"), ("calibration", "calibration")]
REGRESSION = [("MSE", "mse"), ("MAE", "mae"), ("R2", "r2")]
ATTEMPTS = 30
"""That a run's table shows."""


def outcomes(page: Page, runs: Sequence[Run]) -> None:
    """What happened, and what to look at."""
    page.section("What happened")
    for run in runs:
        _, sentence, tone = outcome(run)
        told = f"{run.label}: {sentence}" if len(runs) > 1 else sentence
        page.text(" ".join(part for part in (told, attempts_words(run)) if part), tone)
    for run in runs:
        found = findings(run)
        page.part("What to look at" + (f": {run.label}" if len(runs) > 1 else ""))
        if found:
            page.points([(words, "bad") for words in found])
        else:
            page.text("Nothing stands out.", "quiet")


def key_numbers(page: Page, runs: Sequence[Run]) -> None:
    """Size, speed, where."""
    page.section("Key numbers")
    told = [dict(_numbers(run)) for run in runs]
    if len(runs) == 1:
        page.numbers(list(told[0].items()))
        return
    names = list(dict.fromkeys(name for one in told for name in one))
    rows: list[Row] = [[name, *(one.get(name, NOTHING) for one in told)] for name in names]
    page.table(["what", *(run.label for run in runs)], rows, "Key numbers of each run.")


def _numbers(run: Run) -> list[tuple[str, str]]:
    result, about = run.result or {}, run.about
    size = about.get("size") or result
    speed = result.get("rows_per_second") or _last(run, "train/rows_per_second")
    out = [
        ("outcome", outcome(run)[0]),
        ("rows trained", count(run.samples)),
        ("steps", count(result.get("step"))),
        ("rows/s", count(speed)),
        ("took", took(run)),
        ("ranks, device, precision", where(run) or NOTHING),
        ("architecture", str((about.get("model") or {}).get("arch", result.get("arch", NOTHING)))),
        ("dense parameters", count(size.get("dense_parameters"))),
        ("table parameters", count(size.get("table_parameters"))),
        ("peak memory of a rank", gibibytes(result.get("rss_bytes"))),
    ]
    if result.get("cuda_bytes"):
        out.append(("peak CUDA memory of a rank", gibibytes(result["cuda_bytes"])))
    if result.get("held_out"):
        out.append(("rows held out", count(result["held_out"])))
    if run.tried:
        out.append(("began", moment(run.tried[0].began)))
        out.append(
            ("code", str(about.get("git") or "no git")[:12] + ("-dirty" * str(about.get("git")).endswith("dirty")))
        )
    parent = (about.get("lineage") or {}).get("parent") or (about.get("warm_start") or {}).get("checkpoint")
    if parent:
        out.append(("began from", str(parent)))
    return [(name, words) for name, words in out if words != NOTHING or name == "rows/s"]


def _last(run: Run, key: str) -> float | None:
    points = run.of(key)
    return points[-1][1] if points else None


def metric_tables(page: Page, runs: Sequence[Run]) -> None:
    """How well each task does, on which rows."""
    page.section(
        "How well each task does",
        "Of the evaluation. A task is measured on its own space, the rows on which its label means something; (joint) "
        "is the probability of the whole chain, on all exposures.",
    )
    every = [run.metrics() for run in runs]
    if not any(every):
        page.text(
            "Nothing was evaluated. Set data.eval to days that the run does not train on and give the same command; "
            "the curves below are of training rows, each seen before it was learnt from in the first epoch.",
            "bad",
        )
        return
    if len(runs) == 1:
        _one_table(page, every[0])
        return
    rows_named = list(dict.fromkeys(row for one in every for row in one))
    seen: list[Row] = [[row, *(_on_rows(one.get(row, {})) for one in every)] for row in rows_named]
    page.table(["task", *(run.label for run in runs)], seen, "Rows that each was evaluated on.")
    for title, binary in (("AUC", True), ("MSE", False)):
        key = title.lower()
        named = [row for row in rows_named if any(key in one.get(row, {}) for one in every)]
        if named:
            cells: list[Row] = [[row, *(_with_interval(one.get(row, {}), key) for one in every)] for row in named]
            page.table(["task", *(run.label for run in runs)], cells, f"{title}, with its 95 % interval.")
        for name, other in (BINARY if binary else REGRESSION)[1:]:
            if named:
                cells = [[row, *(number(one.get(row, {}).get(other)) for one in every)] for row in named]
                page.table(["task", *(run.label for run in runs)], cells, f"{name[0].upper()}{name[1:]}.")


def _on_rows(metrics: dict) -> str:
    """As 69,413 (6,169 positives)."""
    if metrics.get("rows") is None:
        return NOTHING
    positives = metrics.get("positives")
    return count(metrics["rows"]) + ("" if positives is None else f" ({count(positives)} positives)")


def _with_interval(metrics: dict, key: str) -> str:
    value = metrics.get(key)
    if value is None:
        return NOTHING
    span = interval(metrics, key)
    return f"{value:.4f}" + ("" if span == NOTHING else f" ({span})")


def _one_table(page: Page, metrics: dict[str, dict]) -> None:
    binary = {row: told for row, told in metrics.items() if "mse" not in told}
    numbers = {row: told for row, told in metrics.items() if "mse" in told}
    if binary:
        best = any("attainable_auc" in told for told in binary.values())
        head = ["task", "rows", "positives", "AUC", "95 % interval", "log loss", "NE", "calibration"]
        rows: list[Row] = []
        for row, told in binary.items():
            cells = [row, count(told.get("rows")), count(told.get("positives")), number(told.get("auc"))]
            cells += [interval(told, "auc"), number(told.get("log_loss")), number(told.get("ne"))]
            cells += [number(told.get("calibration"), ".3f")]
            rows.append([*cells, number(told.get("attainable_auc"))] if best else cells)
        page.table([*head, "attainable"] if best else head, rows, "Tasks with a 0/1 label.")
    if numbers:
        rows = [
            [
                row,
                count(told.get("rows")),
                number(told.get("mse"), ".4g"),
                interval(told, "mse", ".4g"),
                number(told.get("mae"), ".4g"),
                number(told.get("r2")),
            ]
            for row, told in numbers.items()
        ]
        page.table(["task", "rows", "MSE", "95 % interval", "MAE", "R2"], rows, "Tasks with a number as label.")


def seesaw(page: Page, runs: Sequence[Run]) -> None:
    """Who gained and who paid: over the run, or beside the first of several."""
    if len(runs) == 1:
        _within(page, runs[0])
        return
    first, *others = runs
    page.section(
        "Who gained, who paid",
        f"The evaluation's AUC of each run less that of {first.label} (a regression task: fall of the MSE in per "
        "cent). One run beside another, on rows that may differ: that a gain is beyond noise is said by ./launch.sh "
        "compare over seeds, and by the gate over users.",
    )
    charts = []
    base = first.metrics()
    for run in others:
        bars = {"AUC": [], "MSE, per cent": []}  # type: dict[str, list[Bar]]
        for row, told in run.metrics().items():
            old = base.get(row, {})
            if math.isfinite(told.get("auc") or math.nan) and math.isfinite(old.get("auc") or math.nan):
                bars["AUC"].append(_bar(row, told["auc"] - old["auc"]))
            elif math.isfinite(told.get("mse", math.nan)) and old.get("mse", 0.0) > 0:
                bars["MSE, per cent"].append(_bar(row, 100 * (old["mse"] - told["mse"]) / old["mse"]))
        for unit, one in bars.items():
            if one:
                form = "+.4f" if unit == "AUC" else "+.2f"
                charts.append(
                    Chart(f"{run.label}: gain in {unit}", bar_chart(f"Gain of {run.label} in {unit}", one, form))
                )
    if charts:
        page.charts(charts)
    else:
        page.text("No task was evaluated in two of these runs.", "quiet")


def _within(page: Page, run: Run) -> None:
    page.section(
        "Who gained, who paid",
        "Mean of the training rows' metric over the last third of the run less that over the first third. In a healthy "
        "run all gain; where one falls while others rise, the tasks are on a seesaw. Training rows of different days "
        "may differ too.",
    )
    found = changes(run)
    charts = []
    for unit, form in (("AUC", "+.4f"), ("MSE", "+.2f")):
        bars = [_bar(row, gain) for row, gain in found.items() if main_key(run, row)[1] == unit]
        title = "Gain in AUC" if unit == "AUC" else "Fall of the MSE, per cent"
        if bars:
            charts.append(Chart(title, bar_chart(f"{title} over the run, by task", bars, form)))
    if charts:
        page.charts(charts)
    else:
        page.text("The run told fewer than three windows, too few to say (train.log_every).", "quiet")


def _bar(label: str, value: float) -> Bar:
    return Bar(label, value, tone="good" if value > 0 else "bad" if value < 0 else "quiet")


def attempts_table(page: Page, run: Run) -> None:
    """The newest attempts, where there were several."""
    if len(run.tried) < 2:
        return
    rows: list[Row] = []
    before = max(len(run.tried) - ATTEMPTS, 0)
    for place, one in enumerate(run.tried[before:], before + 1):
        tone = {"finished": "good", None: "bad", "failed": "bad"}.get(one.outcome, "")
        ended = one.outcome or ("no end recorded" if place == len(run.tried) else "killed")
        why = one.why.strip().split("\n", 1)[0][:200] or NOTHING
        rest = [moment(one.began), duration(one.last - one.began), f"{one.samples:,}"]
        rows.append([str(place), Cell(ended, tone), why, *rest])
    columns = ["attempt", "ended", "why", "began", "told for", "from row"]
    newest = f", the newest {ATTEMPTS} of {len(run.tried):,}" if before else ""
    page.table(columns, rows, f"Attempts of {run.label}{newest}.", words=4)
