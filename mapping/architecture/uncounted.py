"""What energy, time and area of a chip leave out, in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...crossbar.hardware import Hardware

__all__ = ["uncounted"]

NEVER = (
    "energy of clock and control",
    "charging of bit lines",
    "bias of sense amplifiers",
    "references of converters",
    "memory and links off the chip",
    "the voter",
)
"""No figure of these is known to Mho; what they take of area is part of `cost.overhead`."""

# fields of `cost` that are without a figure where all of them are zero
PARTS = {
    "energy of DACs": ("dac_energy", "toggle_energy"),
    "energy of line drivers": ("line_capacitance", "driver_capacitance"),
    "energy of sense amplifiers": ("sense_power", "sense_energy"),
    "energy of scaling": ("scale_energy",),
    "energy of shift and add": ("shift_add_energy",),
    "energy of digital units": ("digital_energy",),
    "energy of buffers": ("buffer_energy",),
    "energy of registers": ("register_energy",),
    "energy of interconnect": ("interconnect_energy",),
    "energy of arrays": ("array_power",),
    "area of cells": ("cell_area",),
    "area of DACs": ("dac_area", "level_area"),
    "area of line drivers": ("driver_area",),
    "area of sense amplifiers": ("sense_area",),
    "area of ADCs": ("adc_area",),
    "area of scaling": ("scale_area",),
    "area of digital units": ("digital_area",),
    "area of buffers": ("buffer_area",),
    "area of registers": ("register_area",),
    "area of interconnect": ("interconnect_area",),
    "area of control and wiring": ("overhead",),
}


def uncounted(hardware: Iterable[Hardware]) -> list[str]:
    """Parts without a figure on any of these, a few words each: those that never have one, and those set to zero.

    Without a number of bits a converter has no cost, and neither has the chip.
    """
    found = dict.fromkeys(NEVER)
    for each in hardware:
        if None in (each.dac.bits, each.adc.bits):
            return ["all of it, as a converter has no number of bits"]
        for part, fields in PARTS.items():
            if all(getattr(each.cost, field) == 0 for field in fields):
                found[part] = None
    return list(found)
