"""What stands behind a reading, as the expected errors take it: cells, what they make of inputs, noise of sensing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..devices.parts import Conditions
from ..devices.sources import NoiseSource, Shape, white_fit
from .design import Design
from .encoding import mirror_ratios
from .hardware import Hardware
from .wiring import Reach

Array = np.ndarray[Any, Any]


class Pulse(NamedTuple):
    """`volts` (n, rows), or on-times; what it counts, and by what its variance does in outputs and in a reading."""

    volts: Array
    weight: float
    share: float
    in_reading: float


@dataclass(frozen=True)
class Reading:
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
        mirrors: how many add up its currents; their ratios are in the signs, their squares in `carried` and `rest`.
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
    mirrors: int = 0

    @classmethod
    def of_row_tile(
        cls, design: Design, seen: Reach, t: int, tables: list[Array], scale: Array
    ) -> list[tuple[int, Reading]]:
        """The readings of row tile t, and of which slice each is; `tables` are `g`, `drawn` and `read` of its cells."""
        if design.placement.tile.joined:
            return [(0, reading) for reading in cls._of_mirrors(design, seen, t, tables, scale)]
        slices = range(design.placement.tile.slices)
        found = [(s, cls.of_slice(design, seen, (s, t), [table[s] for table in tables], scale)) for s in slices]
        return [(s, reading) for s, readings in found for reading in readings]

    @classmethod
    def _of_mirrors(cls, design: Design, seen: Reach, t: int, tables: list[Array], scale: Array) -> list[Reading]:
        """The readings of a row tile whose slices are added up by mirrors, as if each cell of all had its own sign."""
        tile, cell, outputs, found = design.placement.tile, design.hardware.cell, design.placement.outputs, []
        ratios = mirror_ratios(tile, cell.levels)
        which = [slice(p, p + 1) for p in range(2)] if design.apart else [slice(None)]
        for r, some in enumerate(which):

            def together(table: Array, some: slice = some) -> Array:
                """(slices x polarities, ...) of a table (slices, polarities, ...)."""
                return table[:, some].reshape(-1, *table.shape[2:])

            own = np.array([1.0, -1.0])[: together(tables[0]).shape[0] // len(ratios)]
            signs = np.outer(ratios, own).reshape(-1, 1, 1)
            g, drawn, *read = map(together, tables)
            power = np.square(signs)
            thermal = seen.thermal_each[:, r] if design.apart else seen.thermal
            found.append(
                cls(
                    signs, g, drawn, read, together(seen.conductance), power * together(seen.noise),
                    power * together(seen.rest), np.square(ratios) @ thermal, scale[r, t, :outputs] / cell.g_max,
                    design.placement.references, None, cell.g_max, tile.slices,
                )
            )  # fmt: skip
        return found

    @classmethod
    def of_slice(
        cls, design: Design, seen: Reach, place: tuple[int, int], tables: list[Array], scale: Array
    ) -> list[Reading]:
        """The readings of a slice, at place = (slice, row tile), as `of_row_tile`, of tables of the slice."""
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

    def mirrored(self, v: Array) -> Array:
        """(rows, columns): sum of the squares of the currents that each mirror adds, at voltages v."""
        each = (self.signs * self.conductance).reshape(self.mirrors, -1, *self.conductance.shape[1:]).sum(axis=1)
        return np.square(v @ each).sum(axis=0)

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
class SensingErrors:
    """What the sources of noise of sensing add to readings; currents in units of v_read.

    `fits` are (c0, c2) of `white_fit`, or (c0, c1) of on-times, for each source.
    """

    sources: list[NoiseSource]
    fits: list[tuple[float, float]]
    conditions: Conditions
    amplifiers: int
    timed: bool

    @classmethod
    def of(cls, design: Design, hardware: Hardware) -> SensingErrors:
        sources, conditions, timed = hardware.sensing.sources(), hardware.conditions, design.drive.timed
        fits = [timed_fit(source, conditions) if timed else white_fit([source], conditions) for source in sources]
        return cls(sources, fits, conditions, design.amplifiers, timed)

    def gains(self, current: Array) -> Iterator[tuple[str, Array]]:
        """Variances of readings of this current, of the factors that they come with, with the group of each source."""
        for source in self.sources:
            if source.shape is Shape.GAIN:
                yield source.group, source.amount(self.conditions) * current**2

    def noise(self, part: Reading, v: Array, *, gain: bool) -> Iterator[tuple[str, Array]]:
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
