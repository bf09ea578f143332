"""CPU time of a read by the backends `torch` and `numba`, and of the plain layers of torch, in one process and thread.

    python benchmarks/torch_backend.py [--out runs/torch_backend]

Preset `reram`, noisy reads without gradients, and one with the gradient of the inputs beside that of the plain layers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mho
from mho import timing
from mho.records import record, write_json

WIDE = {"tile.rows": 512, "tile.columns": 512}


def networks() -> dict[str, tuple[nn.Module, torch.Tensor, dict[str, Any]]]:
    """What is read, with which inputs, and what its hardware has that the preset has not."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(512, 512)).eval().requires_grad_(False)
    cnn = mho.models.mnist_cnn().eval().requires_grad_(False)
    return {
        "Linear 512 x 512, batch 256": (linear, torch.rand(256, 512), WIDE),
        "Linear 512 x 512, batch 256, 4 row tiles": (linear, torch.rand(256, 512), {**WIDE, "tile.rows": 128}),
        "MNIST CNN, batch 64": (cnn, torch.rand(64, 1, 28, 28), {}),
    }


def backward(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """A pass forth and back to the inputs."""
    with torch.inference_mode(False), torch.enable_grad():  # which what is timed has off
        z = x.clone().requires_grad_()
        function(z).sum().backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def plainly(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    """A pass forth."""
    function(x)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/torch_backend"))
    options = parser.parse_args(arguments)
    rows = []
    for name, (net, x, fields) in networks().items():
        hardware = mho.Hardware.preset("reram").replace(fields)
        chips = {which: mho.map(net, hardware, calibrate=x, backend=which) for which in ("torch", "numba")}
        reads = {which: partial(chip.read, read=0) for which, chip in chips.items()}
        passes = {which: partial(plainly, read, x) for which, read in reads.items()}
        passes |= {"plain": partial(plainly, net, x)}
        passes |= {"torch, with gradient": partial(backward, reads["torch"], x)}
        passes |= {"plain, with gradient": partial(backward, net, x)}
        seconds = timing.compare(passes, 1, runs=9, budget=40).seconds
        row: dict[str, Any] = {"work": name}
        row |= {f"{which}_ms": round(1e3 * time, 2) for which, time in seconds.items()}
        row["torch_to_plain"] = round(seconds["torch"] / seconds["plain"], 2)
        row["torch_to_numba"] = round(seconds["torch"] / seconds["numba"], 2)
        row["with_gradient"] = round(seconds["torch, with gradient"] / seconds["plain, with gradient"], 2)
        rows.append(row)
        print(row)
    found = {**record(("mho", "torch", "numba", "numpy"), "benchmarks/torch_backend.py"), "rows": rows}
    write_json(found, options.out / "torch_backend.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
