"""One tile of a chip as a circuit, for a simulator of circuits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..crossbar.addresses import Part, parts_of
from ..crossbar.drive import input_codes, pulses_of
from ..crossbar.spice import TileCircuit
from .chip import Chip
from .errors import MappingError
from .layers import TileLayer
from .scaling import by_row, range_of

Array = np.ndarray[Any, Any]


def tile_circuit(
    chip: Chip, layer: str, tile: int, inputs: Any = None, *, pulse: int = 0, phase: int = 0
) -> TileCircuit:
    """The cells of a tile, its wires, and the voltages of its word lines in one read, without noise.

    Args:
        layer: its name.
        tile: its number among those of the layer, from 0, as in `Conductances.table`.
        inputs: (rows,) of the layer's matrix, in the layer's own units: what one read of it takes, of the group that
            the tile is of; of a linear layer its features, of a convolution (kernel positions, channels of the group).
            None: all word lines at v_read. Where inputs are pulses of different length, voltages are their means.
        pulse: which of the pulses of an input, the least significant first, where there are several.
        phase: 1 for the pulses of negative inputs, where these have their own.

    Raises:
        MappingError: no such layer or tile, inputs of another shape or that are not finite, cells that are no
            resistors, or bit lines that are not held at 0 V.
    """
    if not (isinstance(layer, str) and layer in chip.layers):
        raise MappingError(f"layer {layer!r}: is not on tiles; layers on tiles are {', '.join(chip.layers)}")
    found = chip.layers[layer]
    tiles, hardware = found.tiles, found.hardware
    if hardware.cell.nonlinearity.kind != "linear":
        raise MappingError(
            f"layer {layer!r}: cell.nonlinearity is {hardware.cell.nonlinearity.kind!r}, and cells of a netlist are "
            "resistors"
        )
    if tiles.design.floats:
        raise MappingError(f"layer {layer!r}: sensing.mode is 'voltage', and a netlist measures currents at 0 V")
    cells = tiles.conductances()
    parts = {part.block.tile: part for part in parts_of(tiles.design)}
    if isinstance(tile, bool) or tile not in parts:
        raise MappingError(f"layer {layer!r}: tile must be 0 to {len(parts) - 1}, got {tile!r}")
    part = parts[tile]
    volts = hardware.sensing.v_read * _driven(found, part, inputs, pulse, phase)[part.layout.places[0]]
    if part.layout.lines == 2:  # pairs of word lines with opposite voltages
        volts = np.stack([volts, -volts], axis=1).reshape(-1)
    return TileCircuit(part.grid(cells[part.block.group]), volts, hardware.wires)


def _driven(layer: TileLayer, part: Part, inputs: Any, pulse: int, phase: int) -> Array:
    """(rows of the tile,) what a pulse drives the word lines with, in units of v_read."""
    design = layer.tiles.design
    drive, rows = design.drive, slice(part.block.first_row, part.block.last_row)
    for name, value, many in (("pulse", pulse, drive.pulses), ("phase", phase, drive.phases)):
        if isinstance(value, bool) or value not in range(many):
            raise MappingError(f"layer {layer.name!r}: {name} must be 0 to {many - 1}, got {value!r}")
    if inputs is None:
        return np.ones(design.placement.rows)[rows]
    x, many = np.asarray(inputs), design.placement.rows - layer.matrix.bias_on_array
    if x.shape != (many,) or x.dtype.kind not in "iuf" or not np.isfinite(x).all():
        raise MappingError(
            f"layer {layer.name!r}: inputs must be {many} finite numbers, those of its word lines, got shape {x.shape} "
            f"of {x.dtype}"
        )
    x = x.astype(np.float64)
    if layer.equaliser is not None:
        shape = design.placement.groups, many, 1
        x = x / by_row(layer.equaliser.numpy(), shape)[part.block.group, :, 0]
    if design.scaled:
        scale = float(range_of(torch.from_numpy(x)[None], layer.hardware.dac.percentile))
        x = x / (scale or 1.0)
    codes = input_codes(x, drive)
    if layer.matrix.bias_on_array:
        codes = np.append(codes, drive.full_code)
    driven: Array = pulses_of(codes, drive)[phase, pulse][rows]
    return driven
