"""The design of a matrix on tiles: what is programmed, and what drives it. All copies and ages of a chip share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..devices.arrays import Namespace
from .backend import WireSolver
from .drive import Drive
from .encoding import Encoding
from .hardware import Hardware
from .kernels.read import SUPPLY_PLANE
from .matrix import Matrix
from .periphery import Periphery
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
        planes = self.drive.conversions * self.readings * self.placement.row_tiles
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
            if self.wire_compensation == "program" and self.devices > 1:
                raise ValueError(
                    f"layer {self.matrix.name!r}: wire_compensation 'program' is for tile.devices = 1, got "
                    f"{self.devices}; use 'gain'"
                )
            tile = self.placement.tile
            if self.wire_compensation == "program" and (tile.slicing == "residual" or tile.joined):
                which = "join 'mirror', whose slices have one scale" if tile.joined else "slicing 'residual', whose "
                which += "" if tile.joined else "targets are each chip's own"
                raise ValueError(
                    f"layer {self.matrix.name!r}: wire_compensation 'program' is not for tile.{which}; use 'gain'"
                )
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
    def devices(self) -> int:
        """In parallel in each cell."""
        return self.placement.tile.devices

    @property
    def apart(self) -> bool:
        """Whether the two bit lines of a pair are converted each by itself, and their readings subtracted."""
        return self.placement.tile.paired and self.hardware.adc.polarity == "apart"

    @property
    def readings(self) -> int:
        """Readings of an output in one conversion: of each slice, or of each of its bit lines; of all, if joined."""
        return self.placement.tile.converted * (2 if self.apart else 1)

    @property
    def lines(self) -> int:
        """What `readings` would be if each slice was converted."""
        return self.placement.tile.slices * (2 if self.apart else 1)

    @property
    def signed_currents(self) -> bool:
        """Whether what is converted has both signs."""
        return self.drive.bipolar or (self.placement.tile.paired and not self.apart)

    @property
    def signed_codes(self) -> bool:
        """Whether the codes of ADCs have both signs: those of a range that was fitted do, about its middle."""
        return self.signed_currents or self.hardware.adc.span == "fitted"

    @property
    def amplifiers(self) -> int:
        """Sense amplifiers behind one reading."""
        return 1 if self.apart else Periphery.of(self.placement.tile, self.hardware.wires).amplifiers

    @property
    def floats(self) -> bool:
        """Whether bit lines float, and their voltages are read."""
        return self.hardware.sensing.mode == "voltage"

    @property
    def linear(self) -> bool:
        """Whether some of the noise of cells goes with the first power of what drives them."""
        return self.drive.timed or self.floats

    @property
    def curved(self) -> bool:
        """Whether currents of cells do not go with the voltages that word lines are driven with."""
        drive, hardware = self.drive, self.hardware
        two_levels = drive.timed or (drive.rounds and drive.largest_digit == 1)
        return hardware.cell.nonlinearity.kind != "linear" and hardware.dac.levels == "voltage" and not two_levels

    def bent(self, volts: Array, xp: Namespace = np) -> Array:
        """What voltages (in units of v_read, any shape) of word lines do, in the units of Ohm's law at v_read."""
        return self.law(volts, xp) if self.curved else volts

    def law(self, volts: Array, xp: Namespace = np) -> Array:
        """Currents of cells at voltages (in units of v_read), in the units of Ohm's law at v_read."""
        hardware = self.hardware
        v_read = hardware.sensing.v_read
        return hardware.cell.nonlinearity.current(volts * v_read, hardware.conditions, xp) / v_read

    @cached_property
    def levels(self) -> Array:
        """(digits,) float32: what each digit of a conversion drives, in digits; empty where that is the digit."""
        largest = self.drive.largest_digit
        if not (self.curved and self.drive.rounds):
            return np.empty(0, np.float32)
        return (largest * self.bent(np.arange(largest + 1) / largest)).astype(np.float32)

    @property
    def scaled(self) -> bool:
        """Whether each read has scales of its own: its inputs are divided by them, its readings multiplied."""
        return self.hardware.dac.scaling != "layer"

    def rows_of(self, group: int) -> Array:
        """(rows, outputs) float32 weights of a group's word lines, those of a bias on the array included."""
        weights = self.matrix.rows_of(group)
        if not self.matrix.bias_on_array:
            return weights
        return np.concatenate([weights, self.matrix.bias_of(group)[None] / np.float32(self.drive.limit)])

    def bias_of(self, group: int) -> Array:
        """(outputs,) float32 that are added to readings digitally, after these were scaled (see `Reader.read`)."""
        if self.matrix.bias_on_array:
            return np.zeros(self.placement.outputs, dtype=np.float32)
        return self.matrix.bias_of(group).astype(np.float32)

    def moments_of(self, group: int) -> Moments:
        """Of the voltages of a group's word lines."""
        if self.moments is None:
            return Moments.uniform(self.placement.rows, self.drive.signed)
        return Moments(*self.moments[:, group])
