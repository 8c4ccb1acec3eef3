"""The page of one training, or of several side by side."""

import os
from collections.abc import Sequence

from pipeline.report.page import Page
from pipeline.run_report.health import data_health, speed
from pipeline.run_report.learning import calibration, learning_curves
from pipeline.run_report.network import gradients, inside
from pipeline.run_report.record import Run
from pipeline.run_report.results import attempts_table, key_numbers, metric_tables, outcomes, seesaw
from pipeline.run_report.settings import configuration, meanings


def runs_page(runs: Sequence[Run]) -> Page:
    """What happened first, then how well each task does, then why."""
    named(runs)
    title = runs[0].name if len(runs) == 1 else "Runs: " + ", ".join(run.label for run in runs)
    page = Page(title, _lead(runs), contents=True)
    outcomes(page, runs)
    key_numbers(page, runs)
    for run in runs:
        attempts_table(page, run)
    metric_tables(page, runs)
    seesaw(page, runs)
    details(page, runs)
    configuration(page, runs)
    meanings(page)
    return page


def details(page: Page, runs: Sequence[Run]) -> None:
    """How the runs came to what they are."""
    learning_curves(page, runs)
    calibration(page, runs)
    inside(page, runs)
    gradients(page, runs)
    data_health(page, runs)
    speed(page, runs)


def named(runs: Sequence[Run]) -> None:
    """Gives each a label of its own: its name, or where names are alike, as much of its folder as tells them apart."""
    for run in runs:
        run.label = run.name
    if len({run.label for run in runs}) == len(runs):
        return
    parts = [os.path.normpath(run.folder).split("/") for run in runs]
    for length in range(1, 1 + max(len(part) for part in parts)):
        labels = ["/".join(part[-length:]) for part in parts]
        if len(set(labels)) == len(runs):
            break
    else:
        labels = [f"{run.name} ({number})" for number, run in enumerate(runs, 1)]
    for run, label in zip(runs, labels, strict=True):
        run.label = label


def _lead(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} trainings side by side, from their own records."
    run = runs[0]
    tasks = ", ".join(run.kinds)
    days = (run.about.get("data") or {}).get("train")
    span = "" if not days else f", on {days['from']}" + (f" to {days['to']}" if days["to"] != days["from"] else "")
    return f"Training of {len(run.kinds)} task{'s' * (len(run.kinds) != 1)} ({tasks}){span}. From the run's own record."
