"""The page of days of retraining: what happened to each, to which task, and what to do."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.gate.record import ALL, AUC, JOINT, MSE, Comparison
from pipeline.report.charts import Bar, Dot, Line, bar_chart, line_chart
from pipeline.report.page import Cell, Chart, Page, Row
from pipeline.report.text import duration
from pipeline.run_report.days import Day, Days
from pipeline.run_report.findings import findings
from pipeline.run_report.learning import learning_curves, spoken
from pipeline.run_report.runs_page import details
from pipeline.run_report.settings import configuration, meanings
from pipeline.run_report.words import NOTHING, count, interval, number

TONES = {"better": "good", "worse": "bad"}
SAID = {"better": "gained", "level": "level", "worse": "pays", "unsure": "perhaps pays", "too_few": "too few rows"}
"""The gate's words."""


def days_page(told: Days) -> Page:
    """What happened on every day first, then each task over the days, then each day by itself."""
    days = told.days
    span = days[0].name if len(days) == 1 else f"{days[0].name} to {days[-1].name}"
    named = next(
        (day.run.name.removesuffix(f".{day.name}") for day in reversed(days) if day.run is not None), "Daily retraining"
    )
    page = Page(f"{named}: {span}", "Daily retraining, from its ledger and its own records.", contents=True)
    _summary(page, told)
    _table(page, told)
    _fresh(page, days)
    _held(page, days)
    _data(page, days)
    for day in reversed(days):
        _one(page, day, told, alone=len(days) == 1)
    if any(day.run is not None for day in days):
        configuration(page, [next(day.run for day in reversed(days) if day.run is not None)])
    meanings(page)
    return page


def _summary(page: Page, told: Days) -> None:
    page.section("What happened")
    words = Counter(day.outcome()[0] for day in told.days)
    counted = ", ".join(f"{n} {word}" for word, n in words.items())
    champion = f"Champion is now {told.champion}." if told.champion else "There is no champion yet."
    good = set(words) <= {"promoted", "skipped"}
    page.text(f"{len(told.days)} day{'s' * (len(told.days) != 1)}: {counted}. {champion}", "good" if good else "bad")
    if told.earlier:
        page.text(f"{told.earlier} earlier days are not shown (--days).", "quiet")
    page.part("What needs a person")
    points = []
    for day in told.days:
        todo = day.todo(told.champion)
        if todo and not todo.startswith("Nothing"):
            points.append((f"{day.name} {day.outcome()[0]}. {_brief(day.why())} {todo}", "bad"))
    if in_a_row := told.in_a_row():
        points.append((in_a_row, "bad"))
    if points:
        page.points(points)
    else:
        page.text("Nothing.", "quiet")
    notes = [(words, "") for day in told.days for words in _notes(day)]
    if notes:
        page.part("Worth knowing")
        page.points(notes)


def _brief(why: str) -> str:
    """The first two lines, as sentences."""
    lines = sorted((line for line in why.splitlines() if line), key=lambda line: "floor" not in line)[:2]
    more = len([line for line in why.splitlines() if line]) - len(lines)
    return " ".join(line.rstrip(".") + "." for line in lines) + (f" And {more} more." if more > 0 else "")


def _notes(day: Day) -> list[str]:
    out = []
    late = day.done.get("freeze", {}).get("late") or {}
    files = sum(len(names) for names in late.values())
    if files:
        trained = sum(len(names) for names in day.done["freeze"]["late_trained"].values())
        out.append(
            f"{day.name}: {files} file{'s' * (files != 1)} came after their day was frozen; {trained} of them trained "
            "with it."
        )
    by_rule: dict[str, list[str]] = {}
    for rule, words in day.accepted():
        by_rule.setdefault(rule.partition(":")[0], []).append(words)
    for found in by_rule.values():
        more = f" And {len(found) - 1} more of this rule." if len(found) > 1 else ""
        out.append(f"{day.name}: a person accepted: {found[0].rstrip('.')}.{more}")
    if day.place.attempt > 1:
        out.append(f"{day.name}: attempt {day.place.attempt} at the day; those before it lie beside it.")
    return out


def _table(page: Page, told: Days) -> None:
    page.section(
        "Day by day",
        "A day is trained only after the days before it; a refused challenger leaves the champion as it is.",
    )
    rows: list[Row] = []
    for day in told.days:
        word, tone = day.outcome()
        words = [_brief(day.why()) or NOTHING, day.todo(told.champion) or NOTHING]
        counts = [day.done.get("wait", {}).get("rows"), day.done.get("train", {}).get("samples")]
        rows.append([day.name, Cell(word, tone), *words, *map(count, counts)])
    columns = ["day", "outcome", "why", "what to do", "rows of the day", "rows trained"]
    page.table(columns, rows, "What became of each day.", words=4)


