"""Expected squared errors of a matrix on tiles, from the physics alone: no cell and no noise is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..devices.parts import Conditions
from ..devices.sources import NoiseSource, Shape, white_fit
from .adc_errors import AdcErrors, OfRowTile, undithered_share
from .design import Design
from .drive import input_codes, pulses_of
from .each_adc import adc_of_reading
from .hardware import Hardware
from .packed import read_shares
from .patches import gather
from .programmed import Programmed
from .slow_noise import shared_on_average
from .wiring import Reach, reach_row_tile

Array = np.ndarray[Any, Any]
FRESH = ("cells", "thermal and shot", "amplifier", "gain", "supply", "ADC")  # sources of a read that all matrices have
GRID = 513  # targets between which the expectations of a cell are interpolated


@dataclass(frozen=True)
class ExpectedCells:
    """What is to be expected of a cell, as functions of its target conductance, tabulated at `target` (siemens).

    `mean` in siemens; `variance` of what it ends up with, and `read` (parts, targets) of each source of its read noise,
    in S^2.
    """

    target: Array
    mean: Array
    variance: Array
    read: Array

    @classmethod
    def of(cls, hardware: Hardware) -> ExpectedCells:
        """Programming error, drift, stuck cells and read noise, averaged by Gauss-Hermite quadrature."""
        cell, conditions = hardware.cell, hardware.conditions
        target = np.linspace(0, cell.g_max, GRID)
        moments = np.zeros((2 + len(cell.read_noise.parts), GRID))

        def add(g: Array, weight: Any) -> None:
            read = [part.std(g, conditions, np) ** 2 for part in cell.read_noise.parts]
            moments[:] += weight * np.stack([g, g**2, *read])

        low, high = cell.stuck.at_g_min, cell.stuck.at_g_max
        for written, weight in cell.programming.outcomes(target, conditions, np):
            aged = cell.drift.outcomes(written, conditions, np) if conditions.time_s > 0 else [(written, 1.0)]
            for g, part in aged:
                add(g, (1 - low - high) * weight * part)
        add(np.full(GRID, cell.g_min), low)
        add(np.full(GRID, cell.g_max), high)
        return cls(target, moments[0], np.maximum(moments[1] - moments[0] ** 2, 0), moments[2:])

    def at(self, values: Array, target: Array) -> Array:
        """One of the tables at target conductances of any shape."""
        return np.interp(target, self.target, values)


@dataclass
class Errors:
    """Expected errors in weight units, by source, of what does not and what does change; arrays are (rows, outputs).

    Attributes:
        product: the exact outputs before the bias, y with it.
        mean: the outputs to expect before the bias.
        frozen: mean squared error that is the same in all reads, apart from the `gain`.
        slow: what the reads of a series share of the noise of cells, on average over all pairs of them.
        fresh: what differs from read to read.
    """

    product: Array
    y: Array
    mean: Array
    frozen: dict[str, Array] = field(default_factory=dict)
    slow: dict[str, Array] = field(default_factory=dict)
    fresh: dict[str, Array] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """What the product comes out multiplied by: see `gain_of`."""
        return gain_of(self.product, self.mean)

    def total(self, part: str) -> Array:
        """(rows, outputs): all sources of a part together."""
        return np.sum([np.zeros_like(self.y), *getattr(self, part).values()], axis=0)


def gain_of(product: Array, mean: Array) -> float:
    """The factor that brings exact products closest to what comes out, by least squares; 1 where all are zero."""
    power = float(np.square(product).sum())
    return float((product * mean).sum()) / power if power else 1.0


def expected_errors(programmed: Programmed, x: Array, reads: int) -> Errors:
    """The errors to expect of a series of reads of x (samples, depth, height, width, channels): see `Reader.read`.

    Clipping is left out. Cells are taken as independent of each other, and currents as spread over many levels.
    """
    groups = [_group_errors(programmed, x, g, reads) for g in range(programmed.design.placement.groups)]
    product, y, mean = (np.concatenate([getattr(g, name) for g in groups], axis=1) for name in ("product", "y", "mean"))
    joined = Errors(product, y, mean)
    for part in ("frozen", "slow", "fresh"):
        sources = getattr(groups[0], part)
        getattr(joined, part).update(
            {s: np.concatenate([getattr(g, part)[s] for g in groups], axis=1) for s in sources}
        )
    joined.frozen["shift and DAC"] = np.square(joined.mean - joined.gain * joined.product)
    noise = programmed.hardware.output_noise
    joined.frozen["output"] = noise.frozen_add**2 + (noise.frozen_mult * joined.y) ** 2
    joined.fresh["output"] = noise.sigma_add**2 + (noise.sigma_mult * joined.y) ** 2
    return joined


def _group_errors(programmed: Programmed, x: Array, group: int, reads: int) -> Errors:
    design, hardware, placement = programmed.design, programmed.hardware, programmed.design.placement
    driven, parts = _Driven.of(programmed, x, group), _Parts.of(hardware, reads)
    encoding, cells, moments = design.encodings[group], ExpectedCells.of(hardware), design.moments_of(group)
    scale = programmed.packed[group].planes.scale.astype(np.float64)
    sensing, sources = _Sensing.of(design, hardware), hardware.sensing.sources()
    step, lowest = np.zeros((2, placement.tile.slices, placement.row_tiles))
    if hardware.adc.bits is not None:
        codes, ranges = hardware.adc.codes(design.signed_codes), programmed.ranges
        step += codes.relative_step * ranges.full_scale.reshape(placement.tile.slices, -1)
        lowest += codes.low + codes.centre
        if ranges.middle.size:
            lowest += ranges.middle.reshape(placement.tile.slices, -1) / step
    adcs = AdcErrors.of(hardware.adc) if hardware.adc.differ else None
    which = adc_of_reading(design, group) if adcs else None

    product = driven.patches @ driven.weights
    mean, spread, slow, undithered, differ = (np.zeros_like(product) for _ in range(5))
    fresh = {name: np.zeros_like(product) for name in dict.fromkeys([*FRESH, *(source.group for source in sources)])}
    supplied = np.zeros((design.drive.conversions, *product.shape))
    for t, (a, b) in enumerate(pairwise(placement.edges)):
        held = driven.weights[a:b].astype(np.float32)
        targets = encoding.targets(held, t)
        g, plain = cells.at(cells.mean, targets) * design.devices, encoding.plain_targets(held, t)
        if adcs is not None and which is not None:
            shared = OfRowTile(adcs, which[:, t], placement.references, placement.outputs, len(product))
        seen = reach_row_tile(g, plain, encoding, hardware.wires, moments.take(slice(a, b)))
        for s, pair in enumerate(targets):
            tables = [g[s], *(design.devices * cells.at(table, pair) for table in (cells.variance, *cells.read))]
            volts = driven.volts[:, a:b]
            for r, part in enumerate(_Reading.of_slice(design, seen, (s, t), tables, scale), s * (1 + design.apart)):
                pedestal = volts.sum(axis=1, keepdims=True) * encoding.pedestal * part.unit
                mean += part.columns(volts @ part.signed) - pedestal
                spread += part.variance(part.makes(part.drawn, volts))
                slow += part.variance(part.makes(part.noise(parts.lasting), volts))
                fresh["cells"] += part.variance(part.makes(part.noise(parts.passing), volts))
                for c, conversion in enumerate(driven.conversions):
                    noise = np.zeros_like(part.signed[:1])
                    for pulse in conversion:
                        v = pulse.volts[:, a:b]
                        found = [
                            ("cells", part.makes(part.noise(parts.alone), v)),
                            *sensing.noise(part, v, gain=len(conversion) == 1),
                        ]
                        for name, variance in found:
                            fresh[name] += pulse.share * part.variance(variance)
                        noise = noise + pulse.in_reading * np.sum([variance for _, variance in found], axis=0)
                        supplied[c] += pulse.weight * part.columns(v @ part.signed)
                    if len(conversion) > 1:
                        together = np.sum([p.weight * (p.volts[:, a:b] @ part.signed) for p in conversion], axis=0)
                        for name, variance in sensing.gains(together):
                            fresh[name] += part.variance(variance)
                            noise = noise + variance
                    if step[s, t]:
                        lsb, w2 = step[s, t] * part.one, conversion[0].share / conversion[0].in_reading
                        kept = undithered_share(np.sqrt(noise) / lsb)
                        fresh["ADC"] += w2 * part.variance((1 - kept) * lsb**2 / 12)
                        undithered += w2 * part.variance(kept * lsb**2 / 12)
                        if adcs is not None:
                            w = np.sign(conversion[0].weight) * np.sqrt(w2)
                            current = sum(p.weight * (p.volts[:, a:b] @ part.signed) for p in conversion) / w
                            level = current / lsb - lowest[s, t]
                            mean += w * part.columns(adcs.near(adcs.shift, level) * lsb)
                            differ += w2 * part.variance(adcs.near(adcs.rest, level) * lsb**2)
                            shared.add(r, current / lsb, level, w * part.each(lsb))
        if adcs is not None:
            differ += shared.variance()
    for source in sources:
        if source.shape is Shape.SUPPLY:
            fresh[source.group] += source.amount(hardware.conditions) * np.square(supplied).sum(axis=0)
    frozen = {"programming": spread, "ADC": undithered} | ({"ADCs that differ": differ} if hardware.adc.differ else {})
    return Errors(product, product + driven.bias, mean, frozen, {"cells": slow}, fresh)


@dataclass(frozen=True)
class _Driven:
    """A group of a matrix and what drives it, a bias on the array included.

    `weights` (rows, outputs), `patches` (n, rows), the digital `bias`, `volts` in units of v_read, what pulses come to
    together, and the pulses of each conversion.
    """

    weights: Array
    patches: Array
    bias: Array
    volts: Array
    conversions: list[list[_Pulse]]

    @classmethod
    def of(cls, programmed: Programmed, x: Array, group: int) -> _Driven:
        design, matrix = programmed.design, programmed.design.matrix
        drive, bias = design.drive, np.zeros(matrix.placement.outputs)
        if matrix.bias is not None:
            bias = matrix.bias[group].astype(np.float64)
        weights = matrix.weights[group].astype(np.float64)
        patches = gather(x.astype(np.float64), programmed.reader.geometry(x.shape, group))
        if matrix.bias_on_array:
            weights = np.concatenate([weights, bias[None] / drive.limit])
            patches = np.concatenate([patches, np.full((len(patches), 1), drive.limit)], axis=1)
            bias = np.zeros_like(bias)
        codes = input_codes(patches, drive)
        pulses = design.bent(pulses_of(codes, drive))
        conversions = []
        for phase, sign in zip(pulses, (1, -1), strict=False):
            counts = zip(phase, drive.weights, drive.shares, strict=True)
            own = [_Pulse(v, sign * w, s if drive.joined else w**2, s) for v, w, s in counts]
            conversions += [own] if drive.joined else [[pulse] for pulse in own]
        volts = codes / drive.full_code
        if design.curved:
            volts = np.sum([p.weight * p.volts for conversion in conversions for p in conversion], axis=0)
        return cls(weights, patches, bias, volts, conversions)


class _Pulse(NamedTuple):
    """`volts` (n, rows), or on-times; what it counts, and by what its variance does in outputs and in a reading."""

    volts: Array
    weight: float
    share: float
    in_reading: float


@dataclass(frozen=True)
class _Parts:
    """Shares of the variance of each part of the read noise: drawn anew in each pulse, shared by reads, and between."""

    alone: list[float]
    lasting: list[float]
    passing: list[float]

    @classmethod
    def of(cls, hardware: Hardware, reads: int) -> _Parts:
        shares = [read_shares(hardware, part) for part in hardware.cell.read_noise.parts]
        lasting = [shared_on_average(share, reads) for share in shares]
        alone = [float(share[0]) for share in shares]
        return cls(alone, lasting, [1 - a - b for a, b in zip(alone, lasting, strict=True)])


@dataclass(frozen=True)
class _Reading:
    """The cells behind a reading of a row tile, and how their currents become outputs.

    Attributes:
        signs: (polarities, 1, 1) of the cells; several where a pair is subtracted before it is read.
        g, drawn: (polarities, rows, columns) their mean conductances, and the variances of these.
        read: variances of each part of their read noise.
        conductance, carried, rest: what wires make of them, see `Reach`.
        thermal: (columns,) siemens.
        unit: (outputs,) output per siemens at full voltage.
        reference: see `Encoding`.
        total: (columns,) siemens of all cells of a bit line that floats; None of one that is held at 0 V.
        one: what a reading of 1 stands for, in siemens at full voltage.
    """

    signs: Array
    g: Array
    drawn: Array
    read: list[Array]
    conductance: Array
    carried: Array
    rest: Array
    thermal: Array
    unit: Array
    reference: Array
    total: Array | None
    one: Any

    @classmethod
    def of_slice(
        cls, design: Design, seen: Reach, place: tuple[int, int], tables: list[Array], scale: Array
    ) -> list[_Reading]:
        """The readings of a slice, at place = (slice, row tile); `tables` are `g`, `drawn` and `read` of its cells."""
        (s, t), outputs, found = place, design.placement.outputs, []
        which = [slice(p, p + 1) for p in range(2)] if design.apart else [slice(None)]
        for r, some in enumerate(which):
            g, drawn, *read = (table[some] for table in tables)
            conductance, carried, rest = (part[s][some] for part in (seen.conductance, seen.noise, seen.rest))
            total = conductance.sum(axis=(0, 1)) if design.floats else None
            if total is not None:
                total[total == 0] = design.hardware.cell.g_max  # no cell conducts, and nothing is read
            one = design.hardware.cell.g_max if total is None else total
            unit = scale[len(which) * s + r, t, :outputs] / (one if total is None else total[:outputs])
            thermal = seen.thermal_each[s, r] if design.apart else seen.thermal[s]
            signs = np.array([1.0, -1.0])[: len(g), None, None]
            reference = design.placement.references
            found.append(cls(signs, g, drawn, read, conductance, carried, rest, thermal, unit, reference, total, one))
        return found

    @cached_property
    def signed(self) -> Array:
        """(rows, columns) siemens, those of a pair subtracted."""
        return (self.signs * self.conductance).sum(axis=0)

    def noise(self, shares: list[float]) -> Array:
        """Variance of the cells' conductances by these shares of the parts of their read noise."""
        return np.sum([np.zeros_like(self.g), *(p * n for p, n in zip(shares, self.read, strict=True))], axis=0)

    def makes(self, variance: Array, v: Array) -> Array:
        """(rows, columns): variance of the current that one of the cells' conductances makes at voltages v."""
        cells = variance * self.carried
        found = v**2 @ cells.sum(axis=0) + (variance * self.rest).sum(axis=(0, 1))
        if self.total is None:
            return found
        volts = v @ self.signed / self.total  # of the bit line, which the voltage of each cell is counted from
        first = v @ (self.signs * cells).sum(axis=0)
        return found + volts * (volts * cells.sum(axis=(0, 1)) - 2 * first)

    def columns(self, currents: Array) -> Array:
        """Outputs: the reference column is taken off."""
        out = currents[..., : len(self.unit)]
        return (out - currents[..., self.reference] if self.reference.size else out) * self.unit

    def each(self, values: Any) -> Array:
        """(outputs,) for values of one reading, or (columns,) of each."""
        return np.broadcast_to(values, self.signed.shape[1:])[: len(self.unit)] * self.unit

    def variance(self, variances: Array) -> Array:
        """Variances of outputs: that of the reference column is added."""
        out = variances[..., : len(self.unit)]
        return (out + variances[..., self.reference] if self.reference.size else out) * self.unit**2


