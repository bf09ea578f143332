"""Faults of a matrix that are not drawn cell by cell: open word and bit lines, and cells that a map says are stuck."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtr

from ..devices.stuck import AT_G_MAX, WORKS, Stuck
from .backend import Backend
from .design import Design
from .hardware import Hardware
from .keys import stream_key
from .placement import Placement

Array = np.ndarray[Any, Any]


def shares_bit_line(hardware: Hardware) -> bool:
    """Whether the cells of a pair are on one bit line and two word lines, instead of the other way about."""
    return hardware.tile.paired and hardware.wires.pairs == "shared"


def columns_of(placement: Placement) -> int:
    """Outputs, then reference columns."""
    return placement.outputs + (placement.column_tiles if placement.tile.reference_columns else 0)


def open_lines(
    design: Design,
    hardware: Hardware,
    where: tuple[int, int, int, int],
    rows: int,
    seed: tuple[int, int],
    backend: Backend,
) -> Array:
    """(rows, columns): which cells are on an open line.

    A word line of a tile serves all its columns, those of all slices and (unless pairs share a bit line) of both cells
    of a pair; a bit line one column of one row tile.

    Args:
        where: group, slice, polarity, and the word line of the first of the rows, which are of one row tile.
        seed: of the chip, and which copy it is.
    """
    placement, stuck, name = design.placement, hardware.cell.stuck, design.matrix.name
    group, slice_, polarity, row = where
    own, copy = seed
    shared, columns = shares_bit_line(hardware), columns_of(placement)
    dead = np.zeros((rows, columns), bool)
    if stuck.word_lines:
        key = stream_key(own, "word_line", name, group, copy, polarity if shared else 0)
        normals = backend.normals((rows, placement.column_tiles), (row, 0), key)
        tiles = np.repeat(np.arange(placement.column_tiles), np.diff(placement.column_edges))
        if columns > placement.outputs:
            tiles = np.append(tiles, np.arange(placement.column_tiles))
        dead |= (ndtr(normals) < stuck.word_lines)[:, tiles]
    if stuck.bit_lines:
        key = stream_key(own, "bit_line", name, group, copy, slice_, 0 if shared else polarity)
        row_tile = int(np.searchsorted(placement.edges, row, side="right")) - 1
        dead |= ndtr(backend.normals((1, columns), (row_tile, 0), key)) < stuck.bit_lines
    return dead


def map_of(design: Design, stuck: Stuck) -> Array | None:
    """The map of a matrix, int8 (groups, slices, polarities, rows, columns); None where it has none.

    Raises:
        ValueError: a map that cannot be read, or of another shape.
    """
    if stuck.map is None:
        return None
    maps = _maps(*stuck.file) if stuck.file else stuck.maps()
    name, placement = design.matrix.name, design.placement
    found = maps.get(name, maps.get(""))
    if found is None:
        return None
    tile = placement.tile
    shape = (placement.groups, tile.slices, 2 if tile.paired else 1, placement.rows, columns_of(placement))
    if [n for n in found.shape if n > 1] != [n for n in shape if n > 1]:
        raise ValueError(
            f"layer {name!r}: cell.stuck.map must have the shape {shape} of its cells (groups, slices, polarities, "
            f"rows, columns), or without axes of length 1, got {found.shape}"
        )
    return found.reshape(shape)


@lru_cache(maxsize=4)
def _maps(path: str, digest: str) -> dict[str, Array]:
    return Stuck(map={"file": path, "sha256": digest}).maps()


def at_ends(g: Array, known: Array, hardware: Hardware) -> Array:
    """Conductances with the cells that a map has as stuck at an end, in the shape and dtype of `g`."""
    cell = hardware.cell
    ends = np.where(known == AT_G_MAX, cell.g_max, cell.g_min).astype(g.dtype)
    return np.where(known == WORKS, g, ends)


@dataclass
class LineErrors:
    """The variance of outputs that open lines make, over chips, where the conductances of cells are their means.

    With q the probability that a line works, m the conductances of cells whose lines work, u what a column's current
    counts at the output and v the voltages, the output of a row tile is sum_c u_c B_c sum_i W_i v_i m_ic, with B and W
    1 with probabilities q_b and q_w and else 0, each of its own. Its variance is

        q_b (1 - q_b) sum_c u_c^2 [q_w^2 M_c^2 + q_w (1 - q_w) sum_i v_i^2 m_ic^2]
        + q_b^2 q_w (1 - q_w) sum_i v_i^2 (sum_c u_c m_ic)^2,   M_c = sum_i v_i m_ic.

    Where pairs share a bit line, their cells are one column of the first sum, and have a word line each in both.
    """

    hardware: Hardware
    found: Array
    lines: list[Array] = field(default_factory=list)

    def slice(self, g: Array, volts: Array, unit: Array, reference: Array) -> None:
        """Add a slice of a row tile: g (polarities, rows, columns) siemens, times what `Stuck.alive` says.

        `unit` (outputs,) and `reference` as in `expected._Slice`.
        """
        stuck, power = self.hardware.cell.stuck, np.square(volts)
        q_b, q_w = 1 - stuck.bit_lines, 1 - stuck.word_lines
        m = g / stuck.alive * np.array([1.0, -1.0])[: len(g), None, None]
        merged = m.sum(axis=0, keepdims=True) if shares_bit_line(self.hardware) else m
        alone = (
            q_b
            * (1 - q_b)
            * (
                q_w**2 * sum(np.square(volts @ column) for column in merged)
                + q_w * (1 - q_w) * (power @ np.square(m).sum(axis=0))
            )
        )
        outputs = len(unit)
        self.found += (alone[:, :outputs] + (alone[:, reference] if reference.size else 0)) * unit**2
        own = m[..., :outputs] - (m[..., reference] if reference.size else 0)
        self.lines.append((own if shares_bit_line(self.hardware) else own.sum(axis=0, keepdims=True)) * unit)

    def row_tile(self, volts: Array) -> None:
        """All slices of a row tile were added, for word lines at `volts` (n, rows)."""
        stuck = self.hardware.cell.stuck
        q_b, q_w = 1 - stuck.bit_lines, 1 - stuck.word_lines
        together = np.square(sum(self.lines)).sum(axis=0)
        self.found += q_b**2 * q_w * (1 - q_w) * (np.square(volts) @ together)
        self.lines.clear()
