"""What it takes to program a mapped network: pulses, energy and time, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .architecture.read_chain import Chain
from .layers import TileLayer
from .mapped import MappedNetwork

__all__ = ["programming_energy", "write_costs"]

TARGETS = 65  # between which what a cell takes is interpolated


def write_costs(chip: MappedNetwork) -> pd.DataFrame:
    """What programming takes on average, a row per layer on tiles whose programming is a process (kind `verify`).

    Columns: `layer`; `cells`; `pulses`, of a cell on average; `failed`, the share of cells whose last read is not close
    enough to the target; `energy_j` of all cells; `time_s`, of the tile that takes longest: its cells one after
    another, or `at_once` at a time, all tiles at the same time. Drivers and selection of cells are not counted. Other
    kinds of programming say nothing of it, and have no row.
    """
    rows = [row for layer in chip.layers.values() if (row := _row(layer)) is not None]
    return pd.DataFrame(rows, columns=["layer", "cells", "pulses", "failed", "energy_j", "time_s"])


def programming_energy(chip: MappedNetwork, replicas: Mapping[str, int] | None = None) -> float:
    """Joules that program a chip once, with so many replicas of layers: those of `write_costs` where cells say what a
    pulse takes, else `cost.write_energy` for each cell, verified. Drivers, selection and transfer are not counted.
    """
    counts, total = dict(replicas or {}), 0.0
    for name, layer in chip.layers.items():
        row = _row(layer)
        energy = 0.0 if row is None else row["energy_j"]
        if not energy:
            energy = layer.placement.cells * Chain.of(layer.hardware).devices * layer.hardware.cost.write_energy
        total += counts.get(name, 1) * energy
    return total


def _row(layer: TileLayer) -> dict[str, Any] | None:
    hardware, design = layer.hardware, layer.tiles.design
    placement, cell = design.placement, hardware.cell
    grid = np.linspace(0, cell.g_max, TARGETS)
    cost = cell.programming.programming_cost(grid, hardware.conditions)
    if cost is None:
        return None
    sums, times = np.zeros(3), np.zeros(placement.tiles)
    numbers = {tile: i for i, tile in enumerate(sorted({block.tile for block in placement.blocks}))}
    for group, encoding in enumerate(design.encodings):
        weights = design.rows_of(group)
        for t, first in enumerate(placement.edges[:-1]):
            targets = encoding.targets(weights[first : placement.edges[t + 1]], t)
            takes = [np.interp(targets, grid, part) for part in (cost.pulses, cost.failed, cost.energy_j)]
            sums += [float(part.sum()) for part in takes]
            column = np.interp(targets, grid, cost.time_s).sum(axis=(0, 1, 2))
            for c, columns in enumerate(encoding.column_tiles):
                of = (group, first, placement.column_edges[c])
                block = next(b for b in placement.blocks if (b.group, b.first_row, b.first_output) == of)
                times[numbers[block.tile]] += column[columns].sum()
    pulses, failed, energy = (float(total) for total in sums)
    return {
        "layer": layer.name,
        "cells": placement.cells,
        "pulses": pulses / placement.cells,
        "failed": failed / placement.cells,
        "energy_j": energy,
        "time_s": float(times.max()) / cost.at_once,
    }
