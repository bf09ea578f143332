"""The cells of a chip: their conductances, one by one, made on demand and never kept whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..devices.parts import Conditions
from .backend import Backend
from .design import Design
from .encoding import left_over
from .faults import at_ends, map_of, open_lines
from .hardware import Hardware
from .keys import Purpose, stream_key

Array = np.ndarray[Any, Any]


class Place(NamedTuple):
    """Where cells are: group, slice, polarity (1: taken off), word line of the first row, which device of a cell."""

    group: int
    slice: int
    polarity: int
    row: int
    device: int = 0


class Cells(ABC):
    """The cells of one matrix on one chip, at one age.

    Attributes:
        hardware: of the layer, with `time_s` as old as the cells are.
    """

    hardware: Hardware

    @abstractmethod
    def settled(self, design: Design, targets: Array, place: Place, backend: Backend) -> Array:
        """Conductances of cells whose `targets` (rows, columns) are the design's: siemens, float32, at least 0."""

    @abstractmethod
    def aged(self, time_s: float, reads: int | None = None) -> Cells:
        """The same cells so many seconds after programming ended, and after so many reads (None: as many as now).

        Raises:
            ValueError: a time that is negative or beyond the data of the cell, or cells that are known at one time.
        """

    def written(self) -> Cells:
        """The same cells as they are verified: when their programming has just ended."""
        return self.aged(0.0, 0)

    def targets(
        self, design: Design, weights: Array, group: int, row_tile: int, some: slice, backend: Backend
    ) -> Array:
        """Conductances (slices, polarities, rows, columns) in siemens that cells are programmed to.

        Those of the design; where slices make up for what others leave, as these are. They are for some of the rows of
        the weights of a row tile.
        """
        encoding, placement = design.encodings[group], design.placement
        targets, tile = encoding.targets(weights, row_tile, some), placement.tile
        if tile.slicing != "residual":
            return targets
        fresh, first = self.written(), placement.edges[row_tile] + (some.start or 0)

        def written(s: int, wanted: Array) -> Array:
            targets[s, ..., : placement.outputs] = wanted
            found = np.zeros(targets.shape[1:])
            for p, device in np.ndindex(len(found), design.devices):
                found[p] += fresh.settled(design, targets[s, p], Place(group, s, p, first, device), backend)
            return found[..., : placement.outputs] / design.devices

        u = encoding.relative(weights[some], row_tile)
        targets[..., : placement.outputs] = left_over(u, tile, encoding.cell, written)
        return targets

    def copied(self, copy: int) -> Cells:
        """The cells of another chip of the design.

        Raises:
            ValueError: cells that are known of one chip alone.
        """
        raise ValueError(f"its cells are known of one chip alone, as they were measured; there is no copy {copy}")

    def conductances(self, design: Design, group: int, row_tile: int, backend: Backend) -> Array:
        """(slices, polarities x devices, rows, columns) float32 siemens of all cells of a row tile.

        Columns are the outputs, then the reference columns; the devices of a cell are one after the other.
        """
        a, b = design.placement.edges[row_tile : row_tile + 2]
        targets = self.targets(design, design.rows_of(group)[a:b], group, row_tile, slice(None), backend)
        slices, polarities, *shape = targets.shape
        found = np.empty((slices, polarities, design.devices, *shape), np.float32)
        for s, p, device in np.ndindex(*found.shape[:3]):
            found[s, p, device] = self.settled(design, targets[s, p], Place(group, s, p, a, device), backend)
        return found.reshape(slices, -1, *shape)


