"""Hardware and models that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mho import Hardware

NOISY: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "benchmarks" / "noisy.yaml").read_text("utf-8"))


def hardware(**fields: Any) -> Hardware:
    """The noisy hardware with some fields replaced by dotted path (dots written as two underscores)."""
    return Hardware.model_validate(NOISY).replace({name.replace("__", "."): value for name, value in fields.items()})


def ideal(**fields: Any) -> Hardware:
    return Hardware.preset("ideal").replace({name.replace("__", "."): value for name, value in fields.items()})


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
