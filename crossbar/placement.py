"""How a weight matrix is cut onto tiles."""

from __future__ import annotations

from dataclasses import dataclass

from .tile import Tile


@dataclass(frozen=True)
class Placement:
    """A matrix of `rows` word lines (a bias row included) by `outputs`, `groups` times over, cut into tiles.

    Row tiles are filled evenly, so that their currents need the same full scale (and with whole pairs of word lines).
    """

    tile: Tile
    rows: int
    outputs: int
    groups: int
    row_tiles: int
    column_tiles: int

    @classmethod
    def of(cls, tile: Tile, rows: int, outputs: int, groups: int = 1) -> Placement:
        """Raises ValueError if a tile is too narrow for a single output."""
        if tile.outputs < 1:
            need = tile.columns_per_output + tile.reference_columns
            raise ValueError(
                f"tile.columns must be at least {need} for encoding '{tile.encoding}' with {tile.slices} slice(s), "
                f"got {tile.columns}"
            )
        return cls(tile, rows, outputs, groups, -(-rows // tile.rows), -(-outputs // tile.outputs))

    @property
    def edges(self) -> list[int]:
        """First word line of each row tile, and the end: row_tiles + 1 numbers."""
        even = 1 - self.tile.rows % 2  # integer kernels work on pairs of word lines
        edges = [(t * self.rows // self.row_tiles + even) // (1 + even) * (1 + even) for t in range(self.row_tiles)]
        return [*edges, self.rows]

    @property
    def tiles(self) -> int:
        return self.groups * self.row_tiles * self.column_tiles

    @property
    def columns(self) -> int:
        """Bit lines in use, over the column tiles of one row tile of one group."""
        return self.outputs * self.tile.columns_per_output + self.column_tiles * self.tile.reference_columns

    @property
    def cells(self) -> int:
        """Cells in use."""
        return self.groups * self.rows * self.columns

    @property
    def utilisation(self) -> float:
        """Cells in use, of all cells of the tiles taken."""
        return self.cells / (self.tiles * self.tile.rows * self.tile.columns)

    @property
    def conversions(self) -> int:
        """ADC conversions of one read of the matrix with one pulse: a pair's difference is one conversion."""
        per_row_tile = self.outputs * self.tile.slices + self.column_tiles * self.tile.reference_columns
        return self.groups * self.row_tiles * per_row_tile
