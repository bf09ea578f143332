"""The gradient of a chip, which has none of its own: that of the network that was mapped."""

from __future__ import annotations

import torch
from torch import nn


class StraightThrough(nn.Module):
    """A chip that can be attacked: its outputs, with the gradient of the network that was mapped.

    This is the backward pass of Athalye et al. (2018), section 4.1. Each call is the next noisy read of the chip.
    """

    def __init__(self, chip: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.chip, self.network = chip, network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        exact: torch.Tensor = self.network(x)
        with torch.no_grad():
            error = self.chip(x.detach()) - exact
        return exact + error
