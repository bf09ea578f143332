"""The lines of an array: what resistance they have, which ends are connected, which cells share them."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ..devices.config import Config
from ..devices.units import Ohm

Array = np.ndarray[Any, Any]
Resistance = Annotated[Ohm, Field(ge=0)]


class Lines(Config):
    """Resistances in ohms, and which ends of the lines are connected. A line without resistance is a single node."""

    r_word_line: Resistance = Field(0.0, description="of a word line, from cell to cell")
    r_bit_line: Resistance = Field(0.0, description="of a bit line, from cell to cell")
    r_driver: Resistance = Field(0.0, description="of a driver, beside the segment that connects it")
    r_sense: Resistance = Field(0.0, description="of a sense amplifier's input, beside the segment that connects it")
    drivers: Literal["left", "both"] = Field("left", description="ends of a word line that are driven")
    sense: Literal["bottom", "both"] = Field("bottom", description="ends of a bit line that are sensed, and added up")

    @classmethod
    def cached(cls, **fields: Any) -> Lines:
        """One made before from the same fields: to check them takes a fifth of the time of a read of 64 x 64 cells."""
        try:
            return _made(**fields)
        except TypeError:  # not hashable: no number, which the check says
            return cls(**fields)

    @property
    def swapped(self) -> Lines:
        """With word and bit lines exchanged."""
        return Lines(
            r_word_line=self.r_bit_line,
            r_bit_line=self.r_word_line,
            r_driver=self.r_sense,
            r_sense=self.r_driver,
            drivers="left" if self.sense == "bottom" else "both",
            sense="bottom" if self.drivers == "left" else "both",
        )

    def word_line(self, columns: int) -> Array:
        """Conductances (columns + 1,) of the segments of a word line, from the left on; 0 where it ends."""
        wire = np.full(columns + 1, 1 / self.r_word_line)
        wire[0] = 1 / (self.r_word_line + self.r_driver)
        wire[-1] = wire[0] if self.drivers == "both" else 0.0
        return wire

    def bit_line(self, rows: int) -> Array:
        """Conductances (rows + 1,) of the segments of a bit line, from the top on; 0 where it ends."""
        wire = np.full(rows + 1, 1 / self.r_bit_line)
        wire[-1] = 1 / (self.r_bit_line + self.r_sense)
        wire[0] = wire[-1] if self.sense == "both" else 0.0
        return wire


_made = lru_cache(typed=True)(Lines)


class Wires(Lines):
    """The wires of a tile: resistances and ends as in `Lines`, and where the cells are.

    The word and bit lines in use are those next to the drivers and sense amplifiers; the rest of a tile is not
    connected. `pairs`: where the two cells of a differential pair are. `adjacent`: on bit lines side by side; `apart`:
    all bit lines of first cells, then all of second ones; `shared`: on one bit line and two word lines side by side,
    driven with opposite voltages, so that currents cancel where they arise. Bit lines of the slices of an output are
    side by side, reference columns are the farthest from the drivers.

    `order`: `natural`, or `conductance`: word lines with the largest conductance times input next to the sense
    amplifiers, outputs with the largest conductance next to the drivers.
    """

    pairs: Literal["adjacent", "apart", "shared"] = Field(
        "adjacent", description="where the two cells of a differential pair are: see above"
    )
    order: Literal["natural", "conductance"] = Field("natural", description="of word lines and outputs: see above")

    @property
    def ideal(self) -> bool:
        """Whether nothing has resistance."""
        return not (self.r_word_line or self.r_bit_line or self.r_driver or self.r_sense)

    def axes(self, polarities: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of cells (slices, polarities, rows, columns): those that make up the word lines, and the bit lines."""
        if self.pairs == "shared" and polarities > 1:
            return (2, 1), (3, 0)
        return (2,), ((1, 3, 0) if self.pairs == "apart" else (3, 0, 1))
