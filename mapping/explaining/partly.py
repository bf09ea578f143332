"""Inferences of a chip with parts of it made exact: layers, the noise of their reads, what their DACs take away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..chip import Chip
from ..inference import Arranged, OnTiles, Read
from ..inputs.order import FIRST, order_of
from ..layers import TileLayer
from ..scaling import scaled

ROUNDING, CLIPPING = "DAC rounding", "DAC clipping"
CHUNK = 2**24  # values of patches that are added up at once


@dataclass(frozen=True)
class Variant:
    """What of a chip is made exact.

    Attributes:
        digital: layers that torch computes, with their exact (folded) weights.
        quiet: layers whose reads have no noise.
        inputs: by layer what of `ROUNDING` and `CLIPPING` its inputs are spared: what the DACs take away from them goes
            through the exact weights digitally, and is added to the outputs. So the currents, and all else, stay.
    """

    digital: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()
    inputs: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass
class Partly(Read):
    """A read of a chip, or several at once, in a variant. All random numbers are those of the read itself."""

    variant: Variant = field(default_factory=Variant)

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        name = layer.name
        if name in self.variant.digital:
            return layer.digital(x)
        self.noisy = name not in self.variant.quiet
        y = super()._output(layer, x, call)
        spared = self.variant.inputs.get(name)
        if not spared:
            return y
        assert isinstance(layer, TileLayer)
        return y + of_lost_inputs(layer, x, spared).to(y)


@torch.no_grad()
def of_lost_inputs(layer: TileLayer, x: torch.Tensor, spared: frozenset[str]) -> torch.Tensor:
    """What exact weights make of that part of the inputs which the DACs take away, without bias, as the layer gives it.

    Raises:
        ValueError: inputs that are scaled by sample, whose range is not that of a row.
    """
    given: Arranged = layer.arranged(x)
    values = lost_inputs(layer, given.values.cpu(), spared)
    spec, weights = layer.spec, torch.from_numpy(layer.matrix.weights)
    many = max(1, CHUNK // max(1, int(np.prod(given.size)) * weights.shape[0] * weights.shape[1]))
    y = torch.cat([spec.of_arranged(part, weights, None) for part in values.split(many)])
    return y.reshape(*x.shape[: x.ndim - 1 - spec.dims], *y.shape[1:])


def lost_inputs(layer: TileLayer, values: torch.Tensor, spared: frozenset[str]) -> torch.Tensor:
    """The part of arranged inputs (samples, depth, height, width, channels) that rounding or clipping takes away."""
    drive, dac = layer.tiles.design.drive, layer.hardware.dac
    if dac.scaling == "sample":
        raise ValueError("dac.scaling must be 'layer' or 'token', got 'sample'")
    divided = scaled(values, dac, order_of((len(values),), FIRST, len(values)), (1, 1, 1)).values
    inside = divided.clamp(-drive.limit if drive.signed else 0.0, drive.limit) if drive.clips else divided
    lost = torch.zeros_like(divided)
    if CLIPPING in spared:
        lost += divided - inside
    if ROUNDING in spared and drive.rounds:
        codes = (inside * float(np.float32(drive.full_code / drive.limit))).round()
        lost += inside - codes * (drive.limit / drive.full_code)
    if dac.scaling == "layer":
        return lost
    return torch.where(divided != 0, lost * values / divided, 0.0)


class View:
    """A chip in a variant, as votes ask for one."""

    def __init__(self, chip: Chip, variant: Variant) -> None:
        self.chip, self.variant = chip, variant
        self.model, self.copy_index = chip.model, chip.copy_index

    @property
    def largest_output(self) -> int:
        return self.chip.largest_output

    def read(
        self,
        *inputs: Any,
        read: int,
        reads: int = 1,
        first_sample: int = 0,
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `Chip.read`."""
        run = Partly(read, reads, first_sample=first_sample, variant=self.variant)
        return self.chip.run(inputs, run, dict(named or {}))
