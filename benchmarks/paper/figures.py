"""The figures of the paper, drawn from cells, logs and samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .cells import SLOW, Cell, softmax_of_one, test_set, trained
from .tables import PAPER, SIGMA_VAL, Grid, shown

SHOWN_RUNS = 10_000
MANY_VOTES = 100
OUTPUT_BINS = 50
SIX, SIXES = 6, ("sigma-0.0", "sigma-1.0")  # the digit of Figures 4 and 5, and their weights
NAMES = {"best": "best training", "clean": "trained without noise"}


def errors(grid: Grid, tables: list[int]) -> Figure:
    """Error rate over sigma_val, a curve per sigma_train and a panel per table: Figures 2 and 6 to 10."""
    figure = Figure(figsize=(5.5 * len(tables), 5.0), layout="constrained")
    for axis, number in zip(np.atleast_1d(figure.subplots(1, len(tables), sharey=True)), tables, strict=True):
        (network, noise), voted = shown(number), "of" in PAPER[number]
        for weights in trained(network, noise):
            cells = [grid.every(network).cell(Cell(network, weights, sigma)) for sigma in SIGMA_VAL]
            right = [float(cell["hard"].iloc[-1] if voted else cell["single"].mean()) for cell in cells]
            sigma_train = cells[0]["sigma_train"].iloc[0]
            wrong = [max(1 - r, 0.5 / cell["images"].iloc[0]) for r, cell in zip(right, cells, strict=True)]
            axis.plot(SIGMA_VAL, wrong, ".-", color=_colour(sigma_train), label=f"sigma_train {sigma_train}")
        if axis.lines:
            _of_paper(axis, number)
        axis.set_yscale("log")
        axis.set_xlabel("sigma_val")
        axis.set_ylabel("error rate")
        kind = "multiplicative" if noise == "mult" else "additive"
        runs = f"{grid.quick.runs} votes" if voted else "one inference"
        samples = grid.every(network).size(network)[1]
        axis.set_title(f"{network}, {kind} noise, {runs}, {samples:,} samples", fontsize="medium")
        if axis.lines:
            axis.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)  # off the points
    return figure


def _of_paper(axis: Axes, number: int) -> None:
    """The numbers of the paper's table as points: its best training, and that without noise."""
    rows = {"best": "o", "clean": "x"}
    for row, marker in rows.items():
        if row in PAPER[number]:
            wrong = 1 - np.array(PAPER[number][row]) / 100
            axis.plot(SIGMA_VAL, wrong, f"k{marker}", fillstyle="none", label=f"the paper's, {NAMES[row]}")


def how_noise_enters() -> Figure:
    """Figure 1: a layer with noise, as a drawing."""
    figure = Figure(figsize=(9, 2.2), layout="constrained")
    axis = figure.subplots()
    box = {"boxstyle": "square,pad=0.6", "facecolor": "white"}
    for place, text in enumerate(("x", "W x + b", "batch norm\n(in the CNN)", "noise", "nonlinearity", "next layer")):
        axis.text(place, 0, text, ha="center", va="center", bbox=box if 0 < place < 5 else None)
        if place:
            axis.annotate("", (place - 0.36, 0), (place - 0.64, 0), arrowprops={"arrowstyle": "->"})
    axis.annotate("", (3, 0.3), (3, 0.8), arrowprops={"arrowstyle": "->"})
    said = "multiplicative: y z with z ~ N(1, sigma$^2$)     additive: y + z with z ~ N(0, sigma$^2$)"
    axis.text(3, 0.9, f"{said}\na z of its own for each output in each inference", ha="center", va="bottom")
    axis.set_xlim(-0.3, 5.5)
    axis.set_ylim(-0.5, 1.6)
    axis.set_axis_off()
    return figure


