"""What saved chips take: bytes a weight on tiles, whole and compact, and how long they take to load.

    python benchmarks/chip_sizes.py [--only PATTERN] [--out docs/results] [--markdown]

Networks of random weights, and some of their options. The digital part of a network, as the tables of words of a
language model, is counted apart. Whole chips are loaded as copies and mapped into memory, and what that takes is the
largest memory of the process beyond what it had.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

import mho
from mho.mapping.saved.store import TENSORS
from mho.mapping.saved.tensor_file import read_tensors
from mho.records import record, write_json
from mho.tables import Column, print_table

COLUMNS = {
    "network": Column("network", "s"),
    "hardware": Column("hardware", "s"),
    "weights": Column("weights (M)", ".2f", 1e-6),
    "whole": Column("whole (bytes a weight)", ".2f"),
    "compact": Column("compact (bytes a weight)", ".2f"),
    "mapped_s": Column("map (s)", ".1f"),
    "load_s": Column("load (s)", ".1f"),
    "load_compact_s": Column("load compact (s)", ".1f"),
    "digital": Column("digital (bytes a weight)", ".2f"),
}
PRESETS = ("reram", "pcm", "nand", "ideal")
OPTIONS: dict[str, dict[str, Any]] = {
    "reram, 2 slices": {"tile.slices": 2, "cell.levels": 16},
    "reram, bit lines apart": {"adc.polarity": "apart"},
    "reram, DAC of 10 bits": {"dac.bits": 10},
    "reram, wires": {"wires.r_word_line": "1 ohm", "wires.r_bit_line": "1 ohm"},
}


class LSTM(nn.Module):
    """Two layers of 512."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(256, 512, 2, batch_first=True), nn.Linear(512, 100)

    def forward(self, x: torch.Tensor) -> Any:
        return self.fc(self.lstm(x)[0][:, -1])


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 10))


OWN = {
    "LSTM, 2 layers of 512": lambda: (LSTM().eval(), torch.rand(2, 5, 256)),
    "MLP 784-1000-1000-10": lambda: (_mlp().eval(), torch.rand(2, 784)),
    "MNIST CNN": lambda: (mho.models.mnist_cnn(), torch.rand(2, 1, 28, 28)),
}
OTHERS = {
    "timm:resnet50": lambda: torch.randn(2, 3, 224, 224),
    "timm:mobilenetv3_small_100": lambda: torch.randn(2, 3, 224, 224),
    "timm:convnext_tiny": lambda: torch.randn(2, 3, 224, 224),
    "transformers:GPT2LMHeadModel": lambda: {"input_ids": torch.randint(5, 50257, (2, 64))},
}


def network(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, and its inputs.

    Raises:
        ImportError: its package is not there.
    """
    if name in OWN:
        return OWN[name]()
    operators = torch.library.Library("torchvision", "FRAGMENT")  # some builds for CPUs lack them, none run here
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    __import__(name.partition(":")[0])
    return mho.build_model(name).eval(), OTHERS[name]()


def measure(name: str, hardware: str) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    net, x = network(name)
    preset = mho.Hardware.preset(hardware.partition(",")[0]).replace(OPTIONS.get(hardware, {}))
    start = time.perf_counter()
    chip = mho.map(net, preset, calibrate=x, check=False)
    row: dict[str, Any] = {"network": name, "hardware": hardware, "mapped_s": time.perf_counter() - start}
    weights = sum(layer.matrix.weights.size for layer in chip.layers.values())
    with tempfile.TemporaryDirectory() as scratch:
        for kind, label in (("whole", "load_s"), ("compact", "load_compact_s")):
            folder = Path(scratch, kind)
            chip.save(folder, compact=kind == "compact")
            gc.collect()
            start = time.perf_counter()
            mho.load(folder, model=net)
            row[label] = time.perf_counter() - start
            row[kind] = sum(file.stat().st_size for file in folder.iterdir()) / weights
        tensors = read_tensors(folder / TENSORS, mapped=True)
        row["digital"] = sum(t.nbytes for key, t in tensors.items() if not key.startswith("layer.")) / weights
    for kind in ("whole", "compact"):
        row[kind] -= row["digital"]
    return {**row, "weights": weights}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="networks whose names fit")
    parser.add_argument("--out", type=Path, default=Path("runs/chip_sizes"))
    parser.add_argument("--markdown", action="store_true", help="print the table as in docs/mapping.md")
    options = parser.parse_args(arguments)
    rows = []
    for name in (*OWN, *OTHERS):
        if not fnmatchcase(name, options.only):
            continue
        small = name in OWN
        for hardware in (*PRESETS, *OPTIONS) if small else PRESETS[:1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    rows.append(measure(name, hardware))
                except ImportError as error:
                    print(f"{name}: left out, {error}", file=sys.stderr)
                    break
            print(rows[-1], file=sys.stderr, flush=True)
    found = record(("mho", "torch", "numpy", "safetensors"), "benchmarks/chip_sizes.py")
    write_json({**found, "rows": rows}, options.out / "chip_sizes.json")
    print_table("saved chips", pd.DataFrame(rows), COLUMNS, markdown=options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
