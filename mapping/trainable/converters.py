"""Circuits and ADCs of a layer that is trained: ranges that its currents ask for, and ADCs that are not all alike."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from ...crossbar.backends import DEFAULT, backend_of
from ...crossbar.design import Design
from ...crossbar.each_adc import each_adc
from ...crossbar.kernels.read import Circuit
from ...crossbar.packed import pedestal_of
from ...crossbar.ranges import Ranges
from ..torch_backend.cells import Adcs
from .session import largest, lowest_and_highest

Tensor = torch.Tensor


def circuit_of(design: Design, strength: float) -> Circuit:
    """The circuit of a read without what is known of the ADCs' range; noise has a strength, 0 to 1."""
    sensing, drive = design.hardware.sensing, design.drive
    return Circuit(
        integers=False,
        halve=False,
        pulses=drive.pulses,
        digit_bits=drive.digit_bits,
        full_code=float(drive.full_code),
        constant=0.0,
        gain_variance=strength**2 * sensing.gain_variance,
        supply=strength * sensing.supply_variance**0.5,
        noisy=True,
        step=np.empty(0, np.float32),
        low=0.0,
        high=0.0,
        centre=0.0,
        pedestal=pedestal_of(design),
        phases=drive.phases,
        levels=design.levels,
        joined=("digital", "scaled", "repeated").index(drive.accumulate),
    )


def alike(design: Design) -> bool:
    """Whether all ADCs of a reading are the same, and their range is symmetric about 0."""
    adc = design.hardware.adc
    return adc.bits is None or (not adc.differ and adc.span == "symmetric")


def range_of(design: Design, sizes: Tensor) -> Tensor:
    """Ranges for currents (tiles, rows, readings, columns), as `adc.per` and `adc.span` ask.

    Returns:
        (tiles or 1, 1, readings, 1) full scales; (..., 2) highest currents and the negative of the lowest of a range
        that is fitted.
    """
    adc, sensing = design.hardware.adc, design.hardware.sensing
    each = 2 if design.apart else 1
    sizes = sizes.unflatten(2, (-1, each))  # both bit lines of a pair share a range
    tiles, _, slices = sizes.shape[:3]

    def of(currents: Tensor) -> Tensor:
        if adc.span == "fitted":
            return lowest_and_highest(currents, adc.percentile)
        found = largest(currents, adc.percentile).reshape(1)
        return torch.where(found > 0, found, 1.0)

    if adc.per == "layer":
        scale = of(sizes).reshape(1, 1, 1, -1).expand(1, 1, slices, -1)
    else:
        parts = [sizes[:, :, s] for s in range(slices)]
        by_tile = [[part[t] for t in range(tiles)] if adc.per == "tile" else [part] for part in parts]
        scale = torch.stack([torch.stack([of(y) for y in own]) for own in by_tile], dim=1)[:, None]
    factor = (adc.calibrated_at or sensing.v_read) / sensing.v_read
    return (scale * factor).repeat_interleave(each, dim=2)


def ranges_as_chips_have_them(design: Design, full: Tensor) -> Ranges:
    """What `range_of` gives, as a chip is told."""
    known = full.detach().double().cpu()[:, 0, :: 2 if design.apart else 1].transpose(0, 1).numpy()
    if known.shape[2] == 1:
        return Ranges(known[..., 0])
    half = (known[..., 0] + known[..., 1]) / 2
    half[half == 0] = 1.0
    return Ranges(half, (known[..., 0] - known[..., 1]) / 2)


def fresh_adcs(design: Design, full: Tensor, group: int, seed: int) -> Adcs:
    """The ADCs of a group on the chip of a seed, with ranges as `range_of` gives them."""
    fields = each_adc(design, ranges_as_chips_have_them(design, full), group, (seed, 0), backend_of(DEFAULT))
    columns = design.placement.outputs
    columns += design.placement.column_tiles if design.placement.tile.reference_columns else 0
    return Adcs.of(SimpleNamespace(**fields), columns, full.device)  # type: ignore[arg-type]
