"""Programming: what conductances a chip's cells really get, once, and what they add to each read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..devices.data import warn
from ..devices.memory import Correlated
from .compensation import gains_of
from .converters import Drive
from .encoding import Encoding
from .extrapolation import extrapolations
from .hardware import Hardware
from .kernels.panel import PANEL, pack_rows, unpack
from .kernels.philox import GROUP
from .kernels.program import peak_and_total
from .kernels.read import Planes
from .keys import Key
from .periphery import Periphery
from .row_tile import Draw, RowTile, through_wires
from .slow_noise import block_shares, perturbed
from .tile import Plan
from .wiring import Moments

Array = np.ndarray[Any, Any]
INT16_MAX, INT32_MAX = 2**15 - 1, 2**31 - 1
LARGEST_CODE = 255  # input codes up to 8 bits are worked off in integers


@dataclass(frozen=True)
class Programmed:
    """A programmed matrix.

    Attributes:
        planes: what the read kernel works on.
        row_conductance: (slices, rows) siemens, all cells of a word line together.
        histogram: (BINS,) int64, cells by conductance in equal steps from 0 to HISTOGRAM_TOP g_max; the last holds all
            above.
        limit: input that the scale of the planes is for.
        slow_std: (parts, slices, rows, columns) float32, in units of g_max: read noise of the cells of an output, by
            its independent sources, where successive reads share some of it; no part where reads are independent.
        slow_shares: (parts, components) float64, see `slow_noise.block_shares`.
        limit: input that the scale of the planes is for.
        pedestal: conductance, in units of g_max, that all cells have and no weight.
        gains: (slices, row tiles, outputs) that are part of the scale of the planes, beside that of the encoding.
    """

    planes: Planes
    row_conductance: Array
    histogram: Array
    slow_std: Array
    slow_shares: Array
    limit: float
    pedestal: float
    gains: Array

    @property
    def weights(self) -> Array:
        """(rows, outputs) float32, the weights that the conductances stand for, a bias row included."""
        planes, spans = self.planes, self._spans
        outputs = planes.bias.size
        total = np.zeros((spans.sum(), outputs), dtype=np.float32)
        for g, scale in zip(self.conductances, planes.scale, strict=True):
            signed = g[:, :outputs] - (g[:, planes.reference] if planes.reference.size else self.pedestal)
            total += signed * np.repeat(scale[:, :outputs] / np.float32(self.limit), spans, axis=0)
        return total

    @property
    def conductances(self) -> Array:
        """(slices, rows, columns in whole panels) float32: signed conductances in units of g_max."""
        planes, rows = self.planes, self.row_conductance.shape[1]
        return np.stack(
            [
                unpack(mean)[:rows] * np.repeat(unit, self._spans)[:, None]
                for mean, unit in zip(planes.mean, planes.mean_unit, strict=True)
            ]
        )

    @property
    def _spans(self) -> Array:
        """(row tiles,) word lines of each."""
        return np.diff([*self.planes.edges[:-1], self.row_conductance.shape[1]])

    def compensated(self, start: Programmed) -> Programmed:
        """Digital gains that make the total conductance of each tile what it was at the `start`."""
        firsts = self.planes.edges[:-1]
        before, now = (np.add.reduceat(p.row_conductance, firsts, axis=1) for p in (start, self))
        gain = np.divide(before, now, out=np.ones_like(now), where=now > 0)
        scale = self.planes.scale * gain[:, :, None].astype(np.float32)
        return replace(self, planes=self.planes._replace(scale=scale))

    def at_read(self, read: int, largest: int | None, key: Key) -> Planes:
        """The planes as the read of this number meets them: with the noise that it shares with other reads.

        `largest` is the first of the `largest_factors` that the planes were made with, `key` that of the slow noise.
        """
        parts, slices, rows, columns = self.slow_std.shape
        mean, unit = np.zeros_like(self.planes.mean), np.empty_like(self.planes.mean_unit)
        firsts = [*self.planes.edges[:-1], rows]
        for s, g in enumerate(self.conductances):
            signed = np.ascontiguousarray(g[:, :columns])
            for p in range(parts):
                signed = perturbed(signed, self.slow_std[p, s], self.slow_shares[p], read, 0, p * slices + s, key)
            for t, (a, b) in enumerate(pairwise(firsts)):
                unit[s, t] = pack_tile(signed[a:b], a, largest, mean[s])
        return self.planes._replace(mean=mean, mean_unit=unit)


def program(
    weights: Array,
    encoding: Encoding,
    hardware: Hardware,
    drive: Drive,
    stream: tuple[Any, ...],
    moments: Moments,
    *,
    gains: Array | None = None,
    tell: Callable[[], None] | None = None,
) -> Programmed:
    """Program weights (rows, outputs) into the tiles of one chip, for inputs of a `drive`.

    Each slice and polarity is a set of cells of its own. Currents come out in units of v_read g_max, so conductances
    are kept in units of g_max and variances of current in (v_read g_max)^2. Where codes have at most 8 bits all numbers
    of the planes are int16 (`largest_factors`), else float32. There is no digital bias. Where wires have resistance,
    conductances and noise are those that reach the outputs.

    Args:
        encoding: of these weights.
        stream: (seed, layer, place): keys of the cells.
        moments: of the inputs.
        gains: (slices, row tiles, outputs) that readings are multiplied by; None to measure them, see `gains_of`.
        tell: called when the wires of a tile are solved.

    Warns:
        ExtrapolationWarning: a setting outside the data of the cell's models.

    Raises:
        ValueError: wires that cannot be solved.
    """
    warn(extrapolations(hardware))
    plan = encoding.plan
    sensing, unit, slices = hardware.sensing, hardware.cell.g_max, plan.tile.slices
    edges, columns = plan.edges, encoding.columns
    largest = largest_factors(plan, drive)
    mean, variance = (empty_panels((slices, plan.rows, columns), largest[0] is not None) for _ in range(2))
    units = np.ones((2, slices, plan.row_tiles), dtype=np.float32)
    uniform = np.zeros((slices, plan.row_tiles), dtype=np.float32)
    floor = np.empty((slices, plan.row_tiles, columns))
    row_conductance = np.empty((slices, plan.rows))
    slow_shares = np.array([read_shares(hardware, part) for part in hardware.cell.read_noise.parts])
    shared = sensing.read_interval is not None and bool((slow_shares[:, 0] < 1).any())
    slow_shares = slow_shares[: None if shared else 0]
    slow_std = np.empty((len(slow_shares), slices, plan.rows, columns), dtype=np.float32)
    c0, _ = sensing.white_cell_coefficients()
    amplifiers = Periphery.of(plan.tile, hardware.wires).amplifiers
    draw, wired = Draw(encoding, hardware, slow_shares, stream), not hardware.wires.ideal
    tiles: Iterator[RowTile] = (draw.row_tile(weights[a:b], t, keep=wired) for t, (a, b) in enumerate(pairwise(edges)))
    if wired:
        tiles = through_wires(list(tiles), weights, draw, moments, tell)
    measured = np.ones((slices, plan.row_tiles, plan.outputs)) if gains is None else gains
    for t, tile in enumerate(tiles):
        rows = slice(edges[t], edges[t + 1])
        if gains is None:
            measured[:, t] = gains_of(
                encoding.targets(weights[rows], t), tile.signed * unit, encoding, moments.take(rows)
            )
        slow_std[:, :, rows] = np.sqrt(tile.slow)
        row_conductance[:, rows] = tile.supplied
        white = amplifiers * sensing.column_variance + sensing.reading_variance + c0 * tile.thermal
        floor[:, t] = white / (sensing.v_read * unit) ** 2 + tile.floor
        for s in range(slices):
            units[0, s, t] = pack_tile(tile.signed[s], edges[t], largest[0], mean[s])
            units[1, s, t] = pack_tile(tile.spread[s], edges[t], largest[1], variance[s])
            low, high = float(tile.spread[s].min()), float(tile.spread[s].max())
            uniform[s, t] = high if high - low <= 1e-6 * high else np.nan
    integers = largest[0] is not None
    if integers and halves_squares(drive.largest_digit):
        units[1] *= 2
    alike = bool(np.isfinite(uniform).all())  # one number a tile says it all
    planes = Planes(
        mean=mean,
        variance=np.empty((slices, 0, 0, 0), mean.dtype) if alike else variance,
        mean_unit=units[0],
        variance_unit=units[1],
        uniform=uniform if alike and uniform.any() else np.empty((0, 0), np.float32),
        floor=pad(floor),
        scale=pad(encoding.scale * measured * unit * drive.limit),
        edges=np.array([*edges[:-1], plan.rows + plan.rows % 2 if integers else plan.rows], dtype=np.int64),
        reference=encoding.reference,
        bias=np.zeros(plan.outputs, dtype=np.float32),
    )
    pedestal = encoding.pedestal / unit
    return Programmed(planes, row_conductance, draw.histogram, slow_std, slow_shares, drive.limit, pedestal, measured)


def read_shares(hardware: Hardware, source: Correlated) -> Array:
    """Shares of the variance of one source of read noise by how many reads they last: see `slow_noise.block_shares`."""
    interval = hardware.sensing.read_interval
    if interval is None:
        return block_shares(lambda distance: np.zeros_like(distance))
    return block_shares(lambda distance: source.correlation(distance * interval, hardware.conditions))


Largest = tuple[int, int] | tuple[None, None]


def largest_factors(plan: Plan, drive: Drive) -> Largest:
    """Largest code, and largest squared (perhaps halved) code, that integer planes meet; None for float32 planes."""
    digit = drive.largest_digit
    if not drive.rounds or drive.full_code > LARGEST_CODE or plan.tile.rows % 2:
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
        return np.zeros((slices, panels, (rows + 1) // 2, 2 * PANEL), dtype=np.int16)
    return np.zeros((slices, panels, rows, PANEL), dtype=np.float32)


def pack_tile(values: Array, first: int, largest: int | None, panels: Array) -> float:
    """Write values (rows, columns) float32 of one row tile into packed planes, from word line `first` on.

    Into int16 they go with the finest step for which no value exceeds int16 and no sum of products with factors up to
    `largest` exceeds int32.

    Returns:
        The step, 1 for float32.
    """
    step = 1.0
    if largest is not None:
        peak, total = (float(value) for value in peak_and_total(values))
        if peak > 0:
            step = max(peak / INT16_MAX, total / ((INT32_MAX - INT16_MAX) / largest - len(values)))
    pack_rows(values, np.float32(1 / step), first, panels)
    return step


def pad(columns: Array) -> Array:
    """Pad the last axis with zeros to whole groups, as float32."""
    extra = -columns.shape[-1] % GROUP
    return np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, extra)]).astype(np.float32)
