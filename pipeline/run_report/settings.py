"""The configuration, what differs between runs, and what the page's words mean."""

from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.report.page import Page, Row
from pipeline.run_report.record import Run
from pipeline.run_report.words import NOTHING
from schemas.errors import redacted

OWN = {"name", "output", "tracking.folder", "tracking.group"}
"""Every run's own, and no difference."""
TERMS = [
    (
        "rows trained",
        "Rows of the log that the model has learnt from, over all ranks; the horizontal axis of every curve.",
    ),
    (
        "own space, (joint)",
        "cart is P(cart given click), on clicked rows; cart (joint) is P(click and cart), on all exposures.",
    ),
    ("AUC", "Chance that a row with label 1 is ranked above one with label 0: 0.5 is chance, 1 is perfect."),
    (
        "95 % interval",
        "Of the AUC by DeLong, of the MSE that of a mean: how far other rows of the same kind would move it.",
    ),
    (
        "log loss, NE",
        "Mean negative log likelihood; NE is that over the log loss of always saying the base rate. Lower is better.",
    ),
    ("calibration", "Mean prediction over mean label: 1 is right, 1.1 promises a tenth too much."),
    ("MSE, MAE, R2", "Mean squared and mean absolute error of a number; share of its variance that is explained."),
    ("attainable", "The best AUC that the log's declared truth allows."),
    ("gate weight", "What share of an expert's output a task's gate lets in, mean over sampled rows."),
    ("gate entropy", "H(w) / ln(number of experts): 0 where one expert gets all, 1 where all get the same."),
    ("expert load, similarity", "An expert's share of all gate weight of its level; cosine of two experts' outputs."),
    ("gradient norm, cosine", "Of the tasks' own losses, unweighted, on the shared dense parameters."),
    ("out of vocabulary", "Ids that the feature's vocabulary does not list; they share one row of the table."),
    ("rows/s", "Rows of all ranks a second, without start, progress lines and checkpoints where the run finished."),
]


def configuration(page: Page, runs: Sequence[Run]) -> None:
    """Every run's settings, and in a table those that differ."""
    page.section("Configuration")
    known = [run for run in runs if run.config]
    if not known:
        page.text("No configuration was recorded with these runs.", "quiet")
        return
    if len(known) > 1:
        rows = differences(known)
        if rows:
            page.table(["setting", *(run.label for run in known)], rows, "What differs.")
        else:
            page.text("The runs have the same settings.")
    for run in known:
        text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, width=100)
        page.details(f"All settings of {run.label}", redacted(text))


def differences(runs: Sequence[Run]) -> list[Row]:
    """A row a dotted key whose value is not the same in all runs."""
    flat = [flattened(run.config) for run in runs]
    keys = sorted(dict.fromkeys(key for one in flat for key in one))
    differing = [key for key in keys if key not in OWN and len({one.get(key, NOTHING) for one in flat}) > 1]
    return [[key, *(one.get(key, NOTHING) for one in flat)] for key in differing]


def flattened(node: Any, path: str = "") -> dict[str, str]:
    """Dotted key -> value as text; features and tasks by name."""
    if isinstance(node, dict):
        out: dict[str, str] = {}
        for key, value in node.items():
            out |= flattened(value, f"{path}.{key}" if path else str(key))
        return out
    if isinstance(node, list) and node and all(isinstance(item, dict) and "name" in item for item in node):
        return flattened({item["name"]: {k: v for k, v in item.items() if k != "name"} for item in node}, path)
    return {path: redacted(str(node))}


def meanings(page: Page) -> None:
    """What the page's words mean."""
    page.section("What the words mean")
    page.terms(TERMS)
