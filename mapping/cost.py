"""Time and energy of a mapped network, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from .errors import MappingError

if TYPE_CHECKING:
    from .chip import Chip
    from .layers import TileLayer

__all__ = ["COMPONENTS", "layer_costs"]

COMPONENTS = ("dac", "array", "sense", "adc", "digital", "buffer")


def layer_costs(chip: Chip) -> pd.DataFrame:
    """Time and energy of one inference of one sample, a row per layer on tiles.

    Columns: `layer`; `positions`, reads of the matrix; `read_time_s` of one of them, over all its pulses;
    `stage_time_s`, all reads one after the other and the digital end; `energy_<component>_j` for dac, array, sense,
    adc, digital and buffer, and `energy_j`, their sum.

    All tiles of a layer work in parallel. A pulse takes the integration time `sensing.t_read` and then the conversions
    of the fullest tile, shared by its ADCs; the two do not overlap, and the next pulse or read starts when the last
    conversion is done. The digital work overlaps with the next read.

    Raises:
        MappingError: no layer on tiles, a converter without a number of bits, or a layer that has seen no input yet.
    """
    if not chip.layers:
        raise MappingError("cost: no layer of this chip is on tiles")
    return pd.DataFrame([_layer_cost(name, layer) for name, layer in chip.layers.items()])


def _layer_cost(name: str, layer: TileLayer) -> dict[str, Any]:
    hardware, plan, cost, pulses = layer.hardware, layer.plan, layer.hardware.cost, layer.pulses
    if layer.positions is None or layer.array_energy_j is None:
        raise MappingError(f"layer {name!r}: cost needs real inputs, map with calibrate=, a batch of them")
    for converter, bits in (("dac", hardware.dac.bits), ("adc", hardware.adc.bits)):
        if bits is None:
            raise MappingError(f"layer {name!r}: {converter}.bits is null, which has no cost; set {converter}.bits")
    dac_bits, adc_bits = int(hardware.dac.bits), int(hardware.adc.bits)  # type: ignore[arg-type]

    full_tile = replace(plan, groups=1, row_tiles=1, column_tiles=1, outputs=min(plan.outputs, plan.tile.outputs))
    read_time = pulses * (hardware.sensing.t_read + full_tile.conversions / (cost.adcs_per_tile * cost.adc_rate))

    word_lines = plan.groups * plan.column_tiles * plan.rows
    conversions = pulses * plan.conversions
    values = plan.groups * (plan.rows + plan.outputs)
    energy = {
        "dac": pulses * word_lines * cost.pulse_energy(hardware.dac.bits_per_pulse or dac_bits),
        "array": layer.array_energy_j,
        "sense": plan.conversions * cost.sense_power * read_time,
        "adc": conversions * cost.conversion_energy(adc_bits),
        "digital": conversions * cost.shift_add_energy,
        "buffer": values * dac_bits * cost.buffer_energy,
    }
    return {
        "layer": name,
        "positions": layer.positions,
        "read_time_s": read_time,
        "stage_time_s": layer.positions * read_time + cost.digital_time,
        **{f"energy_{part}_j": layer.positions * energy[part] for part in COMPONENTS},
        "energy_j": layer.positions * sum(energy.values()),
    }
