"""`mho.map`: a trained torch model onto virtual tiles."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..crossbar.backend import Backend
from ..crossbar.backends import DEFAULT, backend_of
from ..crossbar.hardware import Hardware
from ..crossbar.wire_compensation import WireCompensation
from .batches import Batch, batches_of
from .check import SAMPLES, Check, compare, reference
from .chip import Chip, refuse_extrapolations
from .cover import OFF, UNCHECKED, Cover
from .errors import MappingError
from .faithful import MAPPED, check_model
from .fold import BATCH_NORMS
from .inference import Inference
from .modules import copied
from .passes import Pass
from .selection import Selection


def map(
    model: nn.Module,
    hardware: Hardware,
    *,
    calibrate: Any = None,
    check: Any = True,
    seed: int = 0,
    exclude: Iterable[str] = (),
    wire_compensation: WireCompensation | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    backend: str | Backend = DEFAULT,
) -> Chip:
    """Map a trained model onto the tiles of one chip.

    Linear, convolution and recurrent layers go onto tiles, with the batch norm that follows folded in; everything else
    stays digital and is listed, with the reason, in `Chip.report`. The caller's model is not touched. A layer with
    several parents is one layer.

    Args:
        model: any torch model; it is mapped as in evaluation mode.
        hardware: what the chip is made of. `hardware.layers` overrides fields per layer.
        calibrate: real inputs, from which the ranges of the converters are set where the hardware leaves them to
            calibration: a tensor, a NumPy array, a tuple of positional inputs, a dict of keyword inputs, or an iterable
            of such batches (a DataLoader), of which up to 1,024 samples are taken: see `mho.mapping.batches`.
        check: by default the digital form of the mapped network is compared with the caller's network, layer by layer
            and at the output, on the first 3 of the calibration inputs; or on those given here, in the same forms.
            Relative errors (RMS) of half the digits of the coarsest floating-point type in use (sqrt(eps), 3.5e-4
            for float32) count as rounding. False leaves it out, and so does a call without inputs; the report says so.
        seed: which chip. The same seed gives the same programmed conductances and the same noise in each read.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.
        wire_compensation: what is done about the loss in wires with resistance. `gain`: the readings of each column of
            a tile are multiplied by a number, measured on each chip. `program`: cells are programmed to conductances
            that are right once the wires have taken their part.
        strict: layers whose weights are all zero, and layers that the calibration inputs never reach or reach with
            zeros alone, are errors, and otherwise they stay digital. So are settings of the hardware outside the data
            behind its models, of which there is otherwise a `devices.data.ExtrapolationWarning` and a line in the
            report.
        progress: told how many of the tiles with resistive wires are solved, and how many there are.
        backend: what computes the tiles, by name (`numba`, `numpy`, or one that was added) or itself: see
            docs/kernels.md. Copies of the chip and the chip at other times keep it.

    Raises:
        ValueError: there is no such backend.
        MappingError: a pattern that matches no layer, nothing to map, weights that are NaN or infinite, missing or
            unfit calibration inputs, or a mapped network that is not the caller's; the message names the layer.
    """
    check_model(model)
    computes = backend_of(backend)
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    batches = [] if calibrate is None else batches_of(calibrate, model, "calibrate")
    asked = check is None or isinstance(check, bool)
    tried = batches if asked else batches_of(check, model, "check")
    caller, model = model, copied(model)
    samples = tried[0].first(SAMPLES) if tried and check is not False else None
    before, fault = _first_pass(model, samples)
    if fault is not None and samples is not tried[0]:  # a model may take a fixed number of samples
        before, fault = _first_pass(model, samples := tried[0])
    selection = Selection(model, hardware, [exclude] if isinstance(exclude, str) else list(exclude), strict, seed)
    selection.place(before.taken if before else frozenset())
    if strict:
        refuse_extrapolations({name: layer.hardware for name, layer in selection.mapped.items()})
    chip = Chip(selection.model, hardware, selection.mapped, (), seed)
    chip.strict = strict
    for layer in selection.mapped.values():
        layer.backend = computes
    chip.session.replaced.update(selection.replaced(caller))
    wired = [layer for layer in selection.mapped.values() if not layer.hardware.wires.ideal]
    if wire_compensation not in (None, "gain", "program"):
        raise MappingError(f"wire_compensation must be 'gain', 'program' or None, got {wire_compensation!r}")
    if wire_compensation and not wired:
        raise MappingError(
            f"wire_compensation is {wire_compensation!r}, and no layer has wires with resistance: see hardware.wires"
        )
    solved = itertools.count(1)
    tiles = sum(layer.placement.tiles for layer in wired) * (2 if wire_compensation == "program" else 1)
    for layer in wired:
        layer.wire_compensation = wire_compensation
        layer.tell = None if progress is None else lambda: progress(next(solved), tiles)
    outcome: Check | str = OFF if check is False else UNCHECKED
    if samples is not None:
        said = "calibrate" if asked else "check"
        outcome = _second_pass(chip, selection.watched(), samples, before, fault, said)
    idle = chip.prepare(batches)
    if idle:
        selection.restore(chip, idle)
        chip.session.replaced.clear()
        chip.session.replaced.update(selection.replaced(caller))
        chip.trace = []
        chip.rehearse(batches[0], Inference(surveying=True))  # the trace without them
    for layer in wired:
        layer.tell = None
    chip.digital = selection.digital(chip.model)
    chip.cover = Cover.of(chip, selection.parameters, selection.held(), outcome)
    return chip


def _first_pass(model: nn.Module, samples: Batch | None) -> tuple[Pass | None, Exception | None]:
    """The caller's network on some samples, or what became of it."""
    if samples is None:
        return None, None
    names = [name for name, module in model.named_modules() if isinstance(module, (*MAPPED, *BATCH_NORMS))]
    try:
        return reference(model, names, samples), None
    except Exception as error:  # a model may fail in any way on inputs that are not its own
        return None, error


def _second_pass(
    chip: Chip, names: list[str], samples: Batch, before: Pass | None, fault: Exception | None, said: str
) -> Check:
    if before is not None:
        return compare(chip, before, names, samples)
    with contextlib.suppress(RuntimeError, TypeError, IndexError, AttributeError, KeyError, AssertionError):
        chip.rehearse(samples, Inference(surveying=True))  # whose layers say what they take
    reason = " ".join(str(fault).split())[:300]
    raise MappingError(
        f"{said}: inputs of shape {samples.shape} do not go through the model ({type(fault).__name__}: {reason})"
    ) from fault