def _fresh(page: Page, days: Sequence[Day]) -> None:
    page.section(
        "The champion on each new day",
        "Before anything was trained on the day: what the model in use was worth on it. A day without a value has no "
        "champion, or did not come as far.",
    )
    told = {day.name: _rows(day.done.get("score", {}).get("tasks") or {}) for day in days}
    if not any(told.values()):
        page.text("No day was scored yet.", "quiet")
        return
    _over_days(page, days, told)
    rows = list(dict.fromkeys(row for one in told.values() for row in one))
    cells: list[Row] = [[day.name, *(_main(told[day.name].get(row)) for row in rows)] for day in days]
    page.table(["day", *rows], cells, "AUC of the champion on all rows of the day (MSE of a regression task).")


def _rows(tasks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Row of the closing table -> its metrics."""
    own = {name: spaces["own"] for name, spaces in tasks.items()}
    return own | {f"{name} (joint)": spaces["joint"] for name, spaces in tasks.items() if "joint" in spaces}


def _main(metrics: dict[str, Any] | None) -> str:
    return NOTHING if metrics is None else number(metrics.get("mse", metrics.get("auc")))


def _over_days(page: Page, days: Sequence[Day], told: dict[str, dict[str, dict[str, Any]]]) -> None:
    if len(days) < 2:
        return
    charts = []
    for row in dict.fromkeys(row for one in told.values() for row in one):
        key = "mse" if any("mse" in told[day.name].get(row, {}) for day in days) else "auc"
        points = [(float(n), told[day.name].get(row, {}).get(key)) for n, day in enumerate(days)]
        dots = []
        for n, day in enumerate(days):
            one = told[day.name].get(row, {})
            if one.get(key) is not None:
                dots.append(Dot(day.name, n, one[key], one.get(f"{key}_low"), one.get(f"{key}_high")))
        line = [Line(row, points)]
        charts.append(
            Chart(f"{row}, {key.upper()}", line_chart(spoken(row, line), line, dots, ticks=_ticks(days), what="day"))
        )
    page.charts(charts)


def _ticks(days: Sequence[Day]) -> list[tuple[float, str]]:
    return [(float(n), f"{day.place.day:%m-%d}") for n, day in enumerate(days)]


def _held(page: Page, days: Sequence[Day]) -> None:
    page.section(
        "Challenger against champion",
        "On held-out rows that neither has trained on: what the day's training gained (+) or cost (-) each task, in "
        "AUC; a regression task in per cent of the champion's MSE. Green is a gain and red a loss beyond noise and "
        "tolerance.",
    )
    judged = [
        day for day in days if day.verdict is not None and any(c.champion is not None for c in day.verdict.comparisons)
    ]
    if not judged:
        page.text("No day has compared two models yet.", "quiet")
        return
    names = list(dict.fromkeys(_row_of(c) for day in judged for c in main_comparisons(day)))
    rows: list[Row] = []
    for day in days:
        by_row = {_row_of(c): c for c in main_comparisons(day)}
        rows.append([day.name, Cell(*day.outcome()), *(_gain_cell(by_row.get(name)) for name in names)])
    page.table(["day", "outcome", *names], rows, "Gain of the challenger over the champion.", words=2)
    held: list[Row] = [[day.name, why] for day in judged for why in day.done.get("gate", {}).get("reasons", [])]
    if held:
        page.table(["day", "why it was refused"], held, "What the gate held against it, calibration too.", words=2)


def main_comparisons(day: Day) -> list[Comparison]:
    """Of all held-out rows, by the metric that a task is read by."""
    if day.verdict is None:
        return []
    return [c for c in day.verdict.comparisons if c.slice == ALL and c.metric in (AUC, MSE)]


def _row_of(c: Comparison) -> str:
    return f"{c.task} (joint)" if c.space == JOINT else c.task


def _gain(c: Comparison, value: float | None) -> float | None:
    """A delta, above 0 where the challenger is worse, as a gain; of the MSE in per cent."""
    return None if value is None else -value * (1 if c.metric == AUC else 100) + 0.0


def _form(c: Comparison) -> str:
    return "+.4f" if c.metric == AUC else "+.2f"


def _gain_cell(c: Comparison | None) -> Cell:
    if c is None or c.delta is None:
        return Cell(NOTHING, hint="" if c is None else c.note)
    gain = _gain(c, c.delta)
    return Cell(f"{gain:{_form(c)}}" + " %" * (c.metric == MSE), TONES.get(c.verdict, "quiet"), SAID[c.verdict])


def _data(page: Page, days: Sequence[Day]) -> None:
    page.section(
        "The days' rows", "As the checks found them; a day that failed them has no statistics, and its reason is above."
    )
    stats = {day.name: s for day in days if (s := day.done.get("validate", {}).get("statistics")) is not None}
    if not stats:
        page.text("No day has passed its checks yet.", "quiet")
        return
    tasks = list(dict.fromkeys(task for one in stats.values() for task in one["tasks"]))
    if len(days) > 1:
        said: list[tuple[str, Callable[[dict[str, Any]], float], str]] = [("rows", lambda s: s["rows"], ",.0f")]
        said += [(f"rate of {task}", lambda s, t=task: s["tasks"].get(t, {}).get("mean"), ".4f") for task in tasks]  # type: ignore[misc]
        charts = []
        for title, value, form in said:
            points = [(float(n), value(stats[day.name]) if day.name in stats else None) for n, day in enumerate(days)]
            line = [Line(title, points)]
            dots = [Dot(days[int(x)].name, x, y) for x, y in points if y is not None]
            charts.append(
                Chart(title, line_chart(spoken(title, line), line, dots, form=form, ticks=_ticks(days), what="day"))
            )
        page.charts(charts)
    rows: list[Row] = []
    for day in days:
        one = stats.get(day.name)
        if one is None:
            rows.append([day.name, *[NOTHING] * (len(tasks) + 2)])
            continue
        worst = max(one["unknown"].items(), key=lambda item: item[1]["mean"] or 0, default=None)
        unknown = NOTHING if worst is None or not worst[1]["mean"] else f"{worst[0]} {worst[1]['mean']:.2%}"
        rates = [number(one["tasks"].get(task, {}).get("mean")) for task in tasks]
        rows.append([day.name, count(one["rows"]), *rates, unknown])
    head = ["day", "rows", *(f"rate of {task}" for task in tasks), "most unknown ids"]
    page.table(head, rows, "Rows and label rates, each on the task's own space (a regression task: mean).")


def _one(page: Page, day: Day, told: Days, alone: bool) -> None:
    word, tone = day.outcome()
    page.section(f"{day.name}: {word}")
    page.text(day.why() or word, tone if tone != "quiet" else "")
    if todo := day.todo(told.champion):
        page.text(todo)
    if not day.done and day.run is None:
        return
    _steps(page, day)
    _verdict(page, day)
    if day.run is None:
        return
    if found := findings(day.run):
        page.part(f"Its training: what to look at ({day.name})")
        page.points([(words, "bad") for words in found])
    if alone:
        details(page, [day.run])
    else:
        curves = Page("")
        learning_curves(curves, [day.run])
        page.inside(curves, f"Its training's learning curves ({day.name})")


def _steps(page: Page, day: Day) -> None:
    if not day.done:
        return
    span = day.done.get("wait", {}).get("span", {})
    train = day.done.get("train", {})
    seconds = sum(facts.get("seconds", 0) for facts in day.done.values())
    last = list(day.done)[-1]
    page.numbers(
        [
            ("champion before", span.get("champion") or "none"),
            ("days to train on", ", ".join(span.get("days", [])) or NOTHING),
            ("rows trained", count(train.get("samples"))),
            ("steps of training", count(train.get("step"))),
            ("took", duration(seconds)),
            ("last committed step", last),
        ]
    )


def _verdict(page: Page, day: Day) -> None:
    if day.verdict is None:
        return
    charts = []
    for metric, title in ((AUC, "Gain in AUC over the champion"), (MSE, "Gain over the champion's MSE, per cent")):
        bars = []
        for c in main_comparisons(day):
            if c.metric == metric and (gain := _gain(c, c.delta)) is not None:
                tone = TONES.get(c.verdict, "quiet")
                bars.append(Bar(_row_of(c), gain, _gain(c, c.high), _gain(c, c.low), tone, _gain(c, c.tolerance)))
        if bars:
            form = "+.4f" if metric == AUC else "+.2f"
            charts.append(Chart(f"{title}, {day.name}", bar_chart(f"{title} on {day.name}, by task", bars, form)))
    if charts:
        page.charts(charts)
        page.text("The thin line is the interval; the upright tick is what is tolerated as a loss.", "quiet")
    rows: list[Row] = [
        [
            _row_of(c),
            number(c.champion),
            number(c.challenger),
            _gain_cell(c),
            count(c.rows),
            Cell(SAID[c.verdict], TONES.get(c.verdict, "")),
        ]
        for c in main_comparisons(day)
    ]
    if rows:
        page.table(
            ["task", "champion", "challenger", "gain", "rows", "the gate says"],
            rows,
            f"{day.name}: AUC (MSE of a regression task) on held-out rows. In full: days/{day.name}/verdict.html.",
        )
    if day.verdict.floors:
        cells: list[Row] = [
            [f.task, f"{f.floor:g}", Cell(number(f.auc), "good" if f.met else "bad")] for f in day.verdict.floors
        ]
        page.table(["task", "floor", "AUC"], cells, f"{day.name}: the least AUC that a challenger must have.")
    own = day.done.get("evaluate", {}).get("challenger")
    if not rows and own:
        cells = [
            [row, count(m.get("rows")), _main(m), interval(m, "mse" if "mse" in m else "auc")]
            for row, m in _rows(own).items()
        ]
        page.table(["task", "rows", "AUC or MSE", "95 % interval"], cells, f"{day.name}: its model on held-out rows.")
