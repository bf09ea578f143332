"""Weights of a checkpoint that fit a model: found under any key and behind prefixes, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError
from ..saved.folders import as_path
from .factories import build_model
from .files import read_content, some

__all__ = ["State", "Weights", "build_model", "find_weights", "load_weights", "read_state_dict", "read_state_dicts"]

KEYS = ("state_dict", "model_state_dict", "model")
# what names have of wrapped modules: by DataParallel, torch.compile, FSDP, checkpointing of activations
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
DEEPEST = 5  # dicts in dicts that are looked through

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """A state dict of a checkpoint that fits a model.

    key: what it stands under, with dots between keys of dicts in dicts; empty for the file itself. prefix: that was
    taken off all its names. left_out: names of the state dict without that prefix. unwrapped: whether the names of
    wrappers (DataParallel, torch.compile, FSDP) were taken out of others.
    """

    state: State
    key: str
    prefix: str
    left_out: tuple[str, ...] = ()
    unwrapped: bool = False

    def __str__(self) -> str:
        taken = f", prefix {self.prefix!r} taken off" if self.prefix else ""
        wrapped = ", names of wrappers taken out" if self.unwrapped else ""
        left = f", without {some(list(self.left_out), 3)}" if self.left_out else ""
        return f"weights: {self.key or 'the state dict'}{taken}{wrapped}{left}"

    @property
    def plain(self) -> bool:
        """Whether they are the state dict of the file, as it stands."""
        return not (self.key or self.prefix or self.left_out or self.unwrapped)


def read_state_dict(path: str | Path, key: str | None = None) -> State:
    """The state dict in a `.pt`, `.pth`, `.ckpt` or `.safetensors` file, of shards with their index, or in a folder.

    A training checkpoint may hold it under any key, among other things. Of several, that under `state_dict`,
    `model_state_dict` or `model` is taken, and else `key` has to say which. The prefixes `module.` of data-parallel
    training and `_orig_mod.` of compiled models are dropped.

    Raises:
        CheckpointError: no such file, another kind of file, a damaged one, a pickled module, or several state dicts.
    """
    found = read_state_dicts(path)
    if key is None:
        key = next((name for name in KEYS if name in found), next(iter(found)))
        if len(found) > 1 and key not in KEYS:
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
    content = read_content(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path}: expected a state dict of tensors, got {type(content).__name__}")
    found: dict[str, State] = {}
    for key, state in _search(content, "", set()):
        if key in found:
            raise CheckpointError(f"checkpoint {path}: two state dicts stand under keys that read as {key!r}")
        found[key] = state
    if not found:
        odd = [f"key {key!r}" for key in content if not isinstance(key, str)]
        odd += [f"{key!r} is {type(value).__name__}" for key, value in content.items() if not _is_empty(value)]
        raise CheckpointError(
            f"checkpoint {path}: expected a state dict of tensors, alone or under a key, "
            f"got {odd[0] if odd else 'an empty one'}"
        )
    return found


def _search(content: dict[Any, Any], key: str, seen: set[int]) -> Iterator[tuple[str, State]]:
    """The dicts that hold tensors by name, at any depth. Optimizers number theirs, and so are passed over."""
    seen.add(id(content))
    state = {name: v for name, v in content.items() if isinstance(name, str) and isinstance(v, torch.Tensor)}
    if state:
        yield key, state
    for name, inner in content.items():
        if isinstance(name, str) and key.count(".") < DEEPEST:
            several = enumerate(inner) if isinstance(inner, (list, tuple)) else ()
            for end, one in [("", inner), *((f".{n}", one) for n, one in several)]:
                if isinstance(one, dict) and id(one) not in seen:
                    yield from _search(one, f"{key}.{name}{end}" if key else f"{name}{end}", seen)


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict) and not value


def _under(path: str | Path, found: dict[str, State], key: str) -> State:
    if key not in found:
        raise CheckpointError(f"checkpoint {path}: key {key!r} holds no state dict; it holds {_listed(found)}")
    return found[key]


def _listed(found: Iterable[str]) -> str:
    names = [repr(name) for name in found]
    return f"state dicts under the keys {some(names)}" if names != ["''"] else "one state dict, under no key"


def find_weights(
    model: nn.Module, path: str | Path, key: str | None = None, *, strip_prefix: str | None = None
) -> Weights:
    """The state dict of a checkpoint that fits a model, under whatever key, perhaps with a prefix before its names.

    A prefix is taken off where that makes all names of the model be there: one that all names of the state dict have,
    or one that those have which fit, while others are left out (the network of a Lightning module, beside its loss).
    Names of wrappers are taken out of other names in the same way.

    Args:
        key: which state dict, where several fit: see `Weights`.
        strip_prefix: the prefix that is taken off; names without it are left out.

    Raises:
        CheckpointError: as `read_state_dicts`; none fits, with the keys that are missing, surplus or of another shape
            or type in the nearest; or several fit, with their keys or prefixes.
    """
    found = read_state_dicts(path)
    if key is not None:
        found = {key: _under(path, found, key)}
    if strip_prefix is None:
        views = [view for name, state in found.items() for view in _views(model, name, state)]
    else:
        views = [view for name, state in found.items() for view in _stripped(name, state, strip_prefix)]
        if not views:
            heads = list(dict.fromkeys(f"{n.partition('.')[0]}." for state in found.values() for n in state))
            raise CheckpointError(
                f"checkpoint {path}: no name begins with the prefix {strip_prefix!r}; they begin with {some(heads)}"
            )
    tried = [(weights, _faults(model, weights.state)) for weights in views]
    fitting = [weights for weights, faults in tried if not faults]
    whole = [pair for pair in tried if pair[0].prefix or not pair[0].left_out]
    if not any(not faults for _, faults in whole):  # names that fit beside others, without a prefix: those are surplus
        nearest, faults = min(whole, key=lambda pair: sum(map(len, pair[1].values())))
        said = "; ".join(f"{what}: {some(names)}" for what, names in faults.items())
        several = f"; so much for {nearest.key!r}, it holds {_listed(found)}, choose one with key=, --key"
        raise CheckpointError(
            f"checkpoint {path} does not fit {type(model).__name__}: {said}{several if len(found) > 1 else ''}"
        )
    first, *others = fitting
    if not all(_same(first.state, other.state) for other in others):
        raise CheckpointError(f"checkpoint {path}: {_choices(fitting, type(model).__name__)}")
    return first


def _choices(fitting: list[Weights], name: str) -> str:
    keys = list(dict.fromkeys(repr(weights.key) for weights in fitting))
    if len(keys) > 1:
        return f"several of its state dicts fit {name}, under the keys {some(keys)}; choose one with key= (--key)"
    prefixes = list(dict.fromkeys(repr(weights.prefix) for weights in fitting))
    return (
        f"several parts of its state dict fit {name}, under the prefixes {some(prefixes)}; choose one with "
        "strip_prefix= (--strip-prefix)"
    )


def load_weights(
    model: nn.Module, path: str | Path, key: str | None = None, *, strip_prefix: str | None = None
) -> nn.Module:
    """Load the checkpoint `path` into a model, which is returned.

    Raises:
        CheckpointError: as `find_weights`; the model is then unchanged.
    """
    model.load_state_dict(find_weights(model, path, key, strip_prefix=strip_prefix).state, strict=False)
    return model


def _views(model: nn.Module, key: str, state: State) -> Iterator[Weights]:
    """Each way to read a state dict: as it is, with a prefix taken off, with the names of wrappers taken out."""
    known = _own(model)
    yield Weights(state, key, "")
    plain = {_unwrapped(name): value for name, value in state.items()}
    ways = [(state, False)]
    if len(plain) == len(state) and plain.keys() != state.keys():
        ways.append((plain, True))
    for names, unwrapped in ways:
        for prefix in _prefixes(model, names):
            if prefix:
                weights = next(iter(_stripped(key, names, prefix)))
                yield Weights(weights.state, key, prefix, weights.left_out, unwrapped)
        own = {name: value for name, value in names.items() if name in known}
        if own and (unwrapped or len(own) < len(names)):
            yield Weights(own, key, "", tuple(name for name in names if name not in known), unwrapped)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefixes(model: nn.Module, state: State) -> Iterator[str]:
    """Prefixes of a state dict behind which the model may be: those that all names have, and those of names that end as
    one of the model's does, where all others of the model follow.
    """
    prefix = ""
    rest = list(state)
    while len(heads := {name.partition(".")[0] for name in rest}) == 1 and all("." in name for name in rest):
        prefix += f"{heads.pop()}."
        rest = [name.partition(".")[2] for name in rest]
        yield prefix
    needed = [name for name in _own(model) if not _optional(name)]
    if needed:
        longest = max(needed, key=len)
        ends = [name.removesuffix(longest) for name in state if name.endswith(f".{longest}")]
        tied = _tied(model)
        for start in ends:
            whole = all(any(f"{start}{other}" in state for other in tied.get(name, (name,))) for name in needed)
            if whole and not prefix.startswith(start):
                yield start


def _stripped(key: str, state: State, prefix: str) -> Iterator[Weights]:
    """The part of a state dict behind a prefix, if any."""
    part = {name.removeprefix(prefix).lstrip("."): v for name, v in state.items() if name.startswith(prefix)}
    if part:
        yield Weights(part, key, prefix, tuple(name for name in state if not name.startswith(prefix)))


def _own(model: nn.Module) -> State:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def _optional(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _tied(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of parameters that are one, by each of them."""
    groups: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(value), []).append(name)
    return {name: tuple(names) for names in groups.values() if len(names) > 1 for name in names}


def _faults(model: nn.Module, state: State) -> dict[str, list[str]]:
    """What keeps a state dict from fitting a model, by kind."""
    own, tied = _own(model), _tied(model)
    both = [name for name in own if name in state]
    odd = [name for name in both if not _is_plain(state[name])]
    plain = [name for name in both if name not in odd]
    faults = {
        "missing": [
            name for name in own if not _optional(name) and not any(other in state for other in tied.get(name, (name,)))
        ],
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
    if not any(faults.values()):
        groups = {tuple(name for name in names if name in state) for names in tied.values()}
        faults["different, and one in the model"] = [
            " and ".join(names) for names in groups if not all(torch.equal(state[names[0]], state[n]) for n in names)
        ]
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
