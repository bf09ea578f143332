"""Chips of older formats, made ones of the newest, step by step.

| format | written by | |
|---|---|---|
| 1 | no release | not read: its tensors changed several times under that number |
| 2 | 0.1 | YAML, without digests |
| 3 | 0.2 | JSON with digests |
| 4 | from 0.3 on | kinds of layers and cells, tables of given cells, ranges |

A step takes the text, as plain data, and the tensors of one format and returns those of the next. Planes and weights
stay as they are, so that a chip reads as it did, and no wires are solved. What comes out is checked like any text
(`mapping.saved.description`) and any tensors (`crossbar.kept`), so a step checks only what it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...crossbar.design import Design
from ...crossbar.drive import Drive
from ...crossbar.hardware import Hardware
from ...crossbar.matrix import Matrix
from ...crossbar.yaml_text import parse_yaml
from ..errors import CheckpointError
from ..kinds.leaf import LEAVES, Leaf

OLDEST = 2  # that is read
DRIVE = ("limit", "signed", "full_code", "pulses", "digit_bits", "rounds", "clips")  # its fields in format 2
LARGER = 20  # times what people write: texts of chips hold a line for each row of each picture
TOLD = {
    2: "saved by version 0.1 (format 2), without digests: nothing tells whether it is as it was written. It reads as "
    "it did but for the noise of reads, which is drawn by sample and position since version 0.2; save it anew"
}

Text = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def migrated(number: int, text: Text, tensors: Tensors) -> tuple[Text, Tensors]:
    """The text and the tensors of a chip of the format `number`, in the newest format.

    Raises:
        CheckpointError: what an older version cannot have written.
    """
    for step in (STEPS[n] for n in range(number, max(STEPS) + 1)):
        text, tensors = step(text, tensors)
    return text, tensors


def parse_format_2(content: bytes) -> Text:
    """The YAML of format 2.

    Raises:
        CheckpointError: it is none.
    """
    try:
        text = parse_yaml(content.decode(), "chip.yaml", larger=LARGER)
    except UnicodeDecodeError as error:
        raise CheckpointError("damaged (chip.yaml is no text in UTF-8)") from error
    except ValueError as error:
        raise CheckpointError(f"damaged ({' '.join(str(error).split())[:300]})") from error
    if not isinstance(text, dict):
        raise CheckpointError("damaged (chip.yaml holds no fields)")
    return text


def from_2(text: Text, tensors: Tensors) -> tuple[Text, Tensors]:
    """What version 0.2 would have written of a chip of version 0.1.

    - `spec.dtype` was not known: float32.
    - `drive` held its codes too, which follow from the hardware; they must be those.
    - `positions` of a layer follow from the trace.
    - Where the samples lie in the inputs was not known: the first read finds out (`located`).
    - `digital.*.cells`, the digests of the cells in a state dict, were not there; loading sets them.
    - `gains` of the columns stood in the scale of the planes alone, with the 24 bits that it has. Those of a chip that
      was saved after `at(..., drift_compensation=True)` hold that compensation too.
    """
    hardware = Hardware.model_validate(text["hardware"])
    layers: Text = {}
    gains: Tensors = {}
    for alias in (alias for layer in text["layers"].values() for alias in layer["aliases"]):
        if f"digital.{alias}.cells".replace("..", ".") in tensors:
            raise CheckpointError("its tensors are of another chip: a later version wrote them, and format 2 its text")
    for name, old in text["layers"].items():
        layer = {"compensate": None, **old, "samples_along": [0, False]}
        own, said = hardware.for_layer(*layer["aliases"]), layer["drive"]
        drive = Drive.of(own.dac, None if own.dac.range is None else said["limit"], said["signed"])
        if drive.chain or said != {key: value for key, value in vars(drive).items() if key in DRIVE}:
            raise CheckpointError(f"layer {name!r}: its drive is not that of its hardware")
        if layer["compensate"] == "gain":
            gains |= _gains(name, own, drive, tensors)
        layer["drive"] = {key: said[key] for key in ("limit", "signed")}
        layer["spec"] = {**layer["spec"], "dtype": "float32"}
        del layer["positions"]
        layers[name] = layer
    return {**text, "format": 3, "located": False, "layers": layers}, tensors | gains


def _gains(name: str, hardware: Hardware, drive: Drive, tensors: Tensors) -> Tensors:
    """What the planes of a layer are scaled by beside what its weights say, (slices, row tiles, outputs) float64."""
    weights, bias = tensors[f"layer.{name}.weights"].numpy(), tensors.get(f"layer.{name}.bias")
    design, found = Design(Matrix(name, weights, None if bias is None else bias.numpy(), hardware), drive), {}
    for g, encoding in enumerate(design.encodings):
        scale = tensors[f"layer.{name}.{g}.scale"].numpy()[..., : design.placement.outputs]
        gains = scale / (encoding.scale * hardware.cell.g_max * drive.limit)
        found[f"layer.{name}.{g}.gains"] = torch.from_numpy(gains)
    return found


def from_3(text: Text, tensors: Tensors) -> tuple[Text, Tensors]:
    """What version 0.3 would have written of a chip of version 0.2.

    - `kind` of a layer was said by `spec.dims` alone, linear (0) or convolution; sizes of both had three numbers.
    - `compensate` is now `wire_compensation`.
    - `array_energy_j` is now in `ranges`.
    - All cells were drawn from the seed.
    """
    layers = {}
    for name, old in text["layers"].items():
        layer = dict(old)
        leaf = geometry(layer["spec"])
        layer["kind"], layer["spec"] = leaf.kind, leaf.describe()
        layer["wire_compensation"] = layer.pop("compensate")
        layer["ranges"] = {"array_energy_j": layer.pop("array_energy_j")}
        layers[name] = {**layer, "cells": {"kind": "drawn"}}
    return {**text, "format": 4, "layers": layers}, tensors


def geometry(spec: Text) -> Leaf:
    """The geometry of a layer that formats 2 and 3 say.

    Raises:
        ValueError: it fits no layer.
    """
    dims, features = spec["dims"], {key: spec[key] for key in ("in_features", "out_features", "dtype")}
    unused = [n for key in ("kernel", "stride", "dilation") for n in spec[key][: 3 - dims]]
    if set(unused) - {1}:
        raise ValueError(f"kernel, stride and dilation must be 1 beyond the {dims} dimensions, got {unused}")
    if dims == 0:
        return LEAVES["linear"].build(features)
    sizes = {key: spec[key][3 - dims :] for key in ("kernel", "stride", "dilation")}
    rest = {key: spec[key] for key in ("groups", "padding", "padding_mode")}
    return LEAVES["convolution"].build(features | sizes | rest)


STEPS: dict[int, Callable[[Text, Tensors], tuple[Text, Tensors]]] = {2: from_2, 3: from_3}
