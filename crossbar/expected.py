"""Expected squared errors of a matrix on tiles, from the physics alone: no cell and no noise is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..devices.parts import Conditions
from ..devices.sources import NoiseSource, Shape, white_fit
from .converters import digits, input_codes
from .hardware import Hardware
from .packed import read_shares
from .patches import gather
from .periphery import Periphery
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


def expected_errors(programmed: Programmed, x: Array, reads: int, scales: Array | None = None) -> Errors:
    """The errors to expect of a series of reads of x (samples, depth, height, width, channels): see `Reader.read`.

    `scales` are those of the rows, where reads have them: errors of readings grow with them.
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
    if scales is not None:
        _rescale(joined, scales.astype(np.float64)[:, None])
        if programmed.design.matrix.bias is not None:
            joined.y += programmed.design.matrix.bias.reshape(-1)
    joined.frozen["shift and DAC"] = np.square(joined.mean - joined.gain * joined.product)
    noise = programmed.hardware.output_noise
    joined.frozen["output"] = noise.frozen_add**2 + (noise.frozen_mult * joined.y) ** 2
    joined.fresh["output"] = noise.sigma_add**2 + (noise.sigma_mult * joined.y) ** 2
    return joined


def _rescale(errors: Errors, scales: Array) -> None:
    """Outputs and squared errors, of readings, in the units of rows of these scales (rows, 1); without the bias."""
    errors.product, errors.mean = errors.product * scales, errors.mean * scales
    errors.y = errors.product.copy()
    for part in (errors.frozen, errors.slow, errors.fresh):
        part.update({source: variance * scales**2 for source, variance in part.items()})


def _group_errors(programmed: Programmed, x: Array, group: int, reads: int) -> Errors:
    design, hardware, placement = programmed.design, programmed.hardware, programmed.design.placement
    driven, parts = _Driven.of(programmed, x, group), _Parts.of(hardware, reads)
    encoding, cells, moments = design.encodings[group], ExpectedCells.of(hardware), design.moments_of(group)
    scale = programmed.packed[group].planes.scale.astype(np.float64)
    sensing, sources = _Sensing.of(hardware), hardware.sensing.sources()
    step = np.zeros(placement.tile.slices)
    if hardware.adc.bits is not None:
        relative = hardware.adc.codes(design.signed_currents).relative_step
        step = programmed.ranges.full_scale * relative * hardware.cell.g_max

    product = driven.patches @ driven.weights
    mean, spread, slow, undithered = (np.zeros_like(product) for _ in range(4))
    fresh = {name: np.zeros_like(product) for name in dict.fromkeys([*FRESH, *(source.group for source in sources)])}
    supplied = np.zeros((design.drive.pulses, *product.shape))
    for t, (a, b) in enumerate(pairwise(placement.edges)):
        held = driven.weights[a:b].astype(np.float32)
        targets = encoding.targets(held, t)
        g, plain = cells.at(cells.mean, targets), encoding.plain_targets(held, t)
        seen = reach_row_tile(g, plain, encoding, hardware.wires, moments.take(slice(a, b)))
        for s, pair in enumerate(targets):
            unit = scale[s, t, : placement.outputs] / hardware.cell.g_max
            part = _Slice(seen, s, g[s], [cells.at(read, pair) for read in cells.read], unit, encoding.reference)
            volts = driven.volts[:, a:b]
            mean += part.columns(volts @ part.signed) - volts.sum(axis=1, keepdims=True) * encoding.pedestal * unit
            spread += part.variance(part.makes(cells.at(cells.variance, pair), volts))
            slow += part.variance(part.makes(part.noise(parts.lasting), volts))
            fresh["cells"] += part.variance(part.makes(part.noise(parts.passing), volts))
            for q, weight in enumerate(driven.pulse_weights):
                v, w2 = driven.pulses[q][:, a:b], weight**2
                noise = [("cells", part.makes(part.noise(parts.alone), v)), *sensing.noise(part, v)]
                for name, variance in noise:
                    fresh[name] += w2 * part.variance(variance)
                supplied[q] += weight * part.columns(v @ part.signed)
                if step[s]:
                    kept = undithered_share(np.sqrt(np.sum([variance for _, variance in noise], axis=0)) / step[s])
                    fresh["ADC"] += w2 * part.variance((1 - kept) * step[s] ** 2 / 12)
                    undithered += w2 * part.variance(kept * step[s] ** 2 / 12)
    for source in sources:
        if source.shape is Shape.SUPPLY:
            fresh[source.group] += source.amount(hardware.conditions) * np.square(supplied).sum(axis=0)
    frozen = {"programming": spread, "ADC": undithered}
    return Errors(product, product + driven.bias, mean, frozen, {"cells": slow}, fresh)


