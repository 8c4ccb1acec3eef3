"""The comparison as a page."""

from collections.abc import Callable, Sequence

from pipeline.compare.comparison import Comparison, Measure
from pipeline.compare.plots import gains_plot, speed_plot
from pipeline.compare.words import (
    NOTHING,
    bytes_words,
    count_words,
    detectable_words,
    estimate_words,
    gain_words,
    missing_words,
    p_words,
    speed_words,
)
from pipeline.report.page import Cell, Page, Row
from pipeline.report.text import duration

TONES = {"gained": "good", "paid": "bad", "no difference seen": "quiet", "one seed": ""}
DETAILS = {
    "log_loss": "Log loss",
    "ne": "Normalised entropy (log loss over that of the base rate)",
    "calibration": "Calibration (mean prediction over mean label; 1 is right)",
    "mae": "Mean absolute error",
    "r2": "R2",
}


def comparison_page(c: Comparison) -> Page:
    """Verdicts first, then what they rest on."""
    seeds = f"{len(c.seeds)} seeds" if len(c.seeds) > 1 else "one seed"
    page = Page(f"{c.name}: who gained, who paid", f"{len(c.sides)} sides, {seeds}; gains are over {c.baseline}.")
    if missing := missing_words(c):
        page.text(missing, "bad")
    for what, words in c.about:
        page.text(f"{what}: {words}")
    for note in c.notes():
        page.text(f"Note: {note}.", "bad")
    if c.others and c.main:
        _verdicts(page, c)
        _gains(page, c)
    if c.main:
        _means(page, c)
    _costs(page, c)
    if c.main:
        _details(page, c)
    _runs(page, c)
    _rules(page, c)
    return page


def _verdicts(page: Page, c: Comparison) -> None:
    page.section(
        "Who gained, who paid",
        f"Each side against {c.baseline} by its tasks' own AUC (MSE of regression tasks). A seesaw is one task's gain "
        "at another's cost.",
    )
    for side in c.others:
        verdict = c.verdict(side)
        tone = "bad" if verdict.paid else "good" if verdict.gained else ""
        unseen = detectable_words(c, side)
        seen = f" A difference of this size would have been seen: {unseen}." if unseen else ""
        page.text(f"{side}: {verdict.words}.{seen}", tone)
    for measures, what in _families(c.main):
        page.figure(
            gains_plot(c, measures),
            f"Gain in {what} with its 95 % interval over seeds; right of the line is better. Filled: gained or paid; "
            "hollow: no difference seen."
            + (" With one seed there is no interval, and nothing can be said." if len(c.seeds) == 1 else ""),
        )


def _gains(page: Page, c: Comparison) -> None:
    page.section(
        "Gains",
        f"Mean over seeds of the side less {c.baseline} with the same seed, ± half of its interval. Green gained, red "
        "paid; joint probabilities are corrected as a family of their own.",
    )
    joint = "Of the joint probability over all exposures."
    for family, caption in ((c.main, "Each task on its own space."), (c.main_joint, joint)):
        if family:
            cells: list[Row] = [[m.row, *(_gain_cell(c, side, m) for side in c.others)] for m in family]
            page.table(["task", *c.others], cells, caption)
    rows: list[Row] = []
    for (side, measure), one in c.gains.items():
        half = NOTHING if one.half is None else format(one.half, measure.form)
        least = NOTHING if one.detectable is None else format(one.detectable, measure.form)
        told = [
            str(one.seeds),
            format(one.mean, f"+{measure.form}"),
            half,
            p_words(one.p),
            p_words(one.adjusted),
            least,
        ]
        rows.append([side, measure.row, *told, Cell(one.word, TONES[one.word])])
    columns = ["side", "task", "seeds", "gain", "± half", "p", "p, corrected", "detectable", "said"]
    page.table(columns, rows, "The tests behind the words.", words=2)


def _gain_cell(c: Comparison, side: str, measure: Measure) -> Cell:
    one = c.gains.get((side, measure))
    return Cell(NOTHING) if one is None else Cell(gain_words(one, measure), TONES[one.word], one.word)


