"""How the numbers of a comparison are written, in the terminal and on the page alike."""

from pipeline.compare.comparison import Comparison, Measure
from pipeline.compare.statistics import Estimate, Gain

NOTHING = "-"


def estimate_words(one: Estimate | None, form: str) -> str:
    """Mean and half of the interval."""
    if one is None:
        return NOTHING
    return format(one.mean, form) + (f" ±{format(one.half, form)}" if one.half is not None else "")


def gain_words(one: Gain | None, measure: Measure) -> str:
    """Gain and half of its interval."""
    if one is None:
        return NOTHING
    form = measure.form
    return format(one.mean, f"+{form}") + (f" ±{format(one.half, form)}" if one.half is not None else "")


def p_words(p: float | None) -> str:
    """A p-value."""
    return NOTHING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def bytes_words(one: Estimate | None) -> str:
    """Memory."""
    return NOTHING if one is None else f"{one.mean / (1 << 20):,.0f} MiB"


def count_words(one: Estimate | None) -> str:
    """A whole number."""
    return NOTHING if one is None else f"{one.mean:,.0f}"


def speed_words(one: Estimate | None) -> str:
    """Rows a second, with half of the interval."""
    if one is None:
        return NOTHING
    return f"{one.mean:,.0f}" + (f" ±{one.half:,.0f}" if one.half is not None else "")


def detectable_words(c: Comparison, side: str) -> str:
    """The least gains that would be seen on the tasks where no difference was seen; empty where there is none."""
    parts = []
    for measure in c.main:
        one = c.gains.get((side, measure))
        if one is not None and one.word == "no difference seen" and one.detectable:
            parts.append(f"{measure.task} {format(one.detectable, measure.form)}")
    return ", ".join(parts)


def missing_words(c: Comparison) -> str:
    """What did not finish; empty where everything did."""
    if not c.missing:
        return ""
    named = "; ".join(f"{side} seed {seed} ({why.splitlines()[0]})" for side, seed, why in c.missing[:10])
    more = "; ..." if len(c.missing) > 10 else ""
    whole = len(c.sides) * len(c.seeds)
    return f"INCOMPLETE: {len(c.missing)} of {whole} runs are missing: {named}{more}"
