"""Saved chips: a folder with `chip.yaml` (what it is) and `chip.safetensors` (conductances, weights), no pickle.

The programmed conductances themselves are kept, not the seed alone, so a loaded chip is the same chip on any machine.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..crossbar.converters import Drive
from ..crossbar.hardware import Hardware
from ..crossbar.kernels.read import Planes
from .chip import Chip, Digital
from .errors import CheckpointError, MappingError
from .folders import whole_folder
from .graph import NotPlain, describe, rebuild
from .layers import LayerSpec, Matrices, TileLayer
from .modules import copied, replaced
from .recurrent import expanded, recurrent_names
from .trace import Call

FORMAT = 2
TEXT, TENSORS = "chip.yaml", "chip.safetensors"
PARTS = ("row_conductance", "histogram", "slow_std", "slow_shares")  # of `Programmed`, beside its planes
PARTITION = ("edges", "reference")  # what of a plane follows from the hardware alone


def check_target(path: str | Path) -> Path:
    """The folder a chip may be saved in: new, empty, or a saved chip and nothing else.

    Raises:
        MappingError: it is something else.
    """
    path = Path(path).resolve()
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} in (set(), {TEXT, TENSORS})):
        raise MappingError(f"chip folder {path}: exists and is no saved chip; choose another path")
    return path


def save(chip: Chip, path: str | Path) -> None:
    """Write a chip to the folder `path`; a chip that is already there is replaced once the new one is complete.

    Raises:
        MappingError: `path` is something else than a chip.
    """
    path = check_target(path)
    structure: Any
    try:
        structure, constants = describe(chip.model)
    except NotPlain as reason:
        structure, constants = str(reason), {}
    text = {
        "format": FORMAT,
        "seed": chip.seed,
        "copy": chip.copy_index,
        "digital": [list(d) for d in chip.digital],
        "trace": [call.plain() for call in chip.trace],
        "layers": {name: _describe(layer) for name, layer in chip.layers.items()},
        "hardware": chip.hardware.model_dump(mode="json"),
        "structure": structure,
    }
    tensors = {f"digital.{key}": _own(value) for key, value in chip.model.state_dict().items()}
    tensors |= {f"constant.{key}": _own(value) for key, value in constants.items()}
    for name, layer in chip.layers.items():
        for key, array in _arrays(layer).items():
            tensors[f"layer.{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    with whole_folder(path) as folder:
        (folder / TEXT).write_text(yaml.safe_dump(text, sort_keys=False, allow_unicode=True), encoding="utf-8")
        save_file(tensors, folder / TENSORS)


def _own(value: torch.Tensor) -> torch.Tensor:
    """A copy that shares no memory: tensors of a shared module have several names, and the file takes each apart."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def load(path: str | Path, *, model: nn.Module | None = None) -> Chip:
    """Read a chip that `Chip.save` wrote. It gives the same bits as the chip that was saved, its calls counted anew.

    Args:
        path: the folder.
        model: the model it was mapped from, trained or not. Needed only where the structure could not be saved (a model
            that torch.fx cannot trace, or with modules of its own that stay digital); the error says so.

    Raises:
        CheckpointError: no chip there, a damaged or foreign file, or `model` is needed or does not fit.
    """
    path = Path(path)
    if not (path / TEXT).is_file() or not (path / TENSORS).is_file():
        raise CheckpointError(f"chip {path}: no saved chip there (a folder with {TEXT} and {TENSORS})")
    try:
        text = yaml.safe_load((path / TEXT).read_text(encoding="utf-8"))
        tensors = load_file(path / TENSORS)
    except (yaml.YAMLError, UnicodeDecodeError, SafetensorError) as error:
        raise CheckpointError(f"chip {path}: damaged ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        found = text.get("format") if isinstance(text, dict) else None
        raise CheckpointError(f"chip {path}: expected format {FORMAT}, got {found}")
    try:
        return _assemble(text, tensors, model)
    except CheckpointError as error:
        raise CheckpointError(f"chip {path}: {error}") from error
    except Exception as error:  # what a damaged file makes of the constructors it feeds is anybody's guess
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(f"chip {path}: damaged ({reason})") from error


def _assemble(text: dict[str, Any], tensors: dict[str, torch.Tensor], model: nn.Module | None) -> Chip:
    structure = text["structure"]  # the last of its entries
    hardware = Hardware.model_validate(text["hardware"])
    seed, copy_index = int(text["seed"]), int(text["copy"])
    layers = {}
    for name, described in text["layers"].items():
        arrays = {key: value.numpy() for key, value in _under(f"layer.{name}.", tensors).items()}
        layers[name] = _layer(name, described, arrays, hardware.for_layer(*described["aliases"]), seed, copy_index)
    digital = tuple(Digital(*d) for d in text["digital"])
    state, constants = _under("digital.", tensors), _under("constant.", tensors)
    places: dict[str, nn.Module] = {alias: layer for layer in layers.values() for alias in layer.aliases}
    if model is not None:
        folded = {d.name: nn.Identity() for d in digital if d.reason.startswith("folded")}
        built = _fill(model, places | folded, state)
    elif isinstance(structure, str):
        raise CheckpointError(f"its structure was not saved: {structure}; pass mho.load(path, model=...)")
    else:
        built = rebuild(structure, places, state | constants)
    chip = Chip(built, hardware, layers, digital, seed, copy_index)
    chip.trace = [Call.of(call) for call in text.get("trace", ())]  # chips of version 0.1 have none
    return chip


def _fill(model: nn.Module, places: dict[str, nn.Module], state: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the model with these modules in their places and this digital state.

    Raises:
        CheckpointError: it lacks one of the places, or has other digital tensors.
    """
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    built = copied(model)
    torchs = ("weight_ih", "weight_ih_l0")  # a recurrent layer with these was excluded and is as torch has it
    keep = [name for name in recurrent_names(built) if any(f"{name}.{w}".lstrip(".") in state for w in torchs)]
    built = expanded(built, keep)
    names = {name for name, _ in built.named_modules(remove_duplicate=False)}
    absent = [name for name in places if name not in names]
    if absent:
        raise CheckpointError(f"model does not fit: it has no {', '.join(absent)}")
    for name, module in places.items():
        built = replaced(built, name, module)
    try:
        built.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"model does not fit: {' '.join(str(error).split())[:300]}") from error
    return built


def _under(start: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names start so, by the rest of the name."""
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _describe(layer: TileLayer) -> dict[str, Any]:
    matrix = layer.matrix
    assert matrix.drive is not None
    spec = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(layer.spec).items()}
    return {
        "aliases": layer.aliases,
        "spec": spec,
        "drive": asdict(matrix.drive),
        "array_energy_j": matrix.array_energy_j,
        "compensate": matrix.compensate,
        "positions": layer.positions,
    }


def _arrays(layer: TileLayer) -> dict[str, Any]:
    arrays = {"weights": layer.matrix.weights, "full_scale": layer.matrix.full_scale}
    if layer.matrix.bias is not None:
        arrays["bias"] = layer.matrix.bias
    if layer.matrix.moments is not None:
        arrays["moments"] = layer.matrix.moments
    for g, programmed in enumerate(layer.matrix.programmed):
        for key, array in programmed.planes._asdict().items():
            arrays[f"{g}.{key}"] = array
        for key in PARTS:
            arrays[f"{g}.{key}"] = getattr(programmed, key)
    return arrays


def _layer(
    name: str, described: dict[str, Any], arrays: dict[str, Any], hardware: Hardware, seed: int, copy_index: int
) -> TileLayer:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described["spec"].items()}
    spec = LayerSpec(**fields)
    weights, bias = arrays["weights"], arrays.get("bias")
    columns = spec.out_features // spec.groups
    shape = (spec.groups, prod(spec.kernel) * spec.in_features // spec.groups, columns)
    if min(*spec.kernel, *spec.stride, *spec.dilation) < 1 or weights.shape != shape:
        raise CheckpointError(f"layer {name!r}: weights of shape {weights.shape} are not those of {spec}")
    if bias is not None and bias.shape != (spec.groups, columns):
        raise CheckpointError(f"layer {name!r}: bias of shape {bias.shape} for {spec}")
    layer = TileLayer(name, spec, Matrices(weights, bias), hardware, seed, copy_index)
    layer.aliases, layer.positions = list(described["aliases"]), described["positions"]
    matrix = layer.matrix
    matrix.drive = Drive(**described["drive"])
    matrix.array_energy_j = described["array_energy_j"]
    matrix.compensate = described.get("compensate")
    matrix.moments = arrays.get("moments")
    if matrix.moments is not None and matrix.moments.shape != (2, spec.groups, matrix.plan.rows):
        raise CheckpointError(f"layer {name!r}: moments of shape {matrix.moments.shape} do not fit its word lines")
    matrix.program()  # what was kept replaces it, and must have its layout, which the kernels trust
    if hardware.adc.bits is not None:
        matrix.full_scale = arrays["full_scale"]
        if matrix.full_scale.shape != (hardware.tile.slices,):
            raise CheckpointError(f"layer {name!r}: full_scale of shape {matrix.full_scale.shape}")
    for g, programmed in enumerate(matrix.programmed):
        kept = {key: arrays[f"{g}.{key}"] for key in (*Planes._fields, *PARTS)}
        for key, array in kept.items():
            new = getattr(programmed if key in PARTS else programmed.planes, key)
            same = array.shape == new.shape and array.dtype == new.dtype
            if not same or (key in PARTITION and not np.array_equal(array, new)):
                raise CheckpointError(f"layer {name!r}: {key} does not fit the tiles of its hardware")
        planes = Planes(*(kept[key] for key in Planes._fields))
        matrix.programmed[g] = replace(programmed, planes=planes, **{key: kept[key] for key in PARTS})
    return layer
