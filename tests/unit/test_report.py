"""A report's page: everything it is told, nothing that it fetches, no markup but its own."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.report.page import Cell, Page
from pipeline.report.plots import drawing


class Tags(HTMLParser):
    """Which tags open and close, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def plot() -> str:
    with drawing("losses & gains", 4, 3) as (drawn, axes):
        axes.plot([1, 2, 3], [0.1, 0.2, 0.15], label="ple")
        axes.legend()
    return drawn.svg


def filled() -> Page:
    page = Page("A & B <b>", "what it is")
    page.section("Tasks", "how to read it")
    page.text("a warning", "bad")
    page.numbers([("rows", "1,000")])
    page.table(["task", "AUC"], [["click", Cell("0.75", "good", "five seeds")], ["<script>", "0.5"]], "by task")
    page.figure(plot(), "the plot")
    return page


def test_the_page_is_whole_and_fetches_nothing() -> None:
    text = filled().html()
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    names = {tag for tag, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "image"}
    assert not re.search(r"(?:src|href)=\"(?!#)", text), "only its own parts are named"
    assert "@import" not in text
    assert "url(http" not in text


def test_words_are_never_markup() -> None:
    text = filled().html()
    assert "A &amp; B &lt;b&gt;" in text
    assert "&lt;script&gt;" in text
    assert '<td class="good" title="five seeds">0.75</td>' in text
    assert 'aria-label="losses &amp; gains"' in text


def test_a_plot_keeps_its_text_and_is_the_same_each_time() -> None:
    svg = plot()
    assert svg == plot()
    assert svg.startswith("<svg ")
    assert re.search(r"<text[^>]*>ple</text>", svg)


def test_a_tall_plot_is_not_shrunk_to_a_screen() -> None:
    with drawing("many lines", 4, 20) as (tall, _):
        pass
    assert tall.svg.startswith('<svg class="tall" ')
    assert 'class="tall"' not in plot()
    assert re.search(r"svg\.tall \{ max-height: none;", filled().html())


def test_it_is_written_whole(tmp_path: Path) -> None:
    filled().write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == filled().html()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError, match="another length"):
        Page("x").table(["a", "b"], [["1"]])
