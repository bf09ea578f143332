"""Reading checkpoints: state dicts only, never a pickled program."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..devices.imports import importable
from .errors import CheckpointError
from .folders import as_path

WRAPPERS = ("state_dict", "model_state_dict", "model")
DEEPEST = 5  # dicts in dicts that are looked through

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A state dict of a checkpoint that fits a model.

    key: what it stands under, with dots between keys of dicts in dicts; empty for the file itself. prefix: that was
    taken off all its names.
    """

    state: State
    key: str
    prefix: str

    def __str__(self) -> str:
        taken = f", prefix {self.prefix!r} taken off" if self.prefix else ""
        return f"weights: {self.key or 'the state dict'}{taken}"


def read_state_dict(path: str | Path, key: str | None = None) -> State:
    """The state dict in a `.pt`, `.pth` or `.safetensors` file.

    A training checkpoint may hold it under any key, among other things. Of several, that under `state_dict`,
    `model_state_dict` or `model` is taken, and else `key` has to say which. The prefixes `module.` of data-parallel
    training and `_orig_mod.` of compiled models are dropped.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, a pickled module, or several state dicts.
    """
    found = read_state_dicts(path)
    if key is None:
        key = next((name for name in WRAPPERS if name in found), next(iter(found)))
        if len(found) > 1 and key not in WRAPPERS:
            raise CheckpointError(f"checkpoint {path}: it holds {_listed(found)}; choose one with key=")
    state = _under(path, found, key)
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def read_state_dicts(path: str | Path) -> dict[str, State]:
    """All state dicts of a file, at least one, by the key that each stands under: see `Weights`.

    Raises:
        CheckpointError: as `read_state_dict`, or there is none.
    """
    path = as_path(path, "checkpoint", CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    content = _read(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path}: expected a state dict of tensors, got {type(content).__name__}")
    found = dict(_search(content, "", set()))
    if not found:
        odd = [f"key {key!r}" for key in content if not isinstance(key, str)]
        odd += [f"{key!r} is {type(value).__name__}" for key, value in content.items() if not _is_empty(value)]
        raise CheckpointError(
            f"checkpoint {path}: expected a state dict of tensors, alone or under a key, "
            f"got {odd[0] if odd else 'an empty one'}"
        )
    return found


def _read(path: Path) -> Any:
    """The content of a file, tensors and plain data."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # a type that this torch has not, a size that it cannot hold
            raise CheckpointError(f"checkpoint {path}: not a readable safetensors file ({_line(error)})") from error
    if path.suffix not in (".pt", ".pth"):
        raise CheckpointError(f"checkpoint {path}: expected a .pt, .pth or .safetensors file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files, before the error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file runs into anything while it is unpickled
        refused = re.search(r"GLOBAL ([\w.]+)\s", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise CheckpointError(
                f"checkpoint {path}: holds pickled Python objects ({refused[1]}; a whole module?), which may run any "
                "code when read; save model.state_dict() instead, with torch.save or safetensors"
            ) from error
        reason = "no state dict that torch.save wrote" if isinstance(error, pickle.UnpicklingError) else _line(error)
        raise CheckpointError(f"checkpoint {path}: damaged or not a PyTorch file ({reason})") from error


def _search(content: dict[Any, Any], key: str, seen: set[int]) -> Iterator[tuple[str, State]]:
    """The dicts that hold tensors by name, at any depth. Optimizers number theirs, and so are passed over."""
    seen.add(id(content))
    state = {name: v for name, v in content.items() if isinstance(name, str) and isinstance(v, torch.Tensor)}
    if state:
        yield key, state
    for name, inner in content.items():
        if isinstance(name, str) and isinstance(inner, dict) and id(inner) not in seen and key.count(".") < DEEPEST:
            yield from _search(inner, f"{key}.{name}" if key else name, seen)


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict) and not value


def _under(path: str | Path, found: dict[str, State], key: str) -> State:
    if key not in found:
        raise CheckpointError(f"checkpoint {path}: key {key!r} holds no state dict; it holds {_listed(found)}")
    return found[key]


def _listed(found: Iterable[str]) -> str:
    return "state dicts under the keys " + ", ".join(map(repr, found))


def find_weights(model: nn.Module, path: str | Path, key: str | None = None) -> Weights:
    """The state dict of a checkpoint that fits a model, under whatever key, perhaps with a prefix before all names.

    Args:
        key: which state dict, where several fit: see `Weights`.

    Raises:
        CheckpointError: as `read_state_dicts`; none fits, with the keys that are missing, surplus or of another shape
            or type in the nearest; or several fit, with their keys.
    """
    found = read_state_dicts(path)
    if key is not None:
        found = {key: _under(path, found, key)}
    tried = [(Weights(state, name, prefix), _faults(model, state)) for name, prefix, state in _views(found)]
    fitting = {weights.key: weights for weights, faults in reversed(tried) if not faults}
    if not fitting:
        nearest, faults = min(tried, key=lambda pair: sum(map(len, pair[1].values())))
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in faults.items())
        several = f"; so much for {nearest.key!r}, it holds {_listed(found)}, choose one with key=, --key"
        raise CheckpointError(
            f"checkpoint {path} does not fit {type(model).__name__}: {said}{several if len(found) > 1 else ''}"
        )
    *others, first = fitting.values()
    if not all(_same(first.state, other.state) for other in others):
        raise CheckpointError(
            f"checkpoint {path}: several of its state dicts fit {type(model).__name__}, under the keys "
            f"{', '.join(map(repr, reversed(fitting)))}; choose one with key= (--key)"
        )
    return first


def load_weights(model: nn.Module, path: str | Path, key: str | None = None) -> nn.Module:
    """Load the checkpoint `path` into a model, which is returned.

    Raises:
        CheckpointError: as `find_weights`; the model is then unchanged.
    """
    model.load_state_dict(find_weights(model, path, key).state, strict=False)
    return model


def _views(found: dict[str, State]) -> Iterator[tuple[str, str, State]]:
    """Key, prefix and state: each state dict as it is, and with the parts taken off that all names begin with."""
    for key, state in found.items():
        prefix = ""
        yield key, prefix, state
        while len(heads := {name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
            prefix += f"{heads.pop()}."
            state = {name.partition(".")[2]: value for name, value in state.items()}
            yield key, prefix, state


def _faults(model: nn.Module, state: State) -> dict[str, list[str]]:
    """What keeps a state dict from fitting a model, by kind."""
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    both = [name for name in own if name in state]
    odd = [name for name in both if not _is_plain(state[name])]
    plain = [name for name in both if name not in odd]
    faults = {
        "missing": [name for name in own if name not in state and not name.endswith("num_batches_tracked")],
        "surplus": [name for name in state if name not in own],
        "not dense": odd,
        "wrong shape": [
            f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
            for name in plain
            if state[name].shape != own[name].shape
        ],
        "wrong type": [
            f"{name} is {str(state[name].dtype)[6:]}, the model has {str(own[name].dtype)[6:]}"
            for name in plain
            if not _converts(state[name].dtype, own[name].dtype)
        ],
    }
    return {what: names for what, names in faults.items() if names}


def _is_plain(value: torch.Tensor) -> bool:
    return value.layout is torch.strided and value.device.type == "cpu" and not (value.is_quantized or value.is_nested)


def _converts(given: torch.dtype, own: torch.dtype) -> bool:
    """Whether numbers of one type mean the same in the other: integers in the place of weights are codes."""
    if given.is_complex:
        return own.is_complex
    return given.is_floating_point or not (own.is_floating_point or own.is_complex)


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def build_model(reference: str) -> nn.Module:
    """The model that the factory `package.module:factory` makes, called without arguments.

    The working directory can be imported from.

    Raises:
        CheckpointError: there is no such module or factory, or it gives something else.
    """
    module_name, colon, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not colon or not module_name or not name:
        raise CheckpointError(f"model must be given as package.module:factory, got {reference!r}")
    importable(Path.cwd())
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
