"""Cells packed for the kernels: what they amount to at the outputs, and what they add to each read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..devices.memory import Correlated
from .backend import Backend
from .cells import Cells
from .design import Design, Tell
from .encoding import Encoding, mirror_ratios, unmeant
from .hardware import Hardware
from .kernels.panel import PANEL, unpack
from .kernels.philox import GROUP
from .kernels.read import ALIKE, Planes
from .keys import Key
from .max_memory import zeros
from .row_tile import Assembly, RowTile, through_wires
from .slow_noise import block_shares, perturbed
from .threads import in_parallel
from .wire_compensation import gains_of

Array = np.ndarray[Any, Any]
INT16_MAX, INT32_MAX = 2**15 - 1, 2**31 - 1
BESIDE = ("linear", "linear_unit", "total")  # fields of planes that say nothing unless `Design.linear`
LARGEST_CODE = 255  # input codes up to 8 bits are processed in integers


@dataclass(frozen=True)
class Packed:
    """A group of a matrix as the kernels read it.

    Attributes:
        planes: what the read kernel works on.
        row_conductance: (slices, rows) siemens, all cells of a word line together.
        histogram: (BINS,) int64, cells by conductance in equal steps from 0 to HISTOGRAM_TOP g_max; the last holds all
            above.
        slow_std: (parts, readings, rows, columns) float32, in units of g_max: read noise of the cells of a reading, by
            its independent sources, where successive reads share some of it; no part where reads are independent.
        slow_shares: (parts, components) float64, see `slow_noise.block_shares`.
    """

    planes: Planes
    row_conductance: Array
    histogram: Array
    slow_std: Array
    slow_shares: Array

    @property
    def large(self) -> tuple[Array, ...]:
        """What there is of for each cell, and may be in a file: see `max_memory.zeros`."""
        return self.planes.mean, self.planes.variance, self.planes.linear, self.slow_std

    @property
    def noisy(self) -> bool:
        """Whether readings vary from read to read."""
        planes = self.planes
        return bool(planes.variance.size or planes.uniform.size or planes.linear.size or planes.floor.any())

    def weights(self, design: Design) -> Array:
        """(rows, outputs) float32, the weights that the conductances stand for, a bias row included."""
        planes, spans, pedestal = self.planes, self._spans, pedestal_of(design)
        outputs = planes.bias.size
        total = np.zeros((spans.sum(), outputs), dtype=np.float32)
        for g, scale in zip(self.conductances, planes.scale, strict=True):
            signed = g[:, :outputs] - (g[:, planes.reference] if planes.reference.size else pedestal)
            total += signed * np.repeat(scale[:, :outputs] / np.float32(design.drive.limit), spans, axis=0)
        return total

    @property
    def conductances(self) -> Array:
        """(slices, rows, columns in whole panels) float32: signed conductances in units of g_max."""
        return np.stack(list(self._by_slice()))

    def _by_slice(self) -> Iterator[Array]:
        """(rows, columns in whole panels) float32 of each slice: see `conductances`."""
        spans, rows = self._spans, self.row_conductance.shape[1]
        for mean, unit in zip(self.planes.mean, self.planes.mean_unit, strict=True):
            yield unpack(mean)[:rows] * np.repeat(unit, spans)[:, None]

    @property
    def _spans(self) -> Array:
        """(row tiles,) word lines of each."""
        return np.diff([*self.planes.edges[:-1], self.row_conductance.shape[1]])

    def compensated(self, start: Packed, design: Design) -> Packed:
        """Digital gains that make the total conductance of each tile what it was at the `start`, as it is read."""
        firsts, tile = self.planes.edges[:-1], design.placement.tile
        before, now = (np.add.reduceat(p.row_conductance, firsts, axis=1) for p in (start, self))
        if tile.joined:
            ratios = mirror_ratios(tile, design.hardware.cell.levels)
            before, now = (ratios[None] @ conductance for conductance in (before, now))
        gain = np.divide(before, now, out=np.ones_like(now), where=now > 0)
        gain = np.repeat(gain, len(self.planes.scale) // len(gain), axis=0)
        scale = self.planes.scale * gain[:, :, None].astype(np.float32)
        return replace(self, planes=self.planes._replace(scale=scale))

    def corrected(self, gain: Array, bias: Array) -> Packed:
        """With outputs that are multiplied by a gain, and this bias, both (outputs,) float32."""
        scale = self.planes.scale.copy()
        scale[..., : len(gain)] *= gain
        return replace(self, planes=self.planes._replace(scale=scale, bias=bias))

    def at_read(self, read: int, largest: int | None, key: Key, backend: Backend) -> Planes:
        """The planes as the read of this number meets them: with the noise that it shares with other reads.

        `largest` is the first of the `largest_factors` that the planes were made with, `key` that of the slow noise.
        """
        parts, slices, rows, columns = self.slow_std.shape
        mean, unit = np.zeros_like(self.planes.mean), np.empty_like(self.planes.mean_unit)
        firsts = [*self.planes.edges[:-1], rows]
        for s, g in enumerate(self._by_slice()):
            signed = np.ascontiguousarray(g[:, :columns])
            for p in range(parts):
                signed = perturbed(
                    signed, self.slow_std[p, s], self.slow_shares[p], (0, read, p * slices + s), key, backend
                )
            for t, (a, b) in enumerate(pairwise(firsts)):
                unit[s, t] = pack_tile(signed[a:b], a, largest, mean[s], backend)
        return self.planes._replace(mean=mean, mean_unit=unit)


def pack(
    design: Design,
    cells: Cells,
    group: int,
    gains: Array | None,
    backend: Backend,
    mirrors: Array | None,
    tell: Tell | None = None,
) -> tuple[Packed, Array]:
    """A group of a matrix with these cells, for the kernels, and the gains of its columns.

    Each slice and polarity is a set of cells of its own. Currents come out in units of v_read g_max, so conductances
    are kept in units of g_max and variances of current in (v_read g_max)^2. Where codes have at most 8 bits all numbers
    of the planes are int16 (`largest_factors`), else float32. Where wires have resistance, conductances and noise are
    those that reach the outputs.

    Args:
        gains: (slices, row tiles, outputs) that readings are multiplied by; None to measure them, see `gains_of`.
        mirrors: (row tiles, slices, lines of each, columns) ratios of those that join slices; None without any.
        tell: called when the wires of a tile are solved.

    Raises:
        ValueError: wires that cannot be solved.
    """
    encoding, hardware, placement = design.encodings[group], cells.hardware, design.placement
    sensing, unit, slices = hardware.sensing, hardware.cell.g_max, placement.tile.slices
    weights, moments, edges = design.rows_of(group), design.moments_of(group), placement.edges
    building = Building.of(design, encoding.columns, backend)
    shares = slow_shares(hardware)
    slow_std = zeros((len(shares), design.readings, placement.rows, encoding.columns), np.float32)
    row_conductance = np.empty((slices, placement.rows))
    c0, _ = sensing.timed_cell_coefficients() if design.drive.timed else sensing.white_cell_coefficients()
    assembly, wired = Assembly(design, cells, group, shares, backend), not hardware.wires.ideal
    measured = np.ones((len(encoding.scale), placement.row_tiles, placement.outputs)) if gains is None else gains

    def assembled(t: int) -> RowTile:
        return assembly.row_tile(weights[edges[t] : edges[t + 1]], t, keep=wired)

    def add(t: int, apart: RowTile) -> None:
        rows, tile = slice(edges[t], edges[t + 1]), apart if mirrors is None else apart.joined(mirrors[t])
        if gains is None:
            targets = cells.targets(design, weights[rows], group, t, slice(None), backend)
            if mirrors is not None:
                ratios = mirror_ratios(placement.tile, hardware.cell.levels)
                targets = np.tensordot(ratios, targets, axes=1)[None]
            measured[:, t] = gains_of(
                design.devices * targets, _subtracted(design, tile.signed) * unit, encoding, moments.take(rows)
            )
        slow_std[:, :, rows] = np.sqrt(tile.slow)
        row_conductance[:, rows] = tile.supplied
        white = design.amplifiers * sensing.column_variance + sensing.reading_variance + c0 * tile.thermal
        floor = design.drive.floor * (white / (sensing.v_read * unit) ** 2 + tile.floor)
        if design.floats:
            floor = building.floated(t, tile, floor, encoding.targets(weights[rows], t))
        building.add(t, tile, floor)

    if wired:
        tiles = in_parallel(assembled, placement.row_tiles)
        for t, tile in enumerate(through_wires(tiles, weights, assembly, moments, tell)):
            add(t, tile)
    else:
        rows = max(b - a for a, b in pairwise(edges))
        in_parallel(lambda t: add(t, assembled(t)), placement.row_tiles, RowTile.bytes(design, rows, encoding.columns))
    bias = design.bias_of(group)
    planes = building.planes(encoding, measured, np.zeros_like(bias) if design.scaled else bias)
    return Packed(planes, row_conductance, assembly.histogram, slow_std, shares), measured


def _subtracted(design: Design, signed: Array) -> Array:
    """(slices, rows, columns): the bit lines of pairs that are converted apart taken off each other."""
    return signed[::2] - signed[1::2] if design.apart else signed


@dataclass(frozen=True)
class Building:
    """Planes that are filled row tile by row tile.

    Attributes:
        largest: see `largest_factors`.
        mean, variance, linear: packed, of all readings.
        units: (3, readings, row tiles): what 1 of them stands for.
        uniform: (readings, row tiles): the variance of the cells of a tile that are all alike, else NaN.
        floor: (readings, row tiles, columns).
        total, conductance: the same shape, where bit lines float: the variance of all cells of one, in units of the
            square of their conductance; and that conductance as it should be, in siemens.
    """

    design: Design
    backend: Backend
    largest: Largest
    mean: Array
    variance: Array
    linear: Array
    units: Array
    uniform: Array
    floor: Array
    total: Array
    conductance: Array

    @classmethod
    def of(cls, design: Design, columns: int, backend: Backend) -> Building:
        """Empty planes."""
        placement, largest = design.placement, largest_factors(design)
        readings, row_tiles = design.readings, placement.row_tiles
        shape, integers = (readings, placement.rows, columns), largest[0] is not None
        mean, variance = (empty_panels(shape, integers) for _ in range(2))
        linear = empty_panels(shape, integers) if design.linear else np.empty((readings, 0, 0, 0), mean.dtype)
        units = np.ones((3, readings, row_tiles), dtype=np.float32)
        uniform = np.zeros((readings, row_tiles), dtype=np.float32)
        floor = np.empty((readings, row_tiles, columns))
        floating = [np.empty(floor.shape if design.floats else (0, 0, 0)) for _ in range(2)]
        return cls(design, backend, largest, mean, variance, linear, units, uniform, floor, *floating)

    def floated(self, t: int, tile: RowTile, floor: Array, targets: Array) -> Array:
        """Make what the cells of a row tile do to the voltages of bit lines that float of what they do to currents.

        Voltages are in units of v_read. `targets` (slices, polarities, rows, columns) are what the digital side takes
        the conductances for.

        Returns:
            The floor (readings, columns) of the voltages for that of the currents.
        """
        design, unit = self.design, self.design.hardware.cell.g_max
        share = np.divide(unit, tile.thermal, out=np.zeros_like(tile.thermal), where=tile.thermal > 0)  # nothing: 0 V
        self.total[:, t] = tile.spread.sum(axis=1, dtype=np.float64) * share**2
        each = design.devices * targets.sum(axis=2, dtype=np.float64)
        self.conductance[:, t] = each.reshape(-1, each.shape[-1]) if design.apart else each.sum(axis=1)
        tile.signed *= share[:, None].astype(np.float32)
        for variances in (tile.spread, tile.linear):
            variances *= np.square(share)[:, None].astype(np.float32)
        sensing = design.hardware.sensing
        return floor * share**2 + design.drive.floor * sensing.voltage_variance / sensing.v_read**2

    def add(self, t: int, tile: RowTile, floor: Array) -> None:
        """The row tile t, and the (readings, columns) variance of its currents that no input changes."""
        first = self.design.placement.edges[t]
        self.floor[:, t] = floor
        for s in range(len(self.mean)):
            self.units[0, s, t] = pack_tile(tile.signed[s], first, self.largest[0], self.mean[s], self.backend)
            self.units[1, s, t] = pack_tile(tile.spread[s], first, self.largest[1], self.variance[s], self.backend)
            if self.design.linear:
                self.units[2, s, t] = pack_tile(tile.linear[s], first, self.largest[0], self.linear[s], self.backend)
            low, high = float(tile.spread[s].min()), float(tile.spread[s].max())
            self.uniform[s, t] = high if high - low <= 1e-6 * high else np.nan

    def planes(self, encoding: Encoding, gains: Array, bias: Array) -> Planes:
        """The planes, with gains (slices, row tiles, outputs) beside the scale of the encoding."""
        unit, drive, integers = self.design.hardware.cell.g_max, self.design.drive, self.largest[0] is not None
        if integers and halves_squares(drive.largest_digit):
            self.units[1] *= 2
        alike = bool(np.isfinite(self.uniform).all())  # one number a tile says it all
        if drive.joined or self.design.linear:
            alike &= not self.uniform.any()  # the kernels have no short way for these
        scale = np.repeat(encoding.scale * gains, 2, axis=0) if self.design.apart else encoding.scale * gains
        if self.design.apart:
            scale[1::2] *= -1
        if self.design.floats:
            scale = scale * self.conductance[..., : scale.shape[-1]] / unit
        nothing = np.empty((len(self.variance), 0, 0, 0), self.mean.dtype)
        return Planes(
            mean=self.mean,
            variance=nothing if alike else self.variance,
            mean_unit=self.units[0],
            variance_unit=self.units[1],
            uniform=self.uniform if alike and self.uniform.any() else np.empty((0, 0), np.float32),
            floor=pad(self.floor),
            scale=pad(scale * unit * drive.limit),
            edges=packed_edges(self.design),
            reference=encoding.reference,
            bias=bias,
            linear=self.linear,
            linear_unit=self.units[2],
            total=pad(self.total) if self.design.floats else np.empty((0, 0, 0), np.float32),
            **ALIKE,
        )


def packed_edges(design: Design) -> Array:
    """(row tiles + 1,) int64: first word line of each row tile, and the end, in whole pairs where there are pairs."""
    placement = design.placement
    pairs = largest_factors(design)[0] is not None
    last = placement.rows + placement.rows % 2 if pairs else placement.rows
    return np.array([*placement.edges[:-1], last], dtype=np.int64)


def pedestal_of(design: Design) -> float:
    """Conductance, in units of g_max, that the cells of a reading have and no weight."""
    cell = design.hardware.cell
    return unmeant(design.placement.tile, cell) / cell.g_max


def slow_shares(hardware: Hardware) -> Array:
    """(parts, components) of the sources of read noise, no part where successive reads share nothing."""
    found = np.array([read_shares(hardware, part) for part in hardware.cell.read_noise.parts])
    shared = hardware.sensing.read_interval is not None and bool((found[:, 0] < 1).any())
    return found[: None if shared else 0]


def read_shares(hardware: Hardware, source: Correlated) -> Array:
    """Shares of the variance of one source of read noise by how many reads they last: see `slow_noise.block_shares`."""
    interval = hardware.sensing.read_interval
    if interval is None:
        return block_shares(lambda distance: np.zeros_like(distance))
    return block_shares(lambda distance: source.correlation(distance * interval, hardware.conditions))


Largest = tuple[int, int] | tuple[None, None]


def largest_factors(design: Design) -> Largest:
    """Largest code, and largest squared (perhaps halved) code, that integer planes meet; None for float32 planes."""
    drive, digit = design.drive, design.drive.largest_digit
    if not drive.rounds or drive.full_code > LARGEST_CODE or design.placement.tile.rows % 2 or design.curved:
        return None, None
    return digit, (digit**2 + 1) // 2 if halves_squares(digit) else digit**2


def halves_squares(digit: int) -> bool:
    """Whether integer squares of codes up to `digit` would not fit into int16, and are halved."""
    return digit**2 > INT16_MAX


def empty_panels(shape: tuple[int, int, int], integers: bool) -> Array:
    """Zero planes for (slices, rows, columns), in the layout of `kernels.panel`."""
    slices, rows, columns = shape
    panels = -(-columns // PANEL)
    if integers:
        return zeros((slices, panels, (rows + 1) // 2, 2 * PANEL), np.int16)
    return zeros((slices, panels, rows, PANEL), np.float32)


def pack_tile(values: Array, first: int, largest: int | None, panels: Array, backend: Backend) -> float:
    """Write values (rows, columns) float32 of one row tile into packed planes, from word line `first` on.

    Into int16 they go with the finest step for which no value exceeds int16 and no sum of products with factors up to
    `largest` exceeds int32.

    Returns:
        The step, 1 for float32.
    """
    step = 1.0
    if largest is not None:
        peak, total = backend.peak_and_total(values)
        if peak > 0:
            step = max(peak / INT16_MAX, total / ((INT32_MAX - INT16_MAX) / largest - len(values)))
    backend.pack_rows(values, np.float32(1 / step), first, panels)
    return step


def pad(columns: Array) -> Array:
    """Pad the last axis with zeros to whole groups, as float32."""
    extra = -columns.shape[-1] % GROUP
    return np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, extra)]).astype(np.float32)
