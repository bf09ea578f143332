"""The shape of one tile, and how a weight matrix is partitioned over tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..devices.config import Config
from ..devices.units import Whole

Encoding = Literal["differential", "differential_two_sided", "offset", "single"]


class Tile(Config):
    """One array of cells: `rows` word lines, `columns` bit lines, and how signed weights sit in it.

    Encodings: `differential`: the pair (G+, G-), one of them at g_min; `differential_two_sided`: both move around the
    middle of the range; `offset`: one cell, read against a reference column of cells in the middle of the range;
    `single`: one cell, for weights that are not negative.
    """

    rows: Annotated[Whole, Field(ge=1, le=65536)] = 256
    columns: Annotated[Whole, Field(ge=1, le=65536)] = 256
    encoding: Encoding = "differential"
    scale: Literal["column", "tile"] = Field(
        "column", description="what shares one weight scale: a tile's column, or the tile"
    )
    bias: Literal["digital", "array"] = Field(
        "digital", description="array: the bias is one more word line, driven by a constant input"
    )
    slices: Annotated[Whole, Field(ge=1, le=16)] = Field(
        1, description="cells a weight's bits are spread over, base cell.levels"
    )
    amplifiers: Literal["bit_line", "pair"] = Field(
        "bit_line",
        description="what has a sense amplifier of its own: each bit line, whose readings are subtracted, or the two "
        "bit lines of a pair, subtracted as currents by a mirror or at a differential input",
    )

    @property
    def paired(self) -> bool:
        """Whether weights are pairs of cells."""
        return self.encoding.startswith("differential")

    @property
    def columns_per_output(self) -> int:
        """Bit lines that one output of the layer takes."""
        return self.slices * (2 if self.paired else 1)

    @property
    def reference_columns(self) -> int:
        """Bit lines of each tile that hold references, not weights."""
        return self.slices if self.encoding == "offset" else 0

    @property
    def outputs(self) -> int:
        """Outputs of the layer that fit in one tile."""
        return (self.columns - self.reference_columns) // self.columns_per_output


@dataclass(frozen=True)
class Plan:
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
    def of(cls, tile: Tile, rows: int, outputs: int, groups: int = 1) -> Plan:
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
