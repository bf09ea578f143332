"""The paper's page for a browser, from the tables, cells and pictures that are committed: nothing is measured."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from mho.mapping.reports.page import COLOURS, Page

from .page import CAPTIONS
from .tables import PAPER, TABLES, markdown

NOISES = {
    "mult": "multiplicative noise",
    "add": "additive noise",
    "dropout": "dropout in place of noise",
    "protocol": "the paper's protocol",
}


def web_page(results: Path, images: Path) -> Page:
    """The page of the folders of tables and cells, and of pictures.

    Raises:
        FileNotFoundError: no cells are there.
    """
    cells = pd.read_parquet(results / "cells.parquet")
    page = Page(
        "The paper's tables and figures",
        "Qin and Vucinic, Noisy Computations during Inference: Harmful or Helpful? (2018), its numbers beside ours.",
    )
    page.section("Accuracy over noise", "One inference; a line for each noise in training. The samples of the tables.")
    page.figures({name: _over_noise(group) for name, group in _groups(cells)}, "network and noise", height=460)
    page.section("Accuracy over votes", "Hard votes at the largest noise of inference that was measured with them.")
    voted = cells[cells.groupby("key")["k"].transform("max") > 1]
    page.figures({name: _over_votes(group) for name, group in _groups(voted)}, "network and noise", height=460)
    for number in TABLES:
        path = results / f"table_{number}.csv"
        page.section(f"Table {number}", PAPER[number]["title"])
        page.html(_as_html(markdown(number, pd.read_csv(path))) if path.is_file() else "<p>Not made yet.</p>")
    page.section("Figures")
    for number, caption in CAPTIONS.items():
        path = images / f"paper_figure_{number}.png"
        if path.is_file():
            picture = base64.b64encode(path.read_bytes()).decode()
            text = escape(f"Figure {number}: {caption}.")
            page.html(f'<img src="data:image/png;base64,{picture}" alt="{text}" style="max-width:100%"><p>{text}</p>')
    return page


def _groups(cells: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Cells of each network and noise, of the most samples that each was measured with."""
    found = []
    for (network, noise), group in cells.groupby(["network", "noise"], sort=False):
        key = ["sigma_train", "sigma_val"]
        most = group.groupby(key)["images"].transform("max")
        found.append((f"{network}, {NOISES.get(str(noise), noise)}", group[group["images"] == most]))
    return found


def _lines(group: pd.DataFrame, x: str, y: str) -> list[dict[str, Any]]:
    data = []
    for i, (sigma, line) in enumerate(group.groupby("sigma_train")):
        line = line.sort_values(x)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"sigma_train {sigma:.1f}",
                "x": line[x].tolist(),
                "y": (100 * line[y]).tolist(),
                "line": {"color": COLOURS[i % len(COLOURS)], "dash": ("solid", "dash")[i // len(COLOURS) % 2]},
                "marker": {"symbol": i % 8, "size": 6},
            }
        )
    return data


def _over_noise(group: pd.DataFrame) -> dict[str, Any]:
    layout = {"xaxis": {"title": {"text": "sigma_val"}}, "yaxis": {"title": {"text": "accuracy (%)"}}}
    return {"data": _lines(group[group["k"] == 1], "sigma_val", "single"), "layout": layout}


def _over_votes(group: pd.DataFrame) -> dict[str, Any]:
    noisy = group[group["sigma_val"] == group["sigma_val"].max()]
    title = {"text": f"votes at sigma_val {noisy['sigma_val'].max():.1f}"}
    layout = {"xaxis": {"title": title, "tickformat": "d"}, "yaxis": {"title": {"text": "accuracy (%)"}}}
    return {"data": _lines(noisy, "k", "hard"), "layout": layout}


def _as_html(table: str) -> str:
    """A table of GitHub Markdown as one of HTML."""
    head, _, *rows = [[cell.strip() for cell in line.strip("| \n").split(" | ")] for line in table.split("\n")]
    titles = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row" class="text">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell).replace(' (', '<br>(')}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'
    )