def learning_curves(table: pd.DataFrame) -> Figure:
    """Figure 3: accuracy and loss on the test set over minibatches, a curve per sigma_train."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axis, column in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for sigma, rows in table.groupby("sigma_train"):
            axis.plot(rows["minibatch"], rows[column], color=_colour(sigma), label=f"sigma_train {sigma:.1f}")
        axis.set_xlabel("minibatches of 32")
        axis.set_ylabel(f"test {column}")
        axis.legend(fontsize="x-small")
    return figure


@lru_cache(maxsize=2 * len(SIGMA_VAL))
def _of_a_six(weights: str, sigma: float, runs: int) -> np.ndarray[Any, Any]:
    """(runs, 10): softmax outputs of noisy inferences of the first 6 of the test images."""
    index = int((test_set("mnist_cnn")[1] == SIX).nonzero()[0])
    return softmax_of_one("mnist_cnn", weights, sigma, index, runs)


def answers(those: tuple[str, ...] = SIXES) -> pd.DataFrame:
    """What Figures 4 and 5 say in numbers: `share` of the inferences that answer `digit`, by `weights`, `sigma_val`."""
    rows = []
    for weights in those:
        for sigma in SIGMA_VAL:
            shares = np.bincount(_of_a_six(weights, sigma, SHOWN_RUNS).argmax(axis=1), minlength=10) / SHOWN_RUNS
            named = {"weights": weights, "sigma_val": sigma}
            rows += [named | {"digit": digit, "share": share} for digit, share in enumerate(shares.tolist())]
    return pd.DataFrame(rows)


def outputs(weights: str) -> Figure:
    """Figures 4 and 5: distributions of the softmax outputs of one image of a 6 over 10,000 noisy inferences."""
    found_by = answers((weights,)).set_index(["sigma_val", "digit"])["share"]
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    edges = np.linspace(0, 1, OUTPUT_BINS + 1)
    for axis, sigma in zip(figure.subplots(2, 3).flat, SIGMA_VAL, strict=True):
        found = _of_a_six(weights, sigma, SHOWN_RUNS)
        for digit in range(10):
            share = np.histogram(found[:, digit], edges)[0] / len(found)
            filled = np.where(share > 0, share, np.nan)  # a bin without an inference has no line
            axis.stairs(filled, edges, baseline=None, color=f"C{digit}", label=str(digit))
        axis.set_yscale("log")
        axis.set_ylim(0.5 / SHOWN_RUNS, 2)
        axis.set_xlim(-0.02, 1.02)
        shares = found_by[sigma]
        wrong = shares.drop(SIX)
        second = f", {wrong.idxmax()} in {100 * wrong.max():.1f} %" if wrong.max() else ""
        axis.set_title(f"sigma_val {sigma:.1f}: {SIX} in {100 * shares[SIX]:.1f} %{second}", fontsize="medium")
        axis.set_xlabel("softmax output")
        axis.set_ylabel("share of inferences")
    figure.axes[0].legend(title="output", fontsize="x-small", ncols=2)
    return figure


def votes(grid: Grid, tables: list[int]) -> Figure:
    """Figure 11: accuracy over the number of votes, the best weights for each sigma_val: hard votes (lines with their
    95 % interval), soft votes (dotted), and hard votes of many more inferences of fewer samples (thin).
    """
    many = replace(grid.quick, runs=MANY_VOTES)
    figure = Figure(figsize=(5.5 * len(tables), 4.2), layout="constrained")
    for axis, number in zip(np.atleast_1d(figure.subplots(1, len(tables))), tables, strict=True):
        network, noise = shown(number)
        for i, sigma in enumerate(SIGMA_VAL[1:]):
            if trained(network, noise):
                weights = grid.best(network, noise, sigma, voted=True)
                cell = Cell(network, weights, sigma)
                _over_votes(axis, grid.voted.cell(cell), i, f"sigma_val {sigma}, {weights}")
                if network != SLOW:
                    more = many.cell(cell)
                    axis.plot(more["k"], 100 * more["hard"], f"C{i}", linewidth=0.5)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_xlabel("votes")
        axis.set_ylabel("accuracy (%)")
        axis.set_title(f"{network}, {grid.voted.size(network)[1]:,} samples", fontsize="medium")
        if axis.lines:
            axis.legend(fontsize="x-small")
    return figure


def _colour(sigma_train: float) -> tuple[float, float, float, float]:
    red, green, blue, alpha = colormaps["viridis"](0.95 * sigma_train)
    return red, green, blue, alpha


def _over_votes(axis: Axes, cell: pd.DataFrame, i: int, label: str) -> None:
    axis.plot(cell["k"], 100 * cell["hard"], f"C{i}.-", label=label)
    axis.plot(cell["k"], 100 * cell["soft"], f"C{i}:")
    axis.fill_between(cell["k"], 100 * cell["low"], 100 * cell["high"], color=f"C{i}", alpha=0.15, linewidth=0)


FIGURES: dict[int, Callable[[Grid], Figure]] = {
    1: lambda grid: how_noise_enters(),
    2: lambda grid: errors(grid, [2, 3]),
    4: lambda grid: outputs(SIXES[0]),
    5: lambda grid: outputs(SIXES[1]),
    6: lambda grid: errors(grid, [5]),
    7: lambda grid: errors(grid, [6]),
    8: lambda grid: errors(grid, [2, 7]),
    9: lambda grid: errors(grid, [5, 8]),
    10: lambda grid: errors(grid, [6, 9]),
    11: lambda grid: votes(grid, [7, 8, 9]),
}
