"""The cells of a row tile: drawn one by one, with their errors, and what they amount to at the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numba
import numpy as np

from .backend import Backend, Sums
from .cells import Cells, Place
from .design import Design, Tell
from .encoding import Encoding
from .threads import available
from .wiring import Moments, Reach, placed, reach

Array = np.ndarray[Any, Any]
BINS = 125  # of the histogram of conductances
HISTOGRAM_TOP = 1.25  # g_max at its end

BLOCK = 1 << 15  # cells programmed together, so that all steps find them in the cache


@dataclass
class RowTile:
    """What the cells of one row tile amount to. Arrays are per slice, for the word lines and columns of the tile.

    Attributes:
        signed: (slices, rows, columns) float32 conductances of an output in units of g_max, those of a pair subtracted.
        spread: the same shape: their variance in each read, in units of g_max^2.
        slow: (parts, slices, rows, columns): variances, by source, that reads share in part.
        floor: (slices, columns) variance of the currents whatever the input, in units of (v_read g_max)^2.
        thermal: (slices, columns) siemens that make thermal noise.
        supplied: (slices, rows) siemens that the drivers feed.
        cells: g (slices, polarities, rows, columns) in siemens and their variances (1 + parts, ...) in units of
            g_max^2, kept where wires have resistance.
    """

    signed: Array
    spread: Array
    slow: Array
    floor: Array
    thermal: Array
    supplied: Array
    cells: tuple[Array, Array] | None = None

    @classmethod
    def empty(cls, slices: int, rows: int, columns: int, parts: int) -> RowTile:
        signed, spread = (np.zeros((slices, rows, columns), dtype=np.float32) for _ in range(2))
        slow = np.zeros((parts, slices, rows, columns), dtype=np.float32)
        floor, thermal = (np.zeros((slices, columns)) for _ in range(2))
        return cls(signed, spread, slow, floor, thermal, np.zeros((slices, rows)))


@dataclass
class Assembly:
    """Adds up the cells of a group, row tile by row tile.

    `shares` (parts, components) are those of the sources of read noise that reads share, no part where they share none.
    `histogram` counts cells by conductance.
    """

    design: Design
    cells: Cells
    group: int
    shares: Array
    backend: Backend
    histogram: Array = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))

    @property
    def encoding(self) -> Encoding:
        return self.design.encodings[self.group]

    def row_tile(self, weights: Array, t: int, *, keep: bool) -> RowTile:
        """The cells that stand for weights (rows, outputs) of row tile t; `keep` those of `RowTile.cells`."""
        encoding, columns = self.encoding, self.encoding.columns
        placement, hardware = encoding.placement, self.cells.hardware
        sensing, unit = hardware.sensing, hardware.cell.g_max
        first, rows, slices = placement.edges[t], len(weights), placement.tile.slices
        tile = RowTile.empty(slices, rows, columns, len(self.shares))
        _, c2 = sensing.white_cell_coefficients()
        if keep:
            shape = (slices, encoding.polarities, rows, columns)
            tile.cells = np.empty(shape, np.float32), np.empty((1 + len(self.shares), *shape), np.float32)
        at_once = max(1, BLOCK // columns)
        for a in range(0, rows, at_once):
            some = slice(a, min(rows, a + at_once))
            targets = encoding.targets(weights, t, some)
            for s, polarity in product(range(slices), range(encoding.polarities)):
                place = Place(self.group, s, polarity, first + a)
                g = self.cells.settled(self.design, targets[s, polarity], place, self.backend)
                along = g.sum(axis=1)
                if not (np.isfinite(along).all() and g.min() >= 0):  # kernels count cells by conductance
                    raise ValueError(
                        f"layer {self.design.matrix.name!r}: its cells must have finite conductances of at least 0 S"
                    )
                std, slow = self.noise(g)
                units = np.array([-unit if polarity else unit, c2 / unit**2, BINS / (HISTOGRAM_TOP * unit)], np.float32)
                sums = Sums(tile.signed[s, some], tile.spread[s, some], tile.thermal[s], self.histogram)
                self.backend.add_cells(g, std, tuple(units), sums)
                tile.slow[:, s, some] += slow
                tile.supplied[s, some] += along
                if tile.cells is not None:
                    tile.cells[0][s, polarity, some] = g
                    tile.cells[1][0, s, polarity, some] = (std / np.float32(unit)) ** 2 + units[1] * g
                    tile.cells[1][1:, s, polarity, some] = slow
        return tile

    def noise(self, g: Array) -> tuple[Array, Array]:
        """Standard deviation of the read noise that is new in each read, in siemens, and (parts, ...) slow variances.

        The latter are in units of g_max^2, and whole: what of them is new in each read is part of the former too.
        """
        hardware = self.cells.hardware
        unit, noise = np.float32(hardware.cell.g_max), hardware.cell.read_noise
        slow = np.zeros((len(self.shares), *g.shape), dtype=np.float32)
        if not len(slow):
            return noise.std(g, hardware.conditions, np), slow
        fresh = np.zeros_like(g)
        for p, part in enumerate(noise.parts):
            slow[p] = (part.std(g, hardware.conditions, np) / unit) ** 2
            fresh += self.shares[p, 0].astype(np.float32) * slow[p]
        return np.sqrt(fresh) * unit, slow


def through_wires(
    tiles: list[RowTile], weights: Array, assembly: Assembly, moments: Moments, tell: Tell | None
) -> Iterator[RowTile]:
    """The row tiles of a matrix whose cells were kept, in order, as they are through their wires.

    The tiles are solved in parallel; `tell` is called for each that is done.
    """
    encoding, wires = assembly.encoding, assembly.cells.hardware.wires
    placement = encoding.placement

    def solved(t: int, columns: Array) -> Reach:
        cells, rows = tiles[t].cells, slice(placement.edges[t], placement.edges[t + 1])
        assert cells is not None
        g, mine = cells[0][..., columns], moments.take(rows)
        shown = g if wires.order == "natural" else encoding.plain_targets(weights[rows], t)[..., columns]
        places = placed(shown, wires, mine, placement.tile.reference_columns > 0)
        return reach(g, wires, mine, places, assembly.backend)

    with ThreadPoolExecutor(available(numba.config.NUMBA_NUM_THREADS)) as pool:
        jobs = [
            [(columns, pool.submit(solved, t, columns)) for columns in encoding.column_tiles] for t in range(len(tiles))
        ]
        for tile, parts in zip(tiles, jobs, strict=True):
            for columns, job in parts:
                _see(tile, columns, job.result(), assembly)
                if tell is not None:
                    tell()
            tile.cells = None
            yield tile


def _see(tile: RowTile, columns: Array, found: Reach, assembly: Assembly) -> None:
    """Replace what the cells of a tile amount to by what they do through its wires."""
    assert tile.cells is not None
    unit, variances = assembly.cells.hardware.cell.g_max, tile.cells[1][..., columns]
    signs = np.array([1.0, -1.0])[: assembly.encoding.polarities, None, None] / unit
    tile.signed[..., columns] = (signs * found.conductance).sum(axis=1)
    tile.spread[..., columns] = (variances[0] * found.noise).sum(axis=1)
    tile.slow[..., columns] = (variances[1:] * found.noise).sum(axis=2)
    lasting = np.tensordot(1 - assembly.shares[:, 0], variances[1:], axes=1) if len(assembly.shares) else 0.0
    tile.floor[:, columns] = ((variances[0] + lasting) * found.rest).sum(axis=(1, 2))
    tile.thermal[:, columns] = found.thermal
    if columns[0] == 0:
        tile.supplied[:] = 0.0
    tile.supplied += found.supplied
