"""Arguments of the nodes of a graph as plain data, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from .errors import CheckpointError


class NotPlain(ValueError):
    """Something in a model has no plain description."""


def plain(value: Any) -> Any:
    """An argument of a node as plain data.

    Raises:
        NotPlain: it has no such form.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, tuple):
        return {"tuple": [plain(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(v)] for key, v in value.items()]}  # text has no keys but text
    if isinstance(value, slice):
        return {"slice": [plain(v) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": True}
    raise NotPlain(f"it uses a constant of type {type(value).__name__}")


def restore(value: Any, nodes: dict[str, fx.Node]) -> Any:
    """The argument of plain data, with these nodes by name.

    Raises:
        CheckpointError: the data are none.
    """
    if isinstance(value, list):
        return [restore(v, nodes) for v in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise CheckpointError(
            f"the structure of its model is damaged or foreign: it holds a number of {len(str(value))} digits"
        )
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "node":
            return nodes[inner]
        if kind == "tuple":
            return tuple(restore(v, nodes) for v in inner)
        if kind == "dict":
            return {restore(key, nodes): restore(v, nodes) for key, v in inner}
        if kind == "slice":
            return slice(*(restore(v, nodes) for v in inner))
        if kind == "dtype":
            return _dtype(inner)
        if kind == "ellipsis":
            return Ellipsis
    raise CheckpointError(f"the structure of its model is damaged or foreign: it holds {str(value)[:100]!r}")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"its model uses {name!r}, which is no dtype of torch")
    return dtype
