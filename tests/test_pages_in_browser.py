"""Pages in a real browser: they open offline, draw, can be used by keyboard, and say nothing on the console."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import hardware, pictures, small_cnn

import mho

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as player:
        found = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a file, offline; what it says on the console is a failure."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
    said: list[str] = []

    def opened(path: Path) -> Any:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(request.url))
        page.goto(path.as_uri())
        return page

    yield opened
    context.close()
    assert said == []


@pytest.fixture(scope="module")
def chip_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures(), seed=3)
    chip.report().save(path, pictures())
    return path


def figure_of(page: Any, label: str) -> tuple[Any, Any]:
    """The choice with this label, and its figure, once it is drawn."""
    choice = page.get_by_label(label, exact=True).first
    figure = page.locator(f'.figure[data-choice="{choice.get_attribute("id")}"]')
    choice.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()
    return choice, figure


def test_all_figures_of_a_chip_are_drawn(opened: Any, chip_page: Path) -> None:
    page = opened(chip_page)
    figures = page.locator(".figure")
    for k in range(figures.count()):
        figures.nth(k).scroll_into_view_if_needed()
        figures.nth(k).locator(".main-svg").first.wait_for()
        assert figures.nth(k).get_attribute("aria-label")
    assert figures.count() >= 5


def test_a_figure_is_chosen_by_keyboard(opened: Any, chip_page: Path) -> None:
    page = opened(chip_page)
    choice, figure = figure_of(page, "tile")
    shown = "place => [...place.data[0].z[0]].join()"
    first = figure.evaluate(shown)
    choice.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"([place, first]) => ({shown})(place) !== first", arg=[figure.element_handle(), first])


def test_a_cell_says_what_it_is(opened: Any, chip_page: Path) -> None:
    page = opened(chip_page)
    _, figure = figure_of(page, "tile")
    box = figure.locator(".heatmaplayer image").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    figure.locator(".hovertext").first.wait_for()
    said = figure.locator(".hoverlayer").text_content()
    assert "word line" in said
    assert "uS" in said


def test_a_table_is_sorted_by_keyboard(opened: Any, chip_page: Path) -> None:
    page = opened(chip_page)
    head = page.locator("table.sortable thead button", has_text="cells").first
    cells = "() => [...document.querySelectorAll('table.sortable tbody tr')].map(row => +row.children[3].dataset.value)"
    for way in (sorted, lambda values: sorted(values, reverse=True)):
        head.focus()
        page.keyboard.press("Enter")
        found = page.evaluate(cells)
        assert found == way(found)
    assert page.locator('th[aria-sort="descending"]').count() == 1
