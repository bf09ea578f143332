"""The text of docs/paper.md: the tables beside the paper's, what is worse or missing, chips, figures."""

from __future__ import annotations

import platform
from datetime import date

import pandas as pd
import torch

import mho
from mho.models.weights import record_of

from . import physical
from .cells import COMPLETE, test_set, trained
from .tables import PAPER, TABLES, Grid, below, markdown, shown

CAPTIONS = {
    1: "how noise enters a layer: behind its matrix product, and in the CNN its batch norm, before the nonlinearity",
    2: "error rate over the noise of inference, MNIST, multiplicative and additive noise; black: the paper's tables",
    3: "learning curves under the paper's protocol, MNIST, multiplicative noise in training, none in the test",
    4: "softmax outputs of 10,000 noisy inferences of one image of a 6, trained without noise",
    5: "the same, trained with sigma_train 1.0",
    6: "error rate over the noise of inference, CIFAR-10; black: the paper's table",
    7: "error rate over the noise of inference, strokes; black: the paper's table",
    8: "MNIST, one inference beside the hard vote of all",
    9: "CIFAR-10, one inference beside the hard vote of all",
    10: "strokes, one inference beside the hard vote of all",
    11: "accuracy over the number of votes: hard with its interval, soft (dotted), and hard votes to 100 of fewer"
    " samples (thin)",
}


def page(
    grid: Grid, tables: dict[int, pd.DataFrame], missing: dict[int, str], figures: list[int], chips: pd.DataFrame
) -> str:
    """The page, of those tables that could be made and figures that could be drawn."""
    versions = f"mho {mho.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    stated, quick = grid.single, grid.quick
    lines = [
        "# The paper's tables and figures",
        "",
        "Qin and Vucinic, *Noisy Computations during Inference: Harmful or Helpful?* (2018), with its numbers beside",
        "ours. This page is written by",
        "",
        "```sh",
        f"python benchmarks/paper.py --page --runs {stated.runs} --images {stated.images} --quick {quick.images}",
        "```",
        "",
        f"from the weights in `models/weights/` ({versions}; {date.today().isoformat()}). Beside each file of weights",
        "stands how it was trained: command, seed, time, machine. `docs/results/paper/` has the tables too.",
        "",
        f"Accuracies are per cent of {stated.images:,} test samples, the mean of {stated.runs} inferences with noise;",
        "± is half the 95 % Wilson interval for that many samples, which is larger than the spread from inference",
        "to inference. Curves are drawn, and the best sigma_train of a column is chosen, from cells of all weights:",
        f"on all samples for {' and '.join(COMPLETE)}. DenseNet-40 is slow: its tables say what it was measured on.",
        "Noise falls on every output of every matrix product. Tables 10 and 11, of",
        "attacks, are in [adversarial.md](adversarial.md), and the claims of the text in [claims.md](claims.md).",
        "",
    ]
    for number in TABLES:
        lines += [f"## Table {number}: {PAPER[number]['title']}", ""]
        if number in missing:
            lines += [f"Not made: {missing[number]}.", ""]
        else:
            lines += [markdown(number, tables[number]), "", *_notes(number, tables, grid), ""]
    if not chips.empty:
        lines += _on_chips(chips)
    lines += ["## Figures", ""]
    for number in figures:
        lines += [
            f"![Figure {number}](images/paper_figure_{number}.png)",
            "",
            f"Figure {number}: {CAPTIONS[number]}.",
            "",
        ]
    absent = [str(number) for number in range(1, 12) if number not in figures]
    if absent:
        lines += [f"Not drawn, since what they show is not trained yet: Figure {', '.join(absent)}.", ""]
    return "\n".join(lines)


