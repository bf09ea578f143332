"""Hooks of modules that something else takes the place of: they go on running, and still get their module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .errors import MappingError
from .guard import Marks, Unmarks

MAKERS = (WeightNorm, SpectralNorm, BasePruningMethod)  # pre-hooks that compute a weight before each forward


@contextmanager
def settled(module: nn.Module) -> Iterator[None]:
    """Weights that hooks compute (weight and spectral norm of the older kind, pruning) as the next forward has them."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, MAKERS)]
    names = [str(getattr(hook, "name", None) or hook._tensor_name) for hook in hooks]  # type: ignore[union-attr]
    before = {name: getattr(module, name) for name in names}
    try:
        with torch.no_grad():
            for hook in hooks:
                hook(module, ())
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def hooks_of(module: nn.Module) -> list[Callable[..., Any]]:
    """All hooks around the forward of a module."""
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def hooked(module: nn.Module) -> bool:
    """Whether hooks see or change what goes into the module or comes out of it."""
    return any(not isinstance(hook, MAKERS) for hook in hooks_of(module))


def overridden(module: nn.Module) -> list[str]:
    """Names of the methods that are overridden on the instance."""
    return [name for name in vars(module) if callable(getattr(type(module), name, None))]


class Hook:
    """A hook of a module whose place something else has taken; it is called with that module, which keeps its weights.

    A hook that changes these weights, or the module's forward, would change nothing on tiles, and is an error.
    """

    def __init__(self, hook: Callable[..., Any], module: nn.Module, name: str, kept: dict[str, Any]) -> None:
        self.hook, self.module, self.name, self.kept = hook, module, name, kept

    def __call__(self, instead: nn.Module, *args: Any) -> Any:
        result = self.hook(self.module, *args)
        now = _state(self.module)
        if now.keys() != self.kept.keys() or any(not _same(now[name], self.kept[name]) for name in now):
            raise MappingError(
                f"layer {self.name!r}: a hook changes its weights or its forward, which are on tiles; exclude the layer"
            )
        return result


def _state(module: nn.Module) -> dict[str, Any]:
    """Tensors of a module, by their values, and the methods overridden on it."""
    found = {**vars(module), **module._parameters, **module._buffers}
    return {k: v for k, v in found.items() if isinstance(v, torch.Tensor) or callable(getattr(type(module), k, None))}


def _same(now: Any, kept: Any) -> bool:
    return torch.equal(now, kept) if isinstance(now, torch.Tensor) and isinstance(kept, torch.Tensor) else now is kept


def move_hooks(module: nn.Module, to: nn.Module, name: str) -> None:
    """Have the hooks of a module run around what takes its place, if they don't already."""
    if any(isinstance(hook, Hook) and hook.module is module for hook in hooks_of(to)):
        return
    if not hooked(module):
        return
    kept = {key: v.detach().clone() if isinstance(v, torch.Tensor) else v for key, v in _state(module).items()}
    for key, hook in module._forward_pre_hooks.items():
        if not isinstance(hook, (*MAKERS, Hook, Unmarks)):
            named = key in module._forward_pre_hooks_with_kwargs
            to.register_forward_pre_hook(Hook(hook, module, name, kept), with_kwargs=named)
    for key, hook in module._forward_hooks.items():
        if not isinstance(hook, (Hook, Marks)):
            named, always = key in module._forward_hooks_with_kwargs, key in module._forward_hooks_always_called
            to.register_forward_hook(Hook(hook, module, name, kept), with_kwargs=named, always_call=always)