@dataclass(frozen=True)
class _Driven:
    """A group of a matrix and what drives it, a bias on the array included.

    `weights` (rows, outputs), `patches` (n, rows), the digital `bias`, `volts` in units of v_read, and those of the
    `pulses` with their weights.
    """

    weights: Array
    patches: Array
    bias: Array
    volts: Array
    pulses: Array
    pulse_weights: list[float]

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
        volts = codes / drive.full_code
        pulses = digits(codes, drive) if drive.rounds else volts[None]
        base = 2**drive.digit_bits - 1 if drive.pulses > 1 else drive.full_code
        pulse_weights = [base * 2.0 ** (drive.digit_bits * q) / drive.full_code for q in range(drive.pulses)]
        return cls(weights, patches, bias, volts, pulses, pulse_weights)


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
class _Slice:
    """The cells of a slice `s` of a row tile, and how their currents become outputs.

    `g` (polarities, rows, columns) are their mean conductances, `read` the variances of each part of their read noise;
    `unit` (outputs,) is the output per siemens at full voltage.
    """

    seen: Reach
    s: int
    g: Array
    read: list[Array]
    unit: Array
    reference: Array

    @cached_property
    def signed(self) -> Array:
        """(rows, columns) siemens, those of a pair subtracted."""
        signs = np.array([1.0, -1.0])[: len(self.g), None, None]
        return (signs * self.seen.conductance[self.s]).sum(axis=0)

    def noise(self, shares: list[float]) -> Array:
        """Variance of the cells' conductances by these shares of the parts of their read noise."""
        return np.sum([np.zeros_like(self.g), *(p * n for p, n in zip(shares, self.read, strict=True))], axis=0)

    def makes(self, variance: Array, v: Array) -> Array:
        """(rows, columns): variance of the current that one of the cells' conductances makes at voltages v."""
        noise, rest = self.seen.noise[self.s], self.seen.rest[self.s]
        return v**2 @ (variance * noise).sum(axis=0) + (variance * rest).sum(axis=(0, 1))

    def columns(self, currents: Array) -> Array:
        """Outputs: the reference column is taken off."""
        out = currents[..., : len(self.unit)]
        return (out - currents[..., self.reference] if self.reference.size else out) * self.unit

    def variance(self, variances: Array) -> Array:
        """Variances of outputs: that of the reference column is added."""
        out = variances[..., : len(self.unit)]
        return (out + variances[..., self.reference] if self.reference.size else out) * self.unit**2


@dataclass(frozen=True)
class _Sensing:
    """What the sources of noise of sensing add to readings; currents in units of v_read."""

    sources: list[NoiseSource]
    fits: list[tuple[float, float]]
    conditions: Conditions
    amplifiers: int

    @classmethod
    def of(cls, hardware: Hardware) -> _Sensing:
        sources, conditions = hardware.sensing.sources(), hardware.conditions
        fits = [white_fit([source], conditions) for source in sources]
        return cls(sources, fits, conditions, Periphery.of(hardware.tile, hardware.wires).amplifiers)

    def noise(self, part: _Slice, v: Array) -> Iterator[tuple[str, Array]]:
        """Variances (rows, columns) of the readings of a pulse, with the group of each source."""
        current, unit = v @ part.signed, self.conditions.v_read**2
        for source, (c0, c2) in zip(self.sources, self.fits, strict=True):
            if source.shape is Shape.CELL:
                yield source.group, c0 * part.seen.thermal[part.s] / unit + c2 * part.makes(part.g, v)
            elif source.shape is Shape.GAIN:
                yield source.group, source.amount(self.conditions) * current**2
            elif source.shape in (Shape.COLUMN, Shape.READING):
                many = self.amplifiers if source.shape is Shape.COLUMN else 1
                yield source.group, np.full_like(current, many * source.amount(self.conditions) / unit)


def undithered_share(noise: Array) -> Array:
    """Share of the variance LSB^2 / 12 of a quantiser's error that is the same in all reads, for noise in LSB.

    Gaussian noise ahead of it leaves a mean error sum_m (LSB / pi m) exp(-2 (pi m noise)^2) sin(2 pi m I / LSB), up to
    signs (Gray and Stockham 1993, IEEE Trans. Inf. Theory 39:805), whose mean square is this share for currents spread
    over many levels.
    """
    m = np.arange(1, 9)
    terms = np.exp(-4 * np.square(np.pi * m * noise[..., None])) / m**2
    return np.where(noise == 0, 1.0, terms.sum(axis=-1) * 6 / np.pi**2)
