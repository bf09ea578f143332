"""The cells of a row tile: drawn one by one, with their errors, and what they amount to at the outputs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numba
import numpy as np

from ..devices.parts import Conditions
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
    """What the cells of one row tile amount to. Arrays are per reading, for the word lines and columns of the tile.

    A reading is that of a slice, or of one bit line of the slice's pairs where these are converted apart; until mirrors
    have `joined` them where they do.

    Attributes:
        signed: (readings, rows, columns) float32 conductances in units of g_max, those of a pair subtracted.
        spread: the same shape: their variance in each read, in units of g_max^2, that goes with the squared input.
        linear: the same shape, or no reading: what goes with the input, see `Design.linear`.
        slow: (parts, readings, rows, columns): variances, by source, that reads share in part.
        floor: (readings, columns) variance of the currents whatever the input, in units of (v_read g_max)^2.
        thermal: (readings, columns) siemens that make thermal noise.
        supplied: (slices, rows) siemens that the drivers feed.
        cells: g (slices, polarities, rows, columns) in siemens, their variances (1 + parts, ...) in units of g_max^2,
            and those of `linear`, kept where wires have resistance.
    """

    signed: Array
    spread: Array
    linear: Array
    slow: Array
    floor: Array
    thermal: Array
    supplied: Array
    cells: tuple[Array, Array, Array] | None = None

    @classmethod
    def empty(cls, design: Design, rows: int, columns: int, parts: int) -> RowTile:
        shape = design.lines, rows, columns
        signed, spread = (np.zeros(shape, dtype=np.float32) for _ in range(2))
        linear = np.zeros(shape if design.linear else (0, 0, 0), dtype=np.float32)
        slow = np.zeros((parts, *shape), dtype=np.float32)
        floor, thermal = (np.zeros((design.lines, columns)) for _ in range(2))
        return cls(signed, spread, linear, slow, floor, thermal, np.zeros((design.placement.tile.slices, rows)))

    @staticmethod
    def bytes(design: Design, rows: int, columns: int) -> int:
        """About what the arrays of a tile take."""
        return design.lines * rows * columns * (12 if design.linear else 8)

    def joined(self, ratios: Array) -> RowTile:
        """The slices added up by mirrors of these ratios (slices, lines of each, columns), one reading for a line."""
        first = ratios.astype(np.float32)[:, :, None]

        def added(values: Array, factors: Array, axis: int = 0) -> Array:
            found: Array = (
                values.reshape(*values.shape[:axis], *ratios.shape[:2], *values.shape[axis + 1 :]) * factors
            ).sum(axis=axis)
            return found

        square = np.square(first)
        return RowTile(
            added(self.signed, first),
            added(self.spread, square),
            added(self.linear, square) if self.linear.size else self.linear,
            added(self.slow, square, axis=1) if self.slow.size else self.slow[:, : ratios.shape[1]],
            added(self.floor, np.square(ratios)),
            added(self.thermal, np.square(ratios)),
            self.supplied,
        )


@dataclass
class Assembly:
    """Adds up the cells of a group, row tile by row tile.

    `shares` (parts, components) are those of the sources of read noise that reads share, no part where they share none.
    `histogram` counts cells by conductance. Several threads may add row tiles at once.
    """

    design: Design
    cells: Cells
    group: int
    shares: Array
    backend: Backend
    histogram: Array = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    lock: threading.Lock = field(default_factory=threading.Lock)  # held while something is added to the histogram

    @cached_property
    def conditions(self) -> Conditions:
        """What the cells are read at."""
        return self.cells.hardware.conditions

    @property
    def encoding(self) -> Encoding:
        return self.design.encodings[self.group]

    def row_tile(self, weights: Array, t: int, *, keep: bool) -> RowTile:
        """The cells that stand for weights (rows, outputs) of row tile t; `keep` those of `RowTile.cells`."""
        encoding, columns = self.encoding, self.encoding.columns
        placement, hardware = encoding.placement, self.cells.hardware
        sensing, unit = hardware.sensing, hardware.cell.g_max
        first, rows, slices = placement.edges[t], len(weights), placement.tile.slices
        design, counted = self.design, np.zeros_like(self.histogram)
        tile = RowTile.empty(design, rows, columns, len(self.shares))
        timed, each = design.drive.timed, 2 if design.apart else 1  # readings of a slice
        c2 = 0.0 if timed else sensing.white_cell_coefficients()[1]
        on_time = (
            np.float32(sensing.timed_cell_coefficients()[1] / (sensing.v_read * unit) ** 2) if timed else np.float32(0)
        )
        if keep:
            shape = (slices, encoding.polarities, rows, columns)
            of_noise = np.zeros((1 + len(self.shares), *shape), np.float32)
            tile.cells = np.zeros(shape, np.float32), of_noise, np.zeros(shape if timed else 0, np.float32)
        at_once = max(1, BLOCK // columns)
        for a in range(0, rows, at_once):
            some = slice(a, min(rows, a + at_once))
            targets = self.cells.targets(design, weights, self.group, t, some, self.backend)
            for s, polarity, device in product(range(slices), range(encoding.polarities), range(design.devices)):
                place, r = Place(self.group, s, polarity, first + a, device), each * s + polarity * (each - 1)
                taken_off = polarity == 1 and each == 1
                g = self.cells.settled(design, targets[s, polarity], place, self.backend)
                along = g.sum(axis=1)
                if not (np.isfinite(along).all() and g.min() >= 0):  # kernels count cells by conductance
                    raise ValueError(
                        f"layer {self.design.matrix.name!r}: its cells must have finite conductances of at least 0 S"
                    )
                std, slow = self.noise(g)
                units = np.array(
                    [-unit if taken_off else unit, c2 / unit**2, BINS / (HISTOGRAM_TOP * unit)], np.float32
                )
                sums = Sums(tile.signed[r, some], tile.spread[r, some], tile.thermal[r], counted)
                self.backend.add_cells(g, std, tuple(units), sums)
                if timed:
                    tile.linear[r, some] += on_time * g
                elif design.floats:
                    own = (std / np.float32(unit)) ** 2 + units[1] * g
                    tile.linear[r, some] += -own if taken_off else own
                if len(slow):
                    tile.slow[:, r, some] += slow
                tile.supplied[s, some] += along
                if tile.cells is not None:
                    tile.cells[0][s, polarity, some] += g
                    tile.cells[1][0, s, polarity, some] += (std / np.float32(unit)) ** 2 + units[1] * g
                    if timed:
                        tile.cells[2][s, polarity, some] += on_time * g
                    tile.cells[1][1:, s, polarity, some] += slow
        with self.lock:
            self.histogram += counted
        return tile

    def noise(self, g: Array) -> tuple[Array, Array]:
        """Standard deviation of the read noise that is new in each read, in siemens, and (parts, ...) slow variances.

        The latter are in units of g_max^2, and whole: what of them is new in each read is part of the former too.
        """
        hardware = self.cells.hardware
        unit, noise = np.float32(hardware.cell.g_max), hardware.cell.read_noise
        slow = np.zeros((len(self.shares), *g.shape), dtype=np.float32)
        if not len(slow):
            return noise.std(g, self.conditions, np), slow
        fresh = np.zeros_like(g)
        for p, part in enumerate(noise.parts):
            slow[p] = (part.std(g, self.conditions, np) / unit) ** 2
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
    apart = assembly.design.apart
    signs = np.array([1.0, -1.0])[: assembly.encoding.polarities, None, None] / unit

    def of_readings(cells: Array, axis: int = 1) -> Array:
        """Cells (slices, polarities, ...) as readings, along `axis`."""
        if not apart:
            return cells.sum(axis=axis)
        slices, polarities = cells.shape[axis - 1 : axis + 1]
        return cells.reshape(*cells.shape[: axis - 1], slices * polarities, *cells.shape[axis + 1 :])

    tile.signed[..., columns] = of_readings((np.abs(signs) if apart else signs) * found.conductance)
    tile.spread[..., columns] = of_readings(variances[0] * found.noise)
    tile.slow[..., columns] = of_readings(variances[1:] * found.noise, axis=2)
    lasting = np.tensordot(1 - assembly.shares[:, 0], variances[1:], axes=1) if len(assembly.shares) else 0.0
    rest = (variances[0] + lasting) * found.rest
    tile.floor[:, columns] = of_readings(rest.sum(axis=2)) if apart else rest.sum(axis=(1, 2))
    tile.thermal[:, columns] = of_readings(found.thermal_each) if apart else found.thermal
    if tile.linear.size:
        timed = tile.cells[2][..., columns]
        tile.linear[..., columns] = of_readings(timed * found.noise)
        tile.floor[:, columns] += of_readings((timed * found.rest).sum(axis=2))
    if columns[0] == 0:
        tile.supplied[:] = 0.0
    tile.supplied += found.supplied
