"""A read simulated cell by cell: every cell of every pulse draws its own noise. Slow, and it knows nothing of kernels.

It takes the conductances of single cells and the hardware's formulas, and follows the chain from input codes to the
outputs of a layer without ADCs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mho.crossbar.hardware import Hardware
from mho.crossbar.programmed import Programmed

Array = np.ndarray[Any, Any]


def simulate(tiled: Programmed, x: Array, reads: int, rng: np.random.Generator) -> Array:
    """Outputs (reads, outputs) of one input (rows,) in the layer's units, without its digital bias."""
    design, hw = tiled.design, tiled.hardware
    dac, drive, cell = hw.dac, design.drive, hw.cell
    total = np.zeros((reads, design.placement.outputs))
    code = x / drive.limit
    if dac.bits is not None:
        code = np.clip(np.rint(code * drive.full_code), -drive.full_code, drive.full_code)
    phases = [(1, np.maximum(code, 0)), (-1, np.maximum(-code, 0))] if dac.phases == 2 and drive.signed else [(1, code)]
    edges = design.placement.edges
    for t in range(design.placement.row_tiles):
        rows = slice(edges[t], edges[t + 1])
        cells = tiled.cells.conductances(design, 0, t, tiled.backend).astype(np.float64)
        cells = cells.reshape(len(cells), 2, design.devices, *cells.shape[2:])
        targets = design.devices * design.encodings[0].targets(design.rows_of(0)[rows], t).astype(np.float64)
        scale = _counts(design)[:, None] * design.encodings[0].scale[-1, t] * drive.limit
        for sign, part in phases:
            charge = _charge(tiled, cells, targets, part[rows], reads, rng)
            for s in range(len(cells)):
                total += sign * scale[s] * (charge[0][s] - charge[1][s]) / hw.sensing.v_read
    assert cell.g_max > 0
    return total


def _charge(tiled: Programmed, cells: Array, targets: Array, code: Array, reads: int, rng: Any) -> list[Array]:
    """For each of a pair (slices, reads, outputs): currents averaged over t_read, weighted with their pulses."""
    hw, drive = tiled.hardware, tiled.design.drive
    pulses = _pulses(drive, code)
    shape = cells.shape[0], reads, cells.shape[4]
    found = [np.zeros(shape), np.zeros(shape)]
    for value, weight, repeats in pulses:
        for _ in range(repeats):
            for s in range(len(cells)):
                read = not hw.tile.joined or s == len(cells) - 1  # one amplifier reads what mirrors add up
                pair = _read_pair(hw, cells[s], targets[s], value, reads, rng, hw.sensing.amplifier_variance * read)
                for polarity in range(2):
                    found[polarity][s] += weight * pair[polarity]
    return found


