"""What `paper.py` measures: noisy inference of one trained network at one noise, kept in a file once it is done."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from mho import models
from mho.mapping.voting.adaptive import Tally
from mho.mapping.voting.intervals import Accuracy
from mho.mapping.voting.votes import order
from mho.models.networks import NETWORKS
from mho.models.noise import set_inference_noise
from mho.models.weights import FOLDER, kind_of, names

VERSION = 2  # of the measurement: another one measures anew
BATCH = {"densenet40": 20}  # samples at once; more take longer for each, since they do not fit the caches
BATCH_ELSE = 100
ERROR = 0.01  # accepted by the adaptive vote, for a sample
DATA = {
    "mnist_cnn": "mnist-cnn",
    "stroke_lstm": "stroke-lstm",
    "densenet40": "densenet40",
}
OTHER = {  # how names of weights by another recipe begin, and the noise that their cells are said to have
    "dropout-": "dropout",  # in place of noise
    "glorot-": "protocol",  # the paper's protocol, begun as Keras does
}
AGAIN = "seed-"  # how names of weights begin that were trained again: seed-1-sigma-0.4
SLOW = "densenet40"  # a vote of 20 on all images takes 50 minutes of one core, a sigma_train has ten of them
QUICK, SINGLE, VOTED = {SLOW: (20, 250)}, {SLOW: (1, 10_000)}, {SLOW: (20, 2000)}  # most inferences, and samples
COMPLETE: tuple[str, ...] = ("mnist_cnn", "stroke_lstm")  # every cell of their tables is measured on all samples


@dataclass(frozen=True)
class Cell:
    """Trained weights of a network under an inference noise of standard deviation `sigma_val`."""

    network: str
    weights: str
    sigma_val: float

    @property
    def noise(self) -> str:
        """Of the training: `mult` or `add`, or that of `OTHER`; `again` from another seed."""
        others = {**OTHER, AGAIN: "again"}
        return next((noise for start, noise in others.items() if self.weights.startswith(start)), kind_of(self.weights))

    @property
    def sigma_train(self) -> float:
        return float(self.weights.rpartition("-")[2]) if "sigma-" in self.weights else 0.0


@dataclass(frozen=True)
class Measurement:
    """How cells are measured: inferences of each sample, number of samples, where, the folder that keeps what is done,
    a table of cells that were measured elsewhere, by their key, and those used; `at_most`: both numbers, of networks
    that are slow.

    Fewer samples than the test set has are spread evenly over it: the first ones of MNIST are easier than the others.
    """

    runs: int
    images: int
    device: str
    folder: Path
    known: dict[str, pd.DataFrame] = field(default_factory=dict)
    used: dict[str, pd.DataFrame] = field(default_factory=dict)
    at_most: dict[str, tuple[int, int]] = field(default_factory=dict)

    def size(self, network: str) -> tuple[int, int]:
        """Inferences of each sample and samples, of a network under noise."""
        runs, images = self.at_most.get(network, (self.runs, self.images))
        return min(self.runs, runs), min(self.images, images)

    def cell(self, cell: Cell, tell: Callable[[str], None] = print) -> pd.DataFrame:
        """A row for each number of votes k from 1 to `runs` (without noise one run says all).

        Columns: those of the cell, `noise`, `sigma_train`, `images`, `k`; `single`, the accuracy of inference number k
        by itself; `hard` and `soft`, of the first k inferences by the most votes and by the mean softmax, with the 95 %
        Wilson interval `low`, `high` of `hard`; `adaptive` and `reads`, accuracy and mean inferences of the vote that
        stops once the lead is safe, at most `runs`; `right`, of the first and the last row, a bit for each sample that
        `hard` has right (`numpy.packbits`), for tests on pairs.
        """
        runs, images = self.size(cell.network)
        runs = runs if cell.sigma_val else 1
        weights = (FOLDER / cell.network / f"{cell.weights}.safetensors").read_bytes()
        told = f"{VERSION} {runs} {images} {sha256(weights).hexdigest()}"
        key = f"{cell.network}-{cell.weights}-at-{cell.sigma_val}-{sha256(told.encode()).hexdigest()[:12]}"
        if key not in self.used:
            self.used[key] = self.known[key] if key in self.known else self._kept(key, cell, runs, images, tell)
        return self.used[key]

    def _kept(self, key: str, cell: Cell, runs: int, images: int, tell: Callable[[str], None]) -> pd.DataFrame:
        path = self.folder / f"{key}.parquet"
        if not path.is_file():
            tell(f"{cell.network} {cell.weights} at {cell.sigma_val}: {runs} runs of {images}")
            table = pd.DataFrame(self._measure(cell, runs, images))
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            table.to_parquet(part, index=False)
            os.replace(part, path)
        return pd.read_parquet(path)

    def _measure(self, cell: Cell, runs: int, images: int) -> list[dict[str, Any]]:
        inputs, labels, _ = test_set(cell.network)
        layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        net = getattr(models, cell.network)(weights=cell.weights).to(self.device, memory_format=layout)
        set_inference_noise(net, cell.sigma_val)
        size = BATCH.get(cell.network, BATCH_ELSE)
        chosen = torch.linspace(0, len(inputs) - 1, min(images, len(inputs))).long()
        inputs, labels = inputs[chosen], labels[chosen]
        right = np.zeros((3, runs), np.int64)
        stopped, reads = 0, 0
        bits = np.zeros((runs, len(inputs)), bool)
        with torch.random.fork_rng(), torch.inference_mode():
            for start in range(0, len(inputs), size):
                here = slice(start, start + size)
                truth, batch = labels[here], inputs[here].to(self.device)
                batch = batch.contiguous(memory_format=layout)
                torch.manual_seed(start)
                tally = Tally(len(truth), runs, ERROR, "hard", 1)
                counts, total = torch.zeros(len(truth), 10, dtype=torch.int64), torch.zeros(len(truth), 10).double()
                for run in range(runs):
                    logits = net(batch).float().cpu()
                    tally.add(torch.arange(len(truth)), run, logits)
                    chosen = logits.argmax(dim=1)
                    counts[torch.arange(len(truth)), chosen] += 1
                    total += logits.double().softmax(dim=1)
                    mean = (total / (run + 1)).float()
                    classes = chosen, order(counts, mean, "hard")[:, 0], order(counts, mean, "soft")[:, 0]
                    right[:, run] += [int((c == truth).sum()) for c in classes]
                    bits[run, here] = (classes[1] == truth).numpy()
                stopped += int((tally.leaders == truth).sum())
                reads += int(tally.reads.sum())
        rows = []
        for k in range(1, runs + 1):
            single, hard, soft = (int(count) for count in right[:, k - 1])
            voted = Accuracy(hard, len(inputs))
            rows.append(
                {"network": cell.network, "noise": cell.noise, "sigma_train": cell.sigma_train}
                | {"sigma_val": cell.sigma_val, "images": len(inputs), "k": k, "single": single / len(inputs)}
                | {"hard": float(voted), "low": voted.low, "high": voted.high, "soft": soft / len(inputs)}
                | {"adaptive": stopped / len(inputs), "reads": reads / len(inputs)}
                | {"right": np.packbits(bits[k - 1]).tobytes() if k in (1, runs) else None}
            )
        return rows


@lru_cache(maxsize=1)
def test_set(network: str) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Inputs, labels and source of the test set of a network."""
    return NETWORKS[DATA[network]].load("test")


