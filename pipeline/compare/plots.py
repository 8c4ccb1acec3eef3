"""The plots of a comparison: gains with their intervals, and gains beside speed."""

from collections.abc import Sequence

from matplotlib.lines import Line2D

from pipeline.compare.comparison import Comparison, Measure
from pipeline.report.plots import COLOURS, drawing

MARKERS = "osD^vP*X<>"
ROUNDS = "osD"
"""Markers of the sides that share a colour, in order."""
INCHES_A_POINT = 0.26


def colour(c: Comparison, side: str) -> str:
    """One a side, in every plot."""
    return COLOURS[c.sides.index(side) % len(COLOURS)]


def marker(c: Comparison, side: str) -> str:
    """Of its gains: tells it from the sides of the same colour."""
    return ROUNDS[c.sides.index(side) // len(COLOURS) % len(ROUNDS)]


def gains_plot(c: Comparison, measures: Sequence[Measure]) -> str:
    """A forest plot: a line a side and task, its gain and interval; filled where it gained or paid."""
    unit = measures[0].metric.upper()
    height = 1.1 + INCHES_A_POINT * len(measures) * (len(c.others) + 1)
    with drawing(f"Gain in {unit} over {c.baseline}, by task and side", 5.6, height) as (drawn, axes):
        ticks, place = [], 0.0
        for measure in measures:
            ticks.append(place + (len(c.others) - 1) / 2)
            for side in c.others:
                one = c.gains.get((side, measure))
                if one is not None:
                    seen = one.word in ("gained", "paid")
                    axes.errorbar(
                        one.mean,
                        place,
                        xerr=one.half,
                        fmt=marker(c, side),
                        color=colour(c, side),
                        mfc=colour(c, side) if seen else "white",
                        capsize=2,
                    )
                place += 1
            place += 1
        axes.axvline(0, color="#333b47", linewidth=1)
        axes.set_yticks(ticks, [measure.row for measure in measures])
        axes.set_ylim(place - 1, -1)  # the first task on top
        axes.grid(axis="y", visible=False)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(f"gain in {unit}" if measures[0].higher_is_better else f"gain: {unit} of {c.baseline} less it")
        _legend(axes, [(side, colour(c, side), marker(c, side)) for side in c.others])
    return drawn.svg


def speed_plot(c: Comparison, measures: Sequence[Measure]) -> str:
    """Each side's rows/s beside its gain on each task; the baseline stands at 0."""
    unit = measures[0].metric.upper()
    with drawing(f"Gain in {unit} and training rows a second, by side and task", 5.6, 3.8) as (drawn, axes):
        shapes = {measure: MARKERS[i % len(MARKERS)] for i, measure in enumerate(measures)}
        for side in c.sides:
            speed = c.of_runs(side, "rows_per_second")
            if speed is None:
                continue
            for measure in measures:
                one = c.gains.get((side, measure))
                height = 0.0 if side == c.baseline else None if one is None else one.mean
                if height is not None:
                    axes.plot(speed.mean, height, shapes[measure], color=colour(c, side), alpha=0.85)
        axes.axhline(0, color="#333b47", linewidth=1)
        axes.set_xlabel("training rows/s")
        axes.set_ylabel(f"gain in {unit} over {c.baseline}")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.locator_params(axis="x", nbins=5)
        sides = [(side, colour(c, side), "o") for side in c.sides]
        _legend(axes, sides + [(measure.row, "#5b6472", shapes[measure]) for measure in measures])
    return drawn.svg


def _legend(axes: object, entries: Sequence[tuple[str, str, str]]) -> None:
    """Above the plot, where it covers nothing."""
    handles = [Line2D([], [], color=tint, marker=shape, linestyle="", label=label) for label, tint, shape in entries]
    axes.figure.legend(  # type: ignore[attr-defined]
        handles=handles, loc="outside upper left", ncols=3, fontsize=9, handletextpad=0.2, columnspacing=1.0
    )
