"""What the text of a saved chip may say: every field with its type and bounds, and the layers on tiles that it makes.

A text is checked against this when it is written and when it is read, so that one that can be saved can be loaded.
Texts of older formats are first made such ones (`mapping.saved.migration`).
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...crossbar.backend import Backend
from ...crossbar.design import Design
from ...crossbar.drive import Drive
from ...crossbar.hardware import Hardware
from ...crossbar.kept import MOST, Slot, arrays_of, check, digest_of, kind_of, names_of, redrawn, restored
from ...crossbar.ranges import Ranges
from ...crossbar.reader import Seeds
from ...crossbar.stacked import apart, stacked
from ...devices.registry import HINT
from ...devices.units import brief
from ..errors import CheckpointError, MappingError
from ..inputs.order import SampleAxis
from ..kinds.leaf import LEAVES, Matrices
from ..layers import TileLayer
from ..scaling import LARGEST, LEAST

FORMAT = 4
Array = np.ndarray[Any, Any]

Text = Annotated[str, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SavedDrive(_Part):
    """What of a `Drive` does not follow from the hardware."""

    limit: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    signed: Annotated[bool, Field(strict=True)]


class SavedRanges(_Part):
    """What of `Ranges` is no array."""

    array_energy_j: Real | None


class SavedCells(_Part):
    """The kind of cells: drawn from the seed, or given one by one, whose table is among the tensors.

    `digest` is that of a layer whose drawn cells are not among the tensors, but are drawn again: see
    `crossbar.kept.digest_of`.
    """

    kind: Literal["drawn", "given"]
    digest: Annotated[str, Field(strict=True, pattern="^[0-9a-f]{32}$")] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SavedCells:
        if self.digest is not None and self.kind != "drawn":
            raise ValueError(f"cells of kind {self.kind} are not drawn again, and have no digest")
        return self


class SavedProgramming(_Part):
    """What has programmed the cells of a chip that is saved without them: the backend, and versions by package."""

    backend: Text
    versions: dict[Text, Text]

    def __str__(self) -> str:
        return f"backend {self.backend} of " + ", ".join(f"{name} {v}" for name, v in self.versions.items())


class SavedLayer(_Part):
    """A layer on tiles. Its `kind` says what the fields of `spec` mean."""

    kind: Text
    spec: dict[Text, Any]
    aliases: Annotated[list[Text], Field(min_length=1)]
    drive: SavedDrive
    wire_compensation: Literal["gain", "program"] | None
    ranges: SavedRanges
    samples_along: tuple[Annotated[int, Field(strict=True, ge=0, le=64)], Annotated[bool, Field(strict=True)]] | None
    cells: SavedCells

    @model_validator(mode="after")
    def _consistent(self) -> SavedLayer:
        if self.kind not in LEAVES:
            raise ValueError(f"kind of layer must be one of {', '.join(LEAVES)}, got {brief(self.kind)}; {HINT}")
        LEAVES[self.kind].build(self.spec)
        return self


class SavedCall(_Part):
    """A `trace.Call`."""

    layer: Text
    digital: tuple[Text, ...]
    after: tuple[Count, ...]
    positions: Count
    work: Count
    values: Count
    rows_in: Size
    needs: Annotated[tuple[Count, ...], Field(min_length=1)]


class SavedFactory(_Part):
    """A `checkpoints.factories.Factory`: how the model was built."""

    reference: Text
    arguments: dict[Text, Any]


class SavedChip(_Part):
    """The text of a saved chip, without the digests of its files."""

    format: Literal[4]
    seed: Annotated[int, Field(strict=True)]
    copy_index: Annotated[Count, Field(alias="copy")]
    located: Annotated[bool, Field(strict=True)]
    batch: Text | None = None
    origin: Text | None = None  # SHA-256 of the hardware and of the cells that were programmed on it
    strict: Annotated[bool, Field(strict=True)] = False
    digital: list[tuple[Text, Text, Text]]
    trace: list[SavedCall]
    layers: dict[Text, SavedLayer]
    operands: dict[Text, Any] = {}  # parameters that are layers, see `weights.Plan`
    hardware: dict[Text, Any]
    structure: Text | dict[Text, Any]
    factory: SavedFactory | None = None  # where the structure could not be saved
    programming: SavedProgramming | None = None  # where cells are drawn again

    @model_validator(mode="after")
    def _consistent(self) -> SavedChip:
        aliases = [alias for layer in self.layers.values() for alias in layer.aliases]
        if self.programming is None and any(layer.cells.digest for layer in self.layers.values()):
            raise ValueError("programming: missing, and cells are to be drawn again")
        if len(set(aliases)) < len(aliases):
            raise ValueError("layers: two have the same name")
        for name, layer in self.layers.items():
            if name not in layer.aliases:
                raise ValueError(f"layers: {name!r} is not among its own names {', '.join(layer.aliases)}")
        for number, call in enumerate(self.trace):
            where = f"trace.{number}"
            if call.layer not in self.layers and not (call.digital and not call.layer):
                raise ValueError(f"{where}.layer = {call.layer!r} is no layer")
            if not call.digital and not call.positions:
                raise ValueError(f"{where}.positions must be at least 1 for a layer on tiles, got 0")
            if any(before >= number for before in call.after):
                raise ValueError(f"{where}.after must hold calls before it, got {max(call.after)}")
            if max(call.needs) >= call.rows_in:
                raise ValueError(f"{where}.needs must be rows below rows_in = {call.rows_in}, got {max(call.needs)}")
        return self


def describe_layer(layer: TileLayer, *, compact: bool = False) -> dict[str, Any]:
    """The fields of a `SavedLayer`; `compact` without its cells.

    Raises:
        MappingError: cells that a file has no room for, or `compact` and cells that cannot be drawn again.
    """
    design, ranges = layer.tiles.design, layer.tiles.ranges
    try:
        cells = kind_of(layer.tiles.cells)
    except ValueError as error:
        raise MappingError(f"chip cannot be saved: layer {layer.name!r}: {error}") from error
    if compact and cells != "drawn":
        raise MappingError(
            f"chip cannot be saved compact: layer {layer.name!r}: its cells are {cells} one by one, and no seed draws "
            "them again; save it with compact=False"
        )
    return {
        "kind": layer.spec.kind,
        "spec": layer.spec.describe(),
        "aliases": layer.aliases,
        "drive": {"limit": float(design.drive.limit), "signed": design.drive.signed},
        "wire_compensation": design.wire_compensation,
        "ranges": {"array_energy_j": ranges.array_energy_j},
        "samples_along": layer.samples_along,
        "cells": {"kind": cells, **({"digest": digest_of(layer.tiles)} if compact else {})},
    }


def layer_arrays(layer: TileLayer, *, compact: bool = False) -> dict[str, Array]:
    """The arrays of a layer, by names that `build_layer` takes; `compact` without its cells."""
    programmed = layer.tiles
    found = {
        "weights": layer.matrix.weights,
        "bias": layer.matrix.bias,
        "full_scale": programmed.ranges.full_scale,
        "middle": programmed.ranges.middle if programmed.ranges.middle.size else None,
        "moments": programmed.design.moments,
        "outputs": programmed.ranges.outputs,
        "equaliser": None if layer.equaliser is None else layer.equaliser.numpy(),
    }
    arrays = {key: array for key, array in found.items() if array is not None}
    return arrays | stacked(arrays_of(programmed, cells=not compact))


def build_layer(
    name: str, saved: SavedLayer, arrays: dict[str, Array], hardware: Hardware, seeds: Seeds, backend: Backend
) -> TileLayer:
    """The layer of a description; `arrays` are those of `layer_arrays`, and no others. `backend` draws cells again.

    Raises:
        CheckpointError: they do not fit it, or it does not fit the hardware.
    """
    try:
        layer = _build(name, saved, arrays, hardware, seeds, backend)
    except ValueError as error:
        raise CheckpointError(f"layer {name!r}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"layer {name!r}: its tensor {error} is missing") from error
    layer.aliases = list(saved.aliases)
    layer.samples_along = None if saved.samples_along is None else SampleAxis(*saved.samples_along)
    return layer


def _build(
    name: str, saved: SavedLayer, arrays: dict[str, Array], hardware: Hardware, seeds: Seeds, backend: Backend
) -> TileLayer:
    spec = LEAVES[saved.kind].build(saved.spec)
    shape = spec.matrix_shape
    if arrays["weights"].shape != shape:
        raise ValueError(f"weights of shape {arrays['weights'].shape} are not those of {spec!r}")
    layer = TileLayer(name, spec, Matrices(arrays["weights"], arrays.get("bias")), hardware, *seeds)
    layer.backend = backend
    layer.wire_compensation = saved.wire_compensation
    if saved.wire_compensation and hardware.wires.ideal:
        raise ValueError(f"wire_compensation = {saved.wire_compensation!r}, and its wires have no resistance")
    adc = hardware.adc
    slices = hardware.tile.converted if adc.bits is not None else 0
    ranged = (slices, layer.placement.row_tiles) if slices and adc.per == "tile" else (slices,)
    placed = layer.placement.groups
    slots = {
        "weights": Slot(shape, np.float32, -MOST),
        "bias": Slot((shape[0], shape[2]), np.float32, -MOST),
        "full_scale": Slot(ranged, np.float64, float(np.finfo(np.float32).tiny)),
        "middle": Slot(ranged, np.float64, -MOST),
        "moments": Slot((2, placed, layer.placement.rows), np.float64, -MOST),
        "outputs": Slot((2, placed, layer.placement.outputs), np.float32, -MOST),
        "equaliser": Slot((shape[0] * shape[1] // prod(spec.patches.kernel),), np.float32, LEAST, LARGEST),
    }
    maybe = ("bias", "moments", "middle", "outputs", "equaliser")
    for key in ("weights", "full_scale", *(key for key in maybe if key in arrays)):
        check(key, arrays[key], slots[key])
    if "equaliser" in arrays:
        layer.equaliser = torch.from_numpy(arrays["equaliser"])
    kind = saved.cells.kind
    design = Design(layer.matrix, _drive(saved.drive, hardware), arrays.get("moments"), saved.wire_compensation)
    digest = saved.cells.digest
    groups, used = apart(arrays, names_of(design, kind, cells=digest is None), placed)
    if surplus := set(arrays) - set(slots) - used:
        raise ValueError(f"it has no {', '.join(sorted(surplus))}")
    if ("middle" in arrays) != (adc.bits is not None and adc.span == "fitted"):
        raise ValueError(f"middle of its ADCs' ranges does not fit adc.span = {adc.span!r}")
    ranges = Ranges(
        arrays["full_scale"],
        arrays.get("middle", np.empty(0)),
        array_energy_j=saved.ranges.array_energy_j,
        outputs=arrays.get("outputs"),
    )
    if digest is None:
        layer.programmed = restored(design, kind, layer.seeds, layer.backend, ranges, groups)
        return layer
    layer.programmed = redrawn(design, layer.seeds, layer.backend, ranges, groups)
    return layer


def _drive(saved: SavedDrive, hardware: Hardware) -> Drive:
    """The drive that the hardware gives for this range.

    Raises:
        ValueError: the hardware has another range, or codes of this one are no numbers.
    """
    dac, limit = hardware.dac, saved.limit
    drive = Drive.of(dac, None if dac.range is None else limit, saved.signed)
    fixed = 1.0 if dac.scaling != "layer" else limit
    exact = fixed if dac.range == "calibrated" else 1.0 if dac.range is None else float(dac.range)
    if limit != exact or saved.signed != drive.signed:
        raise ValueError(f"drive = {saved.limit:g}, signed {saved.signed}: its hardware has {exact:g}, {drive.signed}")
    factor = np.float64(drive.full_code) / limit
    if not np.finfo(np.float32).tiny <= factor <= np.finfo(np.float32).max:
        raise ValueError(f"drive.limit = {limit:g} is outside of what inputs can be")
    return drive
