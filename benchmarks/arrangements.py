"""Three published arrangements of the read chain, made of Mho's parts: the MNIST network on each, and what it costs.

    python benchmarks/arrangements.py [--out runs/arrangements] [--images 1000] [--chips 3]

The hardware files are in `benchmarks/arrangements/`. Prints a table and writes it, with the machine and the versions,
to arrangements.json. Data: `MHO_DATA` or a download of MNIST.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.models import mnist_cnn
from mho.models.data import mnist
from mho.records import record, write_json

FOLDER = Path(__file__).parent / "arrangements"
CALIBRATION = 256


def measured(file: Path, images: torch.Tensor, labels: torch.Tensor, train: torch.Tensor, chips: int) -> dict[str, Any]:
    """Accuracies of chips of a hardware file, and time and energy of a decision."""
    net = mnist_cnn(weights="sigma-0.5").eval()
    hardware = mho.Hardware.load(file)
    found, spent = [], []
    for seed in range(chips):
        chip = mho.map(net, hardware, calibrate=train, seed=seed)
        began = time.perf_counter()
        found.append(float((chip(images).argmax(1) == labels).float().mean()))
        spent.append(time.perf_counter() - began)
    costs, run = layer_costs(chip), mho.schedule(chip)
    return {
        "arrangement": hardware.name,
        "accuracy": statistics.mean(found),
        "accuracies": found,
        "tiles": sum(layer.placement.tiles for layer in chip.layers.values()),
        "latency_us": 1e6 * run.makespan_s,
        "energy_uj": 1e6 * float(costs["energy_j"].sum()),
        "area_mm2": 1e6 * float(costs["area_m2"].sum()),
        "seconds_a_read": statistics.median(spent),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/arrangements"))
    options = parser.parse_args(arguments)
    (images, labels), (train, _) = mnist("test"), mnist("train")
    images, labels = images[: options.images], labels[: options.images]
    digital = float((mnist_cnn(weights="sigma-0.5").eval()(images).argmax(1) == labels).float().mean())
    rows = []
    for file in sorted(FOLDER.glob("*.yaml")):
        row = measured(file, images, labels, train[:CALIBRATION], options.chips)
        rows.append(row)
        print(
            f"{row['arrangement']:8} {100 * row['accuracy']:6.2f} % (digital {100 * digital:.2f}), "
            f"{row['tiles']} tiles, {row['latency_us']:.3g} us, {row['energy_uj']:.3g} uJ, {row['area_mm2']:.3g} mm2"
        )
    command = f"benchmarks/arrangements.py --images {options.images} --chips {options.chips}"
    found = {**record(("mho", "torch", "numba", "numpy"), command), "digital": digital, "rows": rows}
    write_json(found, options.out / "arrangements.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
