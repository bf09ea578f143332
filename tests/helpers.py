"""Hardware and models that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from mho import Hardware
from mho.crossbar.backend import Backend
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.design import Design
from mho.crossbar.drive import Drive
from mho.crossbar.kernels.philox import Rows
from mho.crossbar.matrix import Matrix
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds
from mho.crossbar.wire_compensation import WireCompensation

NOISY: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "benchmarks" / "noisy.yaml").read_text("utf-8"))


def hardware(**fields: Any) -> Hardware:
    """The noisy hardware with some fields replaced by dotted path (dots written as two underscores)."""
    return Hardware.model_validate(NOISY).replace({name.replace("__", "."): value for name, value in fields.items()})


def ideal(**fields: Any) -> Hardware:
    return Hardware.preset("ideal").replace({name.replace("__", "."): value for name, value in fields.items()})


def on_tiles(
    weights: np.ndarray[Any, Any],
    hw: Hardware,
    *,
    bias: np.ndarray[Any, Any] | None = None,
    inputs: np.ndarray[Any, Any] | None = None,
    limit: float | None = None,
    signed: bool = True,
    seed: int = 0,
    wire_compensation: WireCompensation | None = None,
    backend: Backend | None = None,
) -> Programmed:
    """A matrix (groups, rows, outputs) programmed into tiles, calibrated with `inputs` or for a range up to `limit`."""
    matrix, backend = Matrix("layer", weights, bias, hw), backend or Compiled()
    cells, seeds = Drawn(hw, seed), Seeds(seed)
    if inputs is not None:
        return calibrate(matrix, (inputs,), cells, seeds, backend, wire_compensation)
    drive = Drive.of(hw.dac, limit, signed)
    return Programmed.of(Design.of(matrix, drive, wire_compensation=wire_compensation), cells, seeds, backend)


def rows_of(first_sample: int = 0, positions: int = 1) -> Rows:
    """Rows with so many positions, numbered from 0, a sample."""
    return Rows(np.uint64(first_sample), np.arange(positions, dtype=np.uint32))


def small_cnn(seed: int = 0) -> nn.Sequential:
    """Convolutions with batch norm, groups and odd padding, and a linear layer: inputs (n, 3, 12, 12), 10 classes."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4, padding="same", padding_mode="reflect", dilation=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 10),
    )
    norm = net[1]
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.uniform_(-0.5, 0.5)
    return net.eval().requires_grad_(False)


def pictures(n: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got - exact).std() / exact.std())
