"""Chips made ready to read: ranges set from inputs, and all layers programmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..crossbar.drive import Drive
from .errors import MappingError
from .inference import Calibration, Inference, Survey
from .inputs.batches import Batch, joined
from .inputs.order import Order
from .inputs.samples import locate
from .inputs.stream import Sizes, Stream
from .mapped import MappedNetwork
from .progress import Tell
from .steps import equalize, joints, stepped


def prepare(chip: MappedNetwork, inputs: Stream | None, tell: Tell | None = None) -> dict[str, str]:
    """Set the ranges that hardware leaves to calibration from inputs, and program all layers.

    Of more inputs than are kept, all set the ranges of the DACs, and some that are spread evenly those of the ADCs.
    `tell` is told how many layers are programmed, and how many there are.

    Returns:
        The layers that no range could be set for, and so are not programmed, with the reason.

    Raises:
        MappingError: inputs are needed and missing, or do not fit the model.
    """
    if inputs is None:
        _program(chip, tell)
        return {}
    with goes_through(inputs.first[0]):
        batches, sizes = (inputs.first, None) if inputs.whole is None else _sized(chip, inputs)
        return _calibrate(chip, batches, sizes, tell)


def _sized(chip: MappedNetwork, inputs: Stream) -> tuple[list[Batch], Sizes]:
    """The batches to keep, and how large the inputs of each layer are in all of them."""
    kept: list[Batch] = []
    rare: list[Batch] = []  # the first that reach a layer, which need not do so beside others
    run = Sizes({name: step.input_size for name, step in joints(chip.model).items()})
    for number, batch in enumerate(inputs.batches()):
        known = set(run.reached)
        run.calls.clear()
        with goes_through(batch):
            rehearse(chip, batch, run)
        if number and run.reached - known:
            rare.append(batch)
        elif number in inputs.kept:
            kept.append(batch)
    return [*(joined(kept) if len(kept) > 1 else kept), *rare], run


@contextmanager
def goes_through(batch: Batch) -> Iterator[None]:
    """A failure of the model on calibration inputs is an error that names them.

    Raises:
        MappingError: it failed.
    """
    try:
        yield
    except MappingError:
        raise
    except Exception as error:  # a model may fail in any way on inputs that are not its own
        reason = " ".join(str(error).split())[:300]
        raise MappingError(
            f"calibrate: inputs of shape {batch.shape} do not go through the model ({type(error).__name__}: {reason})"
        ) from error


def _program(chip: MappedNetwork, tell: Tell | None) -> None:
    """Program layers whose ranges the hardware sets."""
    for done, (name, layer) in enumerate(chip.layers.items(), 1):
        dac, adc = layer.hardware.dac, layer.hardware.adc
        if "calibrated" in (dac.range, adc.full_scale):
            field = "dac.range" if dac.range == "calibrated" else "adc.full_scale"
            raise MappingError(
                f"layer {name!r}: {field} is 'calibrated': pass calibrate=, a batch of real inputs, "
                f"or set {field} to a number"
            )
        layer.program(Drive.of(dac, None if dac.range is None else float(dac.range), signed=True))
        if tell is not None:
            tell(done, len(chip.layers))


def _calibrate(chip: MappedNetwork, batches: Sequence[Batch], sizes: Sizes | None, tell: Tell | None) -> dict[str, str]:
    """Layer after layer; a layer that is called several times needs the inputs of all its calls beforehand.

    So does each layer where there are several batches.
    """
    by_sample = any(layer.hardware.dac.scaling == "sample" for layer in chip.layers.values())
    if by_sample and not chip.session.located:  # else ranges would be those of other samples' scales
        locate(chip, batches[0].args, batches[0].kwargs)
    several = stepped(chip.model) if len(batches) == 1 else set(chip.layers)
    while True:
        survey: dict[str, list[Any]] = {name: [] for name in several}
        orders: dict[str, list[Order]] = {}
        for batch in batches if several else ():
            rehearse(chip, batch, Survey(survey, orders))
        inputs = {name: arrays for name, arrays in survey.items() if any(x.any() for x in arrays)}
        equalize(chip.model, inputs)
        gains = {name: float(step.gain) for name, step in joints(chip.model).items()}
        ranges = {} if sizes is None else sizes.ranges(gains)
        run = Calibration(inputs, orders, ranges, lambda done: tell and tell(done, len(chip.layers)))
        rehearse(chip, batches[0], run)
        for name in inputs.keys() - run.calls.keys():  # only later batches reach it
            chip.layers[name].calibrate(inputs[name], orders[name], ranges.get(name))
        idle = {name for name, layer in chip.layers.items() if layer.programmed is None}
        reached = run.calls.keys() | {name for name, arrays in survey.items() if arrays}
        more = ((idle & reached) | {name for name, calls in run.calls.items() if calls > 1}) - several
        if not more:
            zero, never = "its calibration inputs are all zero", "the calibration inputs never reach it"
            return {name: zero if name in reached else never for name in chip.layers if name in idle}
        several |= more


def rehearse(chip: MappedNetwork, batch: Batch, run: Inference) -> None:
    """A pass of a copy that has the same matrices: it changes neither the inputs nor what the model keeps.

    Only the trace, and what was programmed, is kept.
    """
    trial, batch = chip.trial(), batch.apart()
    trial.run(batch.args, run, batch.kwargs)
    for name, layer in trial.layers.items():
        chip.layers[name].programmed = layer.programmed
    chip.session.trace, chip.session.shapes = trial.session.trace, trial.session.shapes
