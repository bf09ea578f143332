"""`mho.map`: a trained torch model onto virtual tiles."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..crossbar.backend import Backend
from ..crossbar.backends import DEFAULT
from ..crossbar.hardware import Hardware
from ..crossbar.max_memory import trim
from ..crossbar.wire_compensation import WireCompensation
from ..devices.renamed import renamed
from .backends import backend_with_arrays
from .check import SAMPLES, Check, compare, reference
from .checkpoints.factories import factory_of
from .chip import Chip, refuse_extrapolations
from .cover import OFF, UNCHECKED, Cover
from .equalise import equalise
from .errors import MappingError
from .faithful import check_model
from .fold import BATCH_NORMS
from .inference import Survey
from .inputs.batches import Batch, batches_of
from .inputs.lazy import is_lazy, materialise
from .inputs.stream import Stream
from .kinds.known import handled_types, load_handlers
from .lent import Written, hand_back, keep, lent
from .operands.uses import Uses, candidates
from .passes import Pass
from .prepare import prepare, rehearse
from .progress import told
from .selection import Selection


@renamed(compensate="wire_compensation")
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

    Linear, convolution and recurrent layers, and those of kinds that others have registered, go onto tiles, with the
    batch norm that follows folded in; everything else stays digital and is listed, with the reason, in `Chip.report`.
    The caller's model does not change. A layer with several parents is one layer.

    Args:
        model: any torch model; it is mapped as in evaluation mode.
        hardware: what the chip is made of. `hardware.layers` overrides fields per layer.
        calibrate: real inputs, from which the ranges of the converters are set where the hardware leaves them to
            calibration: a tensor, a NumPy array, a tuple of positional inputs, a dict of keyword inputs, or an iterable
            of such batches (a DataLoader), which is read as it comes: see `mho.mapping.inputs.stream`. Of an iterable
            without a length, such as a generator, up to 1,024 samples are taken.
        check: by default the digital form of the mapped network is compared with the caller's network, layer by layer
            and at the output, on the first 3 of the calibration inputs; or on those given here, in the same forms.
            Relative errors (RMS) of half the digits of the coarsest floating-point type in use (sqrt(eps), 3.5e-4
            for float32) count as rounding. False leaves it out, and so does a call without inputs; the report says so.
        seed: which chip. The same seed gives the same programmed conductances and the same noise in each read.
        exclude: names, or patterns of shell wildcards, of layers that stay digital.
        wire_compensation: of the loss in wires with resistance. `gain`: readings of each column of a tile are
            multiplied by a number measured on each chip. `program`: conductances are chosen so that they are right with
            the wires.
        strict: layers whose weights are all zero, and layers that the calibration inputs never reach or reach with
            zeros alone, are errors; without it they stay digital. So are settings of the hardware outside the data
            behind its models, which otherwise get an `ExtrapolationWarning` and a line in the report.
        progress: called with how many of the layers are programmed, and how many there are; or, with resistive wires,
            with how many tiles are solved. None: a line on the terminal, if standard error is a terminal, after two
            seconds.
        backend: what computes the tiles, by name (`numba`, `numpy`, `torch`, or one that was added) or itself: see
            docs/kernels.md, and docs/torch-backend.md for other devices and gradients. Copies of the chip and the chip
            at other times keep it.

    Raises:
        ValueError: there is no such backend.
        MappingError: a pattern that matches no layer, nothing to map, weights that are NaN or infinite, missing or
            unfit calibration inputs, or a mapped network that is not the caller's; the message names the layer.

    Example:
        >>> chip = mho.map(net, hardware, calibrate=x, seed=0)
        >>> list(chip.layers)
        ['0', '2']
        >>> list(mho.map(net, hardware, calibrate=x, exclude=["2"]).layers)
        ['0']
    """
    check_model(model, lazy=calibrate is not None or not (check is None or isinstance(check, bool)))
    _check_options(hardware, wire_compensation)
    computes = backend_with_arrays(backend)
    load_handlers()
    inputs = None if calibrate is None else Stream.of(calibrate, model, "calibrate")
    batches = [] if inputs is None else inputs.first
    own = None if check is None or isinstance(check, bool) else batches_of(check, model, "check")
    for share in (not is_lazy(model), False):
        with contextlib.suppress(Written), told("mapping, layers", progress) as tell, lent(model, share=share) as mine:
            if is_lazy(mine):
                materialise(mine, (batches or own or [])[0], seed)
            selection = Selection(mine, hardware, exclude, strict, seed)
            trial = _Trial.of(mine, batches, own, off=check is False)
            selection.fold(trial.taken)
            selection.expand(Uses.of(mine, trial.samples or (batches[0].first(SAMPLES) if batches else None)))
            selection.place()
            hand_back(model)
            for layer in selection.mapped.values():
                layer.backend = computes
            chip = _build(selection, model)
            equalise(chip, () if inputs is None else inputs.batches())
            with _wires(selection, wire_compensation, tell) as wired:
                outcome = trial.compare(chip, selection.watched())
                del trial
                trim()  # what went through the networks is used no more
                idle = prepare(chip, inputs, None if wired else tell)
            if idle:
                _restore(selection, chip, model, idle, batches[0])
            chip.digital = selection.digital(chip.model)
            chip.cover = Cover.of(chip, selection.parameters, selection.held(), outcome)
            keep(chip.model, selection.copies())
            break
    trim()  # nor is what made it ready
    return chip


