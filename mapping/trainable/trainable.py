"""`trainable`: a network whose matrix layers are read from a fresh chip in each step, to be trained with gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import inf
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from ...crossbar.hardware import Hardware
from ..errors import MappingError
from ..faithful import check_model, unfaithful
from ..inputs.batches import batches_of
from ..kinds.known import expander_of, handler_of, leaf_of, load_handlers
from ..modules import copied, names_of, replaced
from .expanded import TrainedExpanded, expands
from .layer import TrainedLayer
from .ranges import learn_ranges
from .session import Steps

Ranges = Literal["calibrated", "averaged", "learned"]


def trainable(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibrate: Any,
    exclude: Sequence[str] = (),
    ranges: Ranges = "averaged",
    momentum: float = 0.1,
    through_variance: bool = False,
    ramp: int = 0,
    clip: float | None = None,
) -> nn.Module:
    """A network to train in place of a model: each forward is a fresh chip, and so is its backward pass.

    Its parameters and buffers are those of the model, under the same names, so that optimisers, training loops and
    state dicts are those of the plain network. Linear layers, convolutions, the matrices of recurrent layers and the
    projections of attention are on tiles: their weights are encoded
    and programmed with new errors, aged as `hardware.time_s` says, and read once with new noise. Gradients go straight
    through the rounding of levels, DACs and ADCs, end where these clip, and go through errors and noise as they were
    drawn. Afterwards `mho.map(model, hardware)` makes a chip of the trained weights.

    Args:
        hardware: what it is trained for.
        calibrate: inputs, as `mho.map` takes them, which ranges of converters start from.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.
        ranges: of converters: those of the calibration ("calibrated"), moving averages of what the steps have seen
            ("averaged"), or parameters that are trained ("learned"), one limit of the DACs and one full scale of the
            ADCs a layer, with gradients as in LSQ. `mapping.trainable.ranges.with_ranges` hands them to `mho.map`.
        momentum: of the moving averages; 0 keeps those of the calibration.
        through_variance: whether gradients go through the variance of read noise too: all of it in torch's operations,
            which take longer and more memory.
        ramp: steps of training over which errors and noise of all kinds grow in a straight line to their size; they
            have it at the step of this number, and always in evaluation. Converters are as they are from the first.
        clip: before each step of training, weights of layers on tiles are clipped at this many standard
            deviations, in place, where they have changed since the last one.

    Raises:
        MappingError: inputs that do not fit the model, no layer for tiles, or a pattern that matches none.
        ValueError: a setting of the hardware that is not differentiated; the message names layer and setting.

    Warns:
        UserWarning: layers that stay digital here and may not on a chip: those of other packages' expanders, those
            whose weights are computed (parametrisations, norms of weights), and those that the model does not call
            but by their weights.

    Example:
        >>> trained = mho.trainable(net, hardware, calibrate=x)
        >>> loss = torch.nn.functional.cross_entropy(trained(x), labels)
        >>> loss.backward()  # through the chip
        >>> net[0].weight.grad.shape
        torch.Size([8, 16])
    """
    _check_options(hardware, ranges, momentum, ramp, clip)
    check_model(model, lazy=False)
    load_handlers()
    made = copied(model, [*model.parameters(), *model.buffers()])
    for module, there in zip(made.modules(), model.modules(), strict=True):
        module.training = there.training
    steps = Steps(momentum if ranges == "averaged" else 0, through_variance, int(ramp), clip)
    made, layers = _put(made, hardware, exclude, steps)
    _check_maps(layers)
    _calibrate(made, steps, batches_of(calibrate, model, "calibrate"))
    for name, place in layers.items():
        if any(layer.design is None for layer in place.layers):
            warnings.warn(f"mho.trainable: layer {name!r} stays digital, as the model does not call it", stacklevel=2)
            made = replaced(made, name, place.before)
    steps.weights = _weights
    if ranges == "learned":
        for owner in _owners(made):
            for layer in owner.layers if isinstance(owner, TrainedExpanded) else [owner]:
                learn_ranges(layer)
    made.register_forward_pre_hook(steps)
    made.register_forward_hook(steps.end, always_call=True)
    return made


def _check_options(hardware: Hardware, ranges: str, momentum: float, ramp: int, clip: float | None) -> None:
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    if ranges not in get_args(Ranges):
        raise ValueError(f"ranges must be 'calibrated', 'averaged' or 'learned', got {ranges!r}")
    if not isinstance(momentum, Real) or not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be from 0 to 1, got {momentum!r}")
    if not isinstance(ramp, Real) or not 0 <= ramp < inf or ramp != int(ramp):
        raise ValueError(f"ramp must be a whole number of steps from 0 on, got {ramp!r}")
    if clip is not None and (not isinstance(clip, Real) or not 0 < clip < inf):
        raise ValueError(f"clip must be above 0 standard deviations, or None, got {clip!r}")


def _owners(model: nn.Module) -> list[TrainedLayer | TrainedExpanded]:
    return [module for module in model.modules() if isinstance(module, TrainedLayer | TrainedExpanded)]


def _weights(model: nn.Module) -> list[torch.Tensor]:
    """Those of layers on tiles, each once."""
    found = {id(w): w for owner in _owners(model) for w in owner.parameters() if w.ndim > 1 and w.shape[0] > 1}
    return [*found.values()]


class _Place(NamedTuple):
    """What was put in the place of a module."""

    before: nn.Module
    layers: list[TrainedLayer]


def _put(
    model: nn.Module, hardware: Hardware, exclude: Sequence[str], steps: Steps
) -> tuple[nn.Module, dict[str, _Place]]:
    """A model with layers on tiles in the places of its own, which are given by all their names."""
    names, places = names_of(model), dict[str, _Place]()
    unused, within = set(exclude), tuple(n for n, m in model.named_modules() if expander_of(m) is not None)
    for name, module in list(model.named_modules()):
        kind, expander = leaf_of(module), expander_of(module)
        inside = any(name != outer and name.startswith(f"{outer}." if outer else "") for outer in within)
        if (kind is None and expander is None) or inside:
            continue
        hit = {pattern for pattern in exclude if any(fnmatchcase(n, pattern) for n in names[name])}
        unused -= hit
        if hit:
            continue
        odd, computed = unfaithful(module) is not None, _computed(module)
        if odd and expander is None and not computed:
            continue  # as in `mho.map`, it stays digital
        if computed or (expander is not None and (odd or not expands(expander))):
            what = f"{type(module).__name__}{' whose weight or bias is computed before each use' if computed else ''}"
            warnings.warn(
                f"mho.trainable: layer {name!r}, an {what}, stays digital, in mho.map it may not: "
                "exclude it in both, or it is not trained with its errors",
                stacklevel=3,
            )
            continue
        made: TrainedLayer | TrainedExpanded
        if expander is not None:
            made = TrainedExpanded(name, names[name], module, expander, hardware, steps)
        else:
            assert kind is not None
            made = TrainedLayer(name, kind.of(module), module, hardware.for_layer(*names[name]), steps)
        for alias in names[name]:
            places[alias] = _Place(module, [*made.layers] if isinstance(made, TrainedExpanded) else [made])
            model = replaced(model, alias, made)
    if unused:
        raise MappingError(f"exclude: {sorted(unused)[0]!r} matches no layer for tiles")
    if not places:
        raise MappingError(f"the model, a {type(model).__name__}, has no linear layer or convolution to put on tiles")
    return model, places


def _computed(module: nn.Module) -> bool:
    """Whether weights or biases of a module that a handler takes are none of its own parameters."""
    handler = handler_of(module)
    try:
        found = {} if handler is None else handler.tensors(module)
    except AttributeError:  # a module whose layers have lost theirs
        return False
    own = [name for name, value in found.items() if value is not None and "." not in name]
    return any(name not in module._parameters for name in own)


def _check_maps(places: dict[str, _Place]) -> None:
    """Raises MappingError for a map of stuck cells that has layers which are not on tiles."""
    layers = {layer.name: layer for place in places.values() for layer in place.layers}
    for name, layer in layers.items():
        stuck = layer.hardware.cell.stuck
        try:
            odd = stuck.maps().keys() - layers.keys() - {""} if stuck.map is not None else None
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        if odd:
            said = ", ".join(sorted(odd))
            raise MappingError(f"cell.stuck.map: {said} is no layer on tiles; they are {', '.join(layers)}")


@torch.no_grad()
def _calibrate(model: nn.Module, steps: Steps, batches: Sequence[Any]) -> None:
    """Ranges from inputs, in evaluation; modes of training and evaluation stay as they were.

    Raises:
        MappingError: inputs that do not go through the model.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    trained = [module for module in model.modules() if isinstance(module, TrainedLayer)]
    try:
        if any(layer.hardware.dac.equalise is not None for layer in trained):
            steps.surveying = True
            _pass(model, batches, steps)
            steps.surveying = False
            for layer in trained:
                layer.equalise()
        steps.calibrating = True
        _pass(model, batches, steps)
        moved = [module.equalise() for module in model.modules() if isinstance(module, TrainedExpanded)]
        if any(moved) or any(layer.calls > 1 for layer in trained):  # once more, with the largest inputs known
            for layer in trained:
                layer.forget(inputs=any(moved))
            _pass(model, batches, steps)
            if any(moved):
                for layer in trained:
                    layer.forget(inputs=False)
                _pass(model, batches, steps)
        steps.calibrating = False
        if any(layer.hardware.dac.scaling == "sample" for layer in trained) and batches[0].samples > 1:
            _pass(model, [batches[0].first(batches[0].samples - 1)], steps)  # does their number show where they lie?
    finally:
        steps.calibrating, steps.surveying, steps.samples = False, False, None
        for module, mode in modes:
            module.training = mode


def _pass(model: nn.Module, batches: Sequence[Any], steps: Steps) -> None:
    for batch in batches:
        steps.samples = batch.samples
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