@dataclass(frozen=True)
class Drawn(Cells):
    """Cells that are programmed with random errors, and drift: the same seed and copy give the same cells at all ages.

    Attributes:
        seed: of the chip; `hardware.seeds.program` stands in for it.
        copy: which chip of the design.
    """

    hardware: Hardware
    seed: int
    copy: int = 0

    def settled(self, design: Design, targets: Array, place: Place, backend: Backend) -> Array:
        """Programming error, then drift, then stuck cells: see `Cell.settle`; then those of a map, and open lines.

        Random numbers of programming belong to the cycle, those that last and those of drift to the cell.
        """
        hardware, name = self.hardware, design.matrix.name
        seed = self.seed if hardware.seeds.program is None else hardware.seeds.program
        where = place.group, self.copy, place.slice, place.polarity, *([place.device] if place.device else [])

        again = (hardware.cycles,) if hardware.cycles else ()

        def draw(purpose: Purpose, which: int) -> Array:
            stream = (*where, *again) if purpose == "program" else where
            found = backend.normals(targets.shape, (place.row, which), stream_key(seed, purpose, name, *stream))
            if found.shape != targets.shape:
                kind = type(backend).__name__
                raise ValueError(f"{kind}.normals must give the shape {targets.shape}, gave {found.shape}")
            return found

        g = hardware.cell.settle(targets, draw, self._conditions, np).astype(np.float32, copy=False)
        stuck, rows = hardware.cell.stuck, len(targets)
        if (known := map_of(design, stuck)) is not None:
            g = at_ends(g, known[place.group, place.slice, place.polarity, place.row : place.row + rows], hardware)
        if stuck.alive < 1:
            on = place.group, place.slice, place.polarity, place.row
            g = np.where(open_lines(design, hardware, on, rows, (seed, self.copy), backend), np.float32(0), g)
        return g

    @cached_property
    def _conditions(self) -> Conditions:
        return self.hardware.conditions

    def copied(self, copy: int) -> Drawn:
        return replace(self, copy=copy)

    def written(self) -> Drawn:
        return self._written

    @cached_property
    def _written(self) -> Drawn:
        return replace(self, hardware=self.hardware.when_programmed)

    def aged(self, time_s: float, reads: int | None = None) -> Drawn:
        changed = {"time_s": time_s} | ({} if reads is None else {"reads": reads})
        return replace(self, hardware=self.hardware.replace(changed))


@dataclass(frozen=True)
class Given(Cells):
    """Cells whose conductances are given, as measured on a chip.

    Attributes:
        table: of each group, (slices, polarities x devices, rows, columns) siemens, at least 0; columns are the
            outputs, then the reference columns, and rows the word lines, that of a bias on the array last.
    """

    hardware: Hardware
    table: tuple[Array, ...]

    def settled(self, design: Design, targets: Array, place: Place, backend: Backend) -> Array:
        """Those of the table.

        Raises:
            ValueError: a table of another shape than the design has, or conductances that are no numbers of at least 0.
        """
        placement, encoding = design.placement, design.encodings[place.group]
        shape = placement.tile.slices, encoding.polarities * design.devices, placement.rows, encoding.columns
        if len(self.table) != placement.groups or self.table[place.group].shape != shape:
            found = [table.shape for table in self.table]
            raise ValueError(
                f"layer {design.matrix.name!r}: conductances must have shape {shape} for each of {placement.groups} "
                f"group(s), got {found}"
            )
        rows = slice(place.row, place.row + len(targets))
        g = self.table[place.group][place.slice, place.polarity * design.devices + place.device, rows]
        if not ((g >= 0) & (g <= np.finfo(np.float32).max)).all():
            raise ValueError(f"layer {design.matrix.name!r}: conductances must be finite and at least 0")
        return g.astype(np.float32)

    def written(self) -> Given:
        return self  # whatever they were programmed to

    def aged(self, time_s: float, reads: int | None = None) -> Given:
        if reads not in (None, self.hardware.reads):
            raise ValueError(f"reads must be {self.hardware.reads}, when the cells were measured, got {reads}")
        if time_s == self.hardware.time_s:
            return self
        raise ValueError(f"time_s must be {self.hardware.time_s:g}, when the cells were measured, got {time_s:g}")
