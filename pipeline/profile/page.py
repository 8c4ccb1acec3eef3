"""A profile as a page: its sections with plots between them. No torch."""

from collections.abc import Callable

import numpy as np

from pipeline.profile.lines import Profile
from pipeline.profile.tables import Section, sections
from pipeline.report.page import Page
from pipeline.report.plots import drawing

TOLD_BARS = 10


def page(p: Profile) -> Page:
    """The whole page."""
    days = p.first if p.first == p.last else f"{p.first} to {p.last}"
    out = Page(f"Profile of {p.name}", f"{p.path}, {days}")
    out.numbers(
        [
            ("rows", f"{p.rows:,}"),
            ("days", f"{len(p.days):,}"),
            ("files", f"{p.files:,}"),
            ("row groups", f"{p.row_groups:,}"),
            ("columns", f"{len({c.column for c in p.missing}):,}"),
            ("findings", f"{len(sections(p)[0].warnings):,}"),
        ]
    )
    plots: dict[str, Callable[[Page, Profile], None]] = {
        "Days": _days,
        "Pairs of tasks": _correlation,
        "What one column alone tells": _told,
    }
    for section in sections(p):
        _section(out, section)
        if section.title in plots:
            plots[section.title](out, p)
    return out


def _section(out: Page, section: Section) -> None:
    out.section(section.title, section.note)
    for words in section.warnings:
        out.text(words, "bad")
    for table in section.tables:
        out.table(table.head, table.rows, table.caption, table.words)
    for words in section.remarks:
        out.text(words)


def _days(out: Page, p: Profile) -> None:
    binary = [t for t in p.tasks if t.kind == "binary"]
    if len(p.days) < 2 or not binary:
        return
    with drawing("Rate of each task by day", 6.4, 3.4) as (drawn, axes):
        for task in binary:
            rates = [day.own_rate[task.name] for day in p.days]
            axes.plot(
                range(len(rates)),
                [np.nan if rate is None else 100 * rate for rate in rates],
                marker="o",
                markersize=4,
                label=task.name + (f" | {task.given}" if task.given else ""),
            )
        places = sorted({round(n) for n in np.linspace(0, len(p.days) - 1, 6)})
        axes.set_xticks(places, [p.days[n].day[5:] for n in places])
        axes.set_ylabel("rate, %")
        axes.set_ylim(bottom=0)
        axes.legend(ncols=2, fontsize=9)
    out.figure(drawn.svg, "The rate of each task on its own space, by day.")


def _correlation(out: Page, p: Profile) -> None:
    names = [t.name for t in p.tasks]
    side = min(6.4, 2.2 + 0.7 * len(names))
    shown = np.array([[np.nan if x is None else x for x in row] for row in p.correlation])
    with drawing("Correlation of the tasks' labels", side, side * 0.8) as (drawn, axes):
        axes.grid(False)
        axes.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), names)
        for i, row in enumerate(shown):
            for j, x in enumerate(row):
                colour = "#ffffff" if abs(x) > 0.6 else "#1c2430"
                axes.text(j, i, "" if np.isnan(x) else f"{x:.2f}", ha="center", va="center", color=colour, fontsize=9)
    out.figure(drawn.svg, "How the labels go together over exposures.")


def _told(out: Page, p: Profile) -> None:
    tasks = [t.name for t in p.tasks if any(x.task == t.name and not x.regression for x in p.told)]
    best: dict[str, float] = {}
    for x in p.told:
        if not x.regression:
            best[x.column] = max(best.get(x.column, 0.0), x.score)
    shown = sorted(best, key=lambda column: -best[column])[:TOLD_BARS][::-1]
    if not shown:
        return
    with drawing("AUC that one column reaches alone", 6.4, 1.2 + 0.32 * len(shown)) as (drawn, axes):
        for task in tasks:
            scores = {x.column: x.score for x in reversed(p.told) if x.task == task and not x.regression}
            axes.scatter([scores.get(column, np.nan) for column in shown], range(len(shown)), s=28, label=task)
        axes.axvline(p.rules.leak_auc, color="#b2182b", linestyle="--", linewidth=1)
        axes.set_yticks(range(len(shown)), shown)
        axes.set_xlim(0.48, 1.01)
        axes.set_xlabel("AUC alone, out of sample")
        axes.legend(ncols=min(4, len(tasks)), fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    out.figure(drawn.svg, f"The dashed line is where a column becomes a suspect ({p.rules.leak_auc:g}).")
