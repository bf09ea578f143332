"""The text of docs/paper.md: the tables beside the paper's, what is worse or missing, chips, figures."""

from __future__ import annotations

import platform
from datetime import date
from textwrap import wrap

import pandas as pd
import torch

import mho

from . import physical, seeds
from .cells import COMPLETE, test_set, trained
from .notes import REASONS, on_weights, sigma_of, votes_against_none
from .tables import CLOSE, PAPER, TABLES, Grid, below, markdown, shown

WIDTH = 110  # of a line of text
EVERY = "Points are every 0.2, the paper's every 0.1"
FEW = "Ours has few samples, their number stands above: the tables have more, and differ by some points"
CAPTIONS = {
    1: "how noise enters a layer: behind its matrix product, and in the CNN its batch norm, before the nonlinearity."
    " The paper's shows the LSTM cell; in ours too, each of its four products and the output layer have such noise",
    2: "error rate over the noise of inference, MNIST, multiplicative and additive noise; black: the paper's tables."
    f" {EVERY}",
    3: "learning curves under the paper's protocol, MNIST, multiplicative noise in training, none in the test. The"
    " paper's show the first 25,000 minibatches. Ours have a point each epoch, of 1,875, so the first rise is missing",
    4: "softmax outputs of 10,000 noisy inferences of one image of a 6, trained without noise. A bin without an"
    " inference has no line; above stand the share of the 6 and that of the most frequent wrong answer. The paper,"
    " which does not say which 6 it has, sees an 8 come up from sigma_val 0.6 on",
    5: "the same, trained with sigma_train 1.0",
    6: f"error rate over the noise of inference, CIFAR-10; black: the paper's table. {FEW}. {EVERY}",
    7: f"error rate over the noise of inference, strokes; black: the paper's table. {EVERY}",
    8: f"MNIST, one inference beside the hard vote of all; black: the paper's tables. {EVERY}",
    9: f"CIFAR-10, one inference beside the hard vote of all; black: the paper's tables. {FEW}. {EVERY}",
    10: f"strokes, one inference beside the hard vote of all; black: the paper's tables. {EVERY}",
    11: "accuracy over the number of votes: hard with its interval, soft (dotted), and hard votes to 100 of fewer"
    " samples (thin). The paper's has MNIST and CIFAR-10 only",
}


def page(
    grid: Grid,
    tables: dict[int, pd.DataFrame],
    missing: dict[int, str],
    figures: list[int],
    chips: pd.DataFrame,
    again: pd.DataFrame,
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
        *wrap(
            f"Accuracies are per cent of {stated.images:,} test samples, the mean of {stated.runs} inferences with"
            " noise, where the paper has 50; ± is half the 95 % Wilson interval for that many samples, which is larger"
            " than the spread from inference to inference. Curves are drawn, and the best sigma_train of a column is"
            f" chosen, from cells of all weights: on all samples for {' and '.join(COMPLETE)}. DenseNet-40 is slow: its"
            " tables say what it was measured on.",
            WIDTH,
        ),
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
    lines += seeds.section(again)
    if not chips.empty:
        lines += _on_chips(chips)
    lines += ["## Figures", ""]
    for number in figures:
        lines += [
            f"![Figure {number}](images/paper_figure_{number}.png)",
            "",
            *wrap(f"Figure {number}: {CAPTIONS[number]}.", WIDTH),
            "",
        ]
    absent = [str(number) for number in range(1, 12) if number not in figures]
    if absent:
        lines += [f"Not drawn, since what they show is not trained yet: Figure {', '.join(absent)}.", ""]
    return "\n".join(lines)


def _notes(number: int, tables: dict[int, pd.DataFrame], grid: Grid) -> list[str]:
    """What a reader of one table has to know."""
    if number == 4:
        return wrap(on_weights(), WIDTH)
    network, noise = shown(number)
    found, voted = tables[number], "of" in PAPER[number]
    notes = [f"Below the paper's: {'; '.join(below(number, found)) or 'none'}."]
    if not voted and (less := below(number, found, "clean")):
        notes += [f"Trained without noise, below the paper's: {'; '.join(less)}."]
    if voted:
        notes += wrap(votes_against_none(found, tables[PAPER[number]["of"]]), WIDTH)
    there = ", ".join(map(sigma_of, trained(network, noise)))
    notes += [f"Trained with sigma_train {there}. Data: {test_set(network)[2]}."]
    if network in COMPLETE:
        notes += [
            "All weights were measured on all samples, and the best is the best of them. *Chosen on the other half*:",
            "every other sample chooses the weights, the rest is measured, and both ways count; the choice does not",
            "raise that number. p: McNemar's exact test on the same samples"
            + (", of the votes." if voted else ", of the first inference."),
        ]
    if number in REASONS:
        notes += wrap(REASONS[number](found), WIDTH)
    if network in grid.single.at_most:
        runs, images = (grid.voted if voted else grid.single).size(network)
        how = f"{runs} votes" if voted else "one inference" if runs == 1 else f"{runs} inferences"
        curves = "{} inferences of {:,} samples".format(*grid.quick.size(network))
        choice = "" if voted else f"; of those within {100 * CLOSE:g} points of it, {how} of all samples"
        told = f"Under noise: {how} of {images:,} samples each. Curves and the choice of the best: {curves}{choice}."
        notes += wrap(told, WIDTH)
    return notes


def _on_chips(table: pd.DataFrame) -> list[str]:
    n, chips, votes = (int(table[name].iloc[0]) for name in ("images", "chips", "votes"))
    compared, slow = [], []
    if "densenet40" in set(table["model"]):
        slow = [
            "DenseNet-40 has 200 samples, hard votes alone and 5 times the low voltage: the noise of its 40 layers",
            "adds up. Exact mode has the paper's noise and no other error.",
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
        "with the noise of that chip, measured layer by layer, the others with a sigma that is guessed. The first",
        "samples of MNIST are easier than the others: compare with *digital*, on the same samples without a chip.",
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
