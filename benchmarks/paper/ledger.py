"""What the claims of the paper are held against: measured cells, by network, training and noise of inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mho.mapping.voting.intervals import Accuracy

WHOLE = 10_000  # samples of each test set
NETWORKS = {"MNIST": "mnist_cnn", "CIFAR-10": "densenet40", "strokes": "stroke_lstm"}


class Untested(Exception):
    """What a claim is about has not been measured; says why."""


class Found(NamedTuple):
    """What came out: in words, and whether the claim holds."""

    ours: str
    holds: bool


@dataclass(frozen=True)
class Ledger:
    """The committed results.

    cells: as `cells.write_cells` keeps them. curves: of learning. weights: Table 4. attacks: Table 11, of the data that
    it was made of. outputs: of `figures.answers`, behind Figures 4 and 5. costs: `votes` and `voltage` of
    `latency_power.py`. again: of `seeds.measured`.
    """

    cells: pd.DataFrame
    curves: pd.DataFrame
    weights: pd.DataFrame
    attacks: dict[str, pd.DataFrame]
    outputs: pd.DataFrame
    costs: dict[str, pd.DataFrame]
    again: pd.DataFrame

    @classmethod
    def read(cls, paper: Path, attacks: dict[str, Path], costs: Path) -> Ledger:
        """From folders of results, the paper's and those of costs, and files of attacks, of which some may lack."""
        attacked = {data: pd.read_csv(path) for data, path in attacks.items() if path.is_file()}
        tables = [pd.read_csv(paper / f"{name}.csv") for name in ("curves", "table_4", "outputs", "seeds")]
        cost = {name: pd.read_csv(costs / f"{name}.csv") for name in ("votes", "voltage")}
        return cls(pd.read_parquet(paper / "cells.parquet"), *tables[:2], attacked, tables[2], cost, tables[3])

    def rows(
        self, data: str, noise: str, sigma_val: float, *, images: int | None = None, k: int | None = None
    ) -> pd.DataFrame:
        """Cells at one noise of inference, a row per number of votes, or those of k; of most samples, or of `images`.

        Raises:
            Untested: there are none.
        """
        found = self.cells[(self.cells["network"] == NETWORKS[data]) & (self.cells["noise"] == noise)]
        if found.empty:
            raise Untested(f"{NETWORKS[data]} is not measured with all trainings yet")
        found = found[(found["sigma_val"] == sigma_val) & (found["k"] == (k or found["k"]))]
        found = found[found["images"] == (images or found["images"].max())]
        if found.empty:
            raise Untested(f"no cells at sigma_val {sigma_val}")
        return found

    def all_trainings(self, data: str, noise: str) -> dict[float, pd.DataFrame]:
        """Cells of all trainings at each noise of inference, of the most samples that all were measured with.

        Raises:
            Untested: there are none.
        """
        cells = self.cells[(self.cells["network"] == NETWORKS[data]) & (self.cells["noise"] == noise)]
        cells = cells[cells["k"] <= 20]
        if cells.empty:
            raise Untested(f"{NETWORKS[data]} is not measured with all trainings yet")
        found = {}
        for sigma, rows in cells.groupby("sigma_val"):
            counts = rows.groupby("images")["sigma_train"].nunique()
            found[float(str(sigma))] = rows[rows["images"] == counts[counts == counts.max()].index.max()]
        return found

    def of_training(self, data: str, noise: str, sigma_train: float) -> pd.DataFrame:
        """Accuracy of one inference of a training over its `sigma_val`, of the most samples that it was measured with
        without noise and under the noise that it was trained with; `images` are so many.

        Raises:
            Untested: there are none.
        """
        cells = self.cells[(self.cells["network"] == NETWORKS[data]) & (self.cells["noise"] == noise)]
        cells = cells[(cells["sigma_train"] == sigma_train) & (cells["k"] <= 20)]
        sizes = [set(cells.loc[cells["sigma_val"] == sigma, "images"]) for sigma in (0.0, sigma_train)]
        if not sizes[0] & sizes[1]:
            raise Untested(f"no cells of sigma_train {sigma_train}")
        cells = cells[cells["images"] == max(sizes[0] & sizes[1])]
        return cells.groupby("sigma_val", as_index=False)[["single", "images"]].mean()

    def single(
        self, data: str, sigma_val: float, sigma_train: float | None = None, noise: str = "mult", **how: int
    ) -> Accuracy:
        """Accuracy of one inference, the mean over those made; None: of the best training, of those that were measured.

        Raises:
            Untested: this training has no cell.
        """
        rows = self.rows(data, noise, sigma_val, **how)
        means = rows[rows["k"] <= 20].groupby("sigma_train")["single"].mean()
        if sigma_train is not None and sigma_train not in means.index:
            raise Untested(f"no cell of sigma_train {sigma_train} at sigma_val {sigma_val}")
        return _accuracy(means.max() if sigma_train is None else means[sigma_train], int(rows["images"].iloc[0]))

    def voted(self, data: str, sigma_val: float, k: int = 20) -> Accuracy:
        """Accuracy of k hard votes of the best training, with the best number of them at hand."""
        rows = self.rows(data, "mult", sigma_val, k=k if sigma_val else 1)
        return _accuracy(rows["hard"].max(), int(rows["images"].iloc[0]))


def _accuracy(share: float, n: int) -> Accuracy:
    return Accuracy(round(share * n), n)


def said(accuracy: Accuracy) -> str:
    """Per cent, with the 95 % interval and the number of samples."""
    return f"{100 * accuracy:.2f} [{100 * accuracy.low:.2f}, {100 * accuracy.high:.2f}]{of(accuracy.n)}"


def of(*samples: int) -> str:
    """How many samples, where they are not the whole test set; the fewest of several."""
    return "" if min(samples) >= WHOLE else f", of {min(samples):,} samples"


def decibels(sigma: float) -> float:
    """SNR of multiplicative noise: 10 log10(1 / sigma^2)."""
    return -20 * math.log10(sigma)
