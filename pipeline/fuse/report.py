"""What the tuning came to: tables for the terminal, fusion.yaml, fuse.json, and a page with the Pareto front."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.fuse.tune import Line, Tuned
from pipeline.report.page import Cell, Page
from pipeline.report.plots import COLOURS, drawing
from pipeline.report.text import aligned
from pipeline.storage import filesystem, is_local
from pipeline.train.result import write_whole

YAML, JSON, HTML = "fusion.yaml", "fuse.json", "fuse.html"
FORMAT = 1
SHOWN = 12
"""Points of the front that a table shows: spread over it, both ends included."""
REMEDY = "mend it, and the same command tunes again"


def text(tuned: Tuned) -> str:
    """For the terminal."""
    parts = [_comparison(tuned, tuned.tune, tuned.days[0], "tuned on")]
    if tuned.check:
        parts.append(_comparison(tuned, tuned.check, tuned.days[1], "checked on"))
    parts.append(f"Pareto front, {len(tuned.front):,} of {len(tuned.trials):,} trials\n{aligned(_front(tuned))}")
    parts.append(aligned([["factor", "weight"], *_weights(tuned)]))
    return "\n\n".join(parts)


def write(tuned: Tuned, out: str) -> list[str]:
    """Writes the three files; their addresses."""
    out = out.rstrip("/")
    write_whole(f"{out}/{YAML}", fusion_yaml(tuned), REMEDY)
    write_whole(f"{out}/{JSON}", json.dumps(content(tuned), indent=1) + "\n", REMEDY)
    fs, path = filesystem(f"{out}/{HTML}")
    if is_local(fs):
        page(tuned).write(Path(path))
    else:
        write_whole(f"{out}/{HTML}", page(tuned).html(), REMEDY)
    return [f"{out}/{name}" for name in (YAML, JSON, HTML)]


def fusion_yaml(tuned: Tuned) -> str:
    """The section `fusion` of a job's YAML."""
    objective = next(line for line in tuned.tune if line.task == tuned.config.objective.task)
    told = f"# {tuned.measure} of {objective.task}: {objective.tuned:.4f}, equal weights {objective.equal:.4f} "
    data = tuned.fusion.model_dump(mode="json")
    # only what says something: the defaults of maps that are not there would be refused
    data["terms"] = [_said(term) for term in data["terms"]]
    data["factor"] = None if data["factor"] is None else _said(data["factor"])
    data = {key: value for key, value in data.items() if value is not None}
    return f"{told}({tuned.days[0]})\n{yaml.safe_dump({'fusion': data}, sort_keys=False, allow_unicode=True)}"


def _said(part: dict[str, Any]) -> dict[str, Any]:
    hidden = set() if part.get("map") == "sigmoid" else {"center", "scale"}
    return {key: value for key, value in part.items() if value is not None and key not in hidden}


def content(tuned: Tuned) -> dict[str, Any]:
    """Everything as plain data."""
    trials = tuned.trials

    def trial(at: int) -> dict[str, Any]:
        values = zip(tuned.tasks, trials.value_PT[at].tolist(), strict=True)
        weights = dict(zip(tuned.names, trials.weight_PK[at].tolist(), strict=True))
        return {"weights": weights, "measures": {task: None if np.isnan(v) else v for task, v in values}}

    return {
        "format": FORMAT,
        "objective": tuned.config.objective.model_dump(mode="json"),
        "floors": {task: floor.model_dump(mode="json") for task, floor in tuned.config.floors.items()},
        "by": tuned.config.by,
        "days": tuned.days,
        "trials": len(trials),
        "chosen": trial(tuned.chosen),
        "equal": trial(0),
        "fusion": tuned.fusion.model_dump(mode="json"),
        "tune": [dataclasses.asdict(line) for line in tuned.tune],
        "check": [dataclasses.asdict(line) for line in tuned.check],
        "front": [trial(at) for at in tuned.front],
    }


