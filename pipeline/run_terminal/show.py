"""One run, or one day, in full; and runs side by side."""

from collections.abc import Iterator, Sequence

from pipeline.report.text import aligned
from pipeline.run_report.days import Days
from pipeline.run_report.findings import changes, findings
from pipeline.run_report.record import Run
from pipeline.run_report.settings import differences
from pipeline.run_report.words import NOTHING, attempts_words, count, interval, moment, number, took, where
from pipeline.run_terminal.found import state
from pipeline.run_terminal.listing import advice, days_block, indented, step_took
from schemas.errors import InputError

WIDEST = 40
"""Characters of a setting's value in a table."""


def shown(run: Run) -> str:
    """What became of it, what stands out, its evaluation, how it learnt, and how fast."""
    return "\n\n".join(part for part in _parts(run) if part)


def _parts(run: Run) -> Iterator[str]:
    about = [f"{run.name}  {state(run)}", *indented([advice(run), attempts_words(run)])]
    arch = (run.config.get("model") or {}).get("arch")
    facts = {
        "folder": run.folder,
        "began": moment(run.tried[0].began) if run.tried else NOTHING,
        "took": took(run),
        "network": str(arch or NOTHING),
        "ranks": where(run) or NOTHING,
        "git": str(run.about.get("git") or NOTHING),
    }
    yield "\n".join(about)
    yield "\n".join(f"{key:<9} {value}" for key, value in facts.items())
    found = findings(run)
    yield "\n".join(["to look at", *indented(found)]) if found else ""
    yield _evaluation(run)
    yield _learning(run)
    yield _speed(run)


def _evaluation(run: Run) -> str:
    metrics = run.metrics()
    binary = {row: told for row, told in metrics.items() if "mse" not in told}
    numbers = {row: told for row, told in metrics.items() if "mse" in told}
    out = []
    if binary:
        lines = [["evaluated", "rows", "positives", "AUC", "95% interval", "log loss", "NE", "calibration"]]
        for row, told in binary.items():
            values = [number(told.get(key)) for key in ("log_loss", "ne")]
            counts = [count(told.get("rows")), count(told.get("positives"))]
            ratio = number(told.get("calibration"), ".3f")
            lines.append([row, *counts, number(told.get("auc")), interval(told, "auc"), *values, ratio])
        out.append(aligned(lines))
    if numbers:
        lines = [["evaluated", "rows", "MSE", "95% interval", "MAE", "R2"]]
        for row, told in numbers.items():
            values = [number(told.get(key)) for key in ("mae", "r2")]
            lines.append([row, count(told.get("rows")), number(told.get("mse")), interval(told, "mse"), *values])
        out.append(aligned(lines))
    return "\n\n".join(out)


def _learning(run: Run) -> str:
    """The change of each task's AUC over the run, from its first third to its last."""
    gains = changes(run)
    if not gains:
        return ""
    lines = [["learning", "first third to last"]]
    for row, gain in gains.items():
        regression = run.kinds.get(row) == "regression"
        lines.append([row, f"MSE falls by {gain:.1f} %" if regression else f"AUC {gain:+.4f}"])
    return aligned(lines, words=2)


def _speed(run: Run) -> str:
    points = run.of("train", "rows_per_second")
    if not points:
        return ""
    middle = sorted(value for _, value in points)[len(points) // 2]
    words = [f"{middle:,.0f} rows/s (median of {len(points)} windows)"]
    for key, what in (("train/data_wait_share", "waits for data"), ("memory/rss_gb", "GB at most")):
        if told := run.of(key):
            words.append(f"{told[-1][1]:.1%} {what}" if "share" in key else f"{told[-1][1]:.2f} {what}")
    return "speed     " + ", ".join(words)


def compared(runs: Sequence[Run]) -> str:
    """Evaluations and settings side by side; the differences are to the first. Raises InputError for less than two."""
    if len(runs) < 2:
        raise InputError("compare: name two runs or more")
    labels = _labels(runs)
    rows = list(dict.fromkeys(row for run in runs for row in run.metrics()))
    lines = [["metric", *labels, *(f"{label} - {labels[0]}" for label in labels[1:])]]
    for row in rows:
        told = [run.metrics().get(row, {}) for run in runs]
        for key, name in (("auc", "AUC"), ("mse", "MSE"), ("ne", "NE"), ("calibration", "calibration")):
            values = [each.get(key) for each in told]
            if any(value is not None for value in values):
                apart = [_apart(value, values[0]) for value in values[1:]]
                lines.append([f"{row} {name}", *(number(value) for value in values), *apart])
    facts = [
        ["state", *(state(run) for run in runs)],
        ["rows trained", *(f"{run.samples:,}" for run in runs)],
        ["took", *(took(run) for run in runs)],
    ]
    parts = [aligned([["run", *labels], *facts], words=len(runs) + 1)]
    parts.append(aligned(lines) if rows else "none of them was evaluated")
    if rows:
        parts.append(
            "Two runs differ by chance alone; whether a side is better is told by ./launch.sh compare, over seeds."
        )
    known = [run for run in runs if run.config]
    apart_rows = [[_short(str(cell)) for cell in line] for line in differences(runs)] if len(known) == len(runs) else []
    if apart_rows:
        parts.append(aligned([["setting", *labels], *apart_rows], words=len(runs) + 1))
    elif len(known) == len(runs):
        parts.append("their settings are the same")
    return "\n\n".join(parts)


def _labels(runs: Sequence[Run]) -> list[str]:
    """Their names; where those are the same, their folders."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [run.folder for run in runs]


def _apart(value: float | None, first: float | None) -> str:
    return NOTHING if value is None or first is None else f"{value - first:+.4f}"


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 3] + "..."


def shown_day(told: Days) -> str:
    """Its line, its reasons and what to do, the time of its steps, the gate's comparisons, and its training."""
    (day,) = told.days
    parts = [days_block(told, told.root)]
    if day.done:
        parts.append(aligned([["step", "took"], *([name, step_took(facts)] for name, facts in day.done.items())]))
    if day.verdict is not None and day.verdict.comparisons:
        lines = [["the gate compared", "on", "metric", "champion", "challenger", "verdict"]]
        for c in day.verdict.comparisons:
            name = f"{c.task} (joint)" if c.space == "joint" else c.task
            lines.append([name, c.slice, c.metric, number(c.champion), number(c.challenger), c.verdict])
        parts.append(aligned(lines, words=3))
    if day.run is not None:
        parts.append(shown(day.run))
    return "\n\n".join(parts)
