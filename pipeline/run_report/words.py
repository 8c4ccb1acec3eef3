"""How a run's end and its numbers are said, and what to do next."""

import datetime
from typing import Any

from pipeline.report.text import duration
from pipeline.run_report.record import Run

NOTHING = "-"
JOINT = " (joint)"


def moment(seconds: float) -> str:
    """A time, as 2026-01-08 06:30 UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def number(value: Any, form: str = ".4f") -> str:
    """A metric, or that it is not defined."""
    return NOTHING if value is None else format(value, form)


def count(value: Any) -> str:
    """A whole number."""
    return NOTHING if value is None else f"{value:,.0f}"


def interval(metrics: dict[str, Any], of: str, form: str = ".4f") -> str:
    """Its 95 % interval."""
    low, high = metrics.get(f"{of}_low"), metrics.get(f"{of}_high")
    return NOTHING if low is None or high is None else f"{low:{form}} - {high:{form}}"


def gibibytes(value: Any) -> str:
    """Memory."""
    return NOTHING if not value else f"{value / 2**30:.2f} GiB"


def outcome(run: Run) -> tuple[str, str, str]:
    """What became of a run: (a word, a sentence that says what to do, its tone)."""
    last = run.last
    rows = f"{run.samples:,} rows"
    if last is None:
        return "finished", f"Finished after {rows}; its journal is not here, so nothing is known of its course.", "good"
    if last.outcome == "finished":
        if run.metrics():
            return "finished", f"Finished: trained on {rows} and evaluated{_evaluated(run)}.", "good"
        why = "no evaluation days are set (data.eval), so how good it is, is not known from this run alone"
        return "finished", f"Finished: trained on {rows}; {why}.", "good"
    if last.outcome == "stopped":
        return "stopped", f"Stopped after {rows}: {_first(last.why)}. The same command goes on from there.", "bad"
    if last.outcome == "failed":
        return "failed", f"Failed after {rows}. {_mended(last.why)}", "bad"
    if last.outcome == "refused":
        return "refused", f"Refused by the gate: {_first(last.why)}.", "bad"
    told = (
        f"Its record has no end: it is still at work, or it was killed. It last told something at {moment(last.last)}"
    )
    return (
        "no end recorded",
        f"{told}, after {rows}. If no process is at work, start the same command: it goes on from its newest "
        "checkpoint.",
        "bad",
    )


def _evaluated(run: Run) -> str:
    days = (run.about.get("data") or {}).get("eval")
    if not days:
        return ""
    span = days["from"] if days["from"] == days["to"] else f"{days['from']} to {days['to']}"
    held = ((run.about.get("data") or {}).get("holdout") or {}).get("eval") == "held"
    return f" on {'the held-out rows of ' if held else ''}{span}"


def _first(why: str) -> str:
    return why.strip().split("\n", 1)[0].rstrip(".") or "no reason was recorded"


def _mended(why: str) -> str:
    """The reason of a failure, and the remedy: an InputError's message holds its own."""
    kind, _, text = why.partition(": ")
    if kind == "InputError":
        return f"What has to be mended: {_first(text)}."
    if not why:
        return "No reason was recorded: see what the command printed; then the same command goes on."
    return (
        f"The program broke off: {_first(why)}. See the trace that the command printed; the same command goes on from "
        "the newest checkpoint."
    )


def attempts_words(run: Run) -> str:
    """How often it was begun, and how each attempt but the last ended; empty for one attempt."""
    if len(run.tried) < 2:
        return ""
    ends = [
        f"{one.outcome or 'killed'} after {one.points[-1][1] if one.points else one.samples:,} rows"
        for one in run.tried[:-1]
    ]
    some = ends if len(ends) <= 5 else [*ends[:2], f"{len(ends) - 4} more", *ends[-2:]]
    return f"This was attempt {len(run.tried)}; before it: {', '.join(some)}."


def took(run: Run) -> str:
    """Wall time of training and evaluation; where there is no result, of the attempts as far as they told."""
    if run.result is not None and run.result.get("seconds") is not None:
        return duration(run.result["seconds"])
    return duration(sum(one.last - one.began for one in run.tried)) if run.tried else NOTHING


def where(run: Run) -> str:
    """Ranks, device and precision."""
    result, about = run.result or {}, run.about
    ranks = result.get("ranks", about.get("world_size"))
    device = result.get("device")
    precision = result.get("precision", (about.get("train") or {}).get("precision"))
    return " ".join(str(part) for part in (ranks, f"x {device}" if device else "ranks", precision) if part is not None)
