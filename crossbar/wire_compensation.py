"""What can be done about known wires: gains of the columns, and cells programmed so that effective ones are right."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numba
import numpy as np

from ..devices.cell import Cell
from .backend import WireSolver
from .encoding import Encoding
from .lines import Wires
from .threads import available
from .wiring import Moments, effective_cells, placed

Array = np.ndarray[Any, Any]
WireCompensation = Literal["gain", "program"]
ROUNDS = 12  # of solving and adjusting, at most
CLOSE = 1e-4  # of the conductance range: smaller deviations need no further round


def compensated(
    encoding: Encoding,
    weights: Array,
    wires: Wires,
    moments: Moments,
    tell: Callable[[], None] | None = None,
    solver: WireSolver | None = None,
) -> Encoding:
    """The encoding of weights (rows, outputs) whose effective conductances are those that they stand for.

    All weights of a column are made smaller by one factor, so that cells far from the drivers and the sense amplifier
    can reach them within their range; its scale makes up for that. Cells with levels are rounded to them at the end.
    `tell` is called for each tile that is done; `solver` is that of the default backend, unless another is given.
    """
    placement = encoding.placement
    targets = [encoding.plain_targets(weights[a:b], t) for t, (a, b) in enumerate(pairwise(placement.edges))]
    scale = encoding.scale.copy()

    def adjust(t: int, columns: Array) -> None:
        mine = moments.take(slice(placement.edges[t], placement.edges[t + 1]))
        wanted = targets[t][..., columns].astype(np.float64)
        places = placed(wanted, wires, mine, placement.tile.reference_columns > 0)
        g, factor = _adjusted(wanted, encoding, wires, places, solver)
        targets[t][..., columns] = g
        outputs = columns[columns < placement.outputs]
        scale[:, t, outputs] /= factor[:, : len(outputs)]

    with ThreadPoolExecutor(available(numba.config.NUMBA_NUM_THREADS)) as pool:
        jobs = [
            pool.submit(adjust, t, columns) for t in range(placement.row_tiles) for columns in encoding.column_tiles
        ]
        for job in jobs:
            job.result()
            if tell is not None:
                tell()
    return replace(encoding, scale=scale, adjusted=tuple(targets))


def _adjusted(
    wanted: Array, encoding: Encoding, wires: Wires, places: tuple[Array, Array], solver: WireSolver | None
) -> tuple[Array, Array]:
    """Conductances (slices, polarities, rows, columns) for the `wanted` ones, and their factors (slices, columns)."""
    cell, kind = encoding.cell, encoding.placement.tile.encoding
    span, references = cell.g_max - cell.g_min, encoding.placement.tile.reference_columns > 0

    def signed(g: Array) -> Array:
        """(slices, rows, columns) what the cells of an output stand for; 0 for reference columns."""
        if g.shape[1] == 2:
            return g[:, 0] - g[:, 1]
        return g[:, 0] - (g[:, 0, :, -1:] if references else encoding.pedestal)

    goal, g = signed(wanted), wanted.copy()
    factor = np.ones((g.shape[0], g.shape[3]))
    for round_ in range(ROUNDS):
        seen = effective_cells(g, wires, places, solver)
        share = np.divide(seen, g, out=np.ones_like(g), where=g > 0)
        if round_ < ROUNDS - 3:  # then it stays
            factor = np.minimum(1, _within_reach(goal, share, cell, kind).min(axis=1))
        missing = factor[:, None] * goal - signed(seen)
        if references:
            missing[..., -1] = 0
        if np.abs(missing).max() < CLOSE * span:
            break
        if kind == "differential_two_sided":
            g += np.stack([missing, -missing], axis=1) / (2 * share)
        elif kind == "differential":  # the cell that is above g_min, and where both are at it the one that helps
            first = (goal > 0) | ((goal == 0) & (missing > 0))
            g += np.where(np.stack([first, ~first], axis=1), np.stack([missing, -missing], axis=1) / share, 0)
        else:
            g += missing[:, None] / share
        np.clip(g, cell.g_min, cell.g_max, out=g)
    if cell.levels is not None:
        step = span / (cell.levels - 1)
        rounded = cell.g_min + np.rint((g - cell.g_min) / step) * step
        if references:
            rounded[..., -1] = g[..., -1]
        g = rounded
    return g, factor


def _within_reach(goal: Array, share: Array, cell: Cell, kind: str) -> Array:
    """(slices, rows, columns): by which factor a goal has to be multiplied so that cells just reach it."""
    first, last = share[:, 0], share[:, -1]
    if kind == "differential":
        active, other = np.where(goal > 0, first, last), np.where(goal > 0, last, first)
        reach = active * cell.g_max - other * cell.g_min
    elif kind == "differential_two_sided":
        up, down = first * cell.g_max - last * cell.g_min, last * cell.g_max - first * cell.g_min
        reach = np.where(goal > 0, up, down)
    else:
        reference = cell.g_min if kind == "single" else share[:, 0, :, -1:] * (cell.g_min + cell.g_max) / 2
        reach = np.where(goal > 0, first * cell.g_max - reference, reference - first * cell.g_min)
    return np.divide(reach, np.abs(goal), out=np.full_like(reach, np.inf), where=goal != 0)


def gains_of(targets: Array, signed: Array, encoding: Encoding, moments: Moments) -> Array:
    """Gains (slices, outputs) with which the readings of a row tile come closest to those of its targets.

    Least squares over inputs that vary independently with these moments: what a calibration of each column measures.

    Args:
        targets: (slices, polarities, rows, columns) siemens.
        signed: (slices, rows, columns) siemens, of the chip: effective, those of a pair subtracted.
    """
    wanted = targets[:, 0] - targets[:, 1] if encoding.polarities == 2 else targets[:, 0]
    outputs, variance = encoding.placement.outputs, moments.square - np.square(moments.mean)

    def product(x: Array, y: Array) -> Array:
        """(slices, outputs): mean of the product of two readings. Sums in the order of the word lines, unlike BLAS."""
        mean = moments.mean[:, None]
        return (mean * x).sum(axis=1) * (mean * y).sum(axis=1) + (variance[:, None] * x * y).sum(axis=1)

    def read(g: Array) -> Array:
        g = g.astype(np.float64)
        return g[..., :outputs] - (g[..., encoding.reference] if encoding.reference.size else encoding.pedestal)

    exact, got = read(wanted), read(signed)
    power = product(got, got)
    return np.divide(product(exact, got), power, out=np.ones_like(power), where=power > 0)
