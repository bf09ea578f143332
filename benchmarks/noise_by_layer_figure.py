"""The figure and the tables of `noise_by_layer.py`, from its rows alone.

python benchmarks/noise_by_layer_figure.py docs/results/noise_by_layer docs/images/noise_by_layer.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from last_layer import bound
from matplotlib.figure import Figure
from noise_by_layer import EVERYWHERE, GROUPS, NOWHERE, kept

Rows = list[dict[str, Any]]
BLACK, ORANGE, BLUE, GREEN, GREY = "#000000", "#d55e00", "#0072b2", "#009e73", "#999999"  # Okabe and Ito (2008)
CHIPS = {"reram-low": (ORANGE, "o", "ReRAM, 1.4 mV"), "pcm-low": (BLUE, "s", "PCM, 0.8 mV")}
CHIPS["nand-low"] = GREEN, "^", "NAND, 1.6 mV"
NOT_SINGLE = ("computed", "shifted", "again")


def mean(rows: Rows, where: str, **wanted: Any) -> float:
    """Per cent, of single inferences over all seeds; nan where there are none."""
    found = [
        row["single"]
        for row in rows
        if row["where"] == where and wanted.items() <= row.items() and not any(name in row for name in NOT_SINGLE)
    ]
    return 100 * float(np.mean(found)) if found else float("nan")


def over_sigma(axis: Any, rows: Rows, weights: str, layers: Sequence[str], title: str) -> None:
    """Accuracy over sigma_val: everywhere, in the last layer alone, all but there, and in each other layer alone."""
    sigmas = sorted({row["sigma"] for row in rows if row["weights"] == weights})
    last = layers[-1]
    for other in layers[:-1]:
        label = "in one other layer alone" if other == layers[0] else None
        y = [mean(rows, f"only {other}", weights=weights, sigma=s) for s in sigmas]
        axis.plot(sigmas, y, color=GREY, linewidth=0.8, label=label)
    lines = (
        (f"all but {last}", BLUE, "s", "-", "everywhere but in the last layer"),
        (f"only {last}", ORANGE, "^", "-", "in the last layer alone"),
        (EVERYWHERE, BLACK, "o", "-", "everywhere"),
    )
    for where, colour, marker, style, label in lines:
        y = [mean(rows, where, weights=weights, sigma=s) for s in sigmas]
        axis.plot(sigmas, y, color=colour, marker=marker, linestyle=style, label=label)
    x = np.linspace(0.4, 1.0, 61)
    axis.plot(x, [100 * bound(float(s)) for s in x], color=BLACK, linestyle=":", label="$\\Phi(1/\\sigma)$")
    axis.set(title=title, xlabel="noise of an output, sigma_val (relative)", ylim=(0, 102))


def by_layer(axis: Any, rows: Rows, layers: Sequence[str], kinds: Any, **wanted: Any) -> None:
    """Accuracy by layer: filled where the noise is in that layer alone, open where it is everywhere but there."""
    for i, (only, (colour, marker, label)) in enumerate(kinds.items()):
        x = np.arange(len(layers)) + 0.22 * (i - (len(kinds) - 1) / 2)
        chosen = {**wanted, **dict([only])}
        alone = [mean(rows, f"only {layer}", **chosen) for layer in layers]
        others = [mean(rows, f"all but {layer}", **chosen) for layer in layers]
        axis.axhline(mean(rows, EVERYWHERE, **chosen), color=colour, linewidth=0.8, linestyle="--")
        axis.plot(x, alone, marker, color=colour, label=label)
        axis.plot(x, others, marker, color=colour, fillstyle="none")
    axis.set_xticks(range(len(layers)), layers, rotation=20)
    axis.set(xlabel="layer (filled: noise there alone; open: all but there)", ylim=(0, 102))


def draw(found: dict[str, Rows]) -> Figure:
    """A row for the MNIST CNN, and one for what else is there."""
    rest = [part for part in ("stroke-lstm", "densenet40", "chips") if found[part]]
    figure = Figure(figsize=(13.5, 8.6), layout="constrained")
    axes = figure.subplots(2, 3, squeeze=False)
    layers = list(GROUPS["mnist-cnn"])
    for axis, weights in zip(axes[0], ("sigma-0.0", "sigma-0.5", "sigma-1.0"), strict=True):
        over_sigma(axis, found["mnist-cnn"], weights, layers, f"MNIST CNN, weights {weights}")
    axes[0, 0].legend(fontsize="small", loc="lower left", title="noise")
    for axis, part in zip(axes[1], rest, strict=False):
        if part == "stroke-lstm":
            over_sigma(axis, found[part], "sigma-1.0", list(GROUPS[part]), "stroke LSTM, weights sigma-1.0")
        elif part == "densenet40":
            cells = sorted({(row["weights"], row["sigma"]) for row in found[part]})
            kinds = {
                ("weights", weights): (colour, marker, f"{weights} at {sigma}")
                for (weights, sigma), (colour, marker, _) in zip(cells, CHIPS.values(), strict=False)
            }
            by_layer(axis, found[part], list(GROUPS[part]), kinds)
            axis.set_title("DenseNet-40 (dashed: everywhere)")
        else:
            settings = {row["setting"] for row in found[part]}
            kinds = {("setting", name): look for name, look in CHIPS.items() if name in settings}
            by_layer(axis, found[part], layers, kinds)
            axis.set_title("MNIST CNN on chips (dashed: everywhere)")
        if part != "stroke-lstm":
            axis.legend(fontsize="small", loc="lower right")
    for axis in axes[1][len(rest) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy of one inference (%)")
    return figure


def tables(found: dict[str, Rows]) -> str:
    """What was measured as tables in Markdown."""
    text = []
    for part, rows in found.items():
        key = "setting" if part == "chips" else "sigma"
        cells = list(dict.fromkeys((row["weights"], row[key]) for row in rows))
        names = list(GROUPS["mnist-cnn" if part == "chips" else part])
        places = [EVERYWHERE, *(f"only {n}" for n in names), *(f"all but {n}" for n in names)]
        places += [NOWHERE] if part == "chips" else []
        text += [f"\n{part}\n", f"| weights | {key} | {' | '.join(places)} |", "|---" * (len(places) + 2) + "|"]
        for weights, value in cells:
            numbers = [f"{mean(rows, where, **{'weights': weights, key: value}):.1f}" for where in places]
            text.append(f"| `{weights}` | {value} | {' | '.join(numbers)} |")
        text += [str(row) for row in rows if any(name in row for name in NOT_SINGLE)]
    return "\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if len(given) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = {part: kept(Path(given[0]), part) for part in ("mnist-cnn", "stroke-lstm", "densenet40", "chips")}
    print(tables(found))
    draw(found).savefig(given[1], dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
