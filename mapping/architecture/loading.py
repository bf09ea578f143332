"""Whether a network fits a chip with a number of tiles, and what writing it again and again costs where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from ..errors import MappingError
from .read_chain import Chain

if TYPE_CHECKING:
    from ..mapped import MappedNetwork

__all__ = ["Loading"]


@dataclass(frozen=True)
class Loading:
    """The tiles that a network needs and a chip has, and what each batch of inputs has to write.

    Of N tiles needed and A there, A - S stay, and S places are written again: N - A + S tiles in each batch, S at a
    time, in 1 + (N - A) / S rounds. S is the smallest of those with the fewest rounds, at most A. Tiles of a round are
    written in parallel, each cell after cell, and nothing is read meanwhile. Reads are scheduled as if all tiles were
    there.

    Attributes:
        needed: tiles of all layers, replicas included. available: `cost.tiles` of the chip; None: as many as needed.
        written: tiles that a batch writes. rounds: in how many turns.
        energy_j, time_s: of these writes, verified; for each batch, however many inputs and votes it has.
    """

    needed: int
    available: int | None
    written: int
    rounds: int
    energy_j: float
    time_s: float

    @classmethod
    def of(cls, chip: MappedNetwork, replicas: Mapping[str, int] | None = None) -> Loading:
        """That of a mapped network.

        Raises:
            MappingError: layers that override the number of tiles, which is the chip's.
        """
        layers, counts = chip.layers, dict(replicas or {})
        needed = sum(counts.get(name, 1) * layer.placement.tiles for name, layer in layers.items())
        available = {layer.hardware.cost.tiles for layer in layers.values()}
        if len(available) > 1:
            raise MappingError(
                f"cost.tiles: a chip has one number of tiles, set it for all layers, got {_listed(available)}"
            )
        tiles = available.pop() if available else None
        if tiles is None or needed <= tiles:
            return cls(needed, tiles, 0, 0, 0.0, 0.0)
        missing = needed - tiles
        turns = ceil(missing / tiles)
        written, rounds = missing + ceil(missing / turns), 1 + turns
        energy = slowest = 0.0
        for name, layer in layers.items():
            cost, placement = layer.hardware.cost, layer.placement
            cells = placement.cells * Chain.of(layer.hardware).devices
            energy += counts.get(name, 1) * cells * cost.write_energy
            slowest = max(slowest, ceil(ceil(cells / placement.tiles) / cost.written_at_once) * cost.write_time)
        return cls(needed, tiles, written, rounds, energy * written / needed, rounds * slowest)

    @property
    def fits(self) -> bool:
        """Whether all tiles of the network are on the chip at once."""
        return not self.written

    @property
    def share(self) -> float:
        """Tiles that there are, of those needed: 1 where it fits."""
        return 1.0 if self.available is None else min(1.0, self.available / self.needed)

    def __str__(self) -> str:
        if self.available is None:
            return f"{self.needed} tiles, of as many as needed"
        if self.fits:
            return f"fits: {self.needed} tiles of {self.available}"
        return (
            f"does not fit: {self.needed} tiles needed, {self.available} there; each batch of inputs writes "
            f"{self.written} tiles in {self.rounds} rounds, {self.energy_j:.3g} J and {self.time_s:.3g} s"
        )


def _listed(numbers: set[int | None]) -> str:
    return ", ".join("null" if number is None else str(number) for number in sorted(numbers, key=lambda n: n or 0))
