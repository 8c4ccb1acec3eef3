"""Learning curves, calibration and scores: how each task came to what it is."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.report.charts import Dot, Line, line_chart
from pipeline.report.heat import score_histogram
from pipeline.report.page import Chart, Page
from pipeline.run_report.findings import main_key
from pipeline.run_report.record import Run, Series


def learning_curves(page: Page, runs: Sequence[Run]) -> None:
    """The main metric, the loss and the weight of each task over the rows trained."""
    page.section(
        "Learning curves",
        "Of the rows trained since the value before: in a first epoch, rows that the model had not seen. A dot is the "
        "evaluation with its 95 % interval; an upright dotted rule is where another attempt went on.",
    )
    if not any(run.of(main_key(run, row)[0]) for run in runs for row in run.rows_of_training()):
        page.text("No run told anything while it trained: it ended before its first progress line.", "bad")
        return
    legend = [run.label for run in runs] if len(runs) > 1 else []
    charts: dict[str, list[Chart]] = {"AUC": [], "MSE": []}
    for row in dict.fromkeys(row for run in runs for row in run.rows_of_training()):
        name = next(main_key(run, row)[1] for run in runs if row.removesuffix(" (joint)") in run.kinds)
        lines, dots = [], []
        for series, run in enumerate(runs):
            lines.append(Line(run.label, run.of(main_key(run, row)[0]), series))
            told = run.metrics().get(row, {})
            key = name.lower()
            if math.isfinite(told.get(key) or math.nan):
                dots.append(
                    Dot("evaluation", run.samples, told[key], told.get(f"{key}_low"), told.get(f"{key}_high"), series)
                )
        marks = runs[0].began_at if len(runs) == 1 else ()
        charts[name].append(Chart(row, line_chart(spoken(f"{name} of {row}", lines), lines, dots, marks)))
    for name, drawn in charts.items():
        if drawn:
            page.part("AUC of each task" if name == "AUC" else "Mean squared error of each task")
            page.charts(drawn, legend)
    _by_task(page, runs, "loss", "Loss of each task", "Mean over the rows that the task is trained on.", legend)
    if any(_moves(points) for run in runs for task in run.kinds for points in [run.of("train", task, "weight")]):
        _by_task(page, runs, "weight", "Weight of each task's loss", "", legend)
    rest = charts_of(runs, {"what the architecture added to the loss": "train/penalty"}, ".3g")
    if any(_moves(run.of("train/dense_lr")) for run in runs):
        rest += charts_of(runs, {"learning rate of the dense network": "train/dense_lr"}, ".2g")
    if rest:
        page.part("Beside them")
        page.charts(rest, legend)


def _by_task(page: Page, runs: Sequence[Run], key: str, title: str, note: str, legend: Sequence[str]) -> None:
    charts = []
    for task in dict.fromkeys(task for run in runs for task in run.kinds):
        lines = [Line(run.label, run.of("train", task, key), series) for series, run in enumerate(runs)]
        if any(line.points for line in lines):
            charts.append(Chart(task, line_chart(spoken(f"{title}: {task}", lines), lines)))
    if charts:
        page.part(title, note)
        page.charts(charts, legend)


def charts_of(runs: Sequence[Run], keys: dict[str, str], form: str) -> list[Chart]:
    """A chart a key that is not of a task, a line a run; none where it was never told, or was 0 throughout."""
    charts = []
    for name, key in keys.items():
        lines = [Line(run.label, run.of(key), series) for series, run in enumerate(runs)]
        if any(value for line in lines for _, value in line.points):
            charts.append(Chart(name, line_chart(spoken(name, lines), lines, form=form)))
    return charts


def calibration(page: Page, runs: Sequence[Run]) -> None:
    """Calibration curves and score histograms of the newest evaluation."""
    page.section(
        "Calibration and scores",
        "Left to right: what was predicted; upwards: what happened. On the dotted diagonal the two agree; under it the "
        "model promises too much. Below, how the scores of rows with label 1 and with label 0 are spread: the further "
        "apart, the better the task is told.",
    )
    found = [(run, told) for run in runs if (told := run.curves()) is not None]
    if not found:
        page.text("No curves were recorded: they come with the evaluation, and with tracking.telemetry on.", "quiet")
        return
    rows = list(dict.fromkeys(row for _, (_, _, curves) in found for row in curves))
    charts, histograms = [], []
    for row in rows:
        lines, largest = [], 0.0
        for run, (_, _, curves) in found:
            told = curves.get(row, {}).get("calibration")
            if told and told["predicted"]:
                points = sorted(zip(told["predicted"], told["observed"], strict=True))
                lines.append(Line(run.label, points, runs.index(run)))
                largest = max(largest, *told["predicted"], *told["observed"])
            scores = curves.get(row, {}).get("scores")
            if scores:
                name = row if len(found) == 1 else f"{row}, {run.label}"
                histograms.append(Chart(name, _histogram(name, scores)))
        if lines:
            charts.append(Chart(row, line_chart(f"Calibration of {row}", lines, what="predicted", diagonal=True)))
    page.part("What happened, by what was predicted", "Each point holds as many rows as the others.")
    page.charts(charts, [run.label for run in runs] if len(runs) > 1 else [])
    if histograms:
        page.part("Scores of rows with label 1 (orange) and with label 0 (blue)", "Shares of each kind.")
        page.charts(histograms)


def _histogram(name: str, scores: dict[str, Any]) -> str:
    return score_histogram(f"Scores of {name}", scores["edges"], scores["positives"], scores["negatives"])


def spoken(title: str, lines: Sequence[Line]) -> str:
    """What a screen reader says of a chart: where each line begins and ends."""
    told = []
    for line in lines:
        values = [y for _, y in line.points if y is not None]
        if values:
            told.append(f"{line.label} from {values[0]:.3g} to {values[-1]:.3g}")
    return f"{title}: {'; '.join(told)}" if told else title


def _moves(points: Series) -> bool:
    return len({value for _, value in points}) > 1
