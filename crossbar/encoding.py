"""Signed weights as target conductances, and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..devices.cell import Cell
from .placement import Placement

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Encoding:
    """How a matrix sits in the cells of a placement, and what turns their currents back into weights.

    Attributes:
        placement, cell: the tiles and their cells.
        maxima: (row tiles, outputs) largest |weight| that shares one scale.
        scale: (slices, row tiles, outputs) float64: weight units of one siemens of (signed) conductance.
        reference: (outputs,) column whose reading is taken off each output's; empty without reference columns.
        pedestal: siemens that every cell has too much, taken off digitally.
        adjusted: targets of each row tile that stand in for those that follow from the weights.
    """

    placement: Placement
    cell: Cell
    maxima: Array
    scale: Array
    reference: Array
    pedestal: float
    adjusted: tuple[Array, ...] | None = None

    @classmethod
    def of(cls, weights: Array, placement: Placement, cell: Cell) -> Encoding:
        """The encoding of weights (rows, outputs).

        Raises:
            ValueError: negative weights for the encoding `single`.
        """
        tile = placement.tile
        if tile.encoding == "single" and (weights < 0).any():
            raise ValueError("tile.encoding 'single' takes no negative weights; use 'differential' or 'offset'")
        maxima = block_maxima(weights, placement)
        span = (cell.g_max - cell.g_min) / (2 if tile.encoding == "offset" else 1)
        return cls(
            placement,
            cell,
            maxima,
            slice_weights(cell.levels, tile.slices)[:, None, None] * maxima[None] / (tile.devices * span),
            placement.references,
            tile.devices * cell.g_min if tile.encoding == "single" else 0.0,
        )

    @property
    def polarities(self) -> int:
        """Cells of a pair; the second is taken off the first."""
        return 2 if self.placement.tile.paired else 1

    @property
    def columns(self) -> int:
        """Outputs, then reference columns."""
        return self.placement.outputs + (self.placement.column_tiles if self.placement.tile.reference_columns else 0)

    @property
    def column_tiles(self) -> list[Array]:
        """The columns of each column tile: its outputs, and its reference column if it has one."""
        outputs, edges = self.placement.outputs, self.placement.column_edges
        tiles = [np.arange(first, last) for first, last in itertools.pairwise(edges)]
        return [np.append(tile, outputs + c) for c, tile in enumerate(tiles)] if self.reference.size else tiles

    def targets(self, weights: Array, row_tile: int, some: slice = slice(None)) -> Array:
        """Conductances (slices, polarities, rows, columns) in siemens, float32, for the weights of one row tile.

        `some` takes some of its rows. The middle of the range stands in the reference columns.
        """
        if self.adjusted is not None:
            return self.adjusted[row_tile][:, :, some]
        return self.plain_targets(weights[some], row_tile)

    def plain_targets(self, weights: Array, row_tile: int) -> Array:
        """As `targets`, for some rows, and without what they were adjusted by."""
        tile, cell = self.placement.tile, self.cell
        kind = np.float32 if cell.levels is None else np.float64  # levels are rounded to as exactly as can be
        u = weights.astype(kind, copy=False) / self.maxima[row_tile].astype(kind)
        two_sided = tile.encoding in ("differential_two_sided", "offset")
        # what one cell (or the first of a pair) holds, as a fraction of the range, and its partner
        halves = [(1 + u) / 2, (1 - u) / 2] if two_sided else [np.maximum(u, 0), np.maximum(-u, 0)]
        g = np.empty((tile.slices, self.polarities, len(u), self.columns), dtype=np.float32)
        g[..., self.placement.outputs :] = cell.g_min + (cell.g_max - cell.g_min) / 2
        for polarity in range(self.polarities):
            digits = slice_digits(halves[polarity], cell.levels, tile.slices)
            digits *= cell.g_max - cell.g_min
            digits += cell.g_min
            g[:, polarity, :, : self.placement.outputs] = digits
        return g


def block_maxima(weights: Array, placement: Placement) -> Array:
    """Largest |weight| that shares one scale: (row tiles, outputs), 1 where all are zero.

    `weights` is (rows, outputs).
    """
    edges = placement.edges
    maxima = np.stack([np.abs(weights[a:b]).max(axis=0) for a, b in itertools.pairwise(edges)])
    if placement.tile.scale == "tile":
        for first, last in itertools.pairwise(placement.column_edges):
            maxima[:, first:last] = maxima[:, first:last].max(axis=1, keepdims=True)
    return np.where(maxima == 0, 1.0, maxima)


def quantise_conductance(fraction: Array, levels: int | None) -> Array:
    """Fractions of the conductance range, rounded (half to even) to a cell's levels."""
    return fraction if levels is None else np.rint(fraction * (levels - 1)) / (levels - 1)


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
