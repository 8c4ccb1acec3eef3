"""Small charts as SVG text, drawn by hand: no library to load, colours that follow the page from light to dark.

Lines over rows trained, and bars about a zero; heat.py has the others. A chart is a string for `Page.chart`. Units of
the drawing are those of its viewBox, WIDTH across, in which a letter is 11 high; on a page a chart is about as wide in
pixels.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34
"""Around the place where the data stand."""
POINTS = 200
"""Of a line, at most; of more, each is the mean of as many neighbours."""
COLOURS = 10
"""Of the page's own, --c0 .. --c9."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Lines are told apart without colours as well, for the first four."""


@dataclass(frozen=True)
class Line:
    """One series."""

    label: str
    points: Sequence[tuple[float, float | None]]
    """(x, y) by rising x; a y of None, or one that is not finite, is a gap."""
    series: int = 0
    """Its colour and dash."""


@dataclass(frozen=True)
class Dot:
    """One value with its interval."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    series: int = 0


@dataclass(frozen=True)
class Bar:
    """One value beside zero."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    tone: str = "quiet"
    """good, bad or quiet."""
    limit: float | None = None
    """What is tolerated, marked by a tick."""


def line_chart(
    label: str,
    lines: Sequence[Line],
    dots: Sequence[Dot] = (),
    marks: Sequence[float] = (),
    form: str = ".3f",
    ticks: Sequence[tuple[float, str]] | None = None,
    zero: bool = False,
    what: str = "rows trained",
    diagonal: bool = False,
) -> str:
    """Lines and dots. `marks` are upright rules, `ticks` those below where they are no numbers; `zero` shows y = 0.

    `diagonal` draws y = x. `label` is what a screen reader says.
    """
    lines = [Line(one.label, thinned(one.points), one.series) for one in lines]
    ys = [y for one in lines for _, y in one.points if _told(y)]
    ys += [y for d in dots for y in (d.y, d.low, d.high) if _told(y)]
    xs = [x for one in lines for x, _ in one.points] + [d.x for d in dots] + [x for x, _ in ticks or ()]
    if not ys:
        return empty_chart(label)
    low, high = _range([float(y) for y in ys if y is not None] + [0.0] * zero)
    left, right = min(xs), max(xs)
    if ticks is not None:
        room = (right - left) * 0.05 or 0.5
        left, right = left - room, right + room
    if diagonal:
        left, right = min(left, low), max(right, high)
    frame = Frame(left, right, low, high)
    out = [frame.grid(form), frame.below(ticks, what)]
    if diagonal:
        a, b = max(frame.x0, low), min(frame.x1, high)
        out.append(frame.rule(a, a, b, b, "mark"))
    if low < 0 < high:
        out.append(frame.rule(frame.x0, 0, frame.x1, 0, "axis"))
    out += [frame.rule(x, low, x, high, "mark", "another attempt began here") for x in marks]
    out += [_line(frame, one, form) for one in lines]
    out += [_dot(frame, one, form) for one in dots]
    return drawn(label, frame.height, "".join(out))


