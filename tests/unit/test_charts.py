"""Charts drawn by hand: every value where it belongs, gaps as gaps, ticks that are round."""

import math
import re

import numpy as np
import pytest

from pipeline.report.charts import (
    BOTTOM,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Bar,
    Dot,
    Line,
    bar_chart,
    line_chart,
    nice,
    spread,
    thinned,
)
from pipeline.report.heat import COLUMNS, heat_map, heat_over_rows, score_histogram


def paths(svg: str, kind: str = "line") -> list[list[tuple[float, float]]]:
    """The points of every path of a kind."""
    found = re.findall(rf'<path class="{kind}" d="M([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (p.split() for p in path.split("L"))] for path in found]


def opacities(svg: str) -> list[float]:
    return [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', svg)]


def test_a_line_runs_from_edge_to_edge_in_proportion() -> None:
    ((a, b, c),) = paths(line_chart("x", [Line("a", [(0, 0.0), (10, 1.0), (40, 0.5)])]))
    assert a[0] == LEFT
    assert c[0] == WIDTH - RIGHT
    assert (b[0] - a[0]) / (c[0] - a[0]) == pytest.approx(0.25, abs=0.001)
    assert a[1] > c[1] > b[1], "up is more"
    assert (a[1] - c[1]) / (a[1] - b[1]) == pytest.approx(0.5, abs=0.002)
    assert a[1] < 210 - BOTTOM
    assert b[1] > TOP


def test_a_value_that_is_none_is_a_gap_and_one_alone_a_dot() -> None:
    svg = line_chart("x", [Line("a", [(0, 1.0), (1, 2.0), (2, None), (3, 1.0), (4, math.nan), (5, 2.0), (6, 1.0)])])
    assert [len(part) for part in paths(svg)] == [2, 2]
    assert len(re.findall('<circle class="dot"', svg)) == 1


def test_lines_without_a_value_and_no_lines_are_told() -> None:
    for lines in ([], [Line("a", [])], [Line("a", [(0, None)])]):
        assert "no values" in line_chart("loss", lines)
    assert 'aria-label="loss: no values"' in line_chart("loss", [])
    assert "no values" in bar_chart("gain", [])
    assert "no values" in heat_map("gates", [], [], [])


def test_constant_and_infinite_values_are_drawn() -> None:
    svg = line_chart("x", [Line("a", [(0, 0.3), (5, 0.1 + 0.2)])])
    ((a, b),) = paths(svg)
    assert a[1] == b[1] == pytest.approx((TOP + 210 - BOTTOM) / 2, abs=0.1)
    assert "inf" not in line_chart("x", [Line("a", [(0, math.inf), (1, 1.0), (2, 2.0)])])
    (one,) = re.findall(r'cx="([\d.]+)"', line_chart("x", [Line("a", [(7, 0.5)])]))
    assert LEFT < float(one) < WIDTH


def test_long_lines_are_means_of_neighbours() -> None:
    rng = np.random.default_rng(3)
    ys = rng.random(1000)
    got = thinned([(float(n), float(y)) for n, y in enumerate(ys)])
    assert len(got) == POINTS
    assert [y for _, y in got] == pytest.approx(ys.reshape(POINTS, 5).mean(1).tolist())
    assert [x for x, _ in got][:2] == [4, 9]
    assert thinned([(1, None)] * 1001)[0] == (1, None)


def test_a_dot_has_its_interval_and_the_range_has_room_for_it() -> None:
    svg = line_chart("x", [Line("a", [(0, 0.5), (10, 0.6)])], [Dot("evaluation", 10, 0.7, 0.65, 0.75)])
    assert "evaluation: 0.700 (0.650 to 0.750)" in svg
    (ends,) = re.findall(r'class="whisker" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)', svg)
    assert ends[0] == ends[2]
    assert float(ends[1]) > float(ends[3]) > TOP


def test_names_are_never_markup() -> None:
    odd = '<b>&"'
    for svg in (
        line_chart(odd, [Line(odd, [(0, 1.0), (1, 2.0)])], [Dot(odd, 1, 1)]),
        bar_chart(odd, [Bar(odd, 1.0)]),
        heat_map(odd, [odd], [odd], [[0.5]]),
        heat_over_rows(odd, [odd], [1], [[0.5]]),
        score_histogram(odd, [0, 1], [1], [1]),
    ):
        assert "<b>" not in svg
        assert "&lt;b&gt;&amp;" in svg


def test_bars_stand_to_the_right_side_of_zero() -> None:
    svg = bar_chart("gain", [Bar("click", 0.02, 0.01, 0.03, "good", -0.002), Bar("order", -0.01, tone="bad")])
    bars = re.findall(r'class="bar (\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)"', svg)
    zero = float(bars[0][1])
    assert float(bars[1][1]) + float(bars[1][2]) == pytest.approx(zero, abs=0.11)
    assert [bar[0] for bar in bars] == ["good", "bad"]
    assert float(bars[0][2]) / float(bars[1][2]) == pytest.approx(2, abs=0.02)
    assert "click: +0.0200 (+0.0100 to +0.0300)" in svg
    assert "tolerated: -0.0020" in svg


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.61, 0.7), (-3, 250), (0, 1.3e7), (1e-6, 3e-6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = nice(low, high, 5)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    steps = np.diff(ticks)
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert round(float(steps[0]) / 10.0 ** math.floor(math.log10(steps[0]) + 1e-9), 6) in (1, 2, 2.5, 5)


def test_words_below_do_not_run_into_one_another() -> None:
    kept = spread([(float(n), f"2026-01-{n:02d}") for n in range(1, 30)], lambda x: 10 * x)
    assert 2 <= len(kept) < 8


def test_a_heat_map_is_as_full_as_its_values() -> None:
    svg = heat_map("gates", ["a", "b"], ["x", "y"], [[0.6, 0.4], [None, -0.25]])
    assert opacities(svg) == [0.6, 0.4, 0.25]
    assert 'class="heat below" fill-opacity="0.250"' in svg
    assert "b, x: no value" in svg
    assert "a, y: 0.400" in svg


def test_a_heat_map_over_rows_is_of_means() -> None:
    rng = np.random.default_rng(4)
    values = rng.random((2, 180))
    xs = [float(n) for n in range(1, 181)]
    svg = heat_over_rows("gates", ["a", "b"], xs, values.tolist())
    means = values.reshape(2, COLUMNS, 3).mean(2)
    cells = re.findall(r'fill-opacity="([\d.]+)" d="M([\d.]+) (\d+)H([\d.]+)v', svg)
    left, wide = float(cells[0][1]), (WIDTH - 4 - float(cells[0][1])) / COLUMNS
    drawn = np.full((2, COLUMNS), np.nan)
    for full, x0, y, x1 in cells:
        begin, end = (round((float(x) - left) / wide) for x in (x0, x1))
        drawn[int(int(y) > TOP), begin:end] = float(full)
    assert drawn == pytest.approx(means, abs=0.0051)
    assert f"<title>b: from {means[1, 0]:.3f} to {means[1, -1]:.3f}</title>" in svg


def test_neighbours_that_look_alike_are_one_cell() -> None:
    svg = heat_over_rows("gates", ["a"], [1, 2, 3, 4, 5], [[0.5, 0.5, None, -0.5, 0.5]])
    kinds = re.findall(r'<path class="([a-z ]+)"(?: fill-opacity="0.50")? d=', svg)
    assert kinds == ["heat", "none", "heat below", "heat"]


def test_a_histogram_shows_shares_of_each_kind() -> None:
    svg = score_histogram("scores", [0, 0.5, 1], [1, 3], [8, 0])
    found = re.findall(r'class="share (\w+)" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)
    heights = [(kind, float(height)) for kind, _, height in found]
    assert [kind for kind, _ in heights] == ["negatives", "positives", "positives"]
    assert heights[1][1] / heights[0][1] == pytest.approx(0.25, abs=0.01)
    assert heights[2][1] / heights[0][1] == pytest.approx(0.75, abs=0.01)
    assert "no values" in score_histogram("scores", [0, 1], [0], [0])
