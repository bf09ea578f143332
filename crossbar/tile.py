"""The shape of one tile."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ..devices.config import Config, without_defaults
from ..devices.units import Number, Whole

NEWER = ("slicing", "significance", "join", "mirror_mismatch", "groups")  # left out of texts at their defaults
Ratio = Annotated[Number, Field(ge=1, le=1000)]


def _listed(given: Any) -> Any:
    return given if given is None or isinstance(given, list | tuple) else (given,)


Ratios = Annotated[
    Annotated[tuple[Ratio, ...], Field(max_length=15)] | None,
    BeforeValidator(_listed),
    PlainSerializer(lambda given: given[0] if given and len(given) == 1 else given),
]


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

    rows: Annotated[Whole, Field(ge=1, le=65536)] = Field(256, description="word lines")
    columns: Annotated[Whole, Field(ge=1, le=65536)] = Field(256, description="bit lines")
    encoding: EncodingName = Field("differential", description="how signed weights sit in cells: see above")
    scale: Literal["column", "tile"] = Field(
        "column", description="what shares one weight scale: a tile's column, or the tile"
    )
    bias: Literal["digital", "array"] = Field(
        "digital", description="array: the bias is one more word line, driven by a constant input"
    )
    slices: Annotated[Whole, Field(ge=1, le=16)] = Field(
        1, description="cells a weight is spread over, on bit lines of their own; the last counts most"
    )
    slicing: Literal["digits", "shares", "residual"] = Field(
        "digits",
        description="what slices hold: a digit of the weight each, base cell.levels; or the weight each, and count "
        "their shares; or the last the weight, and each that is programmed after it what those before left of it",
    )
    significance: Ratios = Field(
        None,
        description="what a slice counts, in units of the one below it: one number for all, or a list, the lowest "
        "first; null for digits, which cell.levels tells",
    )
    join: Literal["digital", "mirror"] = Field(
        "digital",
        description="what adds up the slices of a weight: each is converted, then shifted and added; or current "
        "mirrors, in front of one conversion",
    )
    mirror_mismatch: Annotated[Number, Field(ge=0, le=0.3)] = Field(
        0.0, description="standard deviation of the ratios of these mirrors, relative"
    )
    devices: Annotated[Whole, Field(ge=1, le=4)] = Field(
        1, description="in parallel in each cell: of the same target, with errors of their own, read together"
    )
    amplifiers: Literal["bit_line", "pair"] = Field(
        "bit_line",
        description="what has a sense amplifier of its own: each bit line, whose readings are subtracted, or the two "
        "bit lines of a pair, subtracted as currents by a mirror or at a differential input",
    )

    groups: Literal["apart", "diagonal"] = Field(
        "apart",
        description="the groups of a layer: each on tiles of its own, or several along the diagonal of one tile, each "
        "on word lines and bit lines of its own, with zeros in the other cells of these lines",
    )

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, fields(self), *NEWER)

    @model_validator(mode="after")
    def _consistent(self) -> Tile:
        if (self.slicing != "digits") != (self.significance is not None):
            need = "null when tile.slicing is 'digits'" if self.slicing == "digits" else "set"
            shown = "null" if self.significance is None else list(self.significance)
            raise ValueError(f"tile.significance must be {need}, got {shown} with tile.slicing {self.slicing!r}")
        if self.significance is not None and len(self.significance) not in {1, self.slices - 1} - {0}:
            raise ValueError(
                f"tile.significance must be one number, or {self.slices - 1} for {self.slices} slices, got "
                f"{len(self.significance)}"
            )
        for name, value, usual in (("slicing", self.slicing, "digits"), ("join", self.join, "digital")):
            if self.slices == 1 and value != usual:
                raise ValueError(f"tile.slices must be at least 2 when tile.{name} is {value!r}, got 1")
        if self.slicing == "residual" and self.encoding == "single":
            raise ValueError(
                "tile.encoding must not be 'single' when tile.slicing is 'residual': what is left of a weight has both "
                "signs"
            )
        if self.mirror_mismatch and self.join != "mirror":
            raise ValueError(
                f"tile.mirror_mismatch must be 0 unless tile.join is 'mirror', got {self.mirror_mismatch:g}"
            )
        return self

    @property
    def counts(self) -> tuple[float, ...]:
        """(slices,) what each counts, in units of the first, where `significance` says so."""
        given = self.significance or (1.0,)
        each = given * (self.slices - 1) if len(given) == 1 else given
        return tuple(prod(each[:s]) for s in range(self.slices))

    @property
    def joined(self) -> bool:
        """Whether the slices of a weight are added up as currents."""
        return self.join == "mirror"

    @property
    def converted(self) -> int:
        """Readings of an output that are converted each, the two of a pair counted once."""
        return 1 if self.joined else self.slices

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
    def reference_readings(self) -> int:
        """Readings of these that are converted each."""
        return self.converted if self.encoding == "offset" else 0

    @property
    def readings(self) -> int:
        """Readings of a tile that are converted each, those of a pair counted once."""
        return self.outputs * self.converted + self.reference_readings

    @property
    def outputs(self) -> int:
        """Outputs of the layer that fit in one tile."""
        return (self.columns - self.reference_columns) // self.columns_per_output
