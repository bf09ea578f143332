"""`mho.map`: a trained torch model onto virtual tiles."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn

from ..crossbar.compensation import Compensate
from ..crossbar.hardware import Hardware
from .chip import Chip, Digital
from .errors import MappingError
from .fold import BATCH_NORMS, foldable, folded
from .layers import HANDLERS, TileLayer, matrices
from .modules import names_of, replaced
from .recurrent import DIGITAL_REASON, Recurrent, Step, expanded, recurrent_names


def map(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibrate: torch.Tensor | None = None,
    seed: int = 0,
    exclude: Iterable[str] = (),
    compensate: Compensate | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Chip:
    """Map a trained model onto the tiles of one chip.

    Linear, convolution and recurrent layers go onto tiles, with the batch norm that follows folded in; everything else
    stays digital and is listed, with the reason, in `Chip.report`. The caller's model is not touched. A layer with
    several parents is one layer.

    Args:
        model: any torch model; it is mapped as in evaluation mode.
        hardware: what the chip is made of. `hardware.layers` overrides fields per layer.
        calibrate: a batch of real inputs, from which the ranges of the converters are set where the hardware leaves
            them to calibration.
        seed: which chip. The same seed gives the same programmed conductances and the same noise in each read.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.
        compensate: what is done about the loss in wires with resistance. `gain`: the readings of each column of a tile
            are multiplied by a number, measured on each chip. `program`: cells are programmed to conductances that are
            right once the wires have taken their part.
        progress: told how many of the tiles with resistive wires are solved, and how many there are.

    Raises:
        MappingError: a pattern that matches no layer, nothing to map, weights that are all zero, NaN or infinite, or
            missing or unfit calibration inputs; the message names the layer.
    """
    if not isinstance(model, nn.Module):
        raise MappingError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    model = copy.deepcopy(model).eval()
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    norms = foldable(model)
    kept = {name: found for name, found in recurrent_names(model).items() if _match(patterns, found)}
    digital = [Digital(name, type(model.get_submodule(name)).__name__, "excluded by name") for name in kept]
    model = expanded(model, kept)
    names = names_of(model)
    layers = {name: module for name, module in model.named_modules() if type(module) in HANDLERS}
    for pattern, said in [(p, "exclude") for p in patterns] + [(p, "hardware.layers") for p in hardware.layers]:
        known = [names[name] for name in layers] + (list(kept.values()) if said == "exclude" else [])
        if not any(_match([pattern], found) for found in known):
            raise MappingError(
                f"{said}: pattern {pattern!r} matches no layer; layers are {', '.join(layers) or 'none'}"
            )
    mapped: dict[str, TileLayer] = {}
    for name, module in layers.items():
        if _match(patterns, names[name]):
            digital.append(Digital(name, type(module).__name__, "excluded by name"))
            continue
        ends = [side.get(name) for side in (norms.behind, norms.before)]
        weight, bias = folded(module, *(None if norm is None else model.get_submodule(norm) for norm in ends))
        _check_weights(name, weight, bias)
        spec, cell = HANDLERS[type(module)](module), hardware.for_layer(*names[name]).cell
        if cell.nonlinearity.kind != "linear":
            raise MappingError(
                f"layer {name!r}: cell.nonlinearity is '{cell.nonlinearity.kind}', and tiles are read with linear "
                "cells; mho.crossbar.wires.read takes others"
            )
        try:
            layer = TileLayer(name, spec, matrices(weight, bias, spec), hardware.for_layer(*names[name]), seed)
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        layer.aliases = names[name]
        mapped[name] = layer
        for alias in names[name]:
            model = replaced(model, alias, layer)
        for norm in filter(None, ends):
            digital.append(Digital(norm, type(model.get_submodule(norm)).__name__, f"folded into {name}"))
            replaced(model, norm, nn.Identity())
    if not mapped:
        why = "all are excluded" if digital else "no linear, convolution or recurrent layer"
        raise MappingError(f"model has no layer to map: {why}")
    digital += _digital(model, {d.name for d in digital}, norms.reasons)
    chip = Chip(model, hardware, mapped, tuple(digital), seed)
    wired = [layer.matrix for layer in mapped.values() if not layer.hardware.wires.ideal]
    if compensate not in (None, "gain", "program"):
        raise MappingError(f"compensate must be 'gain', 'program' or None, got {compensate!r}")
    if compensate and not wired:
        raise MappingError(f"compensate is {compensate!r}, and no layer has wires with resistance: see hardware.wires")
    solved = itertools.count(1)
    tiles = sum(matrix.plan.tiles for matrix in wired) * (2 if compensate == "program" else 1)
    for matrix in wired:
        matrix.compensate = compensate
        matrix.tell = None if progress is None else lambda: progress(next(solved), tiles)
    chip.prepare(calibrate)
    for matrix in wired:
        matrix.tell = None
    return chip


def _match(patterns: Iterable[str], names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


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


def _digital(model: nn.Module, known: set[str], reasons: dict[str, str]) -> list[Digital]:
    """Modules of their own kind that stay digital: leaves that compute something and are not on tiles."""
    found = []
    steps: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, (Recurrent, Step)) and id(module) not in steps:
            steps |= {id(step) for step in module.children()}
            kind = module.config.get("kind") or type(module).__name__.replace("Step", "Cell")
            found.append(Digital(name, str(kind), DIGITAL_REASON))
        inside_tile = isinstance(module, TileLayer)
        if inside_tile or name in known or any(True for _ in module.children()) or type(module) is nn.Identity:
            continue
        if isinstance(module, BATCH_NORMS):
            reason = reasons.get(name, "batch norm that folds into no matrix layer")
        elif any(True for _ in module.parameters()):
            reason = "no handler maps this type"
        else:
            reason = "no weights"
        found.append(Digital(name, type(module).__name__, reason))
    return found