def _notes(number: int, tables: dict[int, pd.DataFrame], grid: Grid) -> list[str]:
    """What a reader of one table has to know."""
    if number == 4:
        later = [_sigma_of(name) for name in trained("mnist_cnn", "mult") if record_of("mnist_cnn", name).get("from")]
        return [
            "All entries of matrices and kernels. Ours were trained with a weight decay of 0.02, the paper names none;",
            f"those of sigma_train {', '.join(later)} went on from a neighbour's weights, and their short schedule",
            "leaves larger ones: the recipe decides more here than the noise. The third line is of the networks of",
            "Figure 3: no weight decay, but 14 of the paper's 100 epochs; their weights do not grow with noise, as the",
            "paper's do. The last line has 30 epochs and begins as Keras does (`mho train --init glorot`), which",
            "Table 1 reads like: from weights of 0.042, torch from 0.022. Without noise it ends at the paper's.",
        ]
    network, noise = shown(number)
    notes = [f"Below the paper's: {'; '.join(below(number, tables[number])) or 'none'}."]
    if "of" in PAPER[number]:
        quiet = tables[PAPER[number]["of"]][["clean", "best"]].iloc[0].max()
        voted = tables[number].iloc[1:]
        top = voted.loc[voted["voted"].idxmax()]
        verdict = "more" if top["low"] > quiet else "less" if top["high"] < quiet else "no significant difference"
        between = f"{top['low']:.2f} to {top['high']:.2f}"
        notes += [
            f"Without noise one inference of the best network is right for {quiet:.2f} %, the best vote under noise",
            f"for {top['voted']:.2f} % ({between}; sigma_val {top['sigma_val']:.1f}): {verdict}.",
        ]
    there = ", ".join(map(_sigma_of, trained(network, noise)))
    notes += [f"Trained with sigma_train {there}. Data: {test_set(network)[2]}."]
    if network in COMPLETE:
        notes += [
            "All weights were measured on all samples, and the best is the best of them. *Chosen on the other half*:",
            "every other sample chooses the weights, the rest is measured, and both ways count; the choice does not",
            "raise that number. p: McNemar's exact test on the same samples"
            + (", of the votes." if "of" in PAPER[number] else ", of the first inference."),
        ]
    if number == 2:
        notes += [
            "The row by the paper's protocol has 30 of its 100 epochs and begins as Keras does (`mho train --init",
            "glorot`). It follows the paper's row within 4 points: what differs in ours is the recipe (weight decay,",
            "distorted images, smoothed labels, averages), not the noise.",
        ]
    if number == 5:
        notes += [
            "Ours without noise is trained with shifted, mirrored images (93.1 %). The 92.5 % of the paper is that of",
            "Huang et al. (2017) without them, who had dropout of 0.2 there. *With dropout*: one more epoch with it,",
            "images unchanged. Dropout is noise in training. It brings the network from far below the paper's row to a",
            "few points below it, so the paper's network was most likely trained with dropout. Those with noise had",
            "one or two epochs of it.",
        ]
    if network in grid.single.at_most:
        runs, images = (grid.voted if "of" in PAPER[number] else grid.single).size(network)
        how = f"{runs} votes" if "of" in PAPER[number] else "one inference" if runs == 1 else f"{runs} inferences"
        curves = "{} inferences of {:,} samples".format(*grid.quick.size(network))
        notes += [f"Under noise: {how} of {images:,} samples each. Curves and the choice of the best: {curves}."]
    return notes


def _sigma_of(name: str) -> str:
    """What weights of this name were trained with."""
    return name.rpartition("-")[2]


def _on_chips(table: pd.DataFrame) -> list[str]:
    n, chips, votes = (int(table[name].iloc[0]) for name in ("images", "chips", "votes"))
    compared, slow = [], []
    if "densenet40" in set(table["model"]):
        slow = [
            "DenseNet-40 has 200 samples, hard votes alone and 5 times the low voltage: the noise of its 40 layers",
            "adds up.",
        ]
    for preset, v in physical.LOW_V.items():
        rows = table[(table["model"] == "mnist_cnn") & (table["hardware"] == preset) & (table["v_read"] == v)]
        mine = rows["weights"] == physical.like(preset)
        if mine.any():
            compared += [f"{preset} {rows[mine]['hard'].max():.1f} against {rows[~mine]['hard'].max():.1f} %"]
    return [
        "## Beyond the paper: on physical chips",
        "",
        "`python benchmarks/paper.py --chips`: the presets at their own read voltage, and at one so low that reads",
        f"are very noisy; the first {n} test samples on {chips} chips, {votes} votes. Weights `like-...` are trained",
        "with the noise of that chip, measured layer by layer, the others with a sigma that is guessed.",
        *slow,
        "",
        physical.markdown(table),
        "",
        "Trained for the chip against the best guess, hard votes at the low voltage:",
        f"{', '.join(compared)}. Training knows the noise of a chip as two numbers",
        "a layer, drawn anew at each inference; on the chip a part of it is frozen, and columns differ",
        "([reduction.md](reduction.md)).",
        "",
    ]