def bar_chart(label: str, bars: Sequence[Bar], form: str = "+.4f") -> str:
    """Bars to either side of zero, the first on top, each with its interval and what is tolerated."""
    if not bars:
        return empty_chart(label)
    left = min(150, 14 + 6.2 * max(len(bar.label) for bar in bars))
    told = [v for bar in bars for v in (bar.value, bar.low, bar.high, bar.limit) if _told(v)]
    low, high = _range([float(v) for v in told if v is not None] + [0.0])
    height, step = BOTTOM + TOP + 24 * len(bars), 24
    frame = Frame(low, high, 0, 1, left, height, right=54)
    out = [frame.upright(form), frame.rule(0, 0, 0, 1, "axis")]
    for place, bar in enumerate(bars):
        y = TOP + step * place
        a, b = sorted((frame.px(0), frame.px(bar.value)))
        tip = f"{bar.label}: {bar.value:{form}}" + _interval(bar.low, bar.high, form)
        shape = (
            f'<rect class="bar {bar.tone}" x="{a:.1f}" y="{y + 5}" width="{max(b - a, 0.8):.1f}" height="12" rx="2">'
        )
        out.append(f"{shape}{tip_of(tip)}</rect>")
        if bar.low is not None and bar.high is not None:
            out.append(_whisker(frame.px(bar.low), y + 11, frame.px(bar.high), y + 11))
        if bar.limit is not None:
            x = frame.px(bar.limit)
            out.append(
                f'<path class="limit" d="M{x:.1f} {y + 2}V{y + 20}">{tip_of(f"tolerated: {bar.limit:{form}}")}</path>'
            )
        out.append(text(left - 6, y + 15, bar.label, "end"))
        out.append(text(WIDTH - 2, y + 15, f"{bar.value:{form}}", "end", f"value {bar.tone}"))
    return drawn(label, height, "".join(out))


def empty_chart(label: str) -> str:
    """Where there is nothing to draw."""
    return drawn(f"{label}: no values", 40, text(WIDTH / 2, 24, "no values", "middle"))


class Frame:
    """Where data stand in the drawing."""

    def __init__(
        self, x0: float, x1: float, y0: float, y1: float, left: float = LEFT, height: float = 210, right: float = RIGHT
    ) -> None:
        self.x0, self.x1 = (x0, x1) if x1 > x0 else (x0 - 0.5, x0 + 0.5)
        self.y0, self.y1 = y0, y1
        self.left, self.height, self.right = left, height, right

    def px(self, x: float) -> float:
        """Across."""
        return self.left + (x - self.x0) / (self.x1 - self.x0) * (WIDTH - self.left - self.right)

    def py(self, y: float) -> float:
        """Down."""
        return self.height - BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (self.height - TOP - BOTTOM)

    def rule(self, x0: float, y0: float, x1: float, y1: float, kind: str, tip: str = "") -> str:
        """A straight line between two points of the data."""
        path = f"M{self.px(x0):.1f} {self.py(y0):.1f}L{self.px(x1):.1f} {self.py(y1):.1f}"
        return f'<path class="{kind}" d="{path}">{tip_of(tip) if tip else ""}</path>'

    def grid(self, form: str) -> str:
        """Rules across and their numbers."""
        out = []
        steps = nice(self.y0, self.y1, 6)
        form = _form(steps, form)
        for y in steps:
            out.append(self.rule(self.x0, y, self.x1, y, "grid"))
            out.append(text(self.left - 5, self.py(y) + 4, f"{y:{form}}", "end"))
        return "".join(out)

    def upright(self, form: str) -> str:
        """Upright rules and their numbers below."""
        out = []
        steps = nice(self.x0, self.x1, 4)
        form = _form(steps, form)
        for x in steps:
            out.append(self.rule(x, 0, x, 1, "grid"))
            out.append(text(self.px(x), self.height - BOTTOM + 15, "0" if x == 0 else f"{x:{form}}", "middle"))
        return "".join(out)

    def below(self, ticks: Sequence[tuple[float, str]] | None, what: str) -> str:
        """The numbers, or the words, along the bottom."""
        told = list(ticks) if ticks is not None else [(x, amount(x)) for x in nice(self.x0, self.x1, 6)]
        y = self.height - BOTTOM
        out = [text(self.px(x), y + 15, words, "middle") for x, words in spread(told, self.px)]
        return "".join([*out, text((self.left + WIDTH - self.right) / 2, y + 29, what, "middle")])


def spread(ticks: Sequence[tuple[float, str]], place: object) -> list[tuple[float, str]]:
    """Those of the ticks that do not run into one another."""
    out: list[tuple[float, str]] = []
    end = -math.inf
    for x, words in ticks:
        at, half = place(x), 3.4 * len(words)  # type: ignore[operator]
        if at - half > end + 4 and at + half <= WIDTH:
            out.append((x, words))
            end = at + half
    return out


def thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most POINTS of them, each the mean of its neighbours, standing where the last of them does; gaps stay out."""
    if len(points) <= POINTS:
        return list(points)
    size = math.ceil(len(points) / POINTS)
    out: list[tuple[float, float | None]] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        told = [float(y) for _, y in part if y is not None and math.isfinite(y)]
        out.append((part[-1][0], sum(told) / len(told) if told else None))
    return out


def nice(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from low to high, about as many as wanted."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) + 0.0 for n in range(first, last + 1)] or [low]


def amount(value: float) -> str:
    """A number of rows, as 12k or 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words in the drawing."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'


def _line(frame: Frame, line: Line, form: str) -> str:
    """Its parts between gaps, and a point that stands alone as a dot."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None or not math.isfinite(y):
            parts.append([])
        else:
            parts[-1].append((x, y))
    parts = [part for part in parts if part]
    if not parts:
        return ""
    last = parts[-1][-1][1]
    dash = DASHES[line.series % len(DASHES)]
    style = f' stroke-dasharray="{dash}"' if dash else ""
    out = []
    for part in parts:
        if len(part) == 1:
            x, y = part[0]
            out.append(f'<circle class="dot" cx="{frame.px(x):.1f}" cy="{frame.py(y):.1f}" r="2.5"></circle>')
            continue
        path = "L".join(f"{frame.px(x):.1f} {frame.py(y):.1f}" for x, y in part)
        out.append(f'<path class="line" d="M{path}"{style}></path>')
    return f'<g class="c{line.series % COLOURS}">{tip_of(f"{line.label}: last {last:{form}}")}{"".join(out)}</g>'


def _dot(frame: Frame, dot: Dot, form: str) -> str:
    x, y = frame.px(dot.x), frame.py(dot.y)
    tip = f"{dot.label}: {dot.y:{form}}" + _interval(dot.low, dot.high, form)
    bar = "" if dot.low is None or dot.high is None else _whisker(x, frame.py(dot.low), x, frame.py(dot.high))
    circle = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"></circle>'
    return f'<g class="c{dot.series % COLOURS}">{tip_of(tip)}{bar}{circle}</g>'


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"


def _whisker(x0: float, y0: float, x1: float, y1: float) -> str:
    across = abs(y0 - y1) < 0.01
    ends = f"M{x0:.1f} {y0 - 4:.1f}v8M{x1:.1f} {y1 - 4:.1f}v8" if across else ""
    ends = ends or f"M{x0 - 4:.1f} {y0:.1f}h8M{x1 - 4:.1f} {y1:.1f}h8"
    return f'<path class="whisker" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}{ends}"></path>'


def tip_of(words: str) -> str:
    """Shown where a pointer rests."""
    return f"<title>{html.escape(words)}</title>"


def _told(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """A little more than the values span."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06
    if high - low <= 1e-6 * max(abs(low), abs(high)):  # one value, but for rounding
        room = max(abs(high) * 0.05, 1e-6)
    return low - room, high + room


def _form(steps: Sequence[float], form: str) -> str:
    """As many digits as the steps need."""
    if len(steps) < 2:
        return form
    step = abs(steps[1] - steps[0])
    largest = max(abs(value) for value in steps)
    sign = "+" if form.startswith("+") else ""
    if largest >= 1e6 or step < 1e-5:
        return f"{sign}.{max(2, math.ceil(math.log10(largest / step)) + 1)}g"
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += abs(step * 10**digits - round(step * 10**digits)) > 1e-6
    return f"{sign}{',' * (largest >= 1e4)}.{digits}f"


def drawn(label: str, height: float, inside: str) -> str:
    """The whole drawing; `label` is what a screen reader says of it."""
    named = html.escape(label, quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{named}">{inside}</svg>'