def read_cells(path: Path) -> dict[str, pd.DataFrame]:
    """Cells by their key, from a file of `write_cells`; none where there is no file."""
    if not path.is_file():
        return {}
    table = pd.read_parquet(path)
    if "right" not in table:
        table["right"] = None
    lacks = table.groupby("key")["right"].transform("count") == 0  # complete tables are tested on pairs of samples
    table = table[~(lacks & table["network"].isin(COMPLETE) & (table["images"] == table["images"].max()))]
    return {str(key): rows.drop(columns="key").reset_index(drop=True) for key, rows in table.groupby("key")}


def write_cells(cells: dict[str, pd.DataFrame], path: Path) -> None:
    table = pd.concat([rows.assign(key=key) for key, rows in sorted(cells.items())], ignore_index=True)
    table.to_parquet(path, index=False)


def right(cell: pd.DataFrame, row: int) -> np.ndarray[Any, Any]:
    """(samples,) bool: what the hard vote of the first (0) or the last (-1) row has right."""
    one = cell.iloc[row]
    return np.unpackbits(np.frombuffer(one["right"], np.uint8), count=int(one["images"])).astype(bool)


def mcnemar(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """p value of McNemar's exact test of what two have right, (samples,) bool; NaN where no sample tells them apart."""
    wins, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else float("nan")


def trained(network: str, noise: str) -> list[str]:
    """Names of the weights of a network that were trained with a kind of noise, the least first.

    Those of adversarial training are no part of it.
    """
    prefix = "add-sigma-" if noise == "add" else "sigma-"
    return sorted((n for n in names(network) if n.startswith(prefix)), key=lambda name: float(name.rpartition("-")[2]))


def otherwise_trained(network: str, noise: str) -> dict[str, list[str]]:
    """Names of the weights of a network by each recipe of `OTHER`, the least noise first; they take multiplicative
    noise.
    """
    known = sorted(names(network)) if noise == "mult" else []
    found = {kind: [name for name in known if name.startswith(start)] for start, kind in OTHER.items()}
    return {kind: weights for kind, weights in found.items() if weights}


def trained_again(network: str) -> dict[int, dict[float, str]]:
    """Names of weights by their seed and sigma_train, the first network among them, which has seed 0."""
    found: dict[int, dict[float, str]] = {}
    for name in names(network):
        if match := re.fullmatch(rf"(?:{AGAIN}(\d+)-)?sigma-([\d.]+)", name):
            found.setdefault(int(match[1] or 0), {})[float(match[2])] = name
    return dict(sorted(found.items()))


def rms_weight(network: str, weights: str) -> float:
    """Root mean square of all entries of matrices and kernels."""
    net = getattr(models, network)(weights=weights)
    values = torch.cat([parameter.detach().flatten() for parameter in net.parameters() if parameter.ndim > 1])
    return float(values.double().square().mean().sqrt())


def softmax_of_one(network: str, weights: str, sigma_val: float, index: int, runs: int) -> np.ndarray[Any, Any]:
    """(runs, 10): softmax outputs of noisy inferences of one test sample."""
    net = getattr(models, network)(weights=weights)
    set_inference_noise(net, sigma_val)
    sample = test_set(network)[0][index : index + 1]
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(index)
        parts = [net(sample.expand(min(BATCH_ELSE, runs - a), *sample.shape[1:])) for a in range(0, runs, BATCH_ELSE)]
        return torch.cat(parts).softmax(dim=1).numpy()
