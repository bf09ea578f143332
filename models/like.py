"""Training for a chip: the noise that its layers have, measured, in place of a sigma that is guessed."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from ..mapping.chip import Chip
from ..mapping.reduce import reduce
from .noise import ChipNoise, Noise

MEASURED = 128  # inputs


class Share(NamedTuple):
    """Noise of a layer: additive, as a share of the root mean square of its outputs, and multiplicative.

    add_se, mult_se: their standard errors; NaN where they are not known. The text leaves them out: it is part of what
        identifies a training.
    """

    layer: str
    add: float
    mult: float
    add_se: float = math.nan
    mult_se: float = math.nan

    def __str__(self) -> str:
        return f"{self.layer} {self.add:.4f} {self.mult:.4f}"


def noise_of_chip(chip: Chip, inputs: torch.Tensor) -> list[Share]:
    """The noise of each layer of a trained network on a chip, frozen, slow and fresh together: see `mho.reduce`.

    inputs: (n, ...) real ones, of which the first 128 are read.
    """
    table = reduce(chip, inputs[:MEASURED]).table
    total = table[table["part"] == "total"].set_index("layer")
    columns = [total["sigma_add"] / total["y_rms"], total["sigma_mult"]]
    columns += [total["sigma_add_se"] / total["y_rms"], total["sigma_mult_se"]]
    return [Share(name, *(float(column[name]) for column in columns)) for name in chip.layers]


def with_noise(net: nn.Module, shares: list[Share]) -> nn.Module:
    """The network, whose noise layers are replaced in their order by those of a chip.

    Raises:
        ValueError: another number of noise layers.
    """
    places = [name for name, module in net.named_modules() if isinstance(module, Noise)]
    if len(places) != len(shares):
        raise ValueError(f"the network has {len(places)} noise layers, but {len(shares)} layers are on tiles")
    for name, share in zip(places, shares, strict=True):
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, ChipNoise(share.add, share.mult))
    return net
