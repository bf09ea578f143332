"""The ranges of a matrix's readings: what calibration finds out, handed on to the copies and ages of a chip."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .design import Design

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranges:
    """What turns currents into readings.

    Attributes:
        full_scale: (slices,) or (slices, row tiles) float64, of the ADCs, in units of v_read g_max (of v_read, where
            bit lines float); empty where there is no ADC, or before it is known.
        middle: the same shape: of a range that is not symmetric about 0; empty where it is.
        gains: of each group, (slices, row tiles, outputs) that its readings are multiplied by; empty where they are 1,
            or before they are measured on a chip.
        outputs: (2, groups, outputs) float32 gain and offset of the outputs, digital, that were measured on this chip;
            None where there are none.
        array_energy_j: mean energy of the array for one read of the matrix, over the calibration batch, in joules.
    """

    full_scale: Array
    middle: Array = field(default_factory=lambda: np.empty(0))
    gains: tuple[Array, ...] = ()
    array_energy_j: float | None = None
    outputs: Array | None = None

    def bias(self, design: Design, group: int) -> Array:
        """(outputs,) float32 that are added digitally to the outputs of a group: its bias, as was measured."""
        bias = design.bias_of(group)
        return bias if self.outputs is None else bias * self.outputs[0, group] + self.outputs[1, group]

    def before_scales(self, design: Design, group: int) -> Array:
        """What of `bias` is added where readings are added up: none of it where they are scaled after that."""
        bias = self.bias(design, group)
        return np.zeros_like(bias) if design.scaled else bias

    @property
    def each(self) -> bool:
        """Whether a slice has more than a full scale that is symmetric about 0."""
        return self.full_scale.ndim > 1 or self.middle.size > 0

    @classmethod
    def of(cls, design: Design) -> Ranges:
        """Those that are known before a calibration: a full scale of the hardware's own."""
        adc, sensing, cell = design.hardware.adc, design.hardware.sensing, design.hardware.cell
        if adc.full_scale in (None, "calibrated"):
            return cls(np.empty(0))
        return cls(np.full(design.placement.tile.converted, float(adc.full_scale) / (sensing.v_read * cell.g_max)))
