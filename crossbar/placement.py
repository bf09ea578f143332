"""How a weight matrix is cut into blocks, and which tile each of them is on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from .tile import Tile

Array = np.ndarray[Any, Any]


class Block(NamedTuple):
    """A part of a matrix on one tile: word lines and outputs from a first one to before a last one."""

    group: int
    first_row: int
    last_row: int
    first_output: int
    last_output: int
    tile: int


@dataclass(frozen=True)
class Placement:
    """A matrix of `rows` word lines (a bias row included) by `outputs`, `groups` times over, on tiles.

    Attributes:
        blocks: they cover each group once, in the same rows of blocks and columns of blocks. Blocks of several groups
            may be on one tile.

    Raises:
        ValueError: blocks that do not, or are larger than a tile.
    """

    tile: Tile
    rows: int
    outputs: int
    groups: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        grid = [(*rows, *outputs) for rows, outputs in product(pairwise(self.edges), pairwise(self.column_edges))]
        wanted = sorted((g, *place) for g in range(self.groups) for place in grid)
        inside = all(0 <= b.first_row < self.rows and 0 <= b.first_output < self.outputs for b in self.blocks)
        if not inside or sorted(block[:5] for block in self.blocks) != wanted:
            raise ValueError(
                f"blocks must cover {self.groups} group(s) of {self.rows} rows and {self.outputs} outputs once each, "
                "in rows and columns of blocks"
            )
        tile = self.tile
        for block in self.blocks:
            rows, outputs = block.last_row - block.first_row, block.last_output - block.first_output
            if rows > tile.rows or outputs > tile.outputs:
                raise ValueError(
                    f"a block must be at most {tile.rows} rows by {tile.outputs} outputs of its tile, got {rows} by "
                    f"{outputs}"
                )

    @classmethod
    def of(cls, tile: Tile, rows: int, outputs: int, groups: int = 1) -> Placement:
        """Each group on tiles of its own, as few as there can be.

        Row tiles are filled evenly, so that their currents need the same full scale, and with whole pairs of word
        lines, on which integer kernels work.

        Raises:
            ValueError: a tile too narrow for a single output.
        """
        if tile.outputs < 1:
            need = tile.columns_per_output + tile.reference_columns
            raise ValueError(
                f"tile.columns must be at least {need} for encoding '{tile.encoding}' with {tile.slices} slice(s), "
                f"got {tile.columns}"
            )
        row_tiles, step = -(-rows // tile.rows), 2 - tile.rows % 2
        edges = [(t * rows // row_tiles + step - 1) // step * step for t in range(row_tiles)] + [rows]
        columns = [*range(0, outputs, tile.outputs), outputs]
        places = product(range(groups), pairwise(edges), pairwise(columns))
        blocks = [Block(g, a, b, c, d, number) for number, (g, (a, b), (c, d)) in enumerate(places)]
        return cls(tile, rows, outputs, groups, tuple(blocks))

    @cached_property
    def edges(self) -> list[int]:
        """First word line of each row tile, and the end: row_tiles + 1 numbers."""
        return sorted({block.first_row for block in self.blocks} | {0, self.rows})

    @cached_property
    def column_edges(self) -> list[int]:
        """First output of each column tile, and the end: column_tiles + 1 numbers."""
        return sorted({block.first_output for block in self.blocks} | {0, self.outputs})

    @property
    def row_tiles(self) -> int:
        """Blocks along the word lines of a group."""
        return len(self.edges) - 1

    @property
    def column_tiles(self) -> int:
        """Blocks along the outputs of a group."""
        return len(self.column_edges) - 1

    @property
    def references(self) -> Array:
        """(outputs,) int64: the column that is the reference of each output, behind all outputs; empty without any."""
        if not self.tile.reference_columns:
            return np.empty(0, np.int64)
        return self.outputs + np.repeat(np.arange(self.column_tiles), np.diff(self.column_edges))

    @cached_property
    def tiles(self) -> int:
        """Tiles taken, by all groups."""
        return len({block.tile for block in self.blocks})

    @cached_property
    def most_conversions(self) -> int:
        """ADC conversions of the fullest tile in one pulse."""
        outputs: dict[int, int] = {}
        for block in self.blocks:
            outputs[block.tile] = outputs.get(block.tile, 0) + block.last_output - block.first_output
        return max(outputs.values()) * self.tile.converted + self.tile.reference_readings

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
        per_row_tile = self.outputs * self.tile.converted + self.column_tiles * self.tile.reference_readings
        return self.groups * self.row_tiles * per_row_tile
