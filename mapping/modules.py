"""Modules of a model by all their names."""

from __future__ import annotations

from torch import nn


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """All the names of each module, by its first name."""
    first = {id(module): name for name, module in model.named_modules()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, module in model.named_modules(remove_duplicate=False):
        names[first[id(module)]].append(name)
    return names


def replaced(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place called `name`; returns the model, which is `module` itself when the name is empty."""
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model
