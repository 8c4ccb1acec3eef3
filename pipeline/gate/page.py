"""The verdict as a page."""

from typing import Any

from pipeline.gate.plots import deltas_plot
from pipeline.gate.record import AUC, MSE, Comparison, Verdict
from pipeline.gate.terminal import WORDS, headline, in_short
from pipeline.gate.words import METRICS, NOTHING, delta_words, value_words, what
from pipeline.report.page import Cell, Page, Row

TONES = {"worse": "bad", "unsure": "", "better": "good", "level": "quiet", "too_few": "quiet"}
UNITS = {
    "auc": "Fall of the AUC",
    "log_loss": "Rise of the log loss, per cent of the champion's",
    "calibration": "Rise of |ln(calibration)|",
    "mse": "Rise of the MSE, per cent of the champion's",
}


def verdict_page(verdict: Verdict, about: dict[str, Any]) -> Page:
    """The verdict first, then what it rests on."""
    title = "blessed" if verdict.blessed else "refused"
    day = f", {about['day']}" if "day" in about else ""
    page = Page(f"Gate: {title}{day}", headline(verdict))
    for words in in_short(verdict):
        page.text(words, "bad")
    for words in verdict.notes:
        page.text(f"Note: {words}.")
    if about:
        page.numbers([(name, _about_words(value)) for name, value in about.items()])
    metrics = [metric for metric in METRICS if any(c.metric == metric for c in verdict.comparisons)]
    for metric in metrics:
        _metric(page, verdict, [c for c in verdict.comparisons if c.metric == metric])
    if verdict.floors:
        page.section("Floors", "The least AUC of a task on its own space, on all held-out rows.")
        rows: list[Row] = [
            [f.task, f"{f.floor:g}", Cell(value_words(f.auc), "good" if f.met else "bad"), f"{f.positives:,}"]
            for f in verdict.floors
        ]
        page.table(["task", "floor", "challenger", "positives"], rows)
    if verdict.reasons:
        page.section("Reasons", "Every comparison and floor that refuses.")
        for words in verdict.reasons:
            page.text(f"{words}.")
    _rules(page, verdict)
    return page


def _metric(page: Page, verdict: Verdict, comparisons: list[Comparison]) -> None:
    metric = comparisons[0].metric
    page.section(METRICS[metric] if metric in (AUC, MSE) else METRICS[metric].capitalize())
    drawn = [c for c in comparisons if c.low is not None]
    if drawn:
        page.figure(
            deltas_plot(drawn, UNITS[metric]),
            f"{UNITS[metric]}: right of 0 the challenger is worse. The bar is the tolerance, the line the interval "
            "over all comparisons. Refused where the point is right of the bar and the line right of 0.",
        )
    rows: list[Row] = []
    for c in comparisons:
        interval = NOTHING
        if c.low is not None:
            interval = f"{delta_words(metric, c.low)} to {delta_words(metric, c.high)}"
        positives = "" if c.positives is None else f"{c.positives:,}"
        rows.append(
            [
                what(c),
                Cell("level" if c.verdict == "level" else WORDS[c.verdict], TONES[c.verdict], c.note),
                value_words(c.champion),
                value_words(c.challenger),
                delta_words(metric, c.delta),
                delta_words(metric, c.tolerance, signed=False),
                interval,
                delta_words(metric, c.detectable, signed=False),
                f"{c.rows:,}",
                positives,
            ]
        )
    head = ["task", "verdict", "champion", "challenger", "worse by", "tolerated", "interval", "seen from", "rows"]
    page.table([*head, "positives"], rows, words=2)
    for note in dict.fromkeys(f"{what(c)}: {c.note}" for c in comparisons if c.note):
        page.text(note)


def _rules(page: Page, verdict: Verdict) -> None:
    page.section("How to read it")
    critical = "" if verdict.critical is None else f" Here it is {verdict.critical:.2f}."
    page.text(
        "Both models predicted the same held-out rows, which neither was trained on. Worse is said of a loss that is "
        "larger than tolerated and that noise does not explain: the interval, at the declared confidence over all "
        f"comparisons together ({100 * verdict.confidence:g} %), lies above 0. Unsure is a loss larger than tolerated "
        "that may be noise."
    )
    page.text(
        f"Noise is that of users: {verdict.resamples:,} resamples of whole users, the same ones for every comparison. "
        "An interval is the delta plus and minus its standard error times a critical value that allows for the number "
        f"of comparisons and for how they depend on each other.{critical}"
    )
    page.text(
        "Seen from is the least true loss that would be refused with a chance of 80 %. Where it is far above the "
        "tolerance the rows are few: hold out more, or judge fewer slices."
    )


def _about_words(value: Any) -> str:
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
