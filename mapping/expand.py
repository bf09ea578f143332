"""A model with the modules that expanders take in the form of layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from .faithful import tensors_of, unfaithful
from .kinds import expander_of, load_handlers
from .modules import names_of, replaced


def expandable(model: nn.Module) -> dict[str, list[str]]:
    """All names, by the first one, of the modules that expanders take and that their form on tiles does justice."""
    load_handlers()
    modules = dict(model.named_modules())
    return {
        name: names
        for name, names in names_of(model).items()
        if expander_of(modules[name]) is not None and unfaithful(modules[name]) is None
    }


def expanded(model: nn.Module, keep: Iterable[str] = ()) -> nn.Module:
    """The model with these modules expanded, but for those named in `keep`; it is changed in place."""
    for name, names in expandable(model).items():
        if name in keep:
            continue
        module = model.get_submodule(name)
        expander = expander_of(module)
        assert expander is not None
        made = expander.expand(module, tensors_of(module))
        for alias in names:
            model = replaced(model, alias, made)
    return model
