"""Pictures of Mho's pages for the docs, taken in Chromium.

python benchmarks/screenshots.py [--demo runs/demo] [--out docs/images]

It needs Chromium and playwright, and `make docs` and `make demo` before.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mho
from mho.models import mnist_cnn
from mho.models.data import mnist

WIDTH = 1180


@contextmanager
def browser() -> Iterator[Any]:
    """A page of Chromium to open files in."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise FileNotFoundError("Chromium is not installed")
    with sync_playwright() as player:
        program = player.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield program.new_page(viewport={"width": WIDTH, "height": 900})
        program.close()


def report(page: Any, folder: Path, out: Path) -> None:
    """The page of the MNIST network on ReRAM: its head, and the map of a tile."""
    images, _ = mnist("test")
    chip = mho.map(mnist_cnn(weights="sigma-0.5").eval(), mho.Hardware.preset("reram"), calibrate=images[:256])
    chip.report().save(folder / "report.html", images[:64], tiles=[("conv3", 0)])
    page.goto((folder / "report.html").as_uri())
    for figure in page.locator(".figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    end = page.locator("h2", has_text="Converters").bounding_box()["y"]
    page.screenshot(path=out / "report.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": end - 10}, full_page=True)


def explorer(page: Any, folder: Path, out: Path) -> None:
    """The explorer over the search of docs/optimize.md."""
    page.goto(mho.view("docs/results/search/trials.csv", folder / "view.html").as_uri())
    page.locator("#plot .main-svg").first.wait_for()
    page.locator("#front button").nth(4).click()
    page.evaluate("window.scrollTo(0, 0)")
    end = page.locator("h2", has_text="Filters").bounding_box()["y"]
    page.screenshot(
        path=out / "explorer.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": end + 260}, full_page=True
    )


def demo(page: Any, run: Path, out: Path) -> None:
    """The page of `make demo`, from the votes on."""
    page.goto((run / "report.html").resolve().as_uri())
    for figure in page.locator(".figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".main-svg").first.wait_for()
    page.evaluate("window.scrollTo(0, 0)")
    start, end = page.locator("h2", has_text="Votes").bounding_box()["y"], page.evaluate("document.body.scrollHeight")
    clip = {"x": 0, "y": start - 10, "width": WIDTH, "height": end - start - 40}
    page.screenshot(path=out / "demo.png", clip=clip, full_page=True)


def site(page: Any, out: Path) -> None:
    """The front page of the site that `make docs` built."""
    page.goto(Path("docs/_build/index.html").resolve().as_uri())
    page.screenshot(path=out / "site.png")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        report(page, Path(folder), options.out)
        explorer(page, Path(folder), options.out)
        demo(page, options.demo, options.out)
        site(page, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
