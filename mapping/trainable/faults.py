"""Cells of a trained layer that no programming moves: those that a map has as stuck, and those on open lines."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtri

from ...crossbar.design import Design
from ...crossbar.faults import columns_of, map_of, shares_bit_line
from ...devices.cell import Cell
from ...devices.stuck import AT_G_MAX, WORKS

Tensor = torch.Tensor


class Faults(NamedTuple):
    """Of the cells of a group: (slices, polarities, tiles, lines, columns), or 1 along an axis where all have the same.

    Attributes:
        known: int8, as a map has them; or None.
        works: 0 on open lines, else 1; or None.
    """

    known: Tensor | None
    works: Tensor | None

    def part(self, tile: int, lines: slice) -> Faults:
        """Those of some lines of a row tile: (slices, polarities, lines, columns)."""
        known = None if self.known is None else self.known[:, :, tile, lines]
        works = self.works
        if works is not None:
            works = works[:, :, tile] if works.shape[3] == 1 else works[:, :, tile, lines]
        return Faults(known, works)

    def of(self, g: Tensor, cell: Cell) -> Tensor:
        """Conductances with these faults. Cells that are stuck or carry nothing have no gradient."""
        if self.known is not None:
            g = torch.where(self.known == WORKS, g, torch.where(self.known == AT_G_MAX, cell.g_max, cell.g_min))
        return g if self.works is None else g * self.works


def map_on_tiles(design: Design) -> Tensor | None:
    """A map by groups, (groups, slices, polarities, tiles, lines, columns) int8; None without one.

    Raises:
        ValueError: see `crossbar.faults.map_of`.
    """
    found = map_of(design, design.hardware.cell.stuck)
    if found is None:
        return None
    edges = design.placement.edges
    most = max(b - a for a, b in pairwise(edges))
    parts = [np.pad(found[..., a:b, :], [(0, 0)] * 3 + [(0, most - (b - a)), (0, 0)]) for a, b in pairwise(edges)]
    return torch.from_numpy(np.stack(parts, axis=3))


def faults_of(design: Design, known: Tensor | None, draw: Callable[[int, tuple[int, ...]], Tensor]) -> Faults | None:
    """The faults of the cells of a group on a fresh chip, as `crossbar.faults` says them; None without any.

    Args:
        known: of the group, as `map_on_tiles` has it.
        draw: standard normals of a shape, of the word lines (0) or the bit lines (1).
    """
    stuck, placement = design.hardware.cell.stuck, design.placement
    if stuck.alive == 1:
        return None if known is None else Faults(known, None)
    edges, columns, works = placement.edges, columns_of(placement), None
    most, shared = max(b - a for a, b in pairwise(edges)), shares_bit_line(design.hardware)
    polarities = 2 if placement.tile.paired else 1
    if stuck.word_lines:
        shape = 1, polarities if shared else 1, placement.row_tiles, most, placement.column_tiles
        tiles: Any = np.repeat(np.arange(placement.column_tiles), np.diff(placement.column_edges))
        tiles = np.append(tiles, np.arange(columns - len(tiles)))  # and of reference columns
        works = (draw(0, shape) >= ndtri(stuck.word_lines))[..., torch.from_numpy(tiles)].float()
    if stuck.bit_lines:
        shape = placement.tile.slices, 1 if shared else polarities, placement.row_tiles, 1, columns
        own = (draw(1, shape) >= ndtri(stuck.bit_lines)).float()
        works = own if works is None else works * own
    return Faults(known, works)
