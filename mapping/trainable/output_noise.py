"""Noise in weight units of the outputs of a layer that is trained."""

from __future__ import annotations

from typing import Any

import torch

from ...crossbar.hardware import OutputNoise
from ...devices.arrays import sqrt
from .numbers import normals
from .session import Steps

Tensor = torch.Tensor


def with_output_noise(y: Tensor, noise: OutputNoise, steps: Steps, name: str) -> Tensor:
    """Outputs (rows, outputs) of a layer with noise that is drawn anew in each call; a frozen part too."""
    for add, mult in ((noise.frozen_add, noise.frozen_mult), (noise.sigma_add, noise.sigma_mult)):
        if add or mult:
            with torch.set_grad_enabled(torch.is_grad_enabled() and steps.through_variance):
                size: Any = sqrt(add**2 + (mult * y).square(), torch)  # type: ignore[arg-type]
            if y.device.type == "cpu":
                drawn = normals(steps.key("output", name, fresh=True), 0, 0, *y.shape)
            else:
                drawn = torch.randn_like(y)
            y = y + steps.strength * size * drawn
    return y
