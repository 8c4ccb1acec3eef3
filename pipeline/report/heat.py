"""Heat maps, and what a score's histogram and a calibration curve look like, as charts.py has them."""

import itertools
import math
from collections.abc import Sequence

from pipeline.report.charts import BOTTOM, TOP, WIDTH, Frame, amount, drawn, empty_chart, spread, text, tip_of

CELL = 22
HEAD = 34
"""Room at the right for the last column's slanted head."""
COLUMNS = 60
"""Of a heat map over time, at most; of more, each is the mean of its neighbours."""


def heat_map(
    label: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], top: float = 1.0
) -> str:
    """A cell a value, its number in it; the fuller, the nearer to `top`. Below 0 it is drawn in the colour of loss."""
    if not rows or not columns:
        return empty_chart(label)
    left = _left(rows)
    wide = (WIDTH - left - HEAD) / len(columns)
    out = []
    for place, column in enumerate(columns):
        out.append(_slanted(left + wide * (place + 0.5), TOP + 44, column))
    for down, row in enumerate(rows):
        y = TOP + 50 + CELL * down
        out.append(text(left - 6, y + 15, row, "end"))
        for across, value in enumerate(values[down]):
            x = left + wide * across
            out.append(_cell(x, y, wide - 1.5, CELL - 1.5, value, top, f"{row}, {columns[across]}"))
            if value is not None and wide >= 26:
                out.append(text(x + wide / 2, y + 15, f"{value:.2f}", "middle", "value"))
    return drawn(label, TOP + 56 + CELL * len(rows), "".join(out))


def heat_over_rows(
    label: str, rows: Sequence[str], xs: Sequence[float], values: Sequence[Sequence[float | None]], top: float = 1.0
) -> str:
    """One row a series, from left to right over the rows trained `xs`."""
    if not rows or not xs:
        return empty_chart(label)
    left = _left(rows)
    size = math.ceil(len(xs) / COLUMNS)
    begins = range(0, len(xs), size)
    wide = (WIDTH - left - 4) / len(begins)
    out = []
    for down, row in enumerate(rows):
        y = TOP + CELL * down
        out.append(text(left - 6, y + 15, row, "end"))
        means = [_mean(values[down][begin : begin + size]) for begin in begins]
        out.append(_strip(left, y, wide, means, top, row))
    height = TOP + CELL * len(rows) + BOTTOM
    ends = [(0.0, amount(xs[0])), (0.5, amount(xs[len(xs) // 2])), (1.0, amount(xs[-1]))]

    def place(at: float) -> float:
        return left + 10 + at * (WIDTH - left - 28)

    out += [text(place(at), height - BOTTOM + 15, words, "middle") for at, words in spread(ends, place)]
    out.append(text((left + WIDTH) / 2, height - BOTTOM + 29, "rows trained", "middle"))
    return drawn(label, height, "".join(out))


def score_histogram(label: str, edges: Sequence[float], positives: Sequence[int], negatives: Sequence[int]) -> str:
    """Shares of the positives and of the negatives in each bin of the score, each kind adding up to 1."""
    shares = [[n / max(sum(counts), 1) for n in counts] for counts in (negatives, positives)]
    highest = max((share for part in shares for share in part), default=0.0)
    if highest <= 0:
        return empty_chart(label)
    frame = Frame(edges[0], edges[-1], 0, highest * 1.06, height=180)
    out = [frame.grid(".2f"), frame.below(None, "score")]
    for kind, part, counts in (("negatives", shares[0], negatives), ("positives", shares[1], positives)):
        for place, share in enumerate(part):
            if not counts[place]:
                continue
            a, b, y = frame.px(edges[place]), frame.px(edges[place + 1]), frame.py(share)
            tip = f"{kind}: {counts[place]:,} of scores {edges[place]:.3g} to {edges[place + 1]:.3g}"
            size = f'x="{a:.1f}" y="{y:.1f}" width="{max(b - a, 0.5):.1f}" height="{frame.py(0) - y:.1f}"'
            out.append(f'<rect class="share {kind}" {size}>{tip_of(tip)}</rect>')
    return drawn(label, frame.height, "".join(out))


def _left(rows: Sequence[str]) -> float:
    return min(140.0, 14 + 6.2 * max(len(row) for row in rows))


def _cell(x: float, y: float, wide: float, high: float, value: float | None, top: float, where: str) -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"'
    if value is None or not math.isfinite(value):
        return f'<rect class="none" {size}>{tip_of(f"{where}: no value")}</rect>'
    full = min(abs(value) / top, 1.0)
    kind = "heat below" if value < 0 else "heat"
    return f'<rect class="{kind}" fill-opacity="{full:.3f}" {size}>{tip_of(f"{where}: {value:.3f}")}</rect>'


def _strip(left: float, y: float, wide: float, values: Sequence[float | None], top: float, row: str) -> str:
    """Cells beside one another; neighbours that look alike are one."""
    told = [value for value in values if value is not None]
    tip = f"{row}: from {told[0]:.3f} to {told[-1]:.3f}" if told else f"{row}: no value"
    looks = [None if value is None else (value < 0, f"{min(abs(value) / top, 1):.2f}") for value in values]
    out, begin = [], 0
    for look, cells in itertools.groupby(looks):
        end = begin + len(list(cells))
        kind = "none" if look is None else "heat below" if look[0] else "heat"
        full = "" if look is None else f' fill-opacity="{look[1]}"'
        x0, x1 = left + wide * begin, left + wide * end
        out.append(f'<path class="{kind}"{full} d="M{x0:.1f} {y:.0f}H{x1:.1f}v{CELL - 1.5}H{x0:.1f}z"/>')
        begin = end
    return f"<g>{tip_of(tip)}{''.join(out)}</g>"


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None and math.isfinite(value)]
    return sum(told) / len(told) if told else None


def _slanted(x: float, y: float, words: str) -> str:
    """A column's head, which may be longer than the column is wide."""
    short = words if len(words) <= 12 else words[:11] + "…"
    return f'<g transform="translate({x:.1f} {y:.1f}) rotate(-40)">{text(0, 0, short)}</g>'
