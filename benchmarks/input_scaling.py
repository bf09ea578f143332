"""A transformer with outlier channels on 8-bit converters: what scales in each read and equalisation win back.

    python benchmarks/input_scaling.py [--layers 2] [--outliers 40] [--cells reram] [--out FILE]

Layers have the size of those of BERT-base and OPT-125m (768 features, 12 heads, 3072 hidden units; both have 12 of
them, which take some minutes a way on two cores), pre-norm, with the weights of their initialisation: nothing is
downloaded. The outliers are synthetic, after what is known of OPT
(Dettmers et al. 2022, LLM.int8(), NeurIPS; Xiao et al. 2023, SmoothQuant, ICML): a few channels of the LayerNorms'
outputs are some tens of times as large as the others, the same ones in all tokens and layers. Their weights in the
layers behind are as much smaller, so that the network computes what it did; the errors are of its outputs, over all
tokens, relative to what it gives digitally.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.records import record, write_measured

FEATURES, HEADS, HIDDEN, OUTLIERS, SEED = 768, 12, 3072, 6, 0
ALPHA = 0.5
WAYS: dict[str, tuple[str, float | None]] = {
    "a layer": ("layer", None),
    "a layer, equalised": ("layer", ALPHA),
    "a sample": ("sample", None),
    "a token": ("token", None),
    "a token, equalised": ("token", ALPHA),
}
NO_ERRORS: dict[str, Any] = {"cell.programming": {"kind": "none"}, "cell.read_noise": {"kind": "none"}}
CELLS: dict[str, dict[str, Any]] = {"reram": {}, "reram, exact cells": NO_ERRORS}


class Block(nn.Module):
    """A layer of an encoder, each of its matrices an nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(FEATURES) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(FEATURES, FEATURES) for _ in range(4))
        self.up, self.down = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, FEATURES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norms[0](x)
        q, k, v = (f(z).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


def encoder(layers: int, outlier: float) -> nn.Sequential:
    """With channels that the norms make `outlier` times as large, and the weights behind as much smaller."""
    torch.manual_seed(SEED)
    net = nn.Sequential(*(Block() for _ in range(layers)), nn.LayerNorm(FEATURES)).eval().requires_grad_(False)
    channels = torch.randperm(FEATURES)[:OUTLIERS]
    for block in list(net)[:-1]:
        for norm, behind in zip(block.norms, ((block.query, block.key, block.value), (block.up,)), strict=True):
            norm.weight[channels] *= outlier
            for layer in behind:
                layer.weight[:, channels] /= outlier
    return net


def measured(layers: int, samples: int, tokens: int, outlier: float, kinds: list[str]) -> dict[str, Any]:
    """Relative error (RMS over RMS) of the encoder's output with each way of scaling, and what it costs."""
    net = encoder(layers, outlier)
    inputs = torch.randn(2 * samples, tokens, FEATURES, generator=torch.Generator().manual_seed(SEED))
    calibration, x = inputs[:samples], inputs[samples:]
    exact, rows = net(x), []
    for cells in kinds:
        for name, (scaling, alpha) in WAYS.items():
            start = time.perf_counter()
            hardware = mho.Hardware.preset("reram").replace(
                {**CELLS[cells], "dac.scaling": scaling, "dac.equalise": alpha}
            )
            chip = mho.map(net, hardware, calibrate=calibration, seed=SEED, check=calibration[:3])
            found = chip.read(x, read=0)
            cost = layer_costs(chip)
            rows.append(
                {
                    "cells": cells,
                    "one scale": name,
                    "error": float((found - exact).norm() / exact.norm()),
                    "scaling_operations": sum(cost.attrs["scaling_operations"].values()),
                    "operations": int(cost["operations"].sum()),
                    "energy_digital_share": float(cost["energy_digital_j"].sum() / cost["energy_j"].sum()),
                }
            )
            took = time.perf_counter() - start
            print(f"outliers x {outlier:g}, {cells}, {name}: {rows[-1]['error']:.2%} ({took:.0f} s)", file=sys.stderr)
    return {"outlier": outlier, "rows": rows}


def run(options: argparse.Namespace) -> Mapping[str, Any]:
    size = options.layers, options.samples, options.tokens
    found = [measured(*size, outlier, options.cells) for outlier in options.outliers]
    model = {"layers": options.layers, "features": FEATURES, "heads": HEADS, "hidden": HIDDEN, "channels": OUTLIERS}
    sizes = {"samples": options.samples, "tokens": options.tokens, "alpha": ALPHA, "seed": SEED}
    command = shlex.join(["python", "benchmarks/input_scaling.py", *sys.argv[1:]])
    return {**record(["mho", "torch", "numpy", "numba"], command), **model, **sizes, "measured": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--outliers", type=float, nargs="+", default=[40.0])
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["reram"])
    parser.add_argument("--out", type=Path, default=Path("docs/results/input_scaling.json"))
    options = parser.parse_args()
    return write_measured(options.out, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