def _pulses(drive: Any, code: Array) -> list[tuple[Array, float, int]]:
    """What each pulse drives, in units of v_read or t_read, what it counts, and how often it is made."""
    if not drive.rounds:
        return [(code, 1.0, 1)]
    if drive.pulses == 1:
        return [(code / drive.full_code, 1.0, 1)]
    base, found = 2**drive.digit_bits, []
    for q in range(drive.pulses):
        digit = np.sign(code) * ((np.abs(code).astype(int) // base**q) % base)
        counts = base**q * (base - 1) / drive.full_code
        if drive.accumulate == "repeated":
            found.append((digit / (base - 1), (base - 1) / drive.full_code, base**q))
        else:
            found.append((digit / (base - 1), counts, 1))
    return found


def _counts(design: Any) -> Array:
    """What slices count, in units of the last."""
    tile, levels = design.placement.tile, design.hardware.cell.levels
    base = float(levels if tile.significance is None else tile.significance[0]) if tile.slices > 1 else 1.0
    return base ** np.arange(1 - tile.slices, 1)


def _read_pair(
    hw: Any, cells: Array, targets: Array, value: Array, reads: int, rng: Any, variance: float
) -> list[Array]:
    """Currents (reads, outputs) of the two bit lines of pairs, or what their voltages stand for.

    `variance` is that of their amplifiers. Cells are (2, devices, rows, outputs), targets (2, rows, outputs).
    """
    sensing, conditions = hw.sensing, hw.conditions
    v_read = sensing.v_read
    g = cells + hw.cell.read_noise.std(cells, conditions, np) * rng.normal(size=(reads, *cells.shape))
    g, cells = g.sum(axis=2), cells.sum(axis=1)
    on = np.abs(value) if hw.dac.coding == "time" else np.ones_like(value)
    volts = np.sign(value) * v_read if hw.dac.coding == "time" else value * v_read
    driven = volts
    if hw.cell.nonlinearity.kind != "linear" and hw.dac.levels == "voltage":
        driven = hw.cell.nonlinearity.current(volts, conditions, np)
    amplifier = np.sqrt(variance)
    if sensing.mode == "current":
        current = (driven * on)[:, None] * g
        white = np.stack([_white(sensing, cells[p], volts, on) for p in range(2)])
        current = current + np.sqrt(white) * rng.normal(size=current.shape)
        lines = current.sum(axis=2) + amplifier * rng.normal(size=(reads, 2, cells.shape[2]))
        return [lines[:, 0], lines[:, 1]]
    shared = hw.wires.pairs == "shared"
    signs = np.array([1.0, -1.0 if shared else 1.0])[:, None, None]
    v = signs * volts[:, None]
    settled = (g * v).sum(axis=2, keepdims=True) / g.sum(axis=2, keepdims=True)
    if shared:
        settled = (g * v).sum(axis=(1, 2), keepdims=True) / g.sum(axis=(1, 2), keepdims=True)
    white = np.stack([_white(sensing, cells[p], volts, on) for p in range(2)])  # near 0 V on the bit line
    noise = np.sqrt(white) * rng.normal(size=g.shape)
    floor = np.sqrt(sensing.voltage_variance)
    if shared:
        all_g, nominal = cells.sum(axis=(0, 1)), targets.sum(axis=(0, 1))
        line = settled[:, 0, 0] + noise.sum(axis=(1, 2)) / all_g
        line = line + amplifier / all_g * rng.normal(size=line.shape) + floor * rng.normal(size=line.shape)
        return [line * nominal, np.zeros_like(line)]
    found = []
    for p in range(2):
        all_g, nominal = cells[p].sum(axis=0), targets[p].sum(axis=0)
        line = settled[:, p, 0] + noise[:, p].sum(axis=1) / all_g
        line = line + amplifier / all_g * rng.normal(size=line.shape) + floor * rng.normal(size=line.shape)
        found.append(line * nominal)
    return found


def _white(sensing: Any, g: Array, volts: Array, on: Array) -> Array:
    """Variance of each cell's white noise (rows, outputs): at its voltage for a share `on` of the time, at 0 V else."""
    return on[:, None] * sensing.white_cell_variance(g, volts[:, None]) + (1 - on)[
        :, None
    ] * sensing.white_cell_variance(g, 0.0)


def program(hw: Hardware, u: Array, trials: int, rng: np.random.Generator) -> Array:
    """What pairs of cells that are programmed slice by slice stand for (trials, weights), for weights u, -1 to 1.

    `residual`: each slice below the last is programmed to what a look at those above it leaves; else all at once.
    """
    cell, tile = hw.cell, hw.tile
    span, at_once = cell.g_max - cell.g_min, hw.conditions
    shape, found = (trials, len(u)), np.zeros((trials, len(u)))
    assert tile.significance is not None
    given = tile.significance * (tile.slices - 1 if len(tile.significance) == 1 else 1)
    counts = [1.0, *(1 / np.prod(given[k:]) for k in reversed(range(tile.slices - 1)))]  # that which counts most first
    if tile.slicing == "shares":
        counts = [c / sum(counts) for c in counts]
    left = np.broadcast_to(u, shape)
    for count in counts:
        wanted = np.broadcast_to(u, shape) if tile.slicing == "shares" else np.clip(left / count, -1, 1)
        held = np.zeros(shape)
        for sign in (1, -1):
            half = np.maximum(sign * wanted, 0) if tile.encoding == "differential" else (1 + sign * wanted) / 2
            for _ in range(tile.devices):
                normals = [rng.normal(size=shape) for _ in range(cell.programming.draws)]
                g = np.maximum(cell.programming.apply(cell.g_min + span * half, normals, at_once, np), 0)
                held = held + sign * g / span / tile.devices
        found, left = found + count * held, left - count * held
    return found
