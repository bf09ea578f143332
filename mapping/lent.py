"""Weights that are read where they are, and watched so that nothing writes to them.

The copy of a model that is mapped has parameters of its own in the memory of the caller's, and a copy of a chip for one
pass in that of the chip's. Whatever a model does to them in a pass is seen before it is done: then it is mapped, or the
pass is made, again, with weights that are copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..crossbar.max_memory import pages_out
from .hooks import hooks_of
from .modules import copied

_LENT: ContextVar[frozenset[int]] = ContextVar("lent", default=frozenset())  # places of the memory


class Written(BaseException):
    """A model writes to its weights in a pass. No code of a model that catches exceptions shall take it for its own."""


class _Watch(TorchDispatchMode):
    """Raises Written before an operation writes to memory at these places."""

    def __init__(self, places: frozenset[int]) -> None:
        super().__init__()
        self.places = places
        spare_compiler(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | (kwargs or {})
            for argument in schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written = tree_leaves(given.get(argument.name))
                    if any(isinstance(x, torch.Tensor) and _place(x) in self.places for x in written):
                        raise Written
        return func(*args, **(kwargs or {}))


def spare_compiler(mode: Any) -> None:
    """Take torch's guard against its compiler off a mode: no pass here is compiled, and it would load that, seconds."""
    plain = getattr(mode.__torch_dispatch__, "__wrapped__", None)
    if plain is not None:
        mode.__torch_dispatch__ = MethodType(plain, mode)


@contextmanager
def lent(model: nn.Module, *, share: bool) -> Iterator[nn.Module]:
    """A copy of a model in evaluation whose weights are lent by the caller, if they are to be shared.

    Those of modules with hooks are copied, as hooks get the torch module later on.

    Raises:
        MappingError: see `copied`.
        Written: inside, where the model writes to lent weights.
    """
    own = {id(p) for module in model.modules() if hooks_of(module) for p in module.parameters()}
    shared = [p for p in model.parameters() if share and type(p) is nn.Parameter and id(p) not in own]
    shared = [p for p in shared if not p.is_inference()]  # which torch makes no other parameters of
    places = frozenset(place for p in shared if (place := _place(p)) is not None)
    made = copied(model, known=_same_memory(p for p in shared if _place(p) in places))
    token = _LENT.set(places)
    try:
        if not places:
            yield made
            return
        with _Watch(places):
            yield made
    finally:
        _LENT.reset(token)


@contextmanager
def spared(model: nn.Module, *, share: bool) -> Iterator[None]:
    """Inside, copies of a model for one pass have its parameters where they are, if these are to be shared.

    Raises:
        Written: inside, where a copy writes to its parameters.
    """
    own = [p for p in model.parameters() if share and type(p) is nn.Parameter and not p.is_inference()]
    places = frozenset(place for p in own if (place := _place(p)) is not None)
    token = _LENT.set(_LENT.get() | places)
    try:
        with _Watch(places) if places else nullcontext():
            yield
    finally:
        _LENT.reset(token)


def known_in_trials(model: nn.Module) -> Mapping[int, nn.Parameter]:
    """Of the lent parameters of a model, others in the same memory, for a copy of it that is made for one pass."""
    places = _LENT.get()
    return _same_memory(p for p in model.parameters() if places and type(p) is nn.Parameter and _place(p) in places)


def keep(model: nn.Module, on_tiles: Iterable[tuple[nn.Parameter, torch.Tensor]]) -> None:
    """Copy what a model, made ready, still has of lent weights: what the caller does with them changes it no more.

    Tables of embeddings that are the weights of a layer `on_tiles` too, of which the chip has a copy, have that one.
    """
    places = _LENT.get()
    left = [p for p in model.parameters() if places and type(p) is nn.Parameter and _place(p) in places]
    tables = {id(m.weight) for m in model.modules() if type(m) is nn.Embedding and m.max_norm is None}
    tables -= {id(p) for m in model.modules() if type(m) is not nn.Embedding for p in m.parameters(recurse=False)}
    twins = {_place(p): copy for p, copy in on_tiles} if tables else {}
    for value in left:
        twin = twins.get(_place(value)) if id(value) in tables else None
        same = twin is not None and twin.dtype == value.dtype and torch.equal(twin, value.data)
        value.data = twin if twin is not None and same else value.data.clone()


def hand_back(model: nn.Module) -> None:
    """Give the pages of weights that are mapped from files back to the system: see `max_memory.pages_out`."""
    pages_out((p.data_ptr(), p.nbytes) for p in model.parameters() if p.device.type == "cpu" and _place(p))


def _same_memory(parameters: Any) -> dict[int, nn.Parameter]:
    return {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in parameters}


def _place(x: torch.Tensor) -> int | None:
    """Where the memory of a tensor begins; None where it has none."""
    if x.layout is not torch.strided or x.is_meta or nn.parameter.is_lazy(x):
        return None
    try:
        return x.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # a wrapper, as in transforms of torch.func
        return None
