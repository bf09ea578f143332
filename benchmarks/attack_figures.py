"""The figures of `attacks.py`."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

LINES = {  # name of the columns, label, colour, style
    "natural": ("originals", "#888888", "-"),
    "single": ("transferred, single inference", "#0072b2", "-"),
    "voted": ("transferred, {} votes", "#d55e00", "-"),
}
ATTACKERS = {
    "ignored": ("network known, its noise ignored", "#009e73"),
    "averaged": ("network and noise known", "#cc79a7"),
}


def accuracy(table: pd.DataFrame, white_box: pd.DataFrame) -> Figure:
    """Accuracy over the noise of the inference: transferred pictures beside the paper's, and who has the network."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (label, colour, style) in LINES.items():
        label = label.format(int(table["runs"].max()))
        left.plot(table["sigma"], 100 * table[name], style, color=colour, marker="o", ms=4, label=label)
        low, high = 100 * table[f"{name}_low"], 100 * table[f"{name}_high"]
        left.fill_between(table["sigma"], low, high, color=colour, alpha=0.12, linewidth=0)
    left.plot(table["sigma"], 100 * table["paper"], "k--", marker="x", ms=5, lw=1, label="the paper's Table 11")
    left.set(title="images made on another network", ylabel="accuracy (%)")
    for noise, (label, colour) in ATTACKERS.items():
        rows = white_box[white_box["noise"] == noise]
        right.plot(rows["sigma"], 100 * rows["single"], color=colour, marker="o", ms=4, label=label)
        low, high = 100 * rows["single_low"], 100 * rows["single_high"]
        right.fill_between(rows["sigma"], low, high, color=colour, alpha=0.12, linewidth=0)
    right.set(title="images made on the network itself")
    for ax in (left, right):
        ax.set_xlabel("sigma of the inference")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False)
    return figure


def examples(shown: dict[str, tuple[torch.Tensor, torch.Tensor, Any]], labels: torch.Tensor) -> Figure:
    """Pictures in rows by name: images, the class without noise, and the share of noisy inferences that are right."""
    figure = Figure(figsize=(1.15 * len(labels), 1.6 * len(shown) + 0.3), layout="constrained")
    axes = figure.subplots(len(shown), len(labels), squeeze=False)
    for row, (name, (images, classes, share)) in zip(axes, shown.items(), strict=True):
        for i, ax in enumerate(row):
            picture = images[i].movedim(0, -1).squeeze(-1).numpy()
            ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
            right = int(classes[i]) == int(labels[i])
            ax.set_title(
                f"{int(classes[i])} ({100 * share[i]:.0f} %)", fontsize=9, color="black" if right else "#c44e52"
            )
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    return figure
