"""DenseNet-40 for each sigma_train of Table 5, one after the other, over as many sessions and machines as it takes.

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
    """A network of the table, the weights that it starts from, and how long and how fast it is trained."""

    sigma: float
    start: float
    epochs: int
    rate: float

    @property
    def name(self) -> str:
        return f"sigma-{self.sigma}"


QUEUE = [
    Training(0.6, start=0.0, epochs=1, rate=0.03),
    Training(0.4, start=0.6, epochs=1, rate=0.02),
    Training(0.2, start=0.4, epochs=1, rate=0.02),
    Training(1.0, start=0.6, epochs=2, rate=0.03),
    Training(0.8, start=0.6, epochs=1, rate=0.02),
    Training(0.3, start=0.4, epochs=1, rate=0.02),
    Training(0.1, start=0.2, epochs=1, rate=0.02),
]


def mho_train(training: Training, *options: str) -> None:
    """Train, or go on; `options` are further ones of `mho train`."""
    out = RUNS / training.name
    if not out.exists() and (CARRIED / training.name).is_dir():
        shutil.copytree(CARRIED / training.name, out)
    command = ["train", NETWORK, "--sigma-train", str(training.sigma), "--start", f"sigma-{training.start}"]
    command += ["--epochs", str(training.epochs), "--learning-rate", str(training.rate), "--average-decay", "0.99"]
    command += ["--out", str(out), *options]
    print(f"mho {' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "mho", *command], check=True)


def train(options: list[str]) -> None:
    for training in QUEUE:
        if training.name not in names(NETWORK):
            mho_train(training, *options)
            for kind in ("safetensors", "yaml"):
                shutil.copy(RUNS / training.name / f"{training.name}.{kind}", FOLDER / NETWORK)
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
    for training in sorted(QUEUE):
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
