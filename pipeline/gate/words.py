"""Comparisons in words, for people."""

from collections.abc import Sequence

from pipeline.gate.record import ALL, AUC, CALIBRATION, JOINT, LOG_LOSS, Comparison, Floor

METRICS = {AUC: "AUC", LOG_LOSS: "log loss", CALIBRATION: "calibration", "mse": "MSE"}
NOTHING = "-"


def value_words(value: float | None) -> str:
    """A metric."""
    return NOTHING if value is None else f"{value:.4f}"


def delta_words(metric: str, delta: float | None, signed: bool = True) -> str:
    """A delta, a tolerance or an error, in the unit of its metric."""
    if delta is None:
        return NOTHING
    sign = "+" if signed else ""
    if metric == AUC:
        return f"{delta:{sign}.4f}"
    if metric == CALIBRATION:
        return f"{delta:{sign}.3f}"
    return f"{100 * delta:{sign}.2f} %"


def what(c: Comparison) -> str:
    """As order (joint), new_users."""
    name = f"{c.task} (joint)" if c.space == JOINT else c.task
    return name if c.slice == ALL else f"{name}, {c.slice}"


def worse_sentence(c: Comparison, comparisons: Sequence[Comparison], confidence: float) -> str:
    """What got worse, by how much, how surely, and who gained meanwhile."""
    where = "all held-out rows" if c.slice == ALL else f"slice {c.slice}"
    space = "joint probability over exposures" if c.space == JOINT else "own space"
    metric = METRICS[c.metric]
    values = f"{metric} {value_words(c.champion)} -> {value_words(c.challenger)}"
    head = f"{c.task} ({space}, {where}): {values}"
    if c.low is None or c.high is None:
        return f"{head}, {c.note}{_gained(c, comparisons)}"
    change = {AUC: "a fall", CALIBRATION: "further from 1"}.get(c.metric, "a rise")
    low, high, delta = (delta_words(c.metric, x) for x in (c.low, c.high, c.delta))
    size = f"{change} of {delta.lstrip('+')}" if c.metric != CALIBRATION else f"{change} by {delta.lstrip('+')}"
    tolerance = delta_words(c.metric, c.tolerance, signed=False)
    chance = "beyond noise" if c.verdict == "worse" else "which may be noise (daily.gate.unsure is refuse)"
    return (
        f"{head}, {size} where {tolerance} is tolerated, {chance} "
        f"({100 * confidence:g} % interval {low} to {high}){_gained(c, comparisons)}"
    )


def listed(comparisons: Sequence[Comparison]) -> str:
    """Comparisons and their deltas in a row, those on slices as a number."""
    of_all = [c for c in comparisons if c.slice == ALL]
    out = [f"{what(c)} {METRICS[c.metric]} {delta_words(c.metric, c.delta)}" for c in of_all]
    if others := len(comparisons) - len(of_all):
        out.append(f"{others} on slices")
    return ", ".join(out)


def task_line(blocking: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    """What one task lost, in short: the first of its comparisons that block, and how many more."""
    first, *more = blocking
    size = first.note or (
        f"worse by {delta_words(first.metric, first.delta, signed=False)}, "
        f"{delta_words(first.metric, first.tolerance, signed=False)} tolerated"
    )
    told = (
        f"{what(first)} PAYS: {METRICS[first.metric]} {value_words(first.champion)} -> {value_words(first.challenger)}"
    )
    others = f"; so do {len(more)} more of its comparisons" if more else ""
    return f"{told} ({size}){others}{_gained(first, comparisons)}"


def _gained(c: Comparison, comparisons: Sequence[Comparison]) -> str:
    """The other tasks that gained on the same rows: the seesaw."""
    gains = [
        f"{other.task} {METRICS[other.metric]} {value_words(other.champion)} -> {value_words(other.challenger)}"
        for other in comparisons
        if other.verdict == "better" and other.task != c.task and other.slice == c.slice and other.space == c.space
    ]
    main = [words for words in gains if " AUC " in words or " MSE " in words] or gains
    return f"; a seesaw: meanwhile {', '.join(main)} gained" if main else ""


def floor_sentence(floor: Floor) -> str:
    """A floor that does not stand."""
    if floor.auc is None:
        return (
            f"{floor.task}: no AUC to hold against its floor {floor.floor:g} ({floor.positives:,} positives): one "
            "class alone, or predictions that are NaN"
        )
    return f"{floor.task}: AUC {floor.auc:.4f}, below its floor {floor.floor:g} ({floor.positives:,} positives)"
