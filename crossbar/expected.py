"""Expected squared errors of a matrix on tiles, from the physics alone: no cell and no noise is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..devices.sources import Shape
from ..devices.stuck import WORKS
from .drive import input_codes, pulses_of
from .encoding import mirror_ratios
from .expected_reading import Pulse, Reading, SensingErrors
from .expected_slices import LeftOver
from .expected_sums import Adcs, Sums
from .faults import LineErrors, at_ends, map_of
from .hardware import Hardware
from .packed import read_shares
from .patches import gather
from .programmed import Programmed
from .slow_noise import shared_on_average
from .wiring import reach_row_tile

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
            active = cell.drift.active(conditions)
            aged = cell.drift.outcomes(written, conditions, np) if active else [(written, 1.0)]
            for g, part in aged:
                add(g, (1 - low - high) * weight * part)
        add(np.full(GRID, cell.g_min), low)
        add(np.full(GRID, cell.g_max), high)
        mean, alive = moments[0], cell.stuck.alive
        variance = np.maximum(moments[1] - mean**2, 0)
        return cls(target, alive * mean, alive * variance, alive * moments[2:])  # the rest: `faults.LineErrors`

    def at(self, values: Array, target: Array) -> Array:
        """One of the tables at target conductances of any shape."""
        return np.interp(target, self.target, values)

    def spread(self, targets: Array) -> tuple[Array, list[Array]]:
        """Variance, and that of each part of the read noise, at these targets."""
        return self.at(self.variance, targets), [self.at(read, targets) for read in self.read]

    def but(self, known: Array, targets: Array, hardware: Hardware) -> KnownCells:
        """What is to be expected at these targets, but for the cells that a map `known` has as stuck."""
        works, alive = known == WORKS, hardware.cell.stuck.alive
        ends = at_ends(np.zeros(known.shape), known, hardware)
        noise = [alive * part.std(ends, hardware.conditions, np) ** 2 for part in hardware.cell.read_noise.parts]
        (variance, read), mean = self.spread(targets), np.where(works, self.at(self.mean, targets), alive * ends)
        reads = [np.where(works, r, n) for r, n in zip(read, noise, strict=True)]
        return KnownCells(mean, np.where(works, variance, 0), reads)


class KnownCells(NamedTuple):
    """Mean (siemens), variance and parts of the read noise (S^2) of cells (slices, polarities, rows, columns)."""

    mean: Array
    variance: Array
    read: list[Array]


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
    left = LeftOver.of(programmed.design, programmed.hardware)
    groups = [_group_errors(programmed, x, g, reads, left) for g in range(programmed.design.placement.groups)]
    product, y, mean = (np.concatenate([getattr(g, name) for g in groups], axis=1) for name in ("product", "y", "mean"))
    joined = Errors(product, y, mean)
    for part in ("frozen", "slow", "fresh"):
        sources = getattr(groups[0], part)
        getattr(joined, part).update(
            {s: np.concatenate([getattr(g, part)[s] for g in groups], axis=1) for s in sources}
        )
    stuck = joined.frozen.pop("stuck map", None)
    if scales is not None:
        _rescale(joined, scales.astype(np.float64)[:, None])
        if programmed.design.matrix.bias is not None:
            joined.y += programmed.design.matrix.bias.reshape(-1)
    design, ranges = programmed.design, programmed.ranges
    joined.mean += np.concatenate([ranges.bias(design, g) - design.bias_of(g) for g in range(len(groups))])  # measured
    if stuck is not None:
        joined.frozen["stuck map"] = stuck if scales is None else stuck * scales.astype(np.float64)[:, None]
    off = joined.mean - joined.gain * joined.product
    joined.frozen["shift and DAC"] = np.square(off)
    if (without := joined.frozen.get("stuck map")) is not None:  # what outputs would be without it, less what they are
        joined.frozen["shift and DAC"] = np.square(off + without)
        joined.frozen["stuck map"] = np.square(off) - np.square(off + without)
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


def _group_errors(programmed: Programmed, x: Array, group: int, reads: int, left: LeftOver | None) -> Errors:
    design, hardware, placement = programmed.design, programmed.hardware, programmed.design.placement
    driven, parts = _Driven.of(programmed, x, group), _Parts.of(hardware, reads)
    encoding, cells, moments = design.encodings[group], ExpectedCells.of(hardware), design.moments_of(group)
    scale = programmed.packed[group].planes.scale.astype(np.float64)
    sensing, sources = SensingErrors.of(design, hardware), hardware.sensing.sources()
    adcs = Adcs.of(programmed, group)
    product = driven.patches @ driven.weights
    known = map_of(design, hardware.cell.stuck)
    names = dict.fromkeys([*FRESH, *(source.group for source in sources)])
    sums, mirrors = Sums.of(product, design.drive.conversions, names), np.zeros_like(product)
    for t, (a, b) in enumerate(pairwise(placement.edges)):
        held = driven.weights[a:b].astype(np.float32)
        targets = encoding.targets(held, t)
        if known is None:
            met = KnownCells(cells.at(cells.mean, targets), *cells.spread(targets))
        else:
            met = cells.but(known[group][:, :, a:b], targets, hardware)
        if left is not None:
            left.put(encoding.relative(held, t), (met.mean, met.variance, *met.read))
        g = design.devices * met.mean
        plain = encoding.plain_targets(held, t)
        shared = adcs.of_row_tile(t, placement, len(product))
        seen = reach_row_tile(g, plain, encoding, hardware.wires, moments.take(slice(a, b)))
        tables = [g, *(design.devices * table for table in (met.variance, *met.read))]
        volts = driven.volts[:, a:b]
        for r, (s, part) in enumerate(Reading.of_row_tile(design, seen, t, tables, scale)):
            pedestal = volts.sum(axis=1, keepdims=True) * encoding.pedestal * part.unit
            sums.mean += part.columns(volts @ part.signed) - pedestal
            sums.spread += part.variance(part.makes(part.drawn, volts))
            sums.slow += part.variance(part.makes(part.noise(parts.lasting), volts))
            sums.fresh["cells"] += part.variance(part.makes(part.noise(parts.passing), volts))
            if part.mirrors:
                mirrors += placement.tile.mirror_mismatch**2 * part.variance(part.mirrored(volts))
            alone = part.noise(parts.alone)
            for c, conversion in enumerate(driven.conversions):
                mine = [pulse._replace(volts=pulse.volts[:, a:b]) for pulse in conversion]
                noise = sums.add_pulses(c, mine, part, alone, sensing)
                sums.add_adc(mine, part, noise, adcs, (s, t), (r, shared))
        if shared is not None:
            sums.differ += shared.variance()
    for source in sources:
        if source.shape is Shape.SUPPLY:
            power = np.square(sums.supplied).sum(axis=0)
            sums.fresh[source.group] += source.amount(hardware.conditions) * power
    frozen = {"programming": sums.spread, "ADC": sums.undithered}
    if hardware.adc.differ:
        frozen["ADCs that differ"] = sums.differ
    if placement.tile.joined:
        frozen["mirrors"] = mirrors
    if known is not None or hardware.cell.stuck.alive < 1:
        frozen |= _faults(programmed, driven, group, cells)
    return Errors(product, product + driven.bias, sums.mean, frozen, {"cells": sums.slow}, sums.fresh)


def _faults(programmed: Programmed, driven: _Driven, group: int, cells: ExpectedCells) -> dict[str, Array]:
    """Of a group, (rows, outputs): the variance by open lines, and what a map of stuck cells takes off the outputs."""
    design, hardware = programmed.design, programmed.hardware
    placement = design.placement
    encoding, moments, known = design.encodings[group], design.moments_of(group), map_of(design, hardware.cell.stuck)
    scale, each = programmed.packed[group].planes.scale.astype(np.float64), 2 if design.apart else 1
    none = np.zeros((len(driven.patches), design.placement.outputs))
    lines, off = LineErrors(hardware, none.copy()), none.copy()
    for t, (a, b) in enumerate(pairwise(placement.edges)):
        held, volts = driven.weights[a:b].astype(np.float32), driven.volts[:, a:b]
        targets, plain = encoding.targets(held, t), encoding.plain_targets(held, t)
        means = [design.devices * cells.at(cells.mean, targets)]
        if known is not None:
            means.append(design.devices * cells.but(known[group][:, :, a:b], targets, hardware).mean)
        seen = [reach_row_tile(g, plain, encoding, hardware.wires, moments.take(slice(a, b))) for g in means]
        for s, ratio in enumerate(mirror_ratios(placement.tile, hardware.cell.levels)):
            unit = ratio * scale[0 if placement.tile.joined else each * s, t, : none.shape[1]] / hardware.cell.g_max
            lines.slice(seen[-1].conductance[s], volts, unit, encoding.reference)
        for sign, reach, g in zip((1, -1), (seen[0], seen[-1]), (means[0], means[-1]), strict=True):
            for _, part in Reading.of_row_tile(design, reach, t, [g, g], scale):
                off += sign * part.columns(volts @ part.signed)
        lines.row_tile(volts)
    found = {"open lines": lines.found} if hardware.cell.stuck.alive < 1 else {}
    return found if known is None else found | {"stuck map": off}


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
    conversions: list[list[Pulse]]

    @classmethod
    def of(cls, programmed: Programmed, x: Array, group: int) -> _Driven:
        design, matrix = programmed.design, programmed.design.matrix
        drive, bias = design.drive, np.zeros(matrix.placement.outputs)
        if matrix.bias is not None:
            bias = matrix.bias_of(group).astype(np.float64)
        weights = matrix.rows_of(group).astype(np.float64)
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
            own = [Pulse(v, sign * w, s if drive.joined else w**2, s) for v, w, s in counts]
            conversions += [own] if drive.joined else [[pulse] for pulse in own]
        volts = codes / drive.full_code
        if design.curved:
            volts = np.sum([p.weight * p.volts for conversion in conversions for p in conversion], axis=0)
        return cls(weights, patches, bias, volts, conversions)


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
