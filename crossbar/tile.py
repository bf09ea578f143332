"""The shape of one tile."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ..devices.config import Config
from ..devices.units import Whole

EncodingName = Literal["differential", "differential_two_sided", "offset", "single"]


def __getattr__(name: str) -> Any:
    if name == "Plan":
        raise ImportError("mho.crossbar.tile.Plan is mho.crossbar.placement.Placement since version 0.3")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Tile(Config):
    """One array of cells: `rows` word lines, `columns` bit lines, and how signed weights sit in it.

    Encodings: `differential`: the pair (G+, G-), one of them at g_min; `differential_two_sided`: both move around the
    middle of the range; `offset`: one cell, read against a reference column of cells in the middle of the range;
    `single`: one cell, for weights that are not negative.
    """

    rows: Annotated[Whole, Field(ge=1, le=65536)] = 256
    columns: Annotated[Whole, Field(ge=1, le=65536)] = 256
    encoding: EncodingName = "differential"
    scale: Literal["column", "tile"] = Field(
        "column", description="what shares one weight scale: a tile's column, or the tile"
    )
    bias: Literal["digital", "array"] = Field(
        "digital", description="array: the bias is one more word line, driven by a constant input"
    )
    slices: Annotated[Whole, Field(ge=1, le=16)] = Field(
        1, description="cells a weight's bits are spread over, base cell.levels"
    )
    devices: Annotated[Whole, Field(ge=1, le=4)] = Field(
        1, description="in parallel in each cell: of the same target, with errors of their own, read together"
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
