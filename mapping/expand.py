"""A model with the modules that expanders take in the form of layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..devices.units import brief
from .errors import MappingError
from .faithful import tensors_of, unfaithful
from .kinds.known import expander_of, load_handlers
from .modules import names_of, replaced_all


def expandable(model: nn.Module, keep: Iterable[str] = ()) -> dict[str, list[str]]:
    """All names, by the first one, of the modules that expanders take and that their form on tiles does justice.

    Those named in `keep` stay as they are, with all their parts, and the parts of the others go with them.
    """
    load_handlers()
    modules, found, keep = dict(model.named_modules()), dict[str, list[str]](), list(keep)
    for name, names in names_of(model).items():
        inside = name.startswith(tuple(f"{outer}." if outer else "" for outer in (*found, *keep)))
        if expander_of(modules[name]) and name not in keep and not inside and unfaithful(modules[name]) is None:
            found[name] = names
    return found


def expanded(model: nn.Module, keep: Iterable[str] = ()) -> nn.Module:
    """The model with the `expandable` modules expanded; it is changed in place.

    Raises:
        MappingError: an expander fails, or gives no module.
    """
    for name, names in expandable(model, keep).items():
        module = model.get_submodule(name)
        expander = expander_of(module)
        assert expander is not None
        try:
            made = expander.expand(module, tensors_of(module))
        except MappingError:
            raise
        except Exception as error:  # anybody's code
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise MappingError(f"layer {name!r}: {expander.__name__}.expand fails ({reason})") from error
        if not isinstance(made, nn.Module):
            raise MappingError(f"layer {name!r}: {expander.__name__}.expand must give a module, gave {brief(made)}")
        model = replaced_all(model, [(alias, made) for alias in names])
    return model
