"""The page of a demonstration: accuracies, votes and errors of all chips, and links to the page of each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from .figures import NAMES
from .mapping.reports.page import COLOURS, Figure, Page, axis_of_votes

PLACES = ("ideal", "reram", "pcm", "nand", "paper 0.6")  # each has the colour of its place


def demo_page(accuracy: pd.DataFrame, votes: pd.DataFrame, errors: pd.DataFrame, chips: Sequence[str]) -> Page:
    """The page of the tables of a demonstration (see `mho.demo.Results`); `chips` have pages beside it."""
    page = Page("Mho: trained networks on simulated chips", "What mho demo found, on real MNIST test images.")
    page.section("Chips", "Each chip has its own page: network, tiles down to single cells, converters, errors, costs.")
    links = "".join(f'<li><a href="{name}.html">{escape(NAMES.get(name, name))}</a></li>' for name in chips)
    page.html(f"<ul>{links}</ul>")
    page.section("Accuracy", "Shares of the test images that are classified right, with 95 % intervals (Wilson).")
    shown = accuracy[["weights", "hardware", "inference", "images"]].copy()
    shown["hardware"] = [NAMES.get(name, name) for name in shown["hardware"]]
    for name in ("accuracy", "low", "high"):
        shown[f"{name}, %"] = 100 * accuracy[name]
    page.table(shown, text=("weights", "hardware", "inference"))
    page.section(
        "Votes",
        "Votes average the noise of reads. Programming errors stay the same in every read.",
    )
    page.figures({f"weights {name}": _votes(group) for name, group in votes.groupby("weights", sort=False)}, "network")
    page.section("Errors of layers", "RMS error of the outputs of each layer in one noisy read, relative to their RMS.")
    page.figures(
        {f"weights {name}": _errors(group) for name, group in errors.groupby("weights", sort=False)}, "network"
    )
    return page


def _votes(table: pd.DataFrame) -> Figure:
    data = []
    for name, group in table.groupby("hardware", sort=False):
        k = PLACES.index(str(name))
        spread = {"type": "data", "symmetric": False, "thickness": 0.8, "width": 2}
        spread["array"] = 100 * (group["high"] - group["accuracy"])
        spread["arrayminus"] = 100 * (group["accuracy"] - group["low"])
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": NAMES.get(str(name), str(name)),
                "x": group["votes"],
                "y": 100 * group["accuracy"],
                "error_y": spread,
                "line": {"color": COLOURS[k]},
                "marker": {"symbol": k, "size": 7},
            }
        )
    layout = {"xaxis": axis_of_votes(int(table["votes"].max())), "yaxis": {"title": {"text": "accuracy (%)"}}}
    return {"data": data, "layout": layout}


def _errors(table: pd.DataFrame) -> Figure:
    data = [
        {"type": "bar", "name": NAMES.get(str(name), str(name)), "x": group["layer"], "y": 100 * group["error"]}
        | {"marker": {"color": COLOURS[PLACES.index(str(name))]}}
        for name, group in table.groupby("hardware", sort=False)
    ]
    return {"data": data, "layout": {"yaxis": {"title": {"text": "error (%)"}}, "barmode": "group"}}
