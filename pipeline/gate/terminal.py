"""The verdict as text, for whoever is woken by it."""

from pipeline.gate.record import ALL, CALIBRATION, Comparison, Verdict
from pipeline.gate.words import METRICS, NOTHING, delta_words, task_line, value_words, what
from pipeline.report.text import aligned

WORDS = {"worse": "WORSE", "unsure": "unsure", "better": "better", "level": ".", "too_few": "not judged"}
HEAD = ["task", "metric", "champion", "challenger", "worse by", "tolerated", "noise +-", "seen from", "verdict"]


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    if not verdict.blessed:
        return "REFUSED: the champion stays"
    judged = sum(c.judges for c in verdict.comparisons)
    if judged:
        return f"BLESSED: none of {judged} comparisons is worse beyond tolerance and noise"
    return "BLESSED: " + ("every floor stands" if verdict.floors else "nothing to compare with")


def lines(verdict: Verdict) -> list[str]:
    """The verdict, its reasons, a table of what matters, and what did not judge."""
    out = [headline(verdict), *(f"  {words}" for words in in_short(verdict))]
    shown = [c for c in verdict.comparisons if c.slice == ALL or c in blocking(verdict)]
    if shown:
        out += ["", *aligned([HEAD, *(_row(c, verdict.critical) for c in shown)]).splitlines()]
    hidden = [c for c in verdict.comparisons if c not in shown]
    if hidden:
        counts = {word: sum(c.verdict == kind for c in hidden) for kind, word in WORDS.items()}
        told = ", ".join(f"{counts[word]} {word}" for word in ("unsure", "better", "not judged") if counts[word])
        out += ["", f"and {len(hidden)} comparisons on slices that refuse nothing" + (f": {told}" if told else "")]
    if verdict.floors:
        told = ", ".join(
            f"{f.task} {value_words(f.auc)} {'>=' if f.met else 'BELOW'} {f.floor:g}" for f in verdict.floors
        )
        out += ["", f"floors of the AUC: {told}"]
    return out + ([""] if verdict.notes else []) + [f"note: {note}" for note in verdict.notes]


def in_short(verdict: Verdict) -> list[str]:
    """A line a task that pays, then the reasons that are no comparison's."""
    found = blocking(verdict)
    tasks = dict.fromkeys(c.task for c in found)
    out = [task_line([c for c in found if c.task == task], verdict.comparisons) for task in tasks]
    return out + verdict.reasons[len(found) :]


def blocking(verdict: Verdict) -> list[Comparison]:
    """The comparisons that refuse."""
    return [c for c in verdict.comparisons if c.verdict == "worse" or (verdict.unsure and c.verdict == "unsure")]


def _row(c: Comparison, critical: float | None) -> list[str]:
    noise = NOTHING if c.error is None or critical is None else delta_words(c.metric, critical * c.error, signed=False)
    return [
        what(c),
        METRICS[c.metric],
        value_words(c.champion) if c.metric != CALIBRATION else _ratio(c.champion),
        value_words(c.challenger) if c.metric != CALIBRATION else _ratio(c.challenger),
        delta_words(c.metric, c.delta),
        delta_words(c.metric, c.tolerance, signed=False),
        noise,
        delta_words(c.metric, c.detectable, signed=False),
        WORDS[c.verdict],
    ]


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
