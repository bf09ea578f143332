"""Saved chips: a folder with `chip.yaml` (what it is) and `chip.safetensors` (conductances, weights), no pickle.

The programmed conductances themselves are kept, not the seed alone, so a loaded chip is the same chip on any machine.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from dataclasses import asdict
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
from ..crossbar.programming import Programmed
from .chip import Chip, Digital
from .errors import CheckpointError, MappingError
from .graph import NotPlain, describe, rebuild
from .layers import LayerSpec, Matrices, TileLayer

FORMAT = 1
TEXT, TENSORS = "chip.yaml", "chip.safetensors"
PARTS = ("weights", "row_conductance", "histogram")  # of `Programmed`, beside its planes


def check_target(path: str | Path) -> Path:
    """The folder a chip may be saved in: new, or a saved chip.

    Raises:
        MappingError: it is something else.
    """
    path = Path(path)
    if path.exists() and not (path / TEXT).is_file():
        raise MappingError(f"chip folder {path}: exists and is no saved chip; choose another path")
    return path


def save(chip: Chip, path: str | Path) -> None:
    """Write a chip to the folder `path`; a chip that is already there is replaced once the new one is complete.

    Raises:
        MappingError: `path` is something else than a chip.
    """
    path = check_target(path)
    try:
        structure: Any = describe(chip.model)
    except NotPlain as reason:
        structure = str(reason)
    text = {
        "format": FORMAT,
        "seed": chip.seed,
        "copy": chip.copy_index,
        "digital": [list(d) for d in chip.digital],
        "layers": {name: _describe(layer) for name, layer in chip.layers.items()},
        "hardware": chip.hardware.model_dump(mode="json"),
        "structure": structure,
    }
    tensors = {f"digital.{key}": value.contiguous() for key, value in chip.model.state_dict().items()}
    for name, layer in chip.layers.items():
        for key, array in _arrays(layer).items():
            tensors[f"layer.{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(array))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (fresh / TEXT).write_text(yaml.safe_dump(text, sort_keys=False, allow_unicode=True), encoding="utf-8")
        save_file(tensors, fresh / TENSORS)
        fresh.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


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
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"chip {path}: damaged ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error


def _assemble(text: dict[str, Any], tensors: dict[str, torch.Tensor], model: nn.Module | None) -> Chip:
    hardware = Hardware.model_validate(text["hardware"])
    seed, copy_index = text["seed"], text["copy"]
    layers = {}
    for name, described in text["layers"].items():
        start = f"layer.{name}."
        arrays = {key.removeprefix(start): value.numpy() for key, value in tensors.items() if key.startswith(start)}
        layers[name] = _layer(name, described, arrays, hardware.for_layer(name), seed, copy_index)
    digital = tuple(Digital(*d) for d in text["digital"])
    state = {key.removeprefix("digital."): value for key, value in tensors.items() if key.startswith("digital.")}
    places = {alias: layer for layer in layers.values() for alias in layer.aliases}
    if model is None:
        if isinstance(text["structure"], str):
            raise CheckpointError(f"its structure was not saved: {text['structure']}; pass mho.load(path, model=...)")
        built = rebuild(text["structure"], dict(places), state)
    else:
        built = copy.deepcopy(model).eval()
        folded = [d.name for d in digital if d.reason.startswith("folded")]
        for name, module in [*places.items(), *((name, nn.Identity()) for name in folded)]:
            parent, _, leaf = name.rpartition(".")
            if name and not hasattr(built.get_submodule(parent), leaf):
                raise CheckpointError(f"the model has no layer {name!r}")
            if name:
                setattr(built.get_submodule(parent), leaf, module)
            else:
                built = module
        built.load_state_dict(state)
    return Chip(built, hardware, layers, digital, seed, copy_index)


def _describe(layer: TileLayer) -> dict[str, Any]:
    matrix = layer.matrix
    assert matrix.drive is not None
    spec = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(layer.spec).items()}
    return {
        "aliases": layer.aliases,
        "spec": spec,
        "drive": asdict(matrix.drive),
        "full_scale": [float(value) for value in matrix.full_scale],
        "array_energy_j": matrix.array_energy_j,
        "positions": layer.positions,
        "groups": len(matrix.programmed),
    }


def _arrays(layer: TileLayer) -> dict[str, Any]:
    arrays = {"weights": layer.matrix.weights}
    if layer.matrix.bias is not None:
        arrays["bias"] = layer.matrix.bias
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
    layer = TileLayer(name, spec, Matrices(arrays["weights"], arrays.get("bias")), hardware, seed, copy_index)
    layer.aliases, layer.positions = list(described["aliases"]), described["positions"]
    matrix = layer.matrix
    matrix.drive = Drive(**described["drive"])
    matrix.full_scale = np.array(described["full_scale"])
    matrix.array_energy_j = described["array_energy_j"]
    for g in range(described["groups"]):
        planes = Planes(**{key: arrays[f"{g}.{key}"] for key in Planes._fields})
        matrix.programmed.append(Programmed(planes, **{key: arrays[f"{g}.{key}"] for key in PARTS}))
    return layer
