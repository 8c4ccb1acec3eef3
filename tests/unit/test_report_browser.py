"""Reports in headless Chromium, at a phone's width and a desktop's, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.report.page import Page
from pipeline.run_report.written import report
from tests.browser import PROGRAM, Browser, axe_source
from tests.recorded import made_run, made_week

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="no Chromium on this machine"),
    pytest.mark.skipif(not axe_source(), reason="axe is not installed (requirements/dev.lock)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    a, b = made_run(folder / "a", "one", restart_at=10, fall=0.1), made_run(folder / "b", "two", own=0.25)
    killed = made_run(folder / "c", "killed", None, telemetry=False)
    week = made_week(folder / "week")
    out = {}
    for name, places in {"run": [a], "two": [a, b], "killed": [killed], "week": [week]}.items():
        out[name] = folder / f"{name}.html"
        report([str(place) for place in places]).write(out[name])
    return out


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        ("run", 390, False),
        ("run", 1280, True),
        ("two", 1280, False),
        ("killed", 390, True),
        ("week", 390, True),
        ("week", 1280, False),
    ],
)
def test_the_page_is_sound(browser: Browser, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    seen = browser.look(pages[name], width, dark)
    assert seen.console == []
    assert seen.requests == [pages[name].as_uri()], "nothing else is fetched"
    assert seen.width == width, "nothing stands out to the right"
    assert seen.violations == []
    assert seen.checked > 20


def test_colours_follow_the_scheme(browser: Browser, pages: dict[str, Path]) -> None:
    script = """(() => {
        const fill = query => getComputedStyle(document.querySelector(query)).fill
        return [getComputedStyle(document.body).backgroundColor, fill('svg.chart text'), fill('.heat'),
            getComputedStyle(document.querySelector('svg.chart .line')).stroke]
    })()"""
    seen = []
    for dark in (False, True):
        browser.open(pages["run"], dark=dark)
        seen.append(browser.evaluate(script))
    light, dark_ones = seen
    assert len(light) == 4
    assert all(a != b for a, b in zip(light, dark_ones, strict=True))
    assert (light[0], dark_ones[0]) == ("rgb(246, 247, 249)", "rgb(18, 22, 29)")


def test_a_wide_table_scrolls_and_is_reached_by_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], 390)
    wide = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth)"
    assert browser.evaluate(f"{wide}.length") > 0
    assert browser.evaluate(f"{wide}.every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))")


def test_charts_fit_a_phone_and_words_stay_legible(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"], 390)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg.chart')].map(e => { const box = e.getBoundingClientRect();"
        " return [box.left, box.right, 11 * box.width / 360] })"
    )
    assert len(sizes) > 20
    assert all(left >= 0 and right <= 390 and letter >= 9 for left, right, letter in sizes)


def test_settings_open_without_a_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["run"])
    assert browser.evaluate("document.querySelector('details').open") is False
    browser.evaluate("document.querySelector('summary').click()")
    assert browser.evaluate("document.querySelector('details').open") is True
    assert browser.evaluate("document.scripts.length") == 0


def test_what_is_wrong_with_a_page_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    page = Page("wrong")
    page.figure('<img src="missing.png"><script>throw new Error("boom")</script><p style="width: 99rem">x</p>')
    page.write(tmp_path / "wrong.html")
    seen = browser.look(tmp_path / "wrong.html", 390)
    assert any("boom" in line for line in seen.console)
    assert len(seen.requests) == 2
    assert any(line.startswith("image-alt") for line in seen.violations)
    assert any("missing.png" in line or "Failed to load" in line for line in seen.console)
