"""The design of a matrix on tiles: what is programmed, and what drives it. All copies and ages of a chip share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .backend import WireSolver
from .converters import Drive
from .encoding import Encoding
from .hardware import Hardware
from .kernels.read import SUPPLY_PLANE
from .matrix import Matrix
from .placement import Placement
from .wire_compensation import WireCompensation, compensated
from .wiring import Moments

Array = np.ndarray[Any, Any]
Tell = Callable[[], None]


@dataclass(frozen=True)
class Design:
    """A matrix with the range of its inputs and the conductances that stand for its weights.

    Attributes:
        drive: how inputs become codes. A bias on the array depends on its range.
        moments: (2, groups, rows) mean and mean square of the word lines' voltages, in units of v_read, that wires are
            solved for; None for inputs spread evenly over their range.
        wire_compensation: what is done about the loss in wires: gains of the columns, measured on each chip, or
            conductances chosen with the loss in mind.
    """

    matrix: Matrix
    drive: Drive
    moments: Array | None = None
    wire_compensation: WireCompensation | None = None

    @classmethod
    def of(
        cls,
        matrix: Matrix,
        drive: Drive,
        moments: Array | None = None,
        wire_compensation: WireCompensation | None = None,
        tell: Tell | None = None,
        solver: WireSolver | None = None,
    ) -> Design:
        """The design for inputs of this drive; `tell` is called when a tile's conductances have been adjusted.

        `solver` finds what its wires do; that of the default backend, unless another is given.

        Raises:
            ValueError: more planes than have random numbers, or weights that the encoding does not take.
        """
        design = cls(matrix, drive, moments, wire_compensation)
        design.encode(tell, solver)
        return design

    def __post_init__(self) -> None:
        placement, pulses = self.placement, self.drive.pulses
        planes = pulses * placement.tile.slices * placement.row_tiles
        if planes > SUPPLY_PLANE:
            raise ValueError(
                f"layer {self.matrix.name!r}: pulses x slices x row tiles must be at most {SUPPLY_PLANE}, got {planes}"
            )

    def encode(self, tell: Tell | None = None, solver: WireSolver | None = None) -> None:
        """Work out `encodings`, where that is still to be done."""
        if "encodings" not in vars(self):
            vars(self)["encodings"] = self._encoded(tell, solver)

    @cached_property
    def encodings(self) -> tuple[Encoding, ...]:
        """Of each group. Where conductances are chosen with wires in mind, these are solved at the first use."""
        return self._encoded()

    def _encoded(self, tell: Tell | None = None, solver: WireSolver | None = None) -> tuple[Encoding, ...]:
        found = []
        for g in range(self.placement.groups):
            rows = self.rows_of(g)
            encoding = Encoding.of(rows, self.placement, self.hardware.cell)
            if self.wire_compensation == "program":
                encoding = compensated(encoding, rows, self.hardware.wires, self.moments_of(g), tell, solver)
            found.append(encoding)
        return tuple(found)

    @property
    def hardware(self) -> Hardware:
        """Of this layer."""
        return self.matrix.hardware

    @property
    def placement(self) -> Placement:
        """The tiles."""
        return self.matrix.placement

    @property
    def signed_currents(self) -> bool:
        """Whether the currents of bit lines have both signs."""
        return self.drive.signed or self.placement.tile.paired

    @property
    def scaled(self) -> bool:
        """Whether each read has scales of its own: its inputs are divided by them, its readings multiplied."""
        return self.hardware.dac.scaling != "layer"

    def rows_of(self, group: int) -> Array:
        """(rows, outputs) float32 weights of a group's word lines, those of a bias on the array included."""
        weights, bias = self.matrix.weights, self.matrix.bias
        if bias is None or not self.matrix.bias_on_array:
            return weights[group]
        return np.concatenate([weights[group], bias[group : group + 1] / np.float32(self.drive.limit)])

    def bias_of(self, group: int) -> Array:
        """(outputs,) float32 that are added to readings digitally; 0 where they are scaled first (`Reader.read`)."""
        bias = self.matrix.bias
        if bias is None or self.matrix.bias_on_array or self.scaled:
            return np.zeros(self.placement.outputs, dtype=np.float32)
        return bias[group].astype(np.float32)

    def moments_of(self, group: int) -> Moments:
        """Of the voltages of a group's word lines."""
        if self.moments is None:
            return Moments.uniform(self.placement.rows, self.drive.signed)
        return Moments(*self.moments[:, group])
