"""Signed weights as target conductances, and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..devices.cell import Cell
from .tile import Plan

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Encoded:
    """Target conductances of a matrix, and what turns their currents back into weights.

    Attributes:
        targets: (slices, polarities, rows, columns) siemens, float32; columns are the outputs, then reference columns.
            With two polarities the second is taken off the first.
        scale: (slices, row tiles, outputs) float64: weight units of one siemens of (signed) conductance.
        reference: (outputs,) column whose reading is taken off each output's; empty without reference columns.
        pedestal: siemens that every cell has too much, taken off digitally.
    """

    targets: Array
    scale: Array
    reference: Array
    pedestal: float


def block_maxima(weights: Array, plan: Plan) -> Array:
    """Largest |weight| that shares one scale: (row tiles, outputs), 1 where all are zero.

    `weights` is (rows, outputs).
    """
    edges = plan.edges
    maxima = np.stack([np.abs(weights[a:b]).max(axis=0) for a, b in itertools.pairwise(edges)])
    if plan.tile.scale == "tile":
        width = plan.tile.outputs
        for start in range(0, plan.outputs, width):
            maxima[:, start : start + width] = maxima[:, start : start + width].max(axis=1, keepdims=True)
    return np.where(maxima == 0, 1.0, maxima)


def quantise_conductance(fraction: Array, levels: int | None) -> Array:
    """Fractions of the conductance range, rounded (half to even) to a cell's levels."""
    return fraction if levels is None else np.rint(fraction * (levels - 1)) / (levels - 1)


def encode(weights: Array, plan: Plan, cell: Cell) -> Encoded:
    """Encode weights (rows, outputs) for the tiles of a plan.

    Raises:
        ValueError: negative weights for the encoding `single`.
    """
    tile, edges = plan.tile, plan.edges
    maxima = block_maxima(weights, plan)
    per_row = np.repeat(maxima, np.diff(edges), axis=0)
    u = weights / per_row
    if tile.encoding == "single" and (u < 0).any():
        raise ValueError("tile.encoding 'single' takes no negative weights; use 'differential' or 'offset'")
    span = cell.g_max - cell.g_min
    two_sided = tile.encoding in ("differential_two_sided", "offset")
    # what one cell (or the first of a pair) holds, as a fraction of the range, and its partner
    halves = [(1 + u) / 2, (1 - u) / 2] if two_sided else [np.maximum(u, 0), np.maximum(-u, 0)]
    if not tile.encoding.startswith("differential"):
        halves = halves[:1]
    digits = np.stack([slice_digits(half, cell.levels, tile.slices) for half in halves], axis=1)
    slice_weight = slice_weights(cell.levels, tile.slices) * (1 if tile.encoding != "offset" else 2) / span
    scale = slice_weight[:, None, None] * maxima[None]
    reference = np.empty(0, dtype=np.int64)
    if tile.encoding == "offset":
        middle = np.full((tile.slices, 1, plan.rows, plan.column_tiles), 0.5)
        digits = np.concatenate([digits, middle], axis=3)
        reference = plan.outputs + np.arange(plan.outputs) // tile.outputs
    targets = (cell.g_min + span * digits).astype(np.float32)
    return Encoded(targets, scale, reference, cell.g_min if tile.encoding == "single" else 0.0)


def slice_digits(fraction: Array, levels: int | None, slices: int) -> Array:
    """Digits (slices, ...) of fractions in [0, 1], least significant first, each as a fraction of a cell's range."""
    if slices == 1:
        return quantise_conductance(fraction, levels)[None]
    assert levels is not None
    whole = np.rint(fraction * (levels**slices - 1)).astype(np.int64)
    return np.stack([(whole // levels**s) % levels for s in range(slices)]) / (levels - 1)


def slice_weights(levels: int | None, slices: int) -> Array:
    """What the fraction of each slice stands for: (slices,), so that sum of weight x fraction is the whole fraction."""
    if slices == 1:
        return np.ones(1)
    assert levels is not None
    return np.array([(levels - 1) * float(levels) ** s / (float(levels) ** slices - 1) for s in range(slices)])