def _check_options(hardware: Hardware, wire_compensation: WireCompensation | None) -> None:
    if not isinstance(hardware, Hardware):
        raise MappingError(f"hardware must be a mho.Hardware (see Hardware.preset), got {type(hardware).__name__}")
    if wire_compensation not in (None, "gain", "program"):
        raise MappingError(f"wire_compensation must be 'gain', 'program' or None, got {wire_compensation!r}")


@dataclass(frozen=True)
class _Trial:
    """The caller's network on the first samples, or what became of it, with which the mapped one is compared.

    Attributes:
        samples: None where there are none, and nothing is compared for the reason `said`.
        before: the pass of the caller's network; None where it failed with the `fault`.
        said: the argument that the samples come from.
    """

    samples: Batch | None
    before: Pass | None
    fault: Exception | None
    said: str

    @classmethod
    def of(cls, model: nn.Module, batches: list[Batch], own: list[Batch] | None, *, off: bool) -> _Trial:
        """Of a model, which is left as it is, on the calibration inputs or on its `own`; none where it is `off`."""
        if off:
            return cls(None, None, None, OFF)
        tried = batches if own is None else own
        if not tried:
            return cls(None, None, None, UNCHECKED)
        samples = tried[0].first(SAMPLES)
        before, fault = _pass(model, samples)
        if fault is not None and samples is not tried[0]:  # a model may take a fixed number of samples
            before, fault = _pass(model, samples := tried[0])
        return cls(samples, before, fault, "calibrate" if own is None else "check")

    @property
    def taken(self) -> frozenset[str]:
        """Layers whose weights the caller's network uses past their forward."""
        return self.before.taken if self.before else frozenset()

    def compare(self, chip: Chip, names: list[str]) -> Check | str:
        """What the comparison with a mapped network shows, which gives the same at these names; or why there is none.

        Raises:
            MappingError: it is another network, or the caller's failed on the samples.
        """
        if self.samples is None:
            return self.said
        if self.before is not None:
            return compare(chip, self.before, names, self.samples)
        with contextlib.suppress(RuntimeError, TypeError, IndexError, AttributeError, KeyError, AssertionError):
            rehearse(chip, self.samples, Survey())  # whose layers say what they take
        reason = " ".join(str(self.fault).split())[:300]
        raise MappingError(
            f"{self.said}: inputs of shape {self.samples.shape} do not go through the model "
            f"({type(self.fault).__name__}: {reason})"
        ) from self.fault


def _pass(model: nn.Module, samples: Batch) -> tuple[Pass | None, Exception | None]:
    """The caller's network on some samples, or what became of it."""
    kinds = (*handled_types(), *BATCH_NORMS)
    holders = [*dict.fromkeys(name.rpartition(".")[0] for name in candidates(model))]
    try:
        names = [name for name, m in model.named_modules() if isinstance(m, kinds)]
        return reference(model, names, samples, holders), None
    except Exception as error:  # a model may fail in any way on inputs that are not its own
        return None, error


def _build(selection: Selection, caller: nn.Module) -> Chip:
    """The chip of the layers that were placed, not yet programmed."""
    if selection.strict:
        refuse_extrapolations({name: layer.hardware for name, layer in selection.mapped.items()})
    _check_maps(selection)
    chip = Chip(selection.model, selection.hardware, selection.mapped, (), selection.seed)
    chip.strict = selection.strict
    chip.session.factory = factory_of(caller)
    chip.session.replaced.update(selection.replaced(caller))
    return chip


def _check_maps(selection: Selection) -> None:
    """Raises MappingError for a map of stuck cells that cannot be read, or that has layers which are not on tiles."""
    for name, layer in selection.mapped.items():
        try:
            odd = layer.hardware.cell.stuck.maps().keys() - selection.mapped.keys() - {""}
        except ValueError as error:
            raise MappingError(f"layer {name!r}: {error}") from error
        if odd:
            known = ", ".join(selection.mapped)
            raise MappingError(f"cell.stuck.map: {', '.join(sorted(odd))} is no layer on tiles; they are {known}")


@contextlib.contextmanager
def _wires(
    selection: Selection, compensation: WireCompensation | None, tell: Callable[[int, int], None]
) -> Iterator[bool]:
    """Layers with resistive wires compensate them, and tell of their progress meanwhile; whether there are any.

    Raises:
        MappingError: there is nothing to compensate.
    """
    wired = [layer for layer in selection.mapped.values() if not layer.hardware.wires.ideal]
    if compensation and not wired:
        raise MappingError(
            f"wire_compensation is {compensation!r}, and no layer has wires with resistance: see hardware.wires"
        )
    solved = itertools.count(1)
    tiles = sum(layer.placement.tiles for layer in wired) * (2 if compensation == "program" else 1)
    for layer in wired:
        layer.wire_compensation = compensation
        layer.tell = lambda: tell(next(solved), tiles)
    yield bool(wired)
    for layer in wired:
        layer.tell = None


def _restore(selection: Selection, chip: Chip, caller: nn.Module, idle: dict[str, str], batch: Batch) -> None:
    """Take idle layers off the tiles again, and record the chip without them."""
    selection.restore(chip, idle)
    chip.session.replaced.clear()
    chip.session.replaced.update(selection.replaced(caller))
    chip.trace = []
    rehearse(chip, batch, Survey())
