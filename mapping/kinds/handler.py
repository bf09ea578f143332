"""What all handlers of modules have in common: the types they take, and the weights that these compute with."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import nn

from ...devices.registry import Registry
from ...devices.units import brief


class Handler:
    """What becomes of the modules of some types: a `Leaf` or an `Expander`.

    Attributes:
        modules: the types. Subclasses are taken too if all that the forward runs is as in the type itself: see
            `mho.mapping.kinds.inherited`.
        named: full names of more types, of packages that are not imported for it: `package.module.Type`. They are taken
            once something else has imported them.
        holds: names of what modules of these types hold beside weights and biases (a buffer `mask`, say), where
            `tensors` reads it. A module that holds more stays digital.
    """

    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    named: ClassVar[tuple[str, ...]] = ()
    holds: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def tensors(cls, module: Any) -> dict[str, Any]:
        """The weights that the forward of a module in evaluation uses, by name; None where there is none.

        They are dense floating-point tensors, the same at each call, after all that is computed before each use (a
        mask, a scale). Of a leaf they are `weight` and `bias`.
        """
        return {"weight": module.weight, "bias": module.bias}

    @classmethod
    def types(cls) -> tuple[type[nn.Module], ...]:
        """All types that it takes and that are imported."""
        if not cls.named:
            return cls.modules
        parts = (name.rpartition(".") for name in cls.named)
        found = (getattr(sys.modules.get(module), name, None) for module, _, name in parts)
        return (*cls.modules, *(kind for kind in found if isinstance(kind, type) and issubclass(kind, nn.Module)))


REGISTRIES: list[Registry[Any]] = []  # of all handlers: a module has one


def check_handler(base: type[Handler], name: str, thing: Any) -> None:
    """Whether a handler may be registered under a name, beside all others.

    Raises:
        TypeError: it is no class derived from `base`, is not complete, or takes modules that another one takes.
    """
    if not (isinstance(thing, type) and issubclass(thing, base)):
        raise TypeError(f"{name!r} must be a class derived from {base.__name__}, got {brief(thing)}")
    if missing := ", ".join(sorted(getattr(thing, "__abstractmethods__", ()))):
        raise TypeError(f"{thing.__name__}: must define {missing}, see {base.__module__}.{base.__name__}")
    types, named = thing.modules, thing.named
    if not (
        isinstance(types, tuple)
        and (types or named)
        and all(isinstance(t, type) and issubclass(t, nn.Module) for t in types)
    ):
        raise TypeError(f"{thing.__name__}: modules must be a tuple of types of torch modules, got {brief(types)}")
    others = [other for registry in REGISTRIES for other in registry.loaded().items()]
    for other, known in others:
        its_own = other == name and issubclass(known, base)  # that it takes the place of
        both = [*(t.__name__ for t in set(types) & set(known.modules)), *set(named) & set(known.named)]
        if both and not its_own:
            raise TypeError(f"{thing.__name__}: {both[0]} is taken by {other!r} already")


def dtype_of(module: nn.Module) -> str:
    """The type of a module's weights, by its name in torch."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    return str(weight.dtype).removeprefix("torch.")
