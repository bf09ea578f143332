"""What the text of a saved chip may say: every field with its type and bounds, and the layers on tiles that it makes.

A text is checked against this when it is written and when it is read, so that one that can be saved can be loaded.
Texts of older formats are first made such ones (`mapping.migration`).
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..crossbar.design import Design
from ..crossbar.drive import Drive
from ..crossbar.hardware import Hardware
from ..crossbar.kept import MOST, Slot, arrays_of, check, kind_of, names_of, restored
from ..crossbar.ranges import Ranges
from ..devices.registry import HINT
from ..devices.units import brief
from .errors import CheckpointError, MappingError
from .layers import TileLayer
from .leaf import LEAVES, Matrices
from .order import SampleAxis
from .scaling import LARGEST, LEAST

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
    """The kind of cells: drawn from the seed, or given one by one, whose table is among the tensors."""

    kind: Literal["drawn", "given"]


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

    @model_validator(mode="after")
    def _consistent(self) -> SavedChip:
        aliases = [alias for layer in self.layers.values() for alias in layer.aliases]
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


def describe_layer(layer: TileLayer) -> dict[str, Any]:
    """The fields of a `SavedLayer`.

    Raises:
        MappingError: cells that a file has no room for.
    """
    design, ranges = layer.tiles.design, layer.tiles.ranges
    try:
        cells = kind_of(layer.tiles.cells)
    except ValueError as error:
        raise MappingError(f"chip cannot be saved: layer {layer.name!r}: {error}") from error
    return {
        "kind": layer.spec.kind,
        "spec": layer.spec.describe(),
        "aliases": layer.aliases,
        "drive": {"limit": float(design.drive.limit), "signed": design.drive.signed},
        "wire_compensation": design.wire_compensation,
        "ranges": {"array_energy_j": ranges.array_energy_j},
        "samples_along": layer.samples_along,
        "cells": {"kind": cells},
    }


def layer_arrays(layer: TileLayer) -> dict[str, Array]:
    """The arrays of a layer, by names that `build_layer` takes."""
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
    kept = enumerate(arrays_of(programmed))
    return arrays | {f"{g}.{key}": array for g, group in kept for key, array in group.items()}


def build_layer(
    name: str, saved: SavedLayer, arrays: dict[str, Array], hardware: Hardware, seed: int, copy_index: int
) -> TileLayer:
    """The layer of a description; `arrays` are those of `layer_arrays`, and no others.

    Raises:
        CheckpointError: they do not fit it, or it does not fit the hardware.
    """
    try:
        layer = _build(name, saved, arrays, hardware, seed, copy_index)
    except ValueError as error:
        raise CheckpointError(f"layer {name!r}: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"layer {name!r}: its tensor {error} is missing") from error
    layer.aliases = list(saved.aliases)
    layer.samples_along = None if saved.samples_along is None else SampleAxis(*saved.samples_along)
    return layer


def _build(
    name: str, saved: SavedLayer, arrays: dict[str, Array], hardware: Hardware, seed: int, copy_index: int
) -> TileLayer:
    spec = LEAVES[saved.kind].build(saved.spec)
    shape = spec.matrix_shape
    if arrays["weights"].shape != shape:
        raise ValueError(f"weights of shape {arrays['weights'].shape} are not those of {spec!r}")
    layer = TileLayer(name, spec, Matrices(arrays["weights"], arrays.get("bias")), hardware, seed, copy_index)
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
    groups: list[Any] = [{key: arrays[f"{g}.{key}"] for key in names_of(design, kind)} for g in range(placed)]
    surplus = set(arrays) - set(slots) - {f"{g}.{key}" for g in range(placed) for key in names_of(design, kind)}
    if surplus:
        raise ValueError(f"it has no {', '.join(sorted(surplus))}")
    if ("middle" in arrays) != (adc.bits is not None and adc.span == "fitted"):
        raise ValueError(f"middle of its ADCs' ranges does not fit adc.span = {adc.span!r}")
    ranges = Ranges(
        arrays["full_scale"],
        arrays.get("middle", np.empty(0)),
        array_energy_j=saved.ranges.array_energy_j,
        outputs=arrays.get("outputs"),
    )
    layer.programmed = restored(design, kind, layer.seeds, layer.backend, ranges, groups)
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
