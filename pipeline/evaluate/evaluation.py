"""A model's evaluation from its predictions: evaluation.json, and the tables of the terminal."""

import json
from typing import Any

from pipeline.evaluate.measure import Spaces, measured
from pipeline.evaluate.plan import config_of
from pipeline.evaluate.rows import list_codes, predictions_of, slices_of
from pipeline.report.text import aligned
from pipeline.train.console import metrics_table
from pipeline.train.result import write_whole
from pipeline.train.scoring import ToScore
from schemas.job import JobConfig

FORMAT = 1
EVALUATION = "evaluation.json"


def evaluation(job: JobConfig, model: ToScore, attainable: dict[str, float]) -> tuple[dict[str, Any], str]:
    """All metrics as plain data, and the same as tables; with the best AUCs that are attainable. Raises InputError."""
    config = config_of(job)
    found = predictions_of(model, config.out.rstrip("/"))
    own, days = model.job, model.job.data.eval
    assert days is not None
    code_N = list_codes(model, config.user, found.row_N, "evaluate.user")
    spaces = Spaces(own, found)
    metrics, tasks = measured(own, found, spaces, code_N)
    content: dict[str, Any] = {
        "format": FORMAT,
        "checkpoint": model.commit.path,
        "manifest_sha256": model.manifest_sha256,
        "step": model.commit.progress.step,
        "days": [str(days.first), str(days.last)],
        "rows": len(found.row_N),
        "held": own.data.holdout.share if own.data.holdout and own.data.holdout.eval == "held" else None,
        "user": config.user,
        "tasks": tasks,
        "slices": {},
    }
    text = [metrics_table(metrics, attainable), lists_table(tasks, config.user)]
    for column in config.slices:
        told: dict[str, Any] = {}
        for each in slices_of(model, column, found.row_N, config.slice_values):
            of_slice = measured(own, found, spaces, code_N, each.mask_N)[1]
            told[each.value] = {"rows": int(each.mask_N.sum()), "tasks": of_slice}
        content["slices"][column] = told
        text.append(slices_table(column, tasks, told))
    return content, "\n\n".join(text)


def write(job: JobConfig, content: dict[str, Any]) -> str:
    """Writes evaluation.json; its address."""
    url = f"{config_of(job).out.rstrip('/')}/{EVALUATION}"
    write_whole(url, json.dumps(content, indent=1) + "\n", "mend it, and the same command measures again")
    return url


def lists_table(tasks: dict[str, Any], user: str) -> str:
    """GAUC and PR-AUC of each task on its own space, and jointly."""
    lines = [["task", "GAUC", f"lists by {user}", "of one class", "PR-AUC"]]
    for name, task in tasks.items():
        for kind, title in (("own", name), ("joint", f"{name} (joint)")):
            told = task.get(kind)
            if told is not None and "gauc" in told:
                numbers = [_number(told["gauc"]), f"{told['gauc_lists']:,}", f"{told['gauc_lists_left_out']:,}"]
                lines.append([title, *numbers, _number(told["pr_auc"])])
    return aligned(lines) if len(lines) > 1 else "no binary task, so no GAUC and no PR-AUC"


def slices_table(column: str, tasks: dict[str, Any], told: dict[str, Any]) -> str:
    """A line a value: rows, and the AUC of each task, or its MSE."""
    heads, places = [], []
    for name, task in tasks.items():
        binary = task["kind"] == "binary"
        heads.append(f"{name} {'AUC' if binary else 'MSE'}")
        places.append((name, "own", "auc" if binary else "mse"))
        if "joint" in task:
            heads.append(f"{name} (joint)")
            places.append((name, "joint", "auc"))
    lines = [[column, "rows", *heads]]
    for value, each in told.items():
        numbers = [_number(each["tasks"][name][kind][what]) for name, kind, what in places]
        lines.append([value, f"{each['rows']:,}", *numbers])
    return aligned(lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
