"""The list of runs and of days: what each came to, and what a person has to do."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.daily.ledger import Facts
from pipeline.report.text import aligned, duration
from pipeline.run_report.days import Day, Days, days_at
from pipeline.run_report.record import Run, runs_at
from pipeline.run_report.words import NOTHING, moment, outcome, took
from pipeline.run_terminal.found import Place, day_state, state
from schemas.errors import InputError

WIDTH = 110
"""Columns of running text."""
NEEDS = ("stopped", "failed", "killed")
"""States of a run in which there is something to do."""


def listing(places: Sequence[Place], days: int) -> str:
    """Runs first, then each daily job with its last days."""
    runs: list[list[str]] = []
    todo: list[str] = []
    blocks: list[str] = []
    for place in places:
        try:
            if place.daily:
                blocks.append(days_block(days_at(place.path, days), place.path))
                continue
            found = runs_at(place.path)
            for run in found:
                called = place.path if len(found) == 1 else f"{place.path} ({run.name})"
                runs.append(_line(run, called))
                if state(run) in NEEDS:
                    todo.append(f"{called}: {advice(run)}")
        except InputError as error:  # one damaged record hides no other run
            runs.append([place.path, "unread", *[NOTHING] * 5])
            todo.append(str(error))
    out = []
    if runs:
        head = ["run", "state", "began", "attempts", "rows", "took", "evaluated"]
        out.append(aligned([head, *runs], words=3))
    if todo:
        out.append("\n".join(["to look at", *indented(todo)]))
    return "\n\n".join([*out, *blocks])


def advice(run: Run) -> str:
    """What happened to it and what to do, in a sentence."""
    if state(run) == "killed" and run.last is not None:
        return (
            f"its record ends without an end after {run.samples:,} rows, at {moment(run.last.last)}: it was killed, or "
            "its machine went. The same command goes on from its newest checkpoint."
        )
    if state(run) == "at work" and run.last is not None:
        return f"at work; it last told something at {moment(run.last.last)}, after {run.samples:,} rows."
    return outcome(run)[1]


def _line(run: Run, called: str) -> list[str]:
    began = moment(run.tried[0].began) if run.tried else NOTHING
    return [called, state(run), began, str(len(run.tried)), f"{run.samples:,}", took(run), _evaluated(run)]


def _evaluated(run: Run) -> str:
    """Each task's AUC or MSE, of its own space."""
    words = []
    for row, told in run.metrics().items():
        if row in run.kinds:
            value, name = (told.get("mse"), "MSE") if "mse" in told else (told.get("auc"), "")
            words.append(f"{row} {name}{' ' * bool(name)}{NOTHING if value is None else f'{value:.4f}'}")
    return ", ".join(words) or NOTHING


def days_block(told: Days, path: str) -> str:
    """The days of one daily job: a line each, then why and what to do of those that need it."""
    states = {day.name: day_state(day) for day in told.days}
    counted = ", ".join(f"{n} {word}" for word, n in Counter(states.values()).items())
    champion = f"champion {told.champion}" if told.champion else "no champion yet"
    head = f"{path}: {len(told.days)} day{'s' * (len(told.days) != 1)}, {counted}; {champion}"
    if told.earlier:
        head += f" ({told.earlier} earlier days are not shown; --days)"
    tasks = list(dict.fromkeys(task for day in told.days for task in _judged(day)))
    rows = [["day", "outcome", "rows", "trained", *tasks]]
    for day in told.days:
        judged = _judged(day)
        rows.append([day.name, states[day.name], *_rows(day), *(judged.get(task, NOTHING) for task in tasks)])
    out = [head, "", aligned(rows, words=2)]
    if tasks:
        out.append("(task: AUC, or MSE, of the champion -> of the challenger, on the held-out rows)")
    for day in told.days:
        out += _reason(day, states[day.name], told.champion)
    if in_a_row := told.in_a_row():
        out += ["", *indented([in_a_row])]
    return "\n".join(out)


def _reason(day: Day, word: str, champion: str | None) -> Iterator[str]:
    if word == "promoted":
        return
    yield ""
    if word == "at work":
        done = list(day.done)
        yield f"{day.name}  at work, after {done[-1] if done else 'nothing'}: ./launch.sh runs watch {day.place.root}"
        return
    yield f"{day.name}  {word}"
    why = day.why()
    if word == "killed":
        last = f"after {list(day.done)[-1]}" if day.done else "before its first step"
        why = f"its command went {last} without an end, and nobody is at work now"
    yield from indented(why.splitlines())
    if todo := day.todo(champion):
        yield from indented([f"to do: {todo}"])


def _rows(day: Day) -> list[str]:
    rows = day.done.get("wait", {}).get("rows")
    samples = day.done.get("train", {}).get("samples")
    return [NOTHING if value is None else f"{value:,}" for value in (rows, samples)]


def _judged(day: Day) -> dict[str, str]:
    """Task -> what the gate compared, as 0.7412 -> 0.7436."""
    told = day.done.get("evaluate", {})
    sides = [told.get(side) or {} for side in ("champion", "challenger")]
    out = {}
    for task in sides[1]:
        own = [side.get(task, {}).get("own", {}) for side in sides]
        values = [each.get("auc", each.get("mse")) for each in own]
        out[task] = " -> ".join(NOTHING if value is None else f"{value:.4f}" for value in values)
    return out


def step_took(facts: Facts) -> str:
    """How long a committed step of a day took."""
    return duration(float(facts["seconds"])) if "seconds" in facts else NOTHING


def indented(sentences: Sequence[str]) -> list[str]:
    """Wrapped and set in."""
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence.strip(), WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    ]
