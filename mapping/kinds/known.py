"""The handlers that are known, Mho's own and others', and which of them takes a module."""

from __future__ import annotations

from functools import cache

from torch import nn
from torch.nn.utils import parametrize

from .attention import MultiheadAttention
from .convolution import Convolution
from .expander import EXPANDERS, Expander
from .handler import Handler
from .inherited import computes_as
from .leaf import LEAVES, Leaf
from .linear import Conv1D, Linear
from .recurrent import RecurrentLayers
from .transposed import TransposedConvolution

__all__ = ["Conv1D", "Convolution", "Linear", "MultiheadAttention", "RecurrentLayers", "TransposedConvolution"]


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The type of a module, without what torch's parametrisations make of it."""
    return parametrize.type_before_parametrizations(module)


def leaf_of(module: nn.Module) -> type[Leaf] | None:
    """The kind of layer that takes modules of this type."""
    kind = _handled_as(module)
    return None if kind is None else next((leaf for leaf in LEAVES.loaded().values() if kind in leaf.types()), None)


def expander_of(module: nn.Module) -> type[Expander] | None:
    """The expander that takes modules of this type."""
    kind = _handled_as(module)
    if kind is None:
        return None
    return next((expander for expander in EXPANDERS.loaded().values() if kind in expander.types()), None)


def _handled_as(module: nn.Module) -> type[nn.Module] | None:
    """The type that some handler takes and that a module computes as."""
    return computes_as(kind_of(module), handled_types())


def handler_of(module: nn.Module) -> type[Handler] | None:
    """The one or the other."""
    return expander_of(module) or leaf_of(module)


def handled_types() -> tuple[type[nn.Module], ...]:
    """All types that some handler takes, leaves first."""
    handlers: list[type[Handler]] = [*LEAVES.loaded().values(), *EXPANDERS.loaded().values()]
    return tuple(kind for handler in handlers for kind in handler.types())


@cache
def load_handlers() -> None:
    """Import the handlers that entry points of other packages name.

    Raises:
        ValueError: one does not load; the message names it.
    """
    for name in LEAVES:
        LEAVES[name]
    for name in EXPANDERS:
        EXPANDERS[name]
