"""Why three chips with the CNN on MNIST lose accuracy: a low voltage, drift, a coarse ADC, and one that loses nothing.

    python benchmarks/explain.py [CHIP ...] [--out runs/explain] [--images 1000] [--seed 0]

CHIP is `voltage` (ReRAM at 1 mV), `drift` (PCM after 1e6 s), `adc` (ReRAM with ADCs of 3 bits), or `reram` (as it is);
all by default. Ranges are calibrated with 256 training images, which are downloaded, or found in MHO_DATA. Writes a
folder for each: tables, text and figure.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import mho
from mho.devices.data import ExtrapolationWarning
from mho.models.cnn import mnist_cnn
from mho.models.data.mnist_images import mnist

CHIPS = {
    "voltage": ("reram", {"sensing.v_read": 0.001}, "sigma-0.5", 0.0),
    "drift": ("pcm", {}, "sigma-0.0", 1e6),
    "adc": ("reram", {"adc.bits": 3}, "sigma-0.0", 0.0),
    "reram": ("reram", {}, "sigma-0.0", 0.0),
}


def explained(name: str, images: int, seed: int) -> mho.Explanation:
    """Of one of the chips."""
    preset, changes, weights, age = CHIPS[name]
    few, (pictures, labels) = mnist("train")[0][:256], mnist("test")
    chip = mho.map(mnist_cnn(weights).eval(), mho.Hardware.preset(preset).replace(changes), calibrate=few, seed=seed)
    began = time.monotonic()

    def tell(done: int, total: int, said: str) -> None:
        print(f"{name}: {done} of {total}, {time.monotonic() - began:.0f} s: {said}", file=sys.stderr)

    return mho.explain(chip.at(age), pictures, labels, samples=images, calibrate=few, progress=tell)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("chips", nargs="*", metavar="CHIP", help=f"of {', '.join(CHIPS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/explain"), help="folder for the tables")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--seed", type=int, default=0, help="which chip")
    options = parser.parse_args(arguments)
    if odd := [name for name in options.chips if name not in CHIPS]:
        parser.error(f"CHIP must be one of {', '.join(CHIPS)}, got {odd[0]!r}")
    for name in options.chips or CHIPS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)  # the data of the preset end after a day
            found = explained(name, options.images, options.seed)
        found.save(options.out / name)
        print(f"{name}\n{found}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
