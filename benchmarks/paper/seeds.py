"""Networks that were trained again, from other random weights: whether votes under noise beat none there too."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from .cells import Cell, mcnemar, right, trained_again
from .tables import Grid

NETWORK = "stroke_lstm"
VOTED = {0.3: 0.2, 0.4: 0.4}  # sigma_train: the noise under which the first network's votes were best
FEWEST = 3  # networks that an interval needs
COLUMNS = ("seed", "sigma_train", "sigma_val", "votes", "quiet", "voted", "gain", "p")


class Gain(NamedTuple):
    """Of votes over noiseless inference, in points: the mean over networks, and half its 95 % interval."""

    mean: float
    half: float
    count: int


def measured(grid: Grid) -> pd.DataFrame:
    """A row for each network and sigma_train of `VOTED`, of networks that have all of them.

    Columns, in per cent: `quiet`, one inference without noise of the network trained without; `voted`, all votes at
    `sigma_val`; `gain`; `p`, McNemar's exact test on the same samples.
    """
    rows: list[dict[str, Any]] = []
    for seed, weights in trained_again(NETWORK).items():
        if not {0.0, *VOTED} <= set(weights):
            continue
        quiet = grid.single.cell(Cell(NETWORK, weights[0.0], 0.0))
        for sigma_train, sigma_val in VOTED.items():
            voted = grid.voted.cell(Cell(NETWORK, weights[sigma_train], sigma_val))
            one, many = right(quiet, 0), right(voted, -1)
            rows.append(
                {"seed": seed, "sigma_train": sigma_train, "sigma_val": sigma_val, "votes": int(voted["k"].iloc[-1])}
                | {"quiet": 100 * one.mean(), "voted": 100 * many.mean(), "gain": 100 * (many.mean() - one.mean())}
                | {"p": mcnemar(many, one)}
            )
    return pd.DataFrame(rows, columns=COLUMNS)


def gain_of(table: pd.DataFrame, sigma_train: float) -> Gain:
    """Over the networks, with Student's t; the half is infinite of one."""
    gains = table.loc[table["sigma_train"] == sigma_train, "gain"].to_numpy()
    if len(gains) < 2:
        return Gain(float(np.mean(gains)), float("inf"), len(gains))
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return Gain(float(gains.mean()), float(half), len(gains))


def section(table: pd.DataFrame) -> list[str]:
    """Of the page; nothing before a network was trained again."""
    if table["seed"].nunique() < 2:
        return []
    lines = [
        "## Trained again: the strokes with other seeds",
        "",
        "The same recipes from other random weights, in another order of the samples. *Without noise*: one inference",
        "of the network trained without. Votes are those of the training and the noise of inference where the first",
        "network's were best. p: McNemar's exact test on the same samples.",
        "",
        "| seed | sigma_train | sigma_val | without noise | hard votes | gain | p |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.seed} | {row.sigma_train} | {row.sigma_val} | {row.quiet:.2f} | {row.voted:.2f} | {row.gain:+.2f} | "
        f"{'< 0.0001' if row.p < 1e-4 else f'{row.p:.2g}'} |"
        for row in table.itertuples()
    ]
    return [*lines, "", *[f"- {told(table, sigma)}" for sigma in VOTED], ""]


def told(table: pd.DataFrame, sigma_train: float) -> str:
    """The mean gain in words."""
    found = gain_of(table, sigma_train)
    mean = f"sigma_train {sigma_train}: {found.mean:+.2f} points over {found.count} networks"
    return f"{mean}, ± {found.half:.2f}." if found.count >= FEWEST else f"{mean}, too few for an interval."
