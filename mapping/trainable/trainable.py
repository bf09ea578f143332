"""`trainable`: a network whose matrix layers are read from a fresh chip in each step, to be trained with gradients."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ...crossbar.hardware import Hardware
from ..errors import MappingError
from ..inputs.batches import batches_of
from ..kinds.known import expander_of, leaf_of, load_handlers
from ..modules import names_of, replaced
from .layer import TrainedLayer
from .session import Steps


def trainable(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibrate: Any,
    exclude: Sequence[str] = (),
    momentum: float = 0.1,
    through_variance: bool = False,
) -> nn.Module:
    """A network to train in the place of a model: each forward is a fresh chip, and so is its backward pass.

    Its parameters and buffers are those of the model, under the same names, so that optimisers, training loops and
    state dicts are those of the plain network. Linear layers and convolutions are on tiles: their weights are encoded
    and programmed with new errors, aged as `hardware.time_s` says, and read once with new noise. Gradients go straight
    through the rounding of levels, DACs and ADCs, end where these clip, and go through errors and noise as they were
    drawn. Afterwards `mho.map(model, hardware)` makes a chip of the trained weights.

    Args:
        hardware: what it is trained for.
        calibrate: inputs, as `mho.map` takes them, which ranges of converters start from.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.
        momentum: of the moving averages that ranges follow in training; 0 keeps those of the calibration.
        through_variance: whether gradients go through the variance of read noise too.

    Raises:
        MappingError: inputs that do not fit the model, no layer for tiles, or a pattern that matches none.
        ValueError: a setting of the hardware that is not differentiated; the message names layer and setting.

    Warns:
        UserWarning: layers that stay digital here and would not on a chip: recurrent ones, attention, and those that
            the model does not call but by their weights.

    Example:
        >>> trained = mho.trainable(net, hardware, calibrate=x)
        >>> loss = torch.nn.functional.cross_entropy(trained(x), labels)
        >>> loss.backward()  # through the chip
        >>> net[0].weight.grad.shape
        torch.Size([8, 16])
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be from 0 to 1, got {momentum!r}")
    load_handlers()
    shared = [*model.parameters(), *model.buffers()]
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    steps = Steps(momentum, through_variance)
    layers, before = _put(made, hardware, exclude, steps)
    made = layers.get("", made)
    _calibrate(made, steps, batches_of(calibrate, model, "calibrate"))
    for name, layer in layers.items():
        if layer.design is None:
            warnings.warn(f"mho.trainable: layer {name!r} stays digital, as the model does not call it", stacklevel=2)
            made = replaced(made, name, before[name])
    made.register_forward_pre_hook(steps)
    return made


def _put(
    model: nn.Module, hardware: Hardware, exclude: Sequence[str], steps: Steps
) -> tuple[dict[str, TrainedLayer], dict[str, nn.Module]]:
    """Put layers on tiles in the places of those of a model; both by all their names."""
    names, layers, before = names_of(model), dict[str, TrainedLayer](), dict[str, nn.Module]()
    unused, within = set(exclude), tuple(n for n, m in model.named_modules() if expander_of(m) is not None)
    for name, module in list(model.named_modules()):
        kind, expands = leaf_of(module), expander_of(module) is not None
        if (kind is None and not expands) or any(name.startswith(f"{outer}." if outer else "") for outer in within):
            continue
        hit = {pattern for pattern in exclude if any(fnmatchcase(n, pattern) for n in names[name])}
        unused -= hit
        if hit:
            continue
        if kind is None or expands:
            warnings.warn(
                f"mho.trainable: layer {name!r}, an {type(module).__name__}, stays digital, in mho.map it does not: "
                "exclude it in both, or it is not trained with its errors",
                stacklevel=3,
            )
            continue
        try:
            spec = kind.of(module)
        except ValueError:
            continue  # as in `mho.map`, it stays digital
        layer = TrainedLayer(name, spec, module, hardware.for_layer(*names[name]), steps)
        for alias in names[name]:
            layers[alias], before[alias] = layer, module
            replaced(model, alias, layer)
    if unused:
        raise MappingError(f"exclude: {sorted(unused)[0]!r} matches no layer for tiles")
    if not layers:
        raise MappingError(f"the model, a {type(model).__name__}, has no linear layer or convolution to put on tiles")
    return layers, before


@torch.no_grad()
def _calibrate(model: nn.Module, steps: Steps, batches: Sequence[Any]) -> None:
    """Ranges from inputs, in evaluation; modes of training and evaluation stay as they were.

    Raises:
        MappingError: inputs that do not go through the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    steps.calibrating = True
    try:
        for batch in batches:
            own = batch.apart()
            try:
                model(*own.args, **own.kwargs)
            except ValueError:
                raise
            except Exception as error:  # a model may fail in any way on inputs that are not its own
                reason = " ".join(str(error).split())[:300]
                raise MappingError(
                    f"calibrate: inputs of shape {batch.shape} do not go through the model "
                    f"({type(error).__name__}: {reason})"
                ) from error
    finally:
        steps.calibrating = False
        for module, mode in modes:
            module.training = mode
