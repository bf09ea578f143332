"""What measuring ADC ranges and batch norms again gives back to a PCM chip that has drifted: the CNN on MNIST.

    python benchmarks/recalibration.py [--out runs/recalibration] [--images 1000] [--chips 3] [--inputs 512]

For each time since programming the accuracy on test images of the chip as it is, with drift compensation of each tile,
recalibrated with training images, and with both; mean and range over chips (seeds 0, 1, ...). Writes recalibration.csv.
Training images are downloaded, or found in MHO_DATA.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

import mho
from mho.devices.data import ExtrapolationWarning
from mho.models.cnn import mnist_cnn
from mho.models.data.mnist_images import mnist

TIMES = (0.0, 86400.0, 1e6)  # seconds; a day, and 12 days
WEIGHTS = "sigma-0.0"


def measure(images: int, chips: int, inputs: int) -> pd.DataFrame:
    """A row for each time and chip: accuracies in percent."""
    pictures, labels = (part[:images] for part in mnist("test"))
    some = mnist("train")[0][:inputs]
    net, hardware = mnist_cnn(WEIGHTS).eval(), mho.Hardware.preset("pcm")
    rows = []
    for seed in range(chips):
        chip = mho.map(net, hardware, calibrate=some, seed=seed, check=False)
        for time_s in TIMES:
            late, compensated = chip.at(time_s), chip.at(time_s, drift_compensation=True)
            chips_of = {
                "as it is": late,
                "compensated": compensated,
                "recalibrated": late.recalibrate(some),
                "both": compensated.recalibrate(some),
            }
            found = {name: _accuracy(one, pictures, labels) for name, one in chips_of.items()}
            rows.append({"time_s": time_s, "seed": seed, **found})
            print(*(f"{key}: {value:g}" for key, value in rows[-1].items()), sep="  ", file=sys.stderr)
    return pd.DataFrame(rows)


def _accuracy(chip: mho.Chip, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    parts = zip(pictures.split(250), labels.split(250), strict=True)
    right = sum(
        int((chip.read(x, read=0, first_sample=250 * k).argmax(dim=1) == y).sum()) for k, (x, y) in enumerate(parts)
    )
    return 100 * right / len(labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recalibration"), help="folder for the table")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--chips", type=int, default=3, help="chips, of seeds from 0 on")
    parser.add_argument("--inputs", type=int, default=512, help="training images that are measured with")
    options = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # the data of the preset end after a day
        table = measure(options.images, options.chips, options.inputs)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "recalibration.csv", index=False)
    print(table.drop(columns="seed").groupby("time_s").agg(["mean", "min", "max"]).round(2).to_string())
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
