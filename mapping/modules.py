"""Modules of a model by all their names, and copies of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from .errors import MappingError
from .hooks import move_hooks
from .inputs.leaves import PLAIN
from .kinds.transformer import plain

_OF_TORCH = frozenset(vars(nn.Module()))  # hooks, parameters, modules


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """All the names of each module, by its first name."""
    first = {id(module): name for name, module in model.named_modules()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, module in model.named_modules(remove_duplicate=False):
        names[first[id(module)]].append(name)
    return names


def replaced(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place called `name`, with the hooks of what stood there.

    Returns the model, which is `module` itself when the name is empty.
    """
    return replaced_all(model, [(name, module)])


def replaced_all(model: nn.Module, places: Iterable[tuple[str, nn.Module]]) -> nn.Module:
    """As `replaced`, of several places, one after the other, with one walk through what the modules keep."""
    instead: dict[int, tuple[nn.Module, nn.Module]] = {}  # what stood there, which lives with its identity
    for name, module in places:
        there = model.get_submodule(name)
        move_hooks(there, module, name)
        if not name:
            return module
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
        instead[id(there)] = there, module

    def swap(leaf: Any) -> Any:
        if isinstance(leaf, MethodType):
            found = instead.get(id(leaf.__self__))
            return leaf if found is None else getattr(found[1], leaf.__name__, leaf)
        found = instead.get(id(leaf))
        return leaf if found is None else found[1]

    if instead:
        swap_leaves(model, swap)
    return model


def swap_leaves(model: nn.Module, swap: Callable[[Any], Any]) -> None:
    """Put `swap(leaf)` in the place of all that modules of a model keep as attributes of their own.

    Leaves may lie in lists, tuples, dicts and the arguments of partial functions.
    """

    def swapped(leaf: Any) -> Any:
        if not isinstance(leaf, partial):
            return swap(leaf)
        parts = tree_map(swapped, [leaf.func, *leaf.args]), tree_map(swapped, leaf.keywords)
        before = [leaf.func, *leaf.args, *leaf.keywords.values()]
        if all(a is b for a, b in zip((*parts[0], *parts[1].values()), before, strict=True)):
            return leaf
        return partial(*parts[0], **parts[1])

    for holder in model.modules():
        for key, value in vars(holder).items():
            if key not in _OF_TORCH and isinstance(value, (list, tuple, dict, nn.Module, MethodType, partial)):
                if isinstance(value, (tuple, list)) and all(type(x) in PLAIN for x in value):  # sizes: most are
                    continue
                leaves = tree_leaves(value)
                made = [swapped(leaf) for leaf in leaves]
                if any(a is not b for a, b in zip(made, leaves, strict=True)):
                    vars(holder)[key] = tree_map(swapped, value)


Around = Callable[[Callable[..., Any]], Callable[..., Any]]


def intercept_all(model: nn.Module, pairs: Iterable[tuple[nn.Module, Around]]) -> None:
    """Have `around(forward)` take the place of the forward of modules, however the model calls it, for good.

    A module that comes twice has what is around it twice, the first inside.
    """
    forwards: dict[int, Callable[..., Any]] = {}  # of each module, and in the place of each that stood there
    held: list[Any] = []  # lives with its identities
    for module, around in pairs:
        plain = module.forward
        instead = around(plain)
        vars(module)["forward"] = instead
        forwards |= {id(module): instead, id(plain): instead}
        held += [module, plain]

    def swap(leaf: Any) -> Any:
        if isinstance(leaf, MethodType) and leaf.__name__ == "forward":
            leaf = forwards.get(id(leaf.__self__), leaf)
        while id(leaf) in forwards and not isinstance(leaf, nn.Module):
            leaf = forwards[id(leaf)]
        return leaf

    if forwards:
        swap_leaves(model, swap)


def keep_attributes(there: nn.Module, instead: nn.Module) -> None:
    """Give what stands in the place of a module the attributes that were set on it, as its model may read them.

    A layer on tiles gets what a subclass of torch's layer defines for itself, too.
    """
    if "origin" in vars(instead):
        vars(instead)["origin"] = parametrize.type_before_parametrizations(there)
    for key, value in vars(there).items():
        if not hasattr(instead, key) and not isinstance(value, (torch.Tensor, nn.Module)):
            vars(instead)[key] = value


def own_method(kind: type[nn.Module], name: str) -> Any:
    """The method or property of this name that a class which is not torch's defines for a type, if there is one."""
    owners = (owner for owner in kind.__mro__ if owner.__module__.partition(".")[0] not in ("torch", "builtins"))
    found = next((vars(owner)[name] for owner in owners if name in vars(owner)), None)
    return found if isinstance(found, (FunctionType, property, staticmethod, classmethod)) else None


class _Detaching(TorchFunctionMode):
    """Copies what torch refuses to: tensors that were computed (weights of pruned or normalised layers), and buffers of
    lazy modules."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__deepcopy__ and isinstance(args[0], nn.parameter.UninitializedBuffer):
            value, known = args
            made = nn.parameter.UninitializedBuffer(device=value.device, dtype=value.dtype)  # type: ignore[call-arg]
            return known.setdefault(id(value), made)
        if function is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            value, known = args
            if id(value) not in known:
                known[id(value)] = value.detach().clone()
            return known[id(value)]
        return function(*args, **(kwargs or {}))


def copied(model: nn.Module, keep: Iterable[Any] = (), known: Mapping[int, Any] | None = None) -> nn.Module:
    """A copy of a model in evaluation; parameters and modules in `keep` are not copied but shared.

    `known` stands in the place of what has these identities.

    The fused kernels of torch's transformer layers are off in it, as they take weights past the layers that hold them.

    Raises:
        MappingError: it holds something that cannot be copied.
    """
    memo: dict[int, Any] = {id(value): value for value in keep} | dict(known or {})
    try:
        with _Detaching():
            made = copy.deepcopy(model, memo).eval()
    except Exception as error:  # copying runs the code of whatever the model holds
        reason = " ".join(str(error).split())[:200]
        raise MappingError(f"model cannot be copied ({type(error).__name__}: {reason})") from error
    for there, module in zip(model.modules(), made.modules(), strict=True):
        plain(module, there)
    return made
