"""Plots as SVG text that stands inside a page: no file, no script, no display.

    with drawing("What it shows", 6, 3.5) as (figure, axes):
        axes.plot(...)
    page.figure(figure.svg, "What to see in it")

Text stays text, so it can be searched, read aloud and scaled to a phone.
"""

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b5e34", "#5f6b7a", "#b2182b", "#4d4d9f"]
"""Told apart by colour-blind readers too (after Okabe and Ito), one a side, in order."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fulcrum",  # the same page of the same numbers
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929e",
    "axes.labelcolor": "#333b47",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e7ec",
    "xtick.color": "#5b6472",
    "ytick.color": "#5b6472",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),  # type: ignore[attr-defined]
}


class Drawing:
    """A matplotlib figure, and its SVG once drawn."""

    def __init__(self, title: str, figure: Figure) -> None:
        self.title, self.figure, self.svg = title, figure, ""


@contextmanager
def drawing(title: str, width: float = 6.4, height: float = 3.6, columns: int = 1) -> Iterator[tuple[Drawing, Any]]:
    """A drawing of `width` x `height` inches and its axes: one, or an array of `columns` side by side.

    `title` is what a screen reader says of it. `drawing.svg` holds the plot once the block has ended.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = Drawing(title, figure)
        yield drawn, figure.subplots(1, columns)
        drawn.svg = _svg(title, figure)


def _svg(title: str, figure: Figure) -> str:
    """The figure's <svg> element, scaling with its place."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    width, height = figure.get_size_inches()
    tall = ' class="tall"' if height > width else ""  # as high as it must be; others fit a screen
    label = f'<svg{tall} role="img" aria-label="{html.escape(title, quote=True)}"'
    return text.replace("<svg", label, 1)
