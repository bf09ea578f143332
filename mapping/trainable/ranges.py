"""Ranges of the converters of a network that is trained through a chip: in a checkpoint, and on a chip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from glob import escape
from typing import Any

import torch
from torch import nn

from ...crossbar.hardware import Hardware
from .expanded import Lent
from .layer import TrainedLayer
from .learned import LEARNED
from .session import begun

RANGES = "limit", "full_scale", "equaliser", *LEARNED


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
                found[f"{layer.name}:{what}"] = value.detach().clone()
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
            value, before_it = ranges.get(f"{layer.name}:{what}"), getattr(layer, what)
            if isinstance(before_it, nn.Parameter) and value is not None:  # an optimiser has it
                before_it.data.copy_(value)
            elif value is not None:
                setattr(layer, what, value.to(before_it).clone())


def learn_ranges(layer: TrainedLayer) -> None:
    """Make the calibrated ranges of a layer parameters: one limit, and one full scale for all its readings.

    Raises:
        ValueError: a chip could not be given the full scale.
    """
    adc, mode = layer.hardware.adc, layer.hardware.sensing.mode
    if layer.limit is not None:
        layer.limit = begun(layer.limit)
        layer.log_limit = nn.Parameter(torch.zeros_like(layer.limit))
    if layer.full_scale is None or adc.full_scale != "calibrated":
        return
    for field, value, odd in (("adc.span", adc.span, "fitted"), ("sensing.mode", mode, "voltage")):
        if value == odd:
            raise ValueError(
                f"layer {layer.name!r}: ranges must not be 'learned' where {field} is {value!r}: its adc.full_scale "
                "cannot be a number"
            )
    layer.full_scale = layer.full_scale.amax().reshape(1, 1, 1, 1)
    layer.log_full_scale = nn.Parameter(layer.full_scale.new_zeros(()))


def with_ranges(hardware: Hardware, made: nn.Module) -> Hardware:
    """Hardware whose layers have the ranges of a network that was trained through it, as numbers.

    Where `hardware` leaves them to calibration, `dac.range` and `adc.full_scale` of each layer on tiles are what `made`
    has now. A full scale of a number is one for all slices and row tiles: the largest of them. Matrices that take input
    and state side by side, as in LSTMs, are left to calibration, which balances the two; so are layers with
    `dac.equalise`, and ranges of ADCs that are fitted.

    Args:
        hardware: what `made` was trained for.
        made: what `mho.trainable` returned.

    Raises:
        ValueError: a full scale where `sensing.mode` is 'voltage', which takes no number.

    Example:
        >>> made = mho.trainable(net, hardware, calibrate=x, ranges="learned")
        >>> fixed = mho.mapping.trainable.ranges.with_ranges(hardware, made)  # after training
        >>> chip = mho.map(net, fixed, calibrate=x)
        >>> isinstance(fixed.for_layer("0").dac.range, float)
        True
    """
    found: dict[str, dict[str, Any]] = {}
    for layer in _layers(made):
        layer.steps.follow()
        if (isinstance(layer, Lent) and layer.split) or layer.equaliser is not None:
            continue
        own, fields = layer.hardware, dict[str, Any]()
        if own.dac.range == "calibrated" and own.dac.scaling == "layer" and layer.limit is not None and layer.limit > 0:
            fields |= {"dac.range": _now(layer.limit, layer.log_limit)}
        if own.adc.full_scale == "calibrated" and own.adc.span == "symmetric" and layer.full_scale is not None:
            full = _now(layer.full_scale, layer.log_full_scale) * own.sensing.v_read * own.cell.g_max
            fields |= {"adc.bits": own.adc.bits, "adc.full_scale": full, "adc.calibrated_at": None}
            fields |= {"adc.per": "slice", "adc.span": "symmetric"}
        if fields:
            found[escape(layer.name)] = fields
    return hardware.replace({"layers": {**hardware.layers, **found}})


def _now(start: torch.Tensor, log: torch.Tensor | None) -> float:
    largest = float(start.amax())
    return largest if log is None else largest * math.exp(float(log.detach()))


def _layers(made: nn.Module) -> list[TrainedLayer]:
    return [module for module in made.modules() if isinstance(module, TrainedLayer)]
