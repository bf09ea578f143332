"""Pages in a real browser: they open offline, draw, can be used by keyboard, and say nothing on the console."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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


@pytest.mark.parametrize("which", [0, 1])
def test_a_cell_says_what_it_is(opened: Any, chip_page: Path, which: int) -> None:
    """In both maps: its place, its conductance and its error."""
    page = opened(chip_page)
    _, figure = figure_of(page, "tile")
    box = figure.locator(".heatmaplayer image").nth(which).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    figure.locator(".hovertext").first.wait_for()
    said = figure.locator(".hoverlayer").text_content().replace("\N{MINUS SIGN}", "-")
    found = re.fullmatch(r"word line (\d+), bit line (\d+)conductance (\S+) uSerror (\S+) uS", said)
    assert found, said
    row, column = int(found[1]), int(found[2])
    z = figure.evaluate("(place, [r, c]) => place.data.map((trace) => trace.z[r][c])", [row, column])
    assert (float(found[3]), float(found[4])) == pytest.approx(z, rel=5e-3)


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


def test_a_point_of_a_sweep_runs_again(opened: Any, tmp_path: Path) -> None:
    asked = {"experiment": "accuracy", "model": "mnist_cnn", "weights": "sigma-0.5", "images": 20, "calibrate": 10}
    grid = {"sensing.v_read": [0.01, 0.2], "votes": [1, 2], "vote_error": [None, 0.1], "rule": ["soft"]}
    table = mho.sweep({**asked, "hardware": "reram", "grid": grid}, out=tmp_path / "run")
    page = opened(mho.view(tmp_path / "run"))
    page.locator("#plot .main-svg").first.wait_for()
    assert page.locator("#count").text_content().startswith("8 of 8 rows")
    page.get_by_role("group", name="votes", exact=True).get_by_label("1", exact=True).uncheck()
    assert page.locator("#count").text_content().startswith("4 of 8 rows")
    page.locator("#front button").first.press("Enter")
    text = page.locator("#yaml").text_content()
    (tmp_path / "point.yaml").write_text(text)
    again = mho.sweep(tmp_path / "point.yaml", out=tmp_path / "again")
    (row,) = table[table["task_id"] == again["task_id"][0]].to_dict("records")
    assert row["votes"] == 2
    assert row["accuracy"] == again["accuracy"][0]
    with page.expect_download() as saved:
        page.get_by_role("button", name="save as point.yaml").click()
    assert saved.value.path().read_text() == text


def test_the_front_is_of_what_stays(opened: Any, tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "votes": [1, 1, 2, 2, 5],
            "accuracy": [0.5, 0.4, 0.7, 0.9, 0.8],
            "total_energy_j": [1e-6, 2e-6, 3e-6, 4e-6, 5e-6],
        }
    ).to_csv(tmp_path / "t.csv", index=False)
    page = opened(mho.view(tmp_path / "t.csv"))
    page.locator("#plot .main-svg").first.wait_for()
    front = "() => [...document.querySelectorAll('#front tbody tr')].map(row => +row.cells[1].textContent)"
    assert page.evaluate(front) == [0.5, 0.7, 0.9]
    page.get_by_role("group", name="votes", exact=True).get_by_label("2", exact=True).uncheck()
    assert page.evaluate(front) == [0.5, 0.8]
    page.locator("#better-y").select_option("low")
    assert page.evaluate(front) == [0.5, 0.4]
    page.locator("#x").select_option("votes")
    page.locator("#colour").select_option("")
    assert page.evaluate("() => document.getElementById('plot').data[0].x") == [1, 1, 5]
    assert page.evaluate("() => document.getElementById('plot').layout.xaxis.ticktext") == ["1", "5"]


def test_a_hundred_thousand_rows_open(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = 100_000
    table = {"votes": rng.integers(1, 9, many), "accuracy": rng.random(many), "total_energy_j": rng.random(many)}
    pd.DataFrame(table).to_parquet(tmp_path / "t.parquet")
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(mho.view(tmp_path / "t.parquet").as_uri())
    page.locator("#plot canvas").first.wait_for()
    assert page.locator("#count").text_content().startswith("100,000 of 100,000 rows")
    page.get_by_role("group", name="votes", exact=True).get_by_label("1", exact=True).uncheck()
    assert page.locator("#count").text_content().startswith(f"{int((table['votes'] != 1).sum()):,} of")
    page.close()
