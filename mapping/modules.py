"""Modules of a model by all their names, and copies of models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from .errors import MappingError
from .hooks import move_hooks

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
    there = model.get_submodule(name)
    move_hooks(there, module, name)
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    for holder in model.modules():
        for key, value in vars(holder).items():
            held = key not in _OF_TORCH and isinstance(value, (list, tuple, dict, nn.Module))
            if held and any(leaf is there for leaf in tree_leaves(value)):  # a model may keep layers in lists, too
                vars(holder)[key] = tree_map(lambda leaf: module if leaf is there else leaf, value)
    return model


def keep_attributes(there: nn.Module, instead: nn.Module) -> None:
    """Give what stands in the place of a module the attributes that were set on it, as its model may read them."""
    for key, value in vars(there).items():
        if not hasattr(instead, key) and not isinstance(value, (torch.Tensor, nn.Module)):
            vars(instead)[key] = value


class _Detaching(TorchFunctionMode):
    """Copies tensors that were computed (weights of pruned or normalised layers), which torch refuses to."""

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            value, known = args
            if id(value) not in known:
                known[id(value)] = value.detach().clone()
            return known[id(value)]
        return function(*args, **(kwargs or {}))


def copied(model: nn.Module, keep: Iterable[Any] = ()) -> nn.Module:
    """A copy of a model in evaluation; parameters and modules in `keep` are not copied but shared.

    The fused kernels of torch's transformer layers are off in it, as they take weights past the layers that hold them.

    Raises:
        MappingError: it holds something that cannot be copied.
    """
    known: dict[int, Any] = {id(value): value for value in keep}
    try:
        with _Detaching():
            made = copy.deepcopy(model, known).eval()
    except Exception as error:  # copying runs the code of whatever the model holds
        reason = " ".join(str(error).split())[:200]
        raise MappingError(f"model cannot be copied ({type(error).__name__}: {reason})") from error
    for module in made.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return made
