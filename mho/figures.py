"""Figures, drawn from tables only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = {"ideal": "#888888", "paper 0.6": "#8172b3", "reram": "#c44e52", "pcm": "#4c72b0", "nand": "#55a868"}
NAMES = {"paper 0.6": "paper, sigma 0.6", "reram": "ReRAM", "pcm": "PCM", "nand": "NAND"}


def accuracy_over_votes(votes: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Accuracy over the number of votes with 95 % bands, a panel per set of weights, the digital accuracy dashed.

    `votes` has weights, hardware, votes, accuracy, low, high; `accuracy` the rows of hardware "digital".
    """
    panels = list(dict.fromkeys(votes["weights"]))
    figure, axes = _figure(len(panels), sharey=True)
    for ax, weights in zip(axes, panels, strict=True):
        for name, group in votes[votes["weights"] == weights].groupby("hardware", sort=False):
            colour = COLOURS.get(str(name))
            ax.fill_between(
                group["votes"], 100 * group["low"], 100 * group["high"], color=colour, alpha=0.12, linewidth=0
            )
            ax.plot(group["votes"], 100 * group["accuracy"], color=colour, label=NAMES.get(str(name), str(name)))
        digital = accuracy[(accuracy["weights"] == weights) & (accuracy["hardware"] == "digital")]
        ax.axhline(100 * digital["accuracy"].iloc[0], color="black", linestyle="--", linewidth=1, label="digital")
        ax.set(title=f"weights {weights}", xlabel="votes")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("accuracy (%)")
    axes[-1].legend()
    return figure


def conductances(table: pd.DataFrame) -> Figure:
    """Histograms of the programmed conductances, a panel per hardware, a line per set of weights."""
    panels = list(dict.fromkeys(table["hardware"]))
    figure, axes = _figure(len(panels))
    for ax, hardware in zip(axes, panels, strict=True):
        for weights, group in table[table["hardware"] == hardware].groupby("weights", sort=False):
            ax.stairs(group["cells"].to_numpy()[:-1], 1e6 * group["g"].to_numpy(), label=f"weights {weights}")
        ax.set(title=NAMES.get(hardware, hardware), xlabel="conductance (uS)", yscale="log")
    axes[0].set_ylabel("cells")
    axes[-1].legend()
    return figure


def layer_errors(table: pd.DataFrame) -> Figure:
    """Relative RMS error of each layer's output, a panel per set of weights, bars by hardware."""
    panels = list(dict.fromkeys(table["weights"]))
    figure, axes = _figure(len(panels), sharey=True)
    for ax, weights in zip(axes, panels, strict=True):
        wide = table[table["weights"] == weights].pivot(index="layer", columns="hardware", values="error")
        wide = wide.loc[list(dict.fromkeys(table["layer"])), list(dict.fromkeys(table["hardware"]))]
        for i, name in enumerate(wide):
            places = [x + (i - (wide.shape[1] - 1) / 2) * 0.8 / wide.shape[1] for x in range(len(wide))]
            ax.bar(
                places,
                wide[name],
                0.8 / wide.shape[1],
                color=COLOURS.get(str(name)),
                label=NAMES.get(str(name), str(name)),
            )
        ax.set_xticks(range(len(wide)), wide.index)
        ax.set(title=f"weights {weights}", xlabel="layer")
    axes[0].set_ylabel("error of the output, relative (RMS)")
    axes[-1].legend()
    return figure


def fronts(trials: pd.DataFrame, costs: Mapping[str, str], target: float, best: int | None) -> Figure:
    """Accuracy over cost with 95 % bars, a panel per cost: the points of a search, their front, the target dashed.

    `trials` has trial, accuracy, low, high, and for each of the `costs` (names and axis labels) its column and
    front_<cost>; `best` is the trial with a star. Points with five times the errors of the target are left out.
    """
    figure, axes = _figure(len(costs), sharey=True)
    for ax, (cost, label) in zip(axes, costs.items(), strict=True):
        spread = (trials["accuracy"] - trials["low"], trials["high"] - trials["accuracy"])
        bars = [(100 * side).clip(lower=0) for side in spread]
        ax.errorbar(trials[cost], 100 * trials["accuracy"], bars, fmt=".", color="#bbbbbb", elinewidth=0.6, zorder=1)
        front = trials[trials[f"front_{cost}"]].sort_values(cost)
        ax.step(front[cost], 100 * front["accuracy"], where="post", color="#4c72b0", marker=".", label="front")
        ax.axhline(100 * target, color="black", linestyle="--", linewidth=1, label="target")
        chosen = trials[trials["trial"] == best]
        if len(chosen):
            ax.plot(
                chosen[cost], 100 * chosen["accuracy"], "*", color="#c44e52", markersize=12, label="cheapest", zorder=3
            )
        ax.set(xlabel=label, xscale="log", ylim=(100 * max(0.0, 5 * target - 4), 100.5))
    axes[0].set_ylabel("accuracy (%)")
    axes[-1].legend(loc="lower right")
    return figure


def _figure(panels: int, *, sharey: bool = False) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False, sharey=sharey)[0])
