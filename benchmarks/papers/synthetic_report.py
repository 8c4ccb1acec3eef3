"""The synthetic experiment's table, plot and page."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.interleaved import machine
from benchmarks.papers.intervals import interval
from benchmarks.papers.synthetic import BASELINE, CORRELATIONS, SIDES, errors, gains
from pipeline.report.page import Page
from pipeline.report.plots import drawing

Found = dict[tuple[float, int], dict[str, Any]]


def report(found: Found, arguments: argparse.Namespace, out: Path) -> None:
    """Prints the table; writes synthetic.svg and synthetic.html into `out`."""
    import torch

    correlations = [p for p in CORRELATIONS if p in arguments.correlations] or arguments.correlations
    others = [side for side in SIDES if side != BASELINE]
    sizes = next(iter(found.values()))["parameters"]
    about = [
        f"machine {machine()}; torch {torch.__version__}",
        f"{arguments.seeds} seeds, {arguments.inputs} inputs, {arguments.rows:,} training rows, "
        f"{arguments.batch_size} a step, lr {arguments.lr}",
        "parameters " + ", ".join(f"{side} {count:,}" for side, count in sizes.items()),
    ]
    print("\n" + "\n".join(about) + "\n")
    columns = ["cosine", "corr. of labels", f"error {BASELINE}", *(f"gain {side}" for side in others)]
    rows = [line(found, p, arguments.seeds, others) for p in correlations]
    for cells in [columns, *rows]:
        print("".join(f"{cell:>24}" if place > 1 else f"{cell:>17}" for place, cell in enumerate(cells)))
    print(
        "\nerror: test MSE as a share of the labels' variance, mean of both tasks; gain: the shared bottom's error "
        "less the side's, paired by seed; +- half of the 95 % interval"
    )
    svg = plot(found, correlations, others, arguments.seeds)
    (out / "synthetic.svg").write_text(svg + "\n", encoding="utf-8")
    page = Page("What is gained as tasks grow apart", "MMoE's synthetic process, networks of one size.")
    page.section(
        "Gain over the shared bottom",
        "The error is the test MSE as a share of the labels' variance, the mean of both tasks. Above 0 the side "
        "predicts better. Bars are 95 % intervals over seeds.",
    )
    page.figure(svg, "The shared bottom's error less the side's, paired by seed")
    page.table(columns, rows, f"+- half of the 95 % interval over {arguments.seeds} seeds")
    page.section("Set-up")
    for words in about:
        page.text(words)
    page.write(out / "synthetic.html")
    if arguments.out:
        print(f"\nreport  {out / 'synthetic.html'}")


def line(found: Found, correlation: float, seeds: int, others: list[str]) -> list[str]:
    """A correlation's row of the table."""
    units = [found[correlation, seed] for seed in range(seeds)]
    labels = sum(u["label_correlation"] for u in units) / seeds
    mean, half = interval(errors(found, BASELINE, correlation, seeds))
    cells = [f"{correlation:g}", f"{labels:.2f}", f"{mean:.4f} +- {half:.4f}"]
    for side in others:
        mean, half = interval(gains(found, side, correlation, seeds))
        cells.append(f"{mean:+.4f} +- {half:.4f}{' *' if abs(mean) > half else ''}")
    return cells


def plot(found: Found, correlations: list[float], others: list[str], seeds: int) -> str:
    """Gains by correlation, as SVG."""
    with drawing("Gain over the shared bottom by the cosine between the tasks' weights", 6.4, 3.8) as (drawn, axes):
        axes.axhline(0, color="#8a929e", linewidth=1)
        for place, side in enumerate(others):
            told = [interval(gains(found, side, p, seeds)) for p in correlations]
            shifted = [p + 0.012 * (place - (len(others) - 1) / 2) for p in correlations]
            axes.errorbar(shifted, [m for m, _ in told], [h for _, h in told], marker="o", capsize=3, label=side)
        axes.set_xticks(correlations, [f"{p:g}" for p in correlations])
        axes.invert_xaxis()
        axes.set_xlabel("cosine between the tasks' weights (falling)")
        axes.set_ylabel("gain (share of variance)")
        axes.legend()
    return drawn.svg
