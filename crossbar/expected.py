"""Expected squared errors of a matrix on tiles, from the physics alone: no cell and no noise is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ..devices.sources import Shape, white_fit
from .converters import digits, input_codes
from .hardware import Hardware
from .kernels.plain import gather
from .matrix import TiledMatrix
from .periphery import Periphery
from .programming import read_shares
from .slow_noise import shared_on_average
from .wiring import Reach, reach_row_tile

Array = np.ndarray[Any, Any]
GRID = 513  # targets between which the expectations of a cell are interpolated


@dataclass(frozen=True)
class Cells:
    """What is to be expected of a cell, as functions of its target conductance, tabulated at `target` (siemens).

    `mean` in siemens; `variance` of what it ends up with, and `read` (parts, targets) of each source of its read noise,
    in S^2.
    """

    target: Array
    mean: Array
    variance: Array
    read: Array

    @classmethod
    def of(cls, hardware: Hardware) -> Cells:
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


def expected_errors(matrix: TiledMatrix, x: Array, reads: int) -> Errors:
    """The errors to expect of a series of reads of x (samples, depth, height, width, channels): `TiledMatrix.read`.

    Clipping is left out. Cells are taken as independent of each other, and currents as spread over many levels.
    """
    groups = [_group_errors(matrix, x, g, reads) for g in range(matrix.plan.groups)]
    product, y, mean = (np.concatenate([getattr(g, name) for g in groups], axis=1) for name in ("product", "y", "mean"))
    joined = Errors(product, y, mean)
    for part in ("frozen", "slow", "fresh"):
        sources = getattr(groups[0], part)
        getattr(joined, part).update(
            {s: np.concatenate([getattr(g, part)[s] for g in groups], axis=1) for s in sources}
        )
    joined.frozen["shift and DAC"] = np.square(joined.mean - joined.gain * joined.product)
    noise = matrix.hardware.output_noise
    joined.frozen["output"] = noise.frozen_add**2 + (noise.frozen_mult * joined.y) ** 2
    joined.fresh["output"] = noise.sigma_add**2 + (noise.sigma_mult * joined.y) ** 2
    return joined


def _group_errors(matrix: TiledMatrix, x: Array, group: int, reads: int) -> Errors:
    hardware, plan, drive = matrix.hardware, matrix.plan, matrix.drive
    assert drive is not None
    sensing, cell = hardware.sensing, hardware.cell
    weights = matrix.weights[group].astype(np.float64)
    patches = gather(x.astype(np.float64), matrix.geometry(x.shape, group))
    bias = np.zeros(plan.outputs) if matrix.bias is None else matrix.bias[group].astype(np.float64)
    if matrix.bias_on_array:
        weights = np.concatenate([weights, bias[None] / drive.limit])
        patches = np.concatenate([patches, np.full((len(patches), 1), drive.limit)], axis=1)
    product = patches @ weights
    codes = input_codes(patches, drive)
    volts = codes / drive.full_code
    pulses = digits(codes, drive) if drive.rounds else volts[None]
    base = 2**drive.digit_bits - 1 if drive.pulses > 1 else drive.full_code
    pulse_weights = [base * 2.0 ** (drive.digit_bits * q) / drive.full_code for q in range(drive.pulses)]

    encoding, cells, moments = matrix.encodings[group], Cells.of(hardware), matrix.moments_of(group)
    scale = matrix.programmed[group].planes.scale.astype(np.float64)
    shares = [read_shares(hardware, part) for part in cell.read_noise.parts]
    lasting = [shared_on_average(share, reads) for share in shares]
    alone = [share[0] for share in shares]  # drawn anew in each pulse; what lasts longer is the same in all of a read
    passing = [1 - a - b for a, b in zip(alone, lasting, strict=True)]
    sources, amplifiers = sensing.sources(), Periphery.of(plan.tile, hardware.wires).amplifiers
    fits = [white_fit([source], hardware.conditions) for source in sources]
    step = np.zeros(plan.tile.slices)
    if hardware.adc.bits is not None:
        relative = hardware.adc.codes(matrix.signed_currents).relative_step
        step = matrix.full_scale * relative * sensing.v_read * cell.g_max

    zero = np.zeros_like(product)
    mean, spread, slow, undithered = (zero.copy() for _ in range(4))
    fresh = {group: zero.copy() for group in ("cells", "thermal and shot", "amplifier", "gain", "supply", "ADC")}
    fresh |= {source.group: zero.copy() for source in sources if source.group not in fresh}
    supplied = np.zeros((drive.pulses, *product.shape))
    for t, (a, b) in enumerate(pairwise(plan.edges)):
        held = weights[a:b].astype(np.float32)
        targets = encoding.targets(held, t)
        g, plain = cells.at(cells.mean, targets), encoding.plain_targets(held, t)
        seen = reach_row_tile(g, plain, encoding, hardware.wires, moments.take(slice(a, b)))
        for s in range(plan.tile.slices):
            pair = targets[s]
            signs = np.array([1.0, -1.0])[: len(pair), None, None]
            signed = (signs * seen.conductance[s]).sum(axis=0)
            noise = [cells.at(read, pair) for read in cells.read]

            def noise_of(parts: list[float], noise: list[Array] = noise, like: Array = pair) -> Array:
                return np.sum([np.zeros_like(like), *(p * n for p, n in zip(parts, noise, strict=True))], axis=0)

            def makes(variance: Array, v: Array, seen: Reach = seen, s: int = s) -> Array:
                """(rows, columns): variance of the current that one of the cells' conductances makes at voltages v."""
                return v**2 @ (variance * seen.noise[s]).sum(axis=0) + (variance * seen.rest[s]).sum(axis=(0, 1))

            unit = scale[s, t, : plan.outputs] / cell.g_max  # output per siemens at full voltage

            def columns(values: Array, sign: int = 1, unit: Array = unit) -> Array:
                """Per output, with the reference column taken off (or, for variances, added)."""
                out = values[..., : plan.outputs]
                if encoding.reference.size:
                    out = out - sign * values[..., encoding.reference]
                return out * (unit if sign == 1 else unit**2)

            part = volts[:, a:b]
            mean += columns(part @ signed) - part.sum(axis=1, keepdims=True) * encoding.pedestal * unit
            spread += columns(makes(cells.at(cells.variance, pair), part), -1)
            slow += columns(makes(noise_of(lasting), part), -1)
            fresh["cells"] += columns(makes(noise_of(passing), part), -1)
            for q, weight in enumerate(pulse_weights):
                v, w2 = pulses[q][:, a:b], weight**2
                current = v @ signed
                in_reading = [("cells", makes(noise_of(alone), v))]
                for source, (c0, c2) in zip(sources, fits, strict=True):
                    if source.shape is Shape.CELL:
                        variance = c0 * seen.thermal[s] / sensing.v_read**2 + c2 * makes(g[s], v)
                    elif source.shape is Shape.GAIN:
                        variance = source.amount(hardware.conditions) * current**2
                    elif source.shape in (Shape.COLUMN, Shape.READING):
                        many = amplifiers if source.shape is Shape.COLUMN else 1
                        amount = many * source.amount(hardware.conditions) / sensing.v_read**2
                        variance = np.full_like(current, amount)
                    else:
                        continue
                    in_reading.append((source.group, variance))
                for group_name, variance in in_reading:
                    fresh[group_name] += w2 * columns(variance, -1)
                supplied[q] += weight * columns(current)
                if step[s]:
                    lsb = step[s] / sensing.v_read
                    kept = undithered_share(np.sqrt(np.sum([variance for _, variance in in_reading], axis=0)) / lsb)
                    fresh["ADC"] += w2 * columns((1 - kept) * lsb**2 / 12, -1)
                    undithered += w2 * columns(kept * lsb**2 / 12, -1)
    errors = Errors(product, product + (0.0 if matrix.bias_on_array else bias), mean)
    errors.frozen = {"programming": spread, "ADC": undithered}
    errors.slow = {"cells": slow}
    for source in sources:
        if source.shape is Shape.SUPPLY:
            fresh[source.group] += source.amount(hardware.conditions) * np.square(supplied).sum(axis=0)
    errors.fresh = fresh
    return errors


def undithered_share(noise: Array) -> Array:
    """Share of the variance LSB^2 / 12 of a quantiser's error that is the same in all reads, for noise in LSB.

    Gaussian noise ahead of it leaves a mean error sum_m (LSB / pi m) exp(-2 (pi m noise)^2) sin(2 pi m I / LSB), up to
    signs (Gray and Stockham 1993, IEEE Trans. Inf. Theory 39:805), whose mean square is this share for currents spread
    over many levels.
    """
    m = np.arange(1, 9)
    terms = np.exp(-4 * np.square(np.pi * m * noise[..., None])) / m**2
    return np.where(noise == 0, 1.0, terms.sum(axis=-1) * 6 / np.pi**2)
