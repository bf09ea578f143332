"""What the text of a saved chip may say: every field with its type and bounds, and the layers on tiles that it makes.

A text is checked against this when it is written and when it is read, so that one that can be saved can be loaded.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from ..crossbar.cells import Drawn
from ..crossbar.converters import Drive
from ..crossbar.design import Design
from ..crossbar.hardware import Hardware
from ..crossbar.kept import MOST, Slot, arrays_of, check, names_of, restored
from ..crossbar.ranges import Ranges
from .errors import CheckpointError
from .format_3 import fields_of, geometry
from .layers import TileLayer
from .leaf import Matrices
from .order import SampleAxis

FORMAT = 3
MOST_PADDED = 2**26  # values that padding may make of a single pixel
Array = np.ndarray[Any, Any]

Text = Annotated[str, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Sizes = tuple[Size, Size, Size]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SavedSpec(_Part):
    """The geometry of a linear or convolution layer."""

    dims: Annotated[int, Field(strict=True, ge=0, le=3)]
    in_features: Size
    out_features: Size
    groups: Size
    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    padding: tuple[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)], ...]
    padding_mode: Literal["constant", "reflect", "replicate", "circular"]
    dtype: Literal["float16", "bfloat16", "float32", "float64"]

    @model_validator(mode="after")
    def _consistent(self) -> SavedSpec:
        if self.in_features % self.groups or self.out_features % self.groups:
            raise ValueError(f"groups = {self.groups} must divide {self.in_features} and {self.out_features}")
        unused = {v for triple in (self.kernel, self.stride, self.dilation) for v in triple[: 3 - self.dims]}
        if unused - {1}:
            raise ValueError(f"kernel, stride and dilation must be 1 beyond the {self.dims} dimensions")
        if len(self.padding) not in (0, 2 * self.dims):
            raise ValueError(f"padding must be {2 * self.dims} numbers or none, got {len(self.padding)}")
        pairs = zip(self.padding[::2], self.padding[1::2], strict=True)
        if self.padding and self.in_features * prod(1 + a + b for a, b in pairs) > MOST_PADDED:
            raise ValueError(f"padding = {list(self.padding)} makes more than {MOST_PADDED} values of one pixel")
        return self


class SavedKind(_Part):
    """The geometry of a layer of another kind: the name of the kind, and its own fields."""

    kind: Text
    spec: dict[Text, Any]


class SavedDrive(_Part):
    """What of a `Drive` does not follow from the hardware."""

    limit: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    signed: Annotated[bool, Field(strict=True)]


class SavedLayer(_Part):
    aliases: Annotated[list[Text], Field(min_length=1)]
    spec: Annotated[
        Annotated[SavedKind, Tag("kind")] | Annotated[SavedSpec, Tag("spec")],
        Discriminator(
            lambda given: (
                "kind" if isinstance(given, SavedKind) or (isinstance(given, dict) and "kind" in given) else "spec"
            )
        ),
    ]
    drive: SavedDrive
    array_energy_j: Real | None
    compensate: Literal["gain", "program"] | None
    samples_along: tuple[Annotated[int, Field(strict=True, ge=0, le=64)], Annotated[bool, Field(strict=True)]] | None


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


class Digests(_Part):
    """SHA-256 of the header of the tensor file, and of the values of each tensor."""

    header: Text
    tensors: dict[Text, Text]


class SavedChip(_Part):
    """The text of a saved chip."""

    format: Literal[3]
    seed: Annotated[int, Field(strict=True)]
    copy_index: Annotated[Count, Field(alias="copy")]
    located: Annotated[bool, Field(strict=True)]
    batch: Text | None = None
    origin: Text | None = None  # SHA-256 of the hardware and of the cells that were programmed on it
    strict: Annotated[bool, Field(strict=True)] = False
    digital: list[tuple[Text, Text, Text]]
    trace: list[SavedCall]
    layers: dict[Text, SavedLayer]
    hardware: dict[Text, Any]
    structure: Text | dict[Text, Any]
    digests: Digests

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
    """The fields of a `SavedLayer`."""
    drive, ranges = layer.tiles.design.drive, layer.tiles.ranges
    return {
        "aliases": layer.aliases,
        "spec": fields_of(layer.spec),
        "drive": {"limit": float(drive.limit), "signed": drive.signed},
        "array_energy_j": ranges.array_energy_j,
        "compensate": layer.tiles.design.wire_compensation,
        "samples_along": layer.samples_along,
    }


def layer_arrays(layer: TileLayer) -> dict[str, Array]:
    """The arrays of a layer, by names that `build_layer` takes."""
    programmed = layer.tiles
    found = {
        "weights": layer.matrix.weights,
        "bias": layer.matrix.bias,
        "full_scale": programmed.ranges.full_scale,
        "moments": programmed.design.moments,
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
    spec = geometry(saved.spec.model_dump())
    shape = spec.matrix_shape
    if arrays["weights"].shape != shape:
        raise ValueError(f"weights of shape {arrays['weights'].shape} are not those of {spec!r}")
    layer = TileLayer(name, spec, Matrices(arrays["weights"], arrays.get("bias")), hardware, seed, copy_index)
    layer.wire_compensation = saved.compensate
    if saved.compensate and hardware.wires.ideal:
        raise ValueError(f"compensate = {saved.compensate!r}, and its wires have no resistance")
    slices = hardware.tile.slices if hardware.adc.bits is not None else 0
    slots = {
        "weights": Slot(shape, np.float32, -MOST),
        "bias": Slot((shape[0], shape[2]), np.float32, -MOST),
        "full_scale": Slot((slices,), np.float64, float(np.finfo(np.float32).tiny)),
        "moments": Slot((2, shape[0], layer.placement.rows), np.float64, -MOST),
    }
    for key in ("weights", "full_scale", *(key for key in ("bias", "moments") if key in arrays)):
        check(key, arrays[key], slots[key])
    design = Design(layer.matrix, _drive(saved.drive, hardware), arrays.get("moments"), saved.compensate)
    groups: list[Any] = [{key: arrays[f"{g}.{key}"] for key in names_of(design)} for g in range(shape[0])]
    surplus = set(arrays) - set(slots) - {f"{g}.{key}" for g in range(shape[0]) for key in names_of(design)}
    if surplus:
        raise ValueError(f"it has no {', '.join(sorted(surplus))}")
    ranges = Ranges(arrays["full_scale"], array_energy_j=saved.array_energy_j)
    layer.programmed = restored(design, Drawn(hardware, *layer.seeds), layer.seeds, layer.backend, ranges, groups)
    return layer


def _drive(saved: SavedDrive, hardware: Hardware) -> Drive:
    """The drive that the hardware gives for this range.

    Raises:
        ValueError: the hardware has another range, or codes of this one are no numbers.
    """
    dac, limit = hardware.dac, saved.limit
    drive = Drive.of(dac, None if dac.range is None else limit, saved.signed)
    exact = limit if dac.range == "calibrated" else 1.0 if dac.range is None else float(dac.range)
    if limit != exact or saved.signed != drive.signed:
        raise ValueError(f"drive = {saved.limit:g}, signed {saved.signed}: its hardware has {exact:g}, {drive.signed}")
    factor = np.float64(drive.full_code) / limit
    if not np.finfo(np.float32).tiny <= factor <= np.finfo(np.float32).max:
        raise ValueError(f"drive.limit = {limit:g} is outside of what inputs can be")
    return drive
