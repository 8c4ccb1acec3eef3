"""Data, speed and memory."""

from collections.abc import Sequence

from pipeline.report.charts import Line, line_chart
from pipeline.report.page import Cell, Chart, Page, Row
from pipeline.run_report.findings import UNKNOWN, mean, thirds
from pipeline.run_report.learning import charts_of, spoken
from pipeline.run_report.record import Run, Series
from pipeline.run_report.words import NOTHING, count

COUNTS = {
    "data/quarantined_rows": "rows left out as bad",
    "data/quarantined_row_groups": "row groups left out as unreadable",
    "data/late_files": "files that came after the run had begun",
    "data/drifted_files": "files of another schema than most",
}
SHARES = {
    "share of the time that training waited for its reader": "train/data_wait_share",
    "share of the time that the reader was at work": "data/decode_share",
}
MEMORY = {"memory of the largest rank, GB": "memory/rss_gb", "CUDA memory of the largest rank, GB": "memory/cuda_gb"}
FEATURES = 8
"""Lines in a chart of features; the table has all."""


def data_health(page: Page, runs: Sequence[Run]) -> None:
    """What was wrong with the rows, and which ids were not known."""
    page.section("Data", "What the run met in the log's rows.")
    rows: list[Row] = []
    for key, words in COUNTS.items():
        told = [_total(run.of(key)) for run in runs]
        if any(value is not None for value in told):
            rows.append([words, *(Cell(count(value), "bad" if value else "") for value in told)])
    for task in dict.fromkeys(task for run in runs for task in run.below("data", "funnel_broken")):
        told = [sum(value for _, value in run.of("data", "funnel_broken", task)) for run in runs]
        words = f"rows with label {task} 1 under its parent's 0"
        rows.append([words, *(Cell(count(value), "bad" if value else "") for value in told)])
    if rows:
        page.table(["what", *(run.label for run in runs)], rows, "Counts over the run; nothing else was found.")
    else:
        page.text("Nothing was recorded: the run ended before its first progress line.", "quiet")
    for run in runs:
        _features(page, run, f" of {run.label}" if len(runs) > 1 else "")


def _features(page: Page, run: Run, whose: str) -> None:
    unknown, norms = run.below("data", "unknown"), _norms(run)
    if not unknown and not norms:
        return
    rows: list[Row] = []
    for feature in dict.fromkeys([*unknown, *norms]):
        share = thirds(unknown.get(feature, [])) or _same(unknown.get(feature, []))
        norm = thirds(norms.get(feature, [])) or _same(norms.get(feature, []))
        cells: list[Cell | str] = [feature]
        for value in share or (None, None):
            told = NOTHING if value is None else f"{value:.2%}"
            cells.append(Cell(told, "bad" if value is not None and value > UNKNOWN else ""))
        rows.append([*cells, *(NOTHING if value is None else f"{value:.3f}" for value in norm or (None, None))])
    page.table(
        ["feature", "unknown, first third", "last third", "norm, first third", "last third"],
        rows,
        f"Features{whose}: share of ids out of vocabulary, and mean norm of the pooled embedding.",
    )
    worst = sorted(unknown, key=lambda name: -(mean(unknown[name]) or 0))[:FEATURES]
    worst = [name for name in worst if (mean(unknown[name]) or 0) > 0]
    largest = sorted(norms, key=lambda name: -(norms[name][-1][1]))[:FEATURES]
    charts = []
    for names, of, title in (
        (worst, unknown, "Share of unknown ids"),
        (largest, norms, "Norm of the pooled embedding"),
    ):
        if names:
            lines = [Line(name, of[name], n) for n, name in enumerate(names)]
            charts.append(Chart(f"{title}{whose}", line_chart(spoken(title, lines), lines), names))
    if charts:
        page.charts(charts)


def _norms(run: Run) -> dict[str, Series]:
    told = run.below("embeddings")
    return {key.removesuffix("/norm"): points for key, points in told.items() if key.endswith("/norm")}


def _same(points: Series) -> tuple[float, float] | None:
    return (points[0][1], points[-1][1]) if points else None


def _total(points: Series) -> float | None:
    return points[-1][1] if points else None


def speed(page: Page, runs: Sequence[Run]) -> None:
    """Rows a second, waits, memory."""
    page.section("Speed and memory")
    if not any(run.of("train/rows_per_second") for run in runs):
        page.text("No speed was recorded: the run ended before its first progress line.", "quiet")
        return
    page.charts(
        [
            *charts_of(runs, {"rows/s, all ranks": "train/rows_per_second"}, ",.0f"),
            *charts_of(runs, SHARES, ".2f"),
            *charts_of(runs, MEMORY, ".2f"),
        ],
        [run.label for run in runs] if len(runs) > 1 else [],
    )
    rows: list[Row] = []
    for run in runs:
        saves = run.of("train/checkpoint_blocked_seconds")
        total = sum(value for _, value in saves)
        rows.append([run.label, count(len(saves)), f"{total:.1f} s"])
    if any(run.of("train/checkpoint_blocked_seconds") for run in runs):
        page.table(["run", "checkpoints", "training stood still"], rows, "For checkpoints.")
