"""Reading checkpoints: state dicts only, never a pickled program."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in a `.pt`, `.pth` or `.safetensors` file.

    A training checkpoint that holds it under `state_dict`, `model_state_dict` or `model` is unwrapped, and the prefix
    `module.` of data-parallel training is dropped.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, or a pickled module.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"checkpoint {path}: not a readable safetensors file ({error})") from error
    if path.suffix not in (".pt", ".pth"):
        raise CheckpointError(f"checkpoint {path}: expected a .pt, .pth or .safetensors file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files, before the error
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file runs into anything while it is unpickled
        refused = re.search(r"GLOBAL ([\w.]+)\s", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"checkpoint {path}: holds pickled Python objects ({refused[1]}; a whole module?), which may run any "
                "code when read; save model.state_dict() instead, with torch.save or safetensors"
            ) from error
        reason = "no state dict that torch.save wrote" if isinstance(error, pickle.UnpicklingError) else _line(error)
        raise CheckpointError(f"checkpoint {path}: damaged or not a PyTorch file ({reason})") from error
    if isinstance(found, dict):
        found = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), found)
    if not isinstance(found, dict) or not found:
        kind = "an empty one" if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(f"checkpoint {path}: expected a state dict of tensors, got {kind}")
    odd = [f"{key!r} is {type(value).__name__}" for key, value in found.items() if not isinstance(value, torch.Tensor)]
    odd += [f"key {key!r}" for key in found if not isinstance(key, str)]
    if odd:
        raise CheckpointError(
            f"checkpoint {path}: expected a state dict of tensors, alone or under {', '.join(WRAPPERS)}; {odd[0]}"
        )
    if all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    return found


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load the checkpoint `path` into a model, which is returned.

    Raises:
        CheckpointError: as `read_state_dict`, or keys that are missing, surplus or of another shape, all named at once;
            the model is then unchanged.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, the model has {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{what}: {', '.join(keys)}"
        for what, keys in (("missing", missing), ("surplus", surplus), ("wrong shape", misshapen))
        if keys
    ]
    if faults:
        raise CheckpointError(f"checkpoint {path} does not fit {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(state, strict=False)
    return model


def build_model(reference: str) -> nn.Module:
    """The model that the factory `package.module:factory` makes, called without arguments.

    The working directory can be imported from.

    Raises:
        CheckpointError: there is no such module or factory, or it gives something else.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise CheckpointError(f"model must be given as package.module:factory, got {reference!r}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Any = importlib.import_module(module_name)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(f"model {reference!r}: {_line(error)}") from error
    model = factory
    if callable(factory) and not isinstance(factory, nn.Module):
        try:
            inspect.signature(factory).bind()
        except TypeError as error:
            raise CheckpointError(
                f"model {reference!r}: the factory must be callable without arguments ({_line(error)})"
            ) from error
        model = factory()
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"model {reference!r}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def _line(error: BaseException) -> str:
    text = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
    return text if len(text) <= 200 else text[:197] + "..."