@dataclass(frozen=True)
class _Sensing:
    """What the sources of noise of sensing add to readings; currents in units of v_read.

    `fits` are (c0, c2) of `white_fit`, or (c0, c1) of on-times, for each source.
    """

    sources: list[NoiseSource]
    fits: list[tuple[float, float]]
    conditions: Conditions
    amplifiers: int
    timed: bool

    @classmethod
    def of(cls, design: Design, hardware: Hardware) -> _Sensing:
        sources, conditions, timed = hardware.sensing.sources(), hardware.conditions, design.drive.timed
        fits = [timed_fit(source, conditions) if timed else white_fit([source], conditions) for source in sources]
        return cls(sources, fits, conditions, design.amplifiers, timed)

    def gains(self, current: Array) -> Iterator[tuple[str, Array]]:
        """Variances of readings of this current, of the factors that they come with, with the group of each source."""
        for source in self.sources:
            if source.shape is Shape.GAIN:
                yield source.group, source.amount(self.conditions) * current**2

    def noise(self, part: _Reading, v: Array, *, gain: bool) -> Iterator[tuple[str, Array]]:
        """Variances (rows, columns) of the readings of a pulse, with the group of each source; those of `gains` too."""
        current, unit = v @ part.signed, self.conditions.v_read**2
        for source, (c0, c) in zip(self.sources, self.fits, strict=True):
            if source.shape is Shape.CELL and self.timed:
                driven = np.abs(v) @ (part.g * part.carried).sum(axis=0) + (part.g * part.rest).sum(axis=(0, 1))
                yield source.group, (c0 * part.thermal + c * driven) / unit
            elif source.shape is Shape.CELL:
                yield source.group, c0 * part.thermal / unit + c * part.makes(part.g, v)
            elif source.shape in (Shape.COLUMN, Shape.READING):
                many = self.amplifiers if source.shape is Shape.COLUMN else 1
                yield source.group, np.full_like(current, many * source.amount(self.conditions) / unit)
            elif source.shape is Shape.VOLTAGE and part.total is not None:
                yield source.group, np.full_like(current, source.amount(self.conditions) / unit) * part.total**2
        if gain:
            yield from self.gains(current)


def timed_fit(source: NoiseSource, conditions: Conditions) -> tuple[float, float]:
    """(c0, c1): what a source of shape `CELL` adds for each siemens at 0 V, and what it adds to that at v_read."""
    if source.shape is not Shape.CELL:
        return 0.0, 0.0
    idle, driven = source.per_siemens(np.array([0.0, conditions.v_read]), conditions)
    return float(idle), float(driven - idle)
