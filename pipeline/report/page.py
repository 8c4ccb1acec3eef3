"""A report as one HTML file: text, tables and plots, no script and nothing fetched, from a phone's width up."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = "page.html"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that says more than its text."""

    text: str
    tone: str = ""
    """good, bad or quiet: its colour."""
    hint: str = ""
    """Shown where a pointer rests on it."""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A small chart of charts.py or heat.py, under its own heading."""

    title: str
    svg: str
    legend: Sequence[str] = ()
    """Its lines' names in the order of their series, where the charts beside it have other ones."""


Row = Sequence["str | Cell"]


class Page:
    """Filled from top to bottom, then written. Everything it is given is text; only a figure's svg is markup."""

    def __init__(self, title: str, lead: str = "", contents: bool = False) -> None:
        """`contents` lists the sections on top, where there are many."""
        self.title, self.lead, self._contents = title, lead, contents
        self._blocks: list[dict[str, Any]] = []

    def section(self, title: str, note: str = "") -> None:
        """Begins a section, with a line that says how to read it."""
        number = 1 + sum(block["kind"] == "section" for block in self._blocks)
        self._blocks.append({"kind": "section", "title": title, "note": note, "id": f"section-{number}"})

    def part(self, title: str, note: str = "") -> None:
        """Begins a part of a section."""
        self._blocks.append({"kind": "part", "title": title, "note": note})

    def text(self, words: str, tone: str = "") -> None:
        """A paragraph; `tone` bad for a warning."""
        self._blocks.append({"kind": "text", "words": words, "tone": tone})

    def points(self, points: Sequence[tuple[str, str]]) -> None:
        """A list of (words, tone)."""
        self._blocks.append({"kind": "points", "points": list(points)})

    def numbers(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Key numbers, as (what, value)."""
        self._blocks.append({"kind": "numbers", "pairs": list(pairs)})

    def table(self, columns: Sequence[str], rows: Sequence[Row], caption: str = "", words: int = 1) -> None:
        """A table whose first `words` columns are text, the others numbers. It scrolls where it is too wide."""
        cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
        assert all(len(row) == len(columns) for row in cells), f"{columns}: a row of another length"
        self._blocks.append(
            {"kind": "table", "columns": list(columns), "rows": cells, "caption": caption, "words": words}
        )

    def figure(self, svg: str, caption: str = "") -> None:
        """A plot of `pipeline.report.plots`."""
        self._blocks.append({"kind": "figure", "svg": svg, "caption": caption})

    def charts(self, charts: Sequence[Chart], legend: Sequence[str] = ()) -> None:
        """Small charts side by side, and the lines that they share: its names in the order of their series."""
        self._blocks.append({"kind": "charts", "charts": list(charts), "legend": list(legend)})

    def terms(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Words and what they mean."""
        self._blocks.append({"kind": "terms", "pairs": list(pairs)})

    def details(self, summary: str, text: str) -> None:
        """Preformatted text behind a line that opens it."""
        self._blocks.append({"kind": "details", "summary": summary, "text": text})

    def inside(self, other: "Page", summary: str) -> None:
        """Takes over what another page holds, behind a line that opens it; its sections become parts."""
        blocks = [block | ({"kind": "part"} if block["kind"] == "section" else {}) for block in other._blocks]
        self._blocks += [{"kind": "open", "summary": summary}, *blocks, {"kind": "close"}]

    def html(self) -> str:
        """The whole page."""
        loader = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        sections = [block for block in self._blocks if block["kind"] == "section"] if self._contents else []
        return environment.get_template(TEMPLATE).render(
            title=self.title, lead=self.lead, blocks=self._blocks, contents=sections
        )

    def write(self, path: Path) -> None:
        """Writes the page; a reader finds the old one or the new one, never a part."""
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        draft.write_text(self.html(), encoding="utf-8")
        os.replace(draft, path)
