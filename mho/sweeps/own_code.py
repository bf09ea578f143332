"""The code of users that the tasks of a sweep rest on: what it is, and how a worker gets it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from ..crossbar.hardware import Hardware
from ..devices.code import code_of, digest, is_own
from ..devices.config import Config
from ..devices.imports import import_module_of, place_of
from ..mapping.kinds.expander import EXPANDERS, Expander
from ..mapping.kinds.handler import Handler
from ..mapping.kinds.known import expander_of, leaf_of, load_handlers
from ..mapping.kinds.leaf import LEAVES


class OwnCode(NamedTuple):
    """A module of a user, or where a class has none, the name of that and its version.

    Attributes:
        name: of the module, or `module:class`.
        digest: of its source and of what it imports.
        folder: from which it can be imported; None where it is no module to import.
    """

    name: str
    digest: str
    folder: str | None


def own_code(things: Iterable[Any], modules: Iterable[str]) -> tuple[OwnCode, ...]:
    """The code behind classes and functions, and that of modules by name; none of it is Mho's.

    Raises:
        ValueError: what has neither a source file nor a version.
    """
    found = code_of(things) | {name: digest(name) for name in modules}
    return tuple(OwnCode(name, found[name], place_of(name)) for name in sorted(found))


def parts_of(hardware: Hardware) -> set[type]:
    """The classes of all that hardware is made of, overrides of layers included."""
    overridden = [hardware.replace({**fields, "layers": {}}) for fields in hardware.layers.values()]
    return set().union(*map(classes_of, (hardware, *overridden)))


def handlers_of(network: nn.Module) -> set[type]:
    """The handlers of layers that others registered and that a network may come to: see `mho.mapping.kinds.handler`."""
    load_handlers()
    known: list[type[Handler]] = [*EXPANDERS.loaded().values(), *LEAVES.loaded().values()]
    found = {made for module in network.modules() for made in (expander_of(module), leaf_of(module)) if made}
    if any(issubclass(made, Expander) and not is_own(made.__module__) for made in found):
        return set(known)  # it may expand to anything
    return set(found)


def fetch(code: Iterable[OwnCode]) -> None:
    """Import the modules of users, as a worker does.

    Raises:
        ValueError: one is not there, or has other code than where the sweep was started.
    """
    for name, wanted, folder in code:
        if ":" in name or name == "__main__":
            continue
        if name not in sys.modules:
            import_module_of(name, *([folder] if folder else []))
        if digest(name) != wanted:
            raise ValueError(
                f"module {name}: has other code here than where the sweep was started, or was changed meanwhile; "
                "start the sweep again in a new process"
            )


def own_modules_of(reference: str) -> list[str]:
    """The module that a reference (package.module:name) names, where it names one that is not of Mho."""
    module, colon, _ = reference.partition(":")
    return [module] if colon and not is_own(module) and module not in ("timm", "transformers") else []


def classes_of(value: Any) -> set[type]:
    """The classes of a configuration and of all configurations in it."""
    return set(_classes(value))


def _classes(value: Any) -> Iterator[type]:
    if isinstance(value, Config):
        yield type(value)
        for name in type(value).model_fields:
            yield from _classes(getattr(value, name))
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _classes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _classes(inner)
