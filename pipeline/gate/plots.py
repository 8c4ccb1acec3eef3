"""The plot of a verdict: deltas with their intervals beside what is tolerated."""

from collections.abc import Sequence

from pipeline.gate.record import CALIBRATION, Comparison
from pipeline.gate.words import AUC, what
from pipeline.report.plots import drawing

INCHES_A_LINE = 0.3
COLOURS = {"worse": "#b2182b", "unsure": "#e69f00", "better": "#009e73", "level": "#5f6b7a"}
TOLERATED = "#c3ccd8"


def deltas_plot(comparisons: Sequence[Comparison], unit: str) -> str:
    """A forest plot of comparisons of one metric, a line each, the first on top; all must have an interval."""
    scale = 1 if comparisons[0].metric in (AUC, CALIBRATION) else 100
    height = 1.0 + INCHES_A_LINE * len(comparisons)
    with drawing(f"{unit}, by task and slice, with intervals and tolerances", 5.2, height) as (drawn, axes):
        for place, c in enumerate(comparisons):
            assert c.delta is not None
            assert c.low is not None
            seen = c.verdict in ("worse", "better")
            tint = COLOURS[c.verdict]
            axes.barh(place, scale * c.tolerance, height=0.7, color=TOLERATED, zorder=1)
            axes.errorbar(
                scale * c.delta,
                place,
                xerr=scale * (c.delta - c.low),
                fmt="o",
                color=tint,
                mfc=tint if seen else "white",
                capsize=2,
                zorder=3,
            )
        axes.axvline(0, color="#333b47", linewidth=1, zorder=2)
        axes.set_yticks(range(len(comparisons)), [what(c) for c in comparisons])
        axes.set_ylim(len(comparisons) - 0.4, -0.6)  # the first on top
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(unit, fontsize=9)
    return drawn.svg
