"""Ranges of the converters of a network that is trained through a chip, kept with a checkpoint of the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .layer import TrainedLayer

RANGES = "limit", "full_scale"


def ranges_of(made: nn.Module) -> dict[str, torch.Tensor]:
    """Ranges by layer, as the next step has them: what `set_ranges` takes.

    A `state_dict` has none of them, as it is that of the plain network.
    """
    found: dict[str, torch.Tensor] = {}
    for layer in _layers(made):
        layer.steps.follow()
        for what in RANGES:
            value = getattr(layer, what)
            if value is not None:
                found[f"{layer.name}:{what}"] = value.clone()
    found["steps"] = torch.tensor(_layers(made)[0].steps.done)  # so far, as ramps of noise have them
    return found


def set_ranges(made: nn.Module, ranges: Mapping[str, torch.Tensor]) -> None:
    """Give layers the ranges that `ranges_of` found, of the same network and hardware.

    Raises:
        ValueError: those of another network or hardware.
    """
    before = ranges_of(made)
    if ranges.keys() != before.keys() or any(ranges[name].shape != value.shape for name, value in before.items()):
        odd = sorted(ranges.keys() ^ before.keys()) or [n for n, v in before.items() if ranges[n].shape != v.shape]
        raise ValueError(f"ranges: those of another network or hardware ({odd[0]})")
    for layer in _layers(made):
        layer.steps.done = int(ranges["steps"])
        for what in RANGES:
            value = ranges.get(f"{layer.name}:{what}")
            if value is not None:
                setattr(layer, what, value.to(getattr(layer, what)).clone())


def _layers(made: nn.Module) -> list[TrainedLayer]:
    return [module for module in made.modules() if isinstance(module, TrainedLayer)]
