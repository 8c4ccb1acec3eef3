"""The comparison as text."""

from pipeline.compare.comparison import Comparison, Measure
from pipeline.compare.words import (
    bytes_words,
    count_words,
    detectable_words,
    estimate_words,
    gain_words,
    missing_words,
    speed_words,
)
from pipeline.report.text import aligned

MARKS = {"gained": " gained", "paid": " paid", "no difference seen": " .", "one seed": ""}


def terminal_report(c: Comparison) -> str:
    """Metrics, gains, verdicts, speed; what is missing stands first and last."""
    missing = missing_words(c)
    parts = [missing] if missing else []
    parts += [f"{what}  {words}" for what, words in c.about]
    if c.main:
        parts.append(f"{_kind(c)} by side: mean ±half of the 95 % interval over seeds\n\n{_means(c)}")
    if c.others and c.main:
        parts.append(
            f"gain over {c.baseline}, paired by seed (. = no difference seen)\n\n{_gains(c, c.main)}"
            + (f"\n\n{_gains(c, c.main_joint)}" if c.main_joint else "")
        )
        parts.append("\n".join(_verdicts(c)))
    parts.append(_costs(c))
    parts += [f"note: {note}" for note in c.notes()]
    return "\n\n".join([*parts, *([missing] if missing else [])])


def _kind(c: Comparison) -> str:
    kinds = {"auc": "AUC", "mse": "MSE"}
    return " and ".join(dict.fromkeys(kinds[measure.metric] for measure in c.main))


def _means(c: Comparison) -> str:
    lines = [["task", *c.sides]]
    for measure in [*c.main, *c.main_joint]:
        lines.append([measure.row, *(estimate_words(c.mean(side, measure), measure.form) for side in c.sides)])
    best, fast = c.pareto(), c.pareto(with_speed=True)
    lines.append(["beaten by no other", *("yes" if side in best else "" for side in c.sides)])
    lines.append(["nor with rows/s", *("yes" if side in fast else "" for side in c.sides)])
    return aligned(lines)


def _gains(c: Comparison, family: list[Measure]) -> str:
    lines = [["task", *c.others]]
    for measure in family:
        cells = []
        for side in c.others:
            one = c.gains.get((side, measure))
            cells.append(gain_words(one, measure) + (MARKS[one.word] if one else ""))
        lines.append([measure.row, *cells])
    return aligned(lines)


def _verdicts(c: Comparison) -> list[str]:
    out = []
    for side in c.others:
        unseen = detectable_words(c, side)
        seen = f" (would have been seen: {unseen})" if unseen else ""
        out.append(f"{side}: {c.verdict(side).words}{seen}")
    return out


def _costs(c: Comparison) -> str:
    lines = [["side", "rows/s", "peak memory", "dense parameters", "FLOPs a row", "runs"]]
    for side in c.sides:
        memory = bytes_words(c.of_runs(side, "rss_bytes"))
        speed = speed_words(c.of_runs(side, "rows_per_second"))
        runs = sum(name == side for name, _ in c.records)
        size, flops = (count_words(c.of_runs(side, key)) for key in ("dense_parameters", "flops_per_row"))
        lines.append([side, speed, memory, size, flops, f"{runs} of {len(c.seeds)}"])
    return aligned(lines)