def _means(page: Page, c: Comparison) -> None:
    page.section(
        "Metrics",
        "Mean over seeds ± half of its 95 % interval. A side is beaten by one whose means are at least as good on "
        "every task and better on one; means alone, whatever their intervals.",
    )
    for measures, what in _families(c.main):
        page.table(["task", *c.sides], _mean_rows(c, measures), f"{what}, each task on its own space.")
    if c.main_joint:
        page.table(["task", *c.sides], _mean_rows(c, c.main_joint), "AUC of the joint probability over all exposures.")
    best, fast = c.pareto(), c.pareto(with_speed=True)
    marks: list[Row] = [[side, *(Cell("yes", "good") if side in of else "" for of in (best, fast))] for side in c.sides]
    page.table(["side", "on tasks", "and rows/s"], marks, "Beaten by no other side")
    best_known = c.measures(False, ("attainable_auc",)) + c.measures(True, ("attainable_auc",))
    if best_known:
        side = next(side for side in c.sides if c.by_seed(side, best_known[0]))
        told = [[m.row, estimate_words(c.mean(side, m), ".4f").split(" ")[0]] for m in best_known]
        page.table(["task", "attainable AUC"], told, "What the log's declared truth allows.")


def _mean_rows(c: Comparison, measures: Sequence[Measure]) -> list[Row]:
    return [[m.row, *(estimate_words(c.mean(side, m), m.form) for side in c.sides)] for m in measures]


def _costs(page: Page, c: Comparison) -> None:
    page.section(
        "Speed, memory, size", "Means over runs. rows/s is training's, without start, progress lines and saves."
    )
    keys: list[tuple[str, str, Callable]] = [
        ("rows/s", "rows_per_second", speed_words),
        ("peak memory a rank", "rss_bytes", bytes_words),
        ("dense parameters", "dense_parameters", count_words),
        ("table parameters", "table_parameters", count_words),
        ("FLOPs a row", "flops_per_row", count_words),
    ]
    if any(record["cuda_bytes"] for record in c.records.values()):
        keys.insert(2, ("peak CUDA memory", "cuda_bytes", bytes_words))
    rows = [[side, *(words(c.of_runs(side, key)) for _, key, words in keys)] for side in c.sides]
    page.table(["side", *(head for head, _, _ in keys)], rows)
    if c.others and any(c.of_runs(side, "rows_per_second") for side in c.sides):
        for measures, what in _families(c.main):
            page.figure(
                speed_plot(c, measures), f"Gain in {what} and speed: up and right is better. {c.baseline} is at 0."
            )


def _details(page: Page, c: Comparison) -> None:
    page.section("In detail", "Means over seeds ± half of their 95 % intervals; no test is made of these.")
    for metric, caption in DETAILS.items():
        measures = c.measures(False, (metric,)) + c.measures(True, (metric,))
        if measures:
            page.table(["task", *c.sides], _mean_rows(c, measures), caption)


def _runs(page: Page, c: Comparison) -> None:
    page.section("Runs", "Every value of each, unrounded, is in results.parquet and results.csv.")
    missing = {(side, seed): why for side, seed, why in c.missing}
    rows: list[Row] = []
    for seed in c.seeds:
        for side in c.sides:
            record = c.records.get((side, seed))
            if record is None:
                why = missing.get((side, seed), "not started").splitlines()[0]
                rows.append([side, Cell(why, "bad"), str(seed), "", "", ""])
                continue
            where = f"{record['ranks']} x {record['device']}, {record['precision']}"
            speed = NOTHING if record["rows_per_second"] is None else f"{record['rows_per_second']:,.0f}"
            rows.append([side, where, str(seed), f"{record['step']:,}", speed, duration(record["seconds"])])
    page.table(["side", "ranks", "seed", "steps", "rows/s", "took"], rows, words=2)


def _rules(page: Page, c: Comparison) -> None:
    page.section("How to read it")
    page.text(
        "A seed fixes weights, dropout and the order of rows; the log and the evaluated rows are the same for all. An "
        "interval says how much another seed would move a number, not how much other days would."
    )
    page.text(
        "Intervals are Student's t over seeds. A gain is the side less the baseline of the same seed, with the sign "
        "turned for MSE, so that more is better. Its p-value is that of the two-sided paired t-test."
    )
    page.text(
        "Gained and paid are said where the p-value after Holm's correction is below 0.05: the chance of any false "
        "word among all tasks and sides of a table stays below 5 %. No difference seen does not mean that there is "
        "none: detectable is the least true gain that would have been told from none in four comparisons of five."
    )


def _families(measures: Sequence[Measure]) -> list[tuple[list[Measure], str]]:
    """Measures of one unit together: AUC, then MSE."""
    found = [([m for m in measures if m.metric == metric], metric.upper()) for metric in ("auc", "mse")]
    return [(members, what) for members, what in found if members]
