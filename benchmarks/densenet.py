"""DenseNet-40 for each sigma_train of Table 5, one after the other, over as many sessions and machines as it takes.

Then one with dropout, which may be what made the paper's clean network stand noise, and one from random weights of
another seed by the recipe `ours`.

python benchmarks/densenet.py            trains what is not there, each from the weights of the one before
python benchmarks/densenet.py --carry    writes what is unfinished to benchmarks/training, to be committed
python benchmarks/densenet.py --measure  accuracy of the trained ones under the noise that they were trained with

Stop a training with Ctrl-C, at any time; the first command goes on with it, here or, once it is carried, elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from paper.cells import Cell, Measurement

from mho.models.train import CHECKPOINT
from mho.models.weights import FOLDER, names

NETWORK = "densenet40"
RUNS, CARRIED = Path("runs/train") / NETWORK, Path("benchmarks/training") / NETWORK


class Training(NamedTuple):
    """A network, the sigma_train of the weights that it starts from, and how long and how fast it is trained.

    Without a start it is `mho train densenet40` as it is, but for the seed.
    """

    sigma: float
    start: float | None
    epochs: int = 1
    rate: float = 0.02
    dropout: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its weights, with those of the package."""
        if self.dropout:
            return f"dropout-{self.dropout}"
        return f"sigma-{self.sigma}" if self.start is not None else f"seed-{self.seed}"

    @property
    def command(self) -> list[str]:
        """Of `mho`."""
        found = ["train", NETWORK, "--sigma-train", str(self.sigma)]
        if self.start is None:
            return [*found, "--seed", str(self.seed)]
        found += ["--start", f"sigma-{self.start}", "--epochs", str(self.epochs)]
        found += ["--learning-rate", str(self.rate), "--average-decay", "0.99"]
        return [*found, "--dropout", str(self.dropout), "--augment", "none"] if self.dropout else found


QUEUE = [
    Training(0.6, start=0.0, rate=0.03),
    Training(0.4, start=0.6),
    Training(0.2, start=0.4),
    Training(1.0, start=0.6, epochs=2, rate=0.03),
    Training(0.8, start=0.6),
    Training(0.3, start=0.4),
    Training(0.1, start=0.2),
    Training(0.0, start=0.0, dropout=0.2),
    Training(0.0, start=None, seed=1),
]


def mho_train(training: Training, *options: str) -> None:
    """Train, or go on; `options` are further ones of `mho train`."""
    out = RUNS / training.name
    if not out.exists() and (CARRIED / training.name).is_dir():
        shutil.copytree(CARRIED / training.name, out)
    command = [*training.command, "--out", str(out), *options]
    print(f"mho {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "mho", *command], check=True)


def train(options: list[str]) -> None:
    for training in QUEUE:
        if training.name not in names(NETWORK):
            mho_train(training, *options)
            for kind in ("safetensors", "yaml"):
                made = RUNS / training.name / f"sigma-{training.sigma}.{kind}"
                shutil.copy(made, FOLDER / NETWORK / f"{training.name}.{kind}")
            shutil.rmtree(CARRIED / training.name, ignore_errors=True)


def carry() -> None:
    for training in QUEUE:
        if training.name not in names(NETWORK) and (RUNS / training.name / CHECKPOINT).is_file():
            mho_train(training, "--carry", str(CARRIED / training.name))


def measured(samples: int) -> pd.DataFrame:
    """Accuracy of one inference (mean of 20) and of votes of 20 with the noise of training.

    The samples are spread evenly over the test set; `low`, `high` are the 95 % interval of the votes.
    """
    measurement = Measurement(20, samples, "cpu", Path("runs/densenet"))
    rows = []
    for training in sorted([t for t in QUEUE if t.sigma], key=lambda training: training.sigma):
        if training.name in names(NETWORK):
            cell = measurement.cell(Cell(NETWORK, training.name, training.sigma))
            last = cell.iloc[-1]
            rows.append({"sigma": training.sigma, "single": cell["single"].mean(), **last[["hard", "low", "high"]]})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carry", action="store_true")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--samples", type=int, default=2000)
    options, how = parser.parse_known_args()
    if options.carry:
        carry()
    elif options.measure:
        print(measured(options.samples).to_string(index=False))
    else:
        train(how)


if __name__ == "__main__":
    main()
