"""Signed weights as target conductances, and back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..devices.cell import Cell
from .placement import Placement
from .tile import Tile

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Encoding:
    """How a matrix sits in the cells of a placement, and what turns their currents back into weights.

    Attributes:
        placement, cell: the tiles and their cells.
        maxima: (row tiles, outputs) largest |weight| that shares one scale.
        scale: (slices, row tiles, outputs) float64: weight units of one siemens of (signed) conductance; of slices that
            mirrors join, those of the last, whose mirror has the ratio 1.
        reference: (outputs,) column whose reading is taken off each output's; empty without reference columns.
        pedestal: siemens that the cells of a weight have too much, taken off digitally.
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
        weights = slice_weights(tile, cell.levels)[-tile.converted :]
        return cls(
            placement,
            cell,
            maxima,
            weights[:, None, None] * maxima[None] / (tile.devices * span),
            placement.references,
            unmeant(tile, cell),
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
        tile, cell, u = self.placement.tile, self.cell, self.relative(weights, row_tile)
        g = np.empty((tile.slices, self.polarities, len(u), self.columns), dtype=np.float32)
        g[..., self.placement.outputs :] = cell.g_min + (cell.g_max - cell.g_min) / 2
        mine = g[..., : self.placement.outputs]
        if tile.slicing == "residual":  # of a cell that errs in nothing, nothing is left
            mine[:], mine[-1] = conductances(np.zeros_like(u), tile, cell), conductances(u, tile, cell)
        elif tile.slicing == "shares":
            mine[:] = conductances(u, tile, cell)
        else:
            for polarity, fraction in enumerate(halves(u, tile)):
                digits = slice_digits(fraction, cell.levels, tile.slices)
                digits *= cell.g_max - cell.g_min
                digits += cell.g_min
                mine[:, polarity] = digits
        return g

    def relative(self, weights: Array, row_tile: int) -> Array:
        """Weights (rows, outputs) in units of the largest that shares their scale, -1 to 1."""
        kind = np.float32 if self.cell.levels is None else np.float64  # levels are rounded to as exactly as can be
        return weights.astype(kind, copy=False) / self.maxima[row_tile].astype(kind)


def halves(u: Array, tile: Tile) -> list[Array]:
    """What the cell of a weight u, -1 to 1, or each of a pair holds, as a fraction of the range."""
    if tile.encoding in ("differential_two_sided", "offset"):
        return [(1 + u) / 2, (1 - u) / 2][: 2 if tile.paired else 1]
    return [np.maximum(u, 0), np.maximum(-u, 0)][: 2 if tile.paired else 1]


def conductances(u: Array, tile: Tile, cell: Cell) -> Array:
    """(polarities, ...) siemens of one cell or pair that stands for all of u, -1 to 1 of any shape."""
    span = cell.g_max - cell.g_min
    return np.stack([quantise_conductance(half, cell.levels) * span + cell.g_min for half in halves(u, tile)])


def stands_for(g: Array, tile: Tile, cell: Cell) -> Array:
    """The u that conductances (polarities, ...) stand for: undoes `conductances`."""
    span = cell.g_max - cell.g_min
    if tile.paired:
        return (g[0] - g[1]) / span
    return 2 * (g[0] - cell.g_min) / span - 1


def left_over(u: Array, tile: Tile, cell: Cell, written: Callable[[int, Array], Array]) -> Array:
    """Targets (slices, polarities, ...) in siemens of cells for weights u, -1 to 1, that are verified slice by slice.

    The last slice takes the weight, each below it what those above left, `significance` times as large: "analog
    slicing" (Pedretti et al. 2021, IEEE Trans. Electron Devices 68:4373), slices of varying significance with error
    correction (Le Gallo et al. 2022, Neuromorph. Comput. Eng. 2:014009). What is beyond its reach stays.

    Args:
        written: the mean conductances (polarities, ...) of the devices of a slice, given its number and its targets.
    """
    weights, left = slice_weights(tile, cell.levels), u.astype(np.float64)
    targets: list[Array] = []
    for s in reversed(range(tile.slices)):
        targets.insert(0, conductances(np.clip(left / weights[s], -1, 1), tile, cell))
        if s:
            left = left - weights[s] * stands_for(written(s, targets[0]).astype(np.float64), tile, cell)
    return np.stack(targets)


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


def slice_weights(tile: Tile, levels: int | None) -> Array:
    """What the fraction of each slice stands for: (slices,), so that sum of weight x fraction is the whole fraction."""
    slices = tile.slices
    if slices == 1:
        return np.ones(1)
    if tile.significance is not None:
        each = np.array(tile.counts)
        return each / (each[-1] if tile.slicing == "residual" else each.sum())
    assert levels is not None
    return np.array([(levels - 1) * float(levels) ** s / (float(levels) ** slices - 1) for s in range(slices)])


def mirror_ratios(tile: Tile, levels: int | None) -> Array:
    """(slices,) that currents of slices are multiplied by where mirrors join them: 1 for the last, others as counted.

    1 for slices that are converted each.
    """
    weights = slice_weights(tile, levels)
    return weights / weights[-1] if tile.joined else np.ones(len(weights))


def unmeant(tile: Tile, cell: Cell) -> float:
    """Siemens that the cells of a reading have and no weight."""
    if tile.encoding != "single":
        return 0.0
    joined = float(mirror_ratios(tile, cell.levels).sum()) if tile.joined else 1.0
    return tile.devices * cell.g_min * joined
