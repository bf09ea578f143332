"""Texts that a model generates on a chip: each call of the model within is an inference, with noise of its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .errors import MappingError
from .inference import Read
from .inputs.batches import first_batch
from .layers import TileLayer
from .mapped import MappedNetwork
from .reading import run_pass


def generate(
    chip: MappedNetwork, inputs: tuple[Any, ...], named: dict[str, Any], next_read: Callable[[], int], first_sample: int
) -> Any:
    """What the `generate` of a chip's model returns.

    It is called on a stand-in of the model: modules that hold layers on tiles begin an inference when they are called
    from outside of any, which is numbered by `next_read`.

    Raises:
        MappingError: the model has no `generate`.
    """
    model, session = chip.model, chip.session
    if not callable(getattr(model, "generate", None)):
        raise MappingError(
            f"the model, a {type(model).__name__}, has no method generate; a chip that was loaded from a file has it "
            "where the model was given: mho.load(path, model=model)"
        )

    def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = Read(next_read(), first_sample=first_sample, kind=_kind(module, args, kwargs))
        return run_pass(chip, args, run, kwargs, None if module is model else module)

    before = session.trace, session.shapes
    try:
        return stand_in(model, called, {}).generate(*inputs, **named)
    finally:
        if before[0]:  # the costs of an inference are not those of the last token
            session.trace, session.shapes = before


def _kind(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """What calls of a module are alike in a generation: a cache and a mask may grow, but not what is read."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    first = first_batch(tensors)
    return "generation", id(module), None if first is None else tuple(tensors[first].shape[1:])


def stand_in(module: nn.Module, called: Callable[..., Any], known: dict[int, Any]) -> Any:
    """A module with the same tensors and attributes, of which a call is `called(module, ...)`; so are those within.

    Modules without layers on tiles stand for themselves, and so do these layers.
    """
    if isinstance(module, TileLayer) or not any(isinstance(part, TileLayer) for part in module.modules()):
        return module
    if id(module) not in known:
        made = known[id(module)] = copy.copy(module)
        own = vars(made)
        own["_modules"] = {
            name: part if part is None else stand_in(part, called, known) for name, part in module._modules.items()
        }
        for hooks in [name for name in own if name.endswith("_hooks")]:
            own[hooks] = type(own[hooks])()  # which run where the module itself is called
        own["forward"] = functools.wraps(module.forward)(functools.partial(called, module))
    return known[id(module)]
