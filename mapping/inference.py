"""Passes through a chip: a survey computes digitally, a calibration sets ranges, a read is an inference on tiles."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..crossbar.arrays import Margins
from ..crossbar.hardware import Hardware
from ..crossbar.magnitudes import Magnitudes
from .arrays import as_numpy
from .held import Held
from .inputs.order import FIRST, Order, SampleAxis, order_of, padded_order_of
from .inputs.padding import Padding
from .kinds.leaf import Leaf
from .session import Session
from .trace import Recorder

Array = np.ndarray[Any, Any]


class OneByOne(Exception):
    """Several reads cannot be made at once: a layer reads rows that belong to no single sample."""


class Unrecorded(Exception):
    """A layer is called as in no pass that was recorded: how its rows come about is not known."""


class Arranged(NamedTuple):
    """Inputs of a layer as its tiles take them.

    Attributes:
        values: (samples, depth, height, width, channels) float32, on the device and in the graph of the inputs.
        leading: the leading dimensions, of which the samples here are all in one.
        size: positions of the patches along depth, height and width.
        shared: whether several reads have these same inputs.
        margins: zeros that belong around the values; None where they are there.
    """

    values: torch.Tensor
    leading: tuple[int, ...]
    size: tuple[int, int, int]
    shared: bool = False
    margins: Margins | None = None


class OnTiles(Protocol):
    """What a pass asks of a layer on tiles: a `TileLayer` has it."""

    name: str
    spec: Leaf
    session: Session
    samples_along: SampleAxis | None
    rows_are_samples: bool
    programmed: Any

    @property
    def hardware(self) -> Hardware: ...

    def arranged(self, x: torch.Tensor, *, padded: bool = True) -> Arranged: ...
    def digital(self, x: torch.Tensor) -> torch.Tensor: ...
    def calibrate(self, inputs: list[Array], orders: list[Order], sizes: Magnitudes | None = None) -> None: ...
    def read(self, given: Arranged, order: Order, like: torch.Tensor, run: Read, call: int) -> torch.Tensor: ...


@dataclass
class Inference(ABC):
    """One pass of a model through its layers, which ask it for their outputs.

    Attributes:
        samples: of the model's inputs.
        channels_last: whether convolutions return the memory layout that they compute in.
        recorder: is told of the calls of layers, in a pass that is recorded.
        calls: of each layer so far.
    """

    samples: int = field(default=1, kw_only=True)
    channels_last: bool = field(default=False, kw_only=True)
    recorder: Recorder | None = field(default=None, kw_only=True)
    calls: dict[str, int] = field(default_factory=dict, kw_only=True)

    def output_of(self, layer: OnTiles, x: torch.Tensor) -> torch.Tensor:
        """What a layer gives for its input x in this pass, one call of it."""
        call = self.calls.get(layer.name, 0)
        if self.recorder is None:
            if self._is_new(layer, call):
                raise Unrecorded
            return self._called(layer, x, call)
        judged = layer.session.judged
        judged[layer.name] = max(judged.get(layer.name, 0), call + 1)
        if self.recorder.rows.chosen(x):
            layer.session.chosen.add(layer.name)
        return self.recorder.read(layer.name, layer.spec, x, lambda: self._called(layer, x, call))

    def _called(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        self.calls[layer.name] = call + 1
        return self._output(layer, x, call)

    def _is_new(self, layer: OnTiles, call: int) -> bool:
        """Whether a call is none of those that have been recorded, where that matters."""
        return False

    @abstractmethod
    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        """What a layer gives in its call of this number."""


@dataclass
class Survey(Inference):
    """Computes digitally, and keeps in `inputs` what goes into the layers named there, over all their calls.

    What it keeps is as in `mho.crossbar.reader.Reader.read`, but for the scales of reads, one array for each call; and
    in `orders` how the rows of each lie.
    """

    inputs: dict[str, list[Array]] = field(default_factory=dict)
    orders: dict[str, list[Order]] = field(default_factory=dict)

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        given = layer.arranged(x)
        if layer.name in self.inputs:
            self.inputs[layer.name].append(as_numpy(given.values).copy())
            self.orders.setdefault(layer.name, []).append(order_or_none(layer, given, self.samples))
        return layer.digital(x)


@dataclass
class Read(Inference):
    """The inference of a given number, or several at once: layers see their samples one read after the other.

    Attributes:
        number: of the (first) read.
        reads: how many.
        repeated: the tensor that holds the same samples for each read.
        first_sample: place of the first sample in the whole data set.
        noisy: False leaves out the noise of the read.
        alone: whether it is the read of a single layer, called by itself.
        told: whether it has warned of a layer whose rows belong to no single sample.
        padding: in front of the tokens of the samples, if there is any.
        kind: what inputs of it are alike, where their shapes do not say: a step of a generation.
        held: outputs of another inference that stand for those of this one, where layers are not read again.
    """

    number: int = 0
    reads: int = 1
    repeated: torch.Tensor | None = None
    first_sample: int = 0
    noisy: bool = True
    alone: bool = False
    told: bool = False
    padding: Padding | None = None
    kind: Any = None
    held: Held | None = None

    def again(self, **changes: Any) -> Read:
        """This read from its start, with changes."""
        return replace(self, recorder=None, calls={}, **changes)

    def shares(self, x: torch.Tensor) -> bool:
        """Whether x is the repeated samples, perhaps in another shape, so that one read's inputs stand for all."""
        same = self.repeated
        return (
            same is not None
            and x.data_ptr() == same.data_ptr()
            and not x.is_inference()
            and x._version == 0  # not written to since
            and x.is_contiguous()
            and (len(x), x.numel(), x.dtype) == (len(same), same.numel(), same.dtype)
        )

    def _is_new(self, layer: OnTiles, call: int) -> bool:
        known = layer.rows_are_samples or self.alone
        return not known and call >= layer.session.judged.get(layer.name, 0)

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        if self.held is not None:
            return self.held.output_of(layer.name, call, x, lambda: self._read(layer, x, call))
        return self._read(layer, x, call)

    def _read(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        """What its tiles give."""
        if self.shares(x):
            given, samples = layer.arranged(x[: self.samples], padded=False)._replace(shared=True), self.samples
        else:
            given, samples = layer.arranged(x, padded=False), self.samples * self.reads
        order = _order(layer, given, samples, self.padding, chosen_too=self.alone)
        if order is None:
            self._warn(layer, given.leading, samples)
            if self.reads > 1:
                raise OneByOne
            order = order_of(given.leading, FIRST, 0)
        return layer.read(given, order, x, self, call)

    def _warn(self, layer: OnTiles, leading: tuple[int, ...], samples: int) -> None:
        """Warn of rows that belong to no single sample, where it shows; from now on reads are made one by one."""
        chosen = layer.name in layer.session.chosen
        elsewhere = leading and leading[0] != 1 and layer.samples_along is not None  # chunks of a batch, say
        if self.alone or not (chosen or elsewhere):
            return
        layer.session.one_by_one = True
        if self.told:  # of a layer before it: a model of experts has hundreds
            return
        self.told = True
        shape = f" has an input of shape {leading} before its features for {samples} samples: its rows"
        how = ": the model chooses its rows by their values, so that they" if chosen else shape
        said = f"{how} belong to no single sample, and its noise depends on the batch"
        warnings.warn(f"layer {layer.name!r}{said}", stacklevel=2)


@dataclass
class Calibration(Inference):
    """Sets the ranges of each layer at its first call, and reads it without noise.

    `inputs` are those of layers that were surveyed, over all their calls, with their `orders`; of others those of the
    first call count. `sizes` are those of all inputs, where these are some of them. `tell` is told the number of
    layers so far.
    """

    inputs: Mapping[str, list[Array]] = field(default_factory=dict)
    orders: Mapping[str, list[Order]] = field(default_factory=dict)
    sizes: Mapping[str, Magnitudes] = field(default_factory=dict)
    tell: Callable[[int], object] = lambda done: None

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        given, known = layer.arranged(x), self.inputs.get(layer.name)
        if known is None and not (layer.programmed if call else given.values.any()):
            return layer.digital(x)  # no range comes from zeros, as a state starts with; later calls may have others
        order = order_or_none(layer, given, self.samples)
        if not call:
            surveyed = (known, self.orders[layer.name]) if known else ([as_numpy(given.values)], [order])
            layer.calibrate(*surveyed, self.sizes.get(layer.name))
            self.tell(len(self.calls))
        return self._on_tiles(layer, given, x, call)

    def _on_tiles(self, layer: OnTiles, given: Arranged, x: torch.Tensor, call: int) -> torch.Tensor:
        """What its tiles give, without noise."""
        order = order_or_none(layer, given, self.samples)
        run = Read(noisy=False, samples=self.samples, channels_last=self.channels_last)
        return layer.read(given, order, x, run, call)


def order_or_none(layer: OnTiles, given: Arranged, samples: int) -> Order:
    """How the rows of a layer's inputs belong to so many samples, or that they belong to none."""
    return _order(layer, given, samples) or order_of(given.leading, FIRST, 0)


def _order(
    layer: OnTiles, given: Arranged, samples: int, padding: Padding | None = None, *, chosen_too: bool = False
) -> Order | None:
    """How the rows of a layer's inputs belong to so many samples; None where they belong to none.

    Rows that the model chose by their values belong to none, but in the read of a single layer (`chosen_too`).
    """
    leading, place = given.leading, layer.samples_along
    if layer.rows_are_samples:
        return order_of(leading, FIRST, len(given.values))
    if layer.name in layer.session.chosen and not chosen_too:
        return None
    if leading and place is not None and len(leading) > place.axis and leading[place.axis] % samples == 0:
        if padding is not None:
            return padded_order_of(leading, place, samples, padding)
        return order_of(leading, place, samples)
    return None
