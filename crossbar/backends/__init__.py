"""Backends of tiles by name: see `mho.crossbar.backend` for what one is, and docs/kernels.md for how to add one."""

from __future__ import annotations

import inspect
from typing import Any

from ...devices.registry import Registry, check_class
from ...devices.units import brief
from ..backend import Backend
from .compiled import Compiled
from .plain import Plain

DEFAULT = "numba"


def check(name: str, thing: Any) -> None:
    """Raises TypeError for what is no backend, lacks some of it, or is not made without arguments."""
    check_class("backend", name, thing, Backend)
    needed = [p.name for p in inspect.signature(thing).parameters.values() if p.default is p.empty and p.kind < 2]
    if needed:
        raise TypeError(f"backend {name!r}: {thing.__name__} must be made without arguments, takes {', '.join(needed)}")


BACKENDS: Registry[type[Backend]] = Registry("backend", "mho.backends", check)
BACKENDS.add("numba", Compiled)
BACKENDS.add("numpy", Plain)


def backend_of(which: str | Backend) -> Backend:
    """The backend of a name, made anew, or the one given.

    Raises:
        ValueError: no backend of that name, or something else.
    """
    if isinstance(which, Backend):
        return which
    if not isinstance(which, str):
        raise ValueError(f"backend must be a name ({', '.join(BACKENDS)}) or a Backend, got {brief(which)}")
    return BACKENDS[which]()