def page(tuned: Tuned) -> Page:
    """The same as a page."""
    objective = tuned.config.objective
    out = Page(f"Fused score: {tuned.measure} of {objective.task}", "score = product of factors, each to its weight")
    chosen = next(line for line in (tuned.check or tuned.tune) if line.task == objective.task)
    where = "the days checked on" if tuned.check else "the days tuned on"
    ahead = "" if chosen.difference is None else f"{chosen.difference.value:+.4f}"
    out.numbers(
        [(f"tuned, on {where}", _number(chosen.tuned)), ("equal weights", _number(chosen.equal)), ("ahead by", ahead)]
    )
    out.section("Weights", "The tasks' weights add up to their number; equal ones are 1 each.")
    out.table(["factor", "weight"], _weights(tuned))
    for lines, days, verb in ((tuned.tune, tuned.days[0], "Tuned on"), (tuned.check, tuned.days[-1], "Checked on")):
        if lines:
            note = f"{tuned.measure} by {tuned.config.by}. The interval is of tuned less equal, lists independent."
            out.section(f"{verb} {days}", note)
            head, *rows = _table(lines)
            out.table(
                head,
                [[_toned(line, cell, n) for n, cell in enumerate(row)] for line, row in zip(lines, rows, strict=True)],
            )
    others = [at for at, task in enumerate(tuned.tasks) if task != objective.task]
    out.section(
        "Pareto front", f"{len(tuned.front):,} of {len(tuned.trials):,} trials: nobody gains without another's loss."
    )
    for at in others:
        if not np.isnan(tuned.trials.value_PT[0, at]):
            out.figure(
                _plot(tuned, at), f"Each point is one set of weights: {tuned.tasks[at]} against {objective.task}."
            )
    head, *rows = _front(tuned)
    out.table(head, rows)
    return out


def _toned(line: Line, cell: str, column: int) -> "str | Cell":
    if column != 3 or line.difference is None:
        return cell
    tone = "good" if line.difference.low > 0 else "bad" if line.difference.high < 0 else "quiet"
    return Cell(cell, tone)


def _plot(tuned: Tuned, other: int) -> str:
    objective = tuned.tasks.index(tuned.config.objective.task)
    x_P, y_P = tuned.trials.value_PT[:, objective], tuned.trials.value_PT[:, other]
    name = tuned.tasks[other]
    with drawing(f"{name} against {tuned.config.objective.task}", 6, 3.4) as (figure, axes):
        axes.scatter(x_P, y_P, s=8, color="#b8bec8", label="trials", linewidths=0)
        axes.scatter(x_P[tuned.front], y_P[tuned.front], s=14, color=COLOURS[0], label="Pareto front", linewidths=0)
        for at, label, colour in ((0, "equal weights", COLOURS[1]), (tuned.chosen, "chosen", COLOURS[2])):
            axes.scatter(x_P[at], y_P[at], s=70, color=colour, label=label, edgecolors="white", zorder=3)
        floor = next(line.floor for line in tuned.tune if line.task == name)
        if floor is not None:
            axes.axhline(floor, color=COLOURS[8], linewidth=1, label="floor")
        axes.set_xlabel(f"{tuned.measure} of {tuned.config.objective.task}")
        axes.set_ylabel(f"{tuned.measure} of {name}")
        axes.legend(fontsize=8)
    return figure.svg


def _comparison(tuned: Tuned, lines: list[Line], days: str, verb: str) -> str:
    return f"{tuned.measure} by {tuned.config.by}, {verb} {days}\n{aligned(_table(lines))}"


def _table(lines: list[Line]) -> list[list[str]]:
    floors = any(line.floor is not None for line in lines)
    head = ["task", "equal", "tuned", "tuned - equal", "95% interval", "lists"] + ["floor"] * floors
    out = [head]
    for line in lines:
        d = line.difference
        delta, interval = ("", "") if d is None else (f"{d.value:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}")
        row = [line.task, _number(line.equal), _number(line.tuned), delta, interval, f"{line.lists:,}"]
        out.append(row + ([_number(line.floor) if line.floor is not None else ""] if floors else []))
    return out


def _front(tuned: Tuned) -> list[list[str]]:
    at = np.unique(np.round(np.linspace(0, len(tuned.front) - 1, SHOWN)).astype(int))
    shown = [tuned.front[i] for i in at.tolist()]
    marks = {0: "equal", tuned.chosen: "chosen"}
    shown = [each for each in (tuned.chosen, 0) if each not in shown] + shown
    lines = [["trial", *tuned.tasks, *(f"w {name}" for name in tuned.names)]]
    for trial in shown:
        numbers = [_number(None if np.isnan(v) else v) for v in tuned.trials.value_PT[trial].tolist()]
        lines.append([marks.get(trial, ""), *numbers, *(f"{w:.3f}" for w in tuned.trials.weight_PK[trial].tolist())])
    return lines


def _weights(tuned: Tuned) -> list[list[str]]:
    return [[name, f"{weight:.4f}"] for name, weight in zip(tuned.names, tuned.weight_K.tolist(), strict=True)]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
