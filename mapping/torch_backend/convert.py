"""What ADCs make of currents."""

from __future__ import annotations

import torch

from ...crossbar.kernels.read import Circuit
from .cells import Adcs, Converters
from .straight import through

Tensor = torch.Tensor


def digitised(current: Tensor, converters: Converters, circuit: Circuit) -> tuple[Tensor, Tensor | None]:
    """Readings (reads, tiles, rows, slices, columns) of currents, and how many of them were clipped (None: no ADC)."""
    if converters.adcs is not None:
        return _each(current, converters.adcs)
    if converters.step is None:
        return current, None
    step = converters.step.detach()
    level = current * step.reciprocal()
    level = level - circuit.centre if circuit.centre else level
    with torch.no_grad():
        code = level.round()
        value = code.clamp(circuit.low, circuit.high)
        inside = code == value
    reading = through(level, value, inside)
    reading = reading + circuit.centre if circuit.centre else reading
    found, clipped = reading * step, inside.numel() - inside.count_nonzero()
    if converters.step.requires_grad and torch.is_grad_enabled():
        with torch.no_grad():
            more = rises(value, level, (circuit.low, circuit.high, circuit.centre))
        found = found + (converters.step - step) * more
    return found, clipped


def rises(codes: Tensor, levels: Tensor, adc: tuple[float, float, float]) -> Tensor:
    """What a reading rises by with the step of its ADC (low, high, centre), as in LSQ: straight through the rounding.

    Args:
        codes: as they are read, clipped.
        levels: what was rounded to them, of the same shape.
    """
    low, high, centre = adc
    inside = (levels >= low) & (levels <= high)
    return torch.where(inside, codes - levels, codes + centre)


def _each(current: Tensor, adcs: Adcs) -> tuple[Tensor, Tensor]:
    """Those of ADCs that differ: a code is the number of transitions at or below a level, found bit by bit."""
    level = current * adcs.inverse + adcs.shift
    with torch.no_grad():
        code = torch.zeros_like(level, dtype=torch.int64)
        for bit in reversed(range(adcs.bits)):
            tried = code + (1 << bit)
            code = torch.where(level >= adcs.transitions[adcs.first + (tried - 1)], tried, code)
        nearest = level.round()
        inside = (nearest >= 0) & (nearest <= adcs.most)
        value = code.to(level.dtype)
    reading = through(level, value, inside)
    found, clipped = reading * adcs.step + adcs.zero, inside.numel() - inside.count_nonzero()
    if adcs.grown is not None and torch.is_grad_enabled():
        with torch.no_grad():
            kept = (level >= 0) & (level <= adcs.most)  # as in `rises`: steps grow, and levels are fewer of them
            more = found - torch.where(kept, (level - adcs.shift) * adcs.step, 0.0)
        found = found + (adcs.grown - adcs.grown.detach()) * more
    return found, clipped
