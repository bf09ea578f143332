"""Which of some types a module computes as: its own, or one that it inherits all from that the forward runs."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Collection, Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import nn

_CALLS = frozenset(("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__getattribute__", "forward"))
_LOADS = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")


def computes_as(kind: type[nn.Module], kinds: Collection[type[nn.Module]]) -> type[nn.Module] | None:
    """The one of `kinds` that modules of a type compute as; None if there is none.

    It is the type itself or the nearest above it, of which it overrides nothing that a call of a module runs.
    """
    base = above(kind, kinds)
    return None if base is None or overrides(kind, base) else base


def above(kind: type[nn.Module], kinds: Collection[type[nn.Module]]) -> type[nn.Module] | None:
    """The nearest of `kinds` that a type is or derives from."""
    return next((base for base in kind.__mro__ if base in kinds), None)


def overrides(kind: type[nn.Module], base: type[nn.Module]) -> list[str]:
    """Names that a call of a module of type `base` uses and that mean something else in `kind`, derived from it."""
    key: Any = base
    names = sorted(_used(key)) if kind is not base else ()
    return [name for name in names if _found(kind, name) is not _found(base, name)]


@lru_cache(maxsize=256)
def _used(base: type[Any]) -> frozenset[str]:
    """Names of attributes that the forward of a type uses, and that all methods use which it calls."""
    used, left = set(_CALLS), ["forward"]
    while left:
        name = left.pop()
        for owner in base.__mro__:
            for code in _codes(vars(owner).get(name)):
                loaded = {str(step.argval) for step in dis.get_instructions(code) if step.opname in _LOADS}
                found = {name for name in loaded if not name.startswith("__")}
                left += found - used
                used |= found
    return frozenset(used)


def _codes(thing: Any) -> Iterator[CodeType]:
    """The code of a method or a property, and of functions within."""
    functions = [thing.fget] if isinstance(thing, property) else [getattr(thing, "__func__", thing)]
    codes = [inspect.unwrap(f).__code__ for f in functions if inspect.isfunction(f)]
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        yield code


def _found(kind: type, name: str) -> Any:
    return next((vars(owner)[name] for owner in kind.__mro__ if name in vars(owner)), None)
