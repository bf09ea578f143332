"""Speed of the parts of the read chain: their time over that of the plain read of the same layer, in the same process.

    python benchmarks/chain_speed.py [--out runs/chain_speed] [--only PATTERN]

A noisy read of a linear layer of 512 x 512, 256 samples, on `reram` with tiles of 512 word lines; one thread, CPU
times, medians of runs in turn. Parts that are pulses of bits are compared with bits that are converted one by one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mho
from mho import timing
from mho.records import record, write_json

SERIAL = {"dac.bits_per_pulse": 1}
SHARES = {"tile.slices": 2, "tile.slicing": "shares", "tile.significance": 4.0}
SHARED = {"wires.pairs": "shared"}
# what is set, and what it is compared with
PARTS: dict[str, tuple[Mapping[str, Any], str]] = {
    "plain": ({}, "plain"),
    "on-times": ({"dac.coding": "time"}, "plain"),
    "two phases": ({"dac.phases": 2}, "plain"),
    "pairs apart": ({"adc.polarity": "apart"}, "plain"),
    "voltage": ({"sensing.mode": "voltage", **SHARED}, "plain"),
    "curved cells": ({"cell.nonlinearity": {"kind": "sinh", "v_0": "0.3 V"}}, "plain"),
    "two devices": ({"tile.devices": 2}, "plain"),
    "two slices": (SHARES, "plain"),
    "what is left": (SHARES | {"tile.slicing": "residual"}, "two slices"),
    "two slices joined": (SHARES | {"tile.join": "mirror"}, "plain"),
    "full scale for each tile": ({"adc.per": "tile"}, "plain"),
    "offsets and gains": ({"adc.offset": 0.5, "adc.gain": 0.01, "adc.calibrated": True}, "plain"),
    "sar": ({"adc.kind": {"kind": "sar", "mismatch": 0.01}}, "plain"),
    "bits": (SERIAL, "plain"),
    "bits as scaled charge": ({**SERIAL, "dac.accumulate": "scaled"}, "bits"),
    "bits as repeated charge": ({**SERIAL, "dac.accumulate": "repeated"}, "bits"),
    "voltage of repeated bits": (
        {**SERIAL, "dac.accumulate": "repeated", "sensing.mode": "voltage", **SHARED},
        "bits",
    ),
}


def chips() -> dict[str, mho.Chip]:
    """The layer on each chain."""
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(512, 512)).eval(), torch.randn(256, 512)
    plain = mho.Hardware.preset("reram").replace({"tile.rows": 512, "tile.columns": 512})
    return {name: mho.map(layer, plain.replace(fields), calibrate=x) for name, (fields, _) in PARTS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names of parts, as a pattern of shell wildcards")
    parser.add_argument("--out", type=Path, default=Path("runs/chain_speed"))
    options = parser.parse_args(arguments)
    x, made = torch.randn(256, 512, generator=torch.Generator().manual_seed(1)), chips()
    rows = []
    for name, (_, against) in PARTS.items():
        if name == against or not fnmatchcase(name, options.only):
            continue
        reads = {part: partial(made[part].read, x, read=0) for part in (name, against)}
        times = timing.compare(reads, 1, runs=9, budget=20)
        ratio = times.seconds[name] / times.seconds[against]
        ms = round(1e3 * times.seconds[name], 2)
        rows.append({"part": name, "against": against, "ratio": round(ratio, 2), "ms": ms})
        print(f"{name:26} {ratio:5.2f} times {against}")
    found = {**record(("mho", "torch", "numba", "numpy"), "benchmarks/chain_speed.py"), "rows": rows}
    write_json(found, options.out / "chain_speed.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
