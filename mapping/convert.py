"""`mho.map`: a trained torch model onto virtual tiles."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..crossbar.hardware import Hardware
from .chip import Chip, Digital
from .errors import MappingError
from .fold import BATCH_NORMS, foldable, folded
from .layers import HANDLERS, TileLayer, matrices


def map(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibrate: torch.Tensor | None = None,
    seed: int = 0,
    exclude: Iterable[str] = (),
) -> Chip:
    """Map a trained model onto the tiles of one chip.

    Linear and convolution layers go onto tiles, with the batch norm that follows folded in; everything else stays
    digital and is listed, with the reason, in `Chip.report`. The caller's model is not touched. A layer with several
    parents is one layer.

    Args:
        model: any torch model; it is mapped as in evaluation mode.
        hardware: what the chip is made of. `hardware.layers` overrides fields per layer.
        calibrate: a batch of real inputs, from which the ranges of the converters are set where the hardware leaves
            them to calibration.
        seed: which chip. The same seed gives the same programmed conductances and the same noise in each read.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.

    Raises:
        MappingError: a pattern that matches no layer, nothing to map, weights that are all zero, NaN or infinite, or
            missing or unfit calibration inputs; the message names the layer.
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    model = copy.deepcopy(model).eval()
    names = _names(model)
    layers = {name: module for name, module in model.named_modules() if type(module) in HANDLERS}
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern, said in [(p, "exclude") for p in patterns] + [(p, "hardware.layers") for p in hardware.layers]:
        if not any(fnmatchcase(alias, pattern) for name in layers for alias in names[name]):
            raise MappingError(
                f"{said}: pattern {pattern!r} matches no layer; layers are {', '.join(layers) or 'none'}"
            )
    digital = []
    norms = foldable(model)
    mapped: dict[str, TileLayer] = {}
    for name, module in layers.items():
        if any(fnmatchcase(alias, pattern) for pattern in patterns for alias in names[name]):
            digital.append(Digital(name, type(module).__name__, "excluded by name"))
            continue
        norm = model.get_submodule(norms[name]) if name in norms else None
        weight, bias = folded(module, norm)
        _check_weights(name, weight, bias)
        spec = HANDLERS[type(module)](module)
        try:
            layer = TileLayer(name, spec, matrices(weight, bias, spec), hardware.for_layer(*names[name]), seed)
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        layer.aliases = names[name]
        mapped[name] = layer
        for alias in names[name]:
            model = _replace(model, alias, layer)
        if norm is not None:
            _replace(model, norms[name], nn.Identity())
            digital.append(Digital(norms[name], type(norm).__name__, f"folded into {name}"))
    if not mapped:
        raise MappingError(
            "model has no layer to map: " + ("all are excluded" if layers else "no Linear or Conv layer")
        )
    digital += _digital(model, {d.name for d in digital})
    chip = Chip(model, hardware, mapped, tuple(digital), seed)
    chip.prepare(calibrate)
    return chip


def _names(model: nn.Module) -> dict[str, list[str]]:
    """All the names of each module, by its first name."""
    first = {id(module): name for name, module in model.named_modules()}
    names: dict[str, list[str]] = {name: [] for name in first.values()}
    for name, module in model.named_modules(remove_duplicate=False):
        names[first[id(module)]].append(name)
    return names


def _replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` in the place called `name`; returns the model, which is `module` itself when the name is empty."""
    if not name:
        return module
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
    return model


def _check_weights(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    for what, values in (("weights", weight), ("bias", bias)):
        if values is not None and not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise MappingError(
                f"layer {name!r}: {what} must be finite, got {count} NaN or infinite of {values.numel()}"
            )
    if not weight.any():
        raise MappingError(
            f"layer {name!r}: weights are all zero, nothing to program; exclude the layer to keep it digital"
        )


def _digital(model: nn.Module, known: set[str]) -> list[Digital]:
    """Modules of their own kind that stay digital: leaves that compute something and are not on tiles."""
    found = []
    for name, module in model.named_modules():
        inside_tile = isinstance(module, TileLayer)
        if inside_tile or name in known or any(True for _ in module.children()) or type(module) is nn.Identity:
            continue
        if isinstance(module, BATCH_NORMS):
            reason = "batch norm that follows no matrix layer alone"
        elif any(True for _ in module.parameters()):
            reason = "no handler maps this type"
        else:
            reason = "no weights"
        found.append(Digital(name, type(module).__name__, reason))
    return found
