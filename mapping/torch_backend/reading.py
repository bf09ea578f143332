"""Readings of tiles from input codes, as a function of tensors: differentiable, on any device.

It takes all that it needs as arguments, so that whoever has conductances with gradients of their own, and random
numbers of their own, reads them with the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from ...crossbar.kernels.read import Circuit
from ...devices.arrays import sqrt
from .cells import Cells, Converters
from .convert import digitised
from .drive import Pulse, conversions

Tensor = torch.Tensor


class Draws(Protocol):
    """Where the normals of a read come from: `philox.Counted`, or a generator of torch."""

    def readings(self, conversion: int, shape: tuple[int, int, int, int, int]) -> Tensor:
        """(reads, row tiles, rows, slices, columns)."""

    def supply(self, conversion: int, reads: int, rows: int) -> Tensor:
        """(reads, 1, rows, 1, 1)."""


def readings(
    codes: Tensor,
    cells: Cells,
    converters: Converters,
    circuit: Circuit,
    draws: Draws | None,
    reads: int = 1,
    *,
    through_variance: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Outputs (reads, rows, outputs) float32 of input codes (rows, word lines), and how many readings were clipped.

    Gradients go to codes, and to `cells.mean`, `scale`, `bias` and the ADC steps where these have any: straight through
    the rounding of DAC and ADC, none where a reading was clipped, and through the mean of a noisy current.

    Args:
        codes: with those of the word lines behind a patch: that of a bias on the array, and one that makes pairs.
        draws: normals of the noise; None without noise.
        reads: how many there are of these codes. Their products are made once.
        through_variance: whether gradients go through the variance of the noise too.
    """
    out = cells.bias.expand(reads, len(codes), -1)
    clipped = None
    for c, (weight, pulses) in enumerate(conversions(codes, circuit, converters)):
        current, variance, pedestal = _added_up(pulses, cells, circuit, draws is not None, through_variance)
        current, pedestal = current[None], None if pedestal is None else pedestal[None]
        if draws is not None:
            if circuit.supply > 0:
                current = current * (1 + circuit.supply * draws.supply(c, reads, len(codes)))
            with torch.set_grad_enabled(torch.is_grad_enabled() and through_variance):
                if circuit.gain_variance > 0:
                    variance = torch.add(variance, current.square(), alpha=circuit.gain_variance)
                size: Any = sqrt(variance, torch) if through_variance else variance.sqrt()
            current = torch.addcmul(current, draws.readings(c, (reads, *current.shape[1:])), size)
        value, outside = digitised(current, converters, circuit)
        if outside is not None:
            outside = outside * (reads // len(value))  # without noise all reads are one
            clipped = outside if clipped is None else clipped + outside
        out = torch.add(out, _counted(value, cells, pedestal), alpha=weight)
    return out, clipped


def _counted(value: Tensor, cells: Cells, pedestal: Tensor | None) -> Tensor:
    """What readings (reads, tiles, rows, slices, columns) count in outputs (reads, rows, outputs)."""
    outputs = cells.bias.shape[0]
    found = value if value.shape[-1] == outputs else value[..., :outputs]
    if cells.reference is not None:
        found = found - value.index_select(-1, cells.reference)
    if pedestal is not None:
        found = found - pedestal
    found = found * cells.scale
    return found.sum((1, 3)) if found.shape[1] * found.shape[3] > 1 else found[:, 0, :, 0]


def currents(pulses: list[Pulse], cells: Cells, circuit: Circuit) -> Tensor:
    """Noiseless currents (tiles, rows, slices, columns) of a conversion."""
    return _added_up(pulses, cells, circuit, noisy=False, through_variance=False)[0]


def _added_up(
    pulses: Sequence[Pulse], cells: Cells, circuit: Circuit, noisy: bool, through_variance: bool
) -> tuple[Tensor, Any, Any]:
    """Currents, variances (tiles, rows, slices, columns) and pedestals (tiles, rows, 1, 1) of the pulses together."""
    current: Any = None
    variance: Any = None
    pedestal: Any = None
    for pulse in pulses:
        x, weight = cells.tiled(pulse.volts), pulse.weight if circuit.joined else 1.0
        own = torch.bmm(x, cells.mean).unflatten(-1, cells.floor.shape[2:])
        part = own if weight == 1.0 else weight * own
        current = part if current is None else current + part
        if circuit.pedestal:
            taken = (weight * circuit.pedestal) * x.sum(-1)[..., None, None]
            pedestal = taken if pedestal is None else pedestal + taken
        if noisy:
            with torch.set_grad_enabled(torch.is_grad_enabled() and through_variance):
                variance = _more(cells.floor if variance is None else variance, x, own, cells, circuit, pulse.share)
    return current, variance, pedestal


def _more(variance: Tensor, x: Tensor, own: Tensor, cells: Cells, circuit: Circuit, share: float) -> Tensor:
    """A variance with what the noise of the cells adds in a pulse that drives x (tiles, rows, lines).

    `own` is its mean current, in units of v_read where bit lines float.
    """
    halved = 0.5 if circuit.halve else 1.0
    firsts = squares = None
    if cells.variance is not None:
        squares = torch.bmm(x.square(), cells.variance).unflatten(-1, own.shape[-2:])
    if cells.linear is not None:
        driven = x if cells.total is not None else x.abs()
        firsts = torch.bmm(driven, cells.linear).unflatten(-1, own.shape[-2:])
    if cells.total is not None and firsts is not None:  # what a cell does to its line goes with (its voltage - mean)^2
        found = own * (own * cells.total - 2 * firsts)
        found = found if squares is None else torch.add(found, squares, alpha=halved)
        return torch.add(variance, found.clamp(min=0), alpha=share)
    if squares is not None:
        variance = torch.add(variance, squares, alpha=share * halved)
    if cells.uniform is not None:
        variance = torch.add(variance, x.square().sum(-1)[..., None, None] * cells.uniform, alpha=share)
    return variance if firsts is None else torch.add(variance, firsts, alpha=share)
