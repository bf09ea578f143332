"""The circuits around a tile, counted once for all: noise, energy and area take their numbers from here."""

from __future__ import annotations

from dataclasses import dataclass

from .lines import Wires
from .tile import Tile


@dataclass(frozen=True)
class Periphery:
    """What stands at the ends of a tile's lines.

    Attributes:
        amplifiers: sense amplifiers (with their integrators) behind one reading; their noise adds up in it. Two for a
            pair on two bit lines, one on a shared bit line or where `tile.amplifiers` is `pair`, one for a single
            cell or a reference column; twice as many where both ends of the bit lines are sensed. Slices that mirrors
            join are one reading.
        drivers: DACs for one word line of the matrix. Two for pairs on a shared bit line, whose cells are on two word
            lines with opposite voltages; twice as many where both ends of the word lines are driven.
        all_amplifiers, all_drivers: of a tile, those of lines that are not in use included.
    """

    amplifiers: int
    drivers: int
    all_amplifiers: int
    all_drivers: int

    @classmethod
    def of(cls, tile: Tile, wires: Wires) -> Periphery:
        """That of a tile with these wires."""
        shared = tile.paired and wires.pairs == "shared"
        sensed, driven = (2 if ends == "both" else 1 for ends in (wires.sense, wires.drivers))
        together = shared or (tile.paired and tile.amplifiers == "pair")  # two columns of cells, one amplifier
        columns = (2 if together else 1) * (tile.slices if tile.joined else 1)  # of cells, for one amplifier
        drivers = driven * (2 if shared else 1)
        return cls(
            amplifiers=sensed * (2 if tile.paired and not together else 1),
            drivers=drivers,
            all_amplifiers=sensed * -(-tile.columns // columns),
            all_drivers=tile.rows * drivers,
        )
