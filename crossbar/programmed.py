"""A matrix programmed into one chip: its design, its cells, its ranges and what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from ..devices.data import warn
from .backend import Backend
from .cells import Cells
from .design import Design, Tell
from .extrapolation import extrapolations
from .hardware import Hardware
from .kernels.read import ALIKE
from .max_memory import released
from .mirrors import ratios_of
from .packed import BESIDE, Packed, pack
from .ranges import Ranges
from .reader import Reader, Seeds

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Programmed:
    """A matrix on the tiles of one chip, at one age. Nothing of it changes; another copy or age is another object."""

    design: Design
    cells: Cells
    ranges: Ranges
    reader: Reader

    @classmethod
    def of(
        cls,
        design: Design,
        cells: Cells,
        seeds: Seeds,
        backend: Backend,
        ranges: Ranges | None = None,
        tell: Tell | None = None,
    ) -> Programmed:
        """Program the cells of a design, for reads with noise of these seeds.

        Args:
            ranges: of the chip that this is a copy or another age of; None for those that hardware sets. Gains that
                make up for wires are measured where the ranges have none.
            tell: called when the wires of a tile are solved.

        Warns:
            ExtrapolationWarning: a setting outside the data of the cell's models.

        Raises:
            ValueError: wires that cannot be solved, or cells that do not fit the design.
        """
        ranges = ranges or Ranges.of(design)
        design.encode(solver=backend)
        warn(extrapolations(cells.hardware))
        placement, compensates = design.placement, design.wire_compensation == "gain"
        ones = np.ones((placement.tile.converted, placement.row_tiles, placement.outputs))
        known: Sequence[Array | None] = ranges.gains if compensates else [ones] * placement.groups
        found = [
            pack(design, cells, g, gains, backend, ratios_of(design, g, seeds, backend), tell)
            for g, gains in enumerate(known or [None] * placement.groups)
        ]
        gains = tuple(gains for _, gains in found) if compensates else ()
        packed = tuple(packed for packed, _ in found)
        released(design.matrix.weights, *(array for p in packed for array in p.large))
        if ranges.outputs is not None:
            packed = tuple(
                p.corrected(ranges.outputs[0, g], ranges.before_scales(design, g)) for g, p in enumerate(packed)
            )
        return cls.assembled(design, cells, seeds, backend, replace(ranges, gains=gains), packed)

    @classmethod
    def assembled(
        cls, design: Design, cells: Cells, seeds: Seeds, backend: Backend, ranges: Ranges, packed: tuple[Packed, ...]
    ) -> Programmed:
        """Of cells that are packed already."""
        return cls(design, cells, ranges, Reader(design, cells.hardware, packed, ranges, seeds, backend))

    @property
    def hardware(self) -> Hardware:
        """Of the layer, as old as the cells are."""
        return self.cells.hardware

    @property
    def seeds(self) -> Seeds:
        """Of the noise of reads."""
        return self.reader.seeds

    @property
    def backend(self) -> Backend:
        """What programs and reads it."""
        return self.reader.backend

    @property
    def packed(self) -> tuple[Packed, ...]:
        """Of each group."""
        return self.reader.packed

    @property
    def weights(self) -> Array:
        """(groups, rows, outputs) float32 that the conductances stand for, a bias on the array as the last row.

        Of groups that share tiles, what stands for their own weights.
        """
        found, matrix = np.stack([packed.weights(self.design) for packed in self.packed]), self.design.matrix
        if matrix.sharing == 1:
            return found
        groups, rows, outputs = matrix.weights.shape
        lines = matrix.sharing * rows
        own, biases = matrix.diagonal(found[:, :lines]), found.shape[1] - lines
        bias = found[:, lines:].reshape(groups, biases, outputs)
        return np.concatenate([own, bias], axis=1)

    def with_ranges(self, ranges: Ranges) -> Programmed:
        """The same cells with other ranges of the ADCs."""
        return self.assembled(self.design, self.cells, self.seeds, self.backend, ranges, self.packed)

    def corrected(self, gain: Array, offset: Array) -> Programmed:
        """The same cells with outputs that are multiplied by a gain and shifted, both (groups, outputs), digitally.

        What it has of these already comes first.
        """
        gain, offset = (each.astype(np.float32).reshape(len(self.packed), -1) for each in (gain, offset))
        old = self.ranges.outputs
        both = np.stack([gain, offset] if old is None else [gain * old[0], gain * old[1] + offset])
        ranges = replace(self.ranges, outputs=both)
        packed = tuple(p.corrected(gain[g], ranges.before_scales(self.design, g)) for g, p in enumerate(self.packed))
        return self.assembled(self.design, self.cells, self.seeds, self.backend, ranges, packed)

    def on(self, backend: Backend) -> Programmed:
        """The same cells and ranges, read, copied and aged by another backend from here on."""
        return self.assembled(self.design, self.cells, self.seeds, backend, self.ranges, self.packed)

    def copied(self, copy: int) -> Programmed:
        """Another copy of the chip: the same design and ranges, programmed anew.

        Raises:
            ValueError: cells that are known of one chip alone.
        """
        try:
            cells = self.cells if copy == self.seeds.copy else self.cells.copied(copy)
        except ValueError as error:
            raise ValueError(f"layer {self.design.matrix.name!r}: {error}") from None
        seeds = self.seeds._replace(copy=copy)
        return self.of(self.design, cells, seeds, self.backend, replace(self.ranges, gains=(), outputs=None))

    def with_cells(self, cells: Cells) -> Programmed:
        """The same design, ranges and digital gains, for other cells.

        Raises:
            ValueError: cells that do not fit the design, or wires that cannot be solved.
        """
        now = self.of(self.design, cells, self.seeds, self.backend, self.ranges)
        pairs = zip(now.packed, self.packed, strict=True)
        packed = tuple(replace(new, planes=new.planes._replace(scale=old.planes.scale)) for new, old in pairs)
        return self.assembled(self.design, cells, self.seeds, self.backend, now.ranges, packed)

    def conductances(self) -> list[Array]:
        """(slices, polarities, rows, columns) float32 siemens of the cells of each group: see `Cells.conductances`."""
        placement = self.design.placement
        self.design.encode(solver=self.backend)

        def table(group: int) -> Array:
            tiles = range(placement.row_tiles)
            return np.concatenate([self.cells.conductances(self.design, group, t, self.backend) for t in tiles], axis=2)

        return [table(group) for group in range(placement.groups)]

    def at(self, time_s: float, *, reads: int | None = None, drift_compensation: bool) -> Programmed:
        """The same matrix so many seconds after programming, and after so many reads: see `Chip.at`."""
        now = self.of(self.design, self.cells.aged(time_s, reads), self.seeds, self.backend, self.ranges)
        if not drift_compensation or self.design.floats:  # what is the same for all cells moves no floating bit line
            return now
        fresh = self.hardware.time_s == 0 and self.hardware.reads == 0
        start = self if fresh else self.at(0.0, reads=0, drift_compensation=False)
        packed = tuple(
            late.compensated(early, self.design) for late, early in zip(now.packed, start.packed, strict=True)
        )
        return self.assembled(self.design, now.cells, self.seeds, self.backend, self.ranges, packed)

    def plain(self) -> Programmed:
        """The same matrix for inputs that are its rows, group by group of the placement: (samples, 1, 1, 1, rows)."""
        design = replace(self.design, matrix=self.design.matrix.for_rows())
        return self.assembled(design, self.cells, self.seeds, self.backend, self.ranges, self.packed)

    def forgetful(self) -> Programmed:
        """The same matrix without what successive reads share of the noise of its cells."""
        packed = tuple(replace(p, slow_std=p.slow_std[:0], slow_shares=p.slow_shares[:0]) for p in self.packed)
        return self.assembled(self.design, self.cells, self.seeds, self.backend, self.ranges, packed)

    def digest(self) -> bytes:
        """16 bytes that tell this matrix on this chip from all others: cells, ranges, and the seeds of its noise."""
        name, (seed, copy), drive = self.design.matrix.name, self.seeds, self.design.drive
        said = repr((name, seed, copy, drive, self.hardware.seeds, *drive.chain))
        found = blake2b(said.encode(), digest_size=16)
        arrays = [self.ranges.full_scale, *([self.ranges.middle] if self.ranges.middle.size else [])]
        if self.design.scaled:  # what is added last is not in the planes
            added = self.design.matrix.bias, self.ranges.outputs
            arrays += [array for array in added if array is not None]
        for packed in self.packed:
            planes = packed.planes._asdict()
            beside = {key: planes.pop(key) for key in (*BESIDE, *ALIKE)}
            arrays += [*planes.values(), packed.slow_std, packed.slow_shares]
            arrays += [beside[key] for key in BESIDE] if self.design.linear else []
        for array in arrays:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.digest()
