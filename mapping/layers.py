"""A layer on tiles: the module that reads them in the place of the torch layer."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn

from ..crossbar.arrays import Unpadded
from ..crossbar.backend import Backend
from ..crossbar.backends import DEFAULT, backend_of
from ..crossbar.calibration import calibrate
from ..crossbar.cells import Drawn
from ..crossbar.design import Design, Tell
from ..crossbar.drive import Drive
from ..crossbar.hardware import Hardware
from ..crossbar.magnitudes import Magnitudes
from ..crossbar.matrix import Matrix
from ..crossbar.max_memory import released
from ..crossbar.patches import PLAIN
from ..crossbar.placement import Placement
from ..crossbar.programmed import Programmed
from ..crossbar.reader import Counts, Seeds
from ..crossbar.wire_compensation import WireCompensation
from .arrays import EXCHANGES, as_numpy
from .counting import Counter
from .errors import MappingError
from .inference import Arranged, Read
from .inputs.order import FIRST, Order, SampleAxis
from .kinds.leaf import Leaf, Matrices
from .modules import own_method
from .parameters import TileParameter
from .scaling import Scaled, by_row, operations, scaled
from .session import Session
from .takes import check_shape, check_size, check_values

CELLS = "cells"  # key of a layer's cells in a state dict: their digest


class TileLayer(nn.Module):
    """A layer on tiles; takes and returns what the torch layer does, with gradients if its backend has them.

    Attributes:
        spec: its geometry: what it takes, and what its tiles make of that.
        matrix: the weights, and how inputs become word lines.
        programmed: the tiles, once the ranges of the inputs are known.
        seeds: of programming errors and of the noise of reads.
        counter: of the conversions.
        wire_compensation, tell: see `Design`.
        equaliser: (channels,) float32 that arranged inputs are divided by; the matrix has been multiplied by it.
        session: shared with the chip.
        samples_along: where the samples lie in its inputs; None where its rows belong to no sample.
        rows_are_samples: whether each row is a sample, however many the chip has: in the steps of recurrent layers.
        aliases: all names the layer has in its model.
        origin: type of the module in its place, whose methods beyond torch's are called with this layer.
    """

    def __init__(self, name: str, spec: Leaf, weights: Matrices, hardware: Hardware, seed: int, copy: int = 0) -> None:
        super().__init__()
        self.name = name
        self.aliases: list[str] = [name]
        self.origin: type[nn.Module] = nn.Module
        self.spec = spec
        self.session = Session()
        self.samples_along: SampleAxis | None = FIRST
        self.rows_are_samples = False
        self.matrix = Matrix(name, weights.weights, weights.bias, hardware, spec.patches)
        self.seeds = Seeds(seed, copy)
        self.backend: Backend = backend_of(DEFAULT)
        self.programmed: Programmed | None = None
        self.counter = Counter()
        if spec.patches != PLAIN and hardware.dac.scaling == "token":
            raise ValueError(
                "dac.scaling must be 'layer' or 'sample' for a kernel of several places, which is no token, got 'token'"
            )
        self.equaliser: torch.Tensor | None = None
        self.wire_compensation: WireCompensation | None = None
        self.tell: Tell | None = None
        self.add_parameters()

    def add_parameters(self) -> None:
        """Weight and bias as the model may ask for them."""
        for kind, shape in (("weight", self.spec.weight_shape), ("bias", (self.spec.out_features,))):
            there = kind == "weight" or self.matrix.bias is not None
            made = TileParameter(self, kind, shape, getattr(torch, self.spec.dtype)) if there else None
            self._parameters[kind] = made  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parameters": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.add_parameters()

    def __getattr__(self, name: str) -> Any:
        spec = vars(self).get("spec")
        if spec is not None and name in spec.attributes:
            return spec.attributes[name]
        if (method := own_method(vars(self).get("origin", nn.Module), name)) is not None:
            return method.__get__(self, type(self))
        own = (vars(self).get(kind, ()) for kind in ("_parameters", "_buffers", "_modules"))
        if spec is None or any(name in kept for kept in own):
            return super().__getattr__(name)
        raise AttributeError(f"layer {vars(self).get('name')!r}, on tiles, has no attribute {name!r}")

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        raise MappingError(f"layer {self.name!r} is on tiles: its {name} cannot be set; change the model and map it")

    @property
    def hardware(self) -> Hardware:
        return self.programmed.hardware if self.programmed else self.matrix.hardware

    @property
    def tiles(self) -> Programmed:
        """The programmed matrix.

        Raises:
            MappingError: it is not programmed yet.
        """
        if self.programmed is None:
            raise MappingError(f"layer {self.name!r} is not programmed: the ranges of its inputs are not known")
        return self.programmed

    @property
    def counts(self) -> Counts:
        """Conversions so far."""
        return self.counter.counts

    def calibrate(
        self, inputs: list[np.ndarray[Any, Any]], orders: list[Order], sizes: Magnitudes | None = None
    ) -> None:
        """Set the ranges from inputs (as a `Survey` keeps them), those of all calls of one inference, and program.

        `sizes` are those of all inputs, where these are some of them.

        Raises:
            MappingError: see `crossbar.calibration.calibrate`.
        """
        cells = Drawn(self.matrix.hardware, *self.seeds)
        options = self.seeds, self.backend, self.wire_compensation, self.tell
        pairs = zip(inputs, orders, strict=True)
        driven = tuple(as_numpy(self.scaled(torch.from_numpy(x), order).values) for x, order in pairs)
        try:
            self.programmed = calibrate(self.matrix, driven, cells, *options, sizes)
        except ValueError as error:
            raise MappingError(str(error)) from error
        self.counter.counts = Counts()

    def program(self, drive: Drive) -> None:
        """Program without inputs, for those of this drive."""
        design = Design.of(self.matrix, drive, None, self.wire_compensation, self.tell, self.backend)
        cells = Drawn(self.matrix.hardware, *self.seeds)
        self.programmed = Programmed.of(design, cells, self.seeds, self.backend, tell=self.tell)

    @property
    def placement(self) -> Placement:
        return self.matrix.placement

    @property
    def fillers(self) -> int:
        """Zeros on its tiles that stand for none of the weights."""
        return prod(self.spec.matrix_shape) - prod(self.spec.weight_shape) + self.matrix.fillers

    @property
    def pulses(self) -> int:
        """Times that the array is read for an input, in each phase."""
        drive = self.programmed and self.programmed.design.drive
        return drive.reads // drive.phases if drive else 1

    @property
    def phases(self) -> int:
        """Of the reads of an input, by its signs."""
        return self.programmed.design.drive.phases if self.programmed else 1

    @property
    def array_energy_j(self) -> float | None:
        return self.programmed.ranges.array_energy_j if self.programmed else None

    @property
    def positions(self) -> int | None:
        """Matrix reads per sample in one inference, all calls of the layer together; None before the first."""
        return self.session.positions(self.name)

    def forward(self, input: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:  # as torch names it
        self._check(input)
        return self.spec.called(self._output, input, *more, **named)

    def _output(self, input: torch.Tensor) -> torch.Tensor:
        run = self.session.inference
        if run is None:  # a read of this layer alone
            run = Read(number=self.session.next_read(), samples=len(input) if input.ndim else 1, alone=True)
        return run.output_of(self, input)

    def _check(self, x: torch.Tensor) -> None:
        """Raises MappingError for what is no input of the layer, or has no values that tiles could read."""
        check_values(self.name, x)
        for kind in ("weight", "bias"):
            there = kind == "weight" or self.matrix.bias is not None
            if isinstance(self._parameters.get(kind), TileParameter) is not there or kind in vars(self):
                raise MappingError(f"layer {self.name!r} is on tiles: its {kind} cannot be replaced in a call")

    def arranged(self, x: torch.Tensor, *, padded: bool = True) -> Arranged:
        """An input of the layer as its tiles take it; zeros around it may be left to them where it is not `padded`.

        Raises:
            MappingError: it has other dimensions than the layer takes.
        """
        spec, dims, shape = self.spec, self.spec.dims, tuple(x.shape)
        check_shape(self.name, spec, shape)
        x, margins = x if x.dtype == torch.float32 else x.to(torch.float32), None
        if padded or self.hardware.dac.scaling != "layer":  # scales are found among all values
            values = spec.arrange(x)
        else:
            values, margins = spec.laid_out(x)
        whole = tuple(values.shape if margins is None else Unpadded(values, margins).shape)
        check_size(self.name, spec, whole)
        size = self.matrix.patches.positions(whole[1:4])
        return Arranged(self._equalised(values), shape[: -1 - dims], size, margins=margins)

    def _equalised(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.equaliser is None else values / self.equaliser.to(values.device)

    def scaled(self, values: torch.Tensor, order: Order) -> Scaled:
        """Arranged inputs as the DACs take them; by sample where a sample has a scale, or rows are read.

        Raises:
            MappingError: a scale for each sample, and rows that belong to none.
        """
        dac = self.hardware.dac
        if dac.scaling == "layer":
            return Scaled(values)
        mixed = self.name in self.session.chosen or (self.samples_along is not None and order.leading[:1] != (1,))
        if dac.scaling == "sample" and not order.samples and order.leading and mixed:
            raise MappingError(
                f"layer {self.name!r}: dac.scaling is 'sample', and its rows, of shape {order.leading}, belong to no "
                "single sample; set 'token' or 'layer'"
            )
        return scaled(order.arranged(values), dac, order, self.matrix.patches.positions(values.shape[1:4]))

    def read(self, given: Arranged, order: Order, like: torch.Tensor, run: Read, call: int) -> torch.Tensor:
        """The layer's output from its tiles, in a read and in a call of this number within it.

        Args:
            given: the input, or that of one read, where it is shared.
            order: how its rows belong to samples.
            like: the whole input, whose type and device the output has.
        """
        spec, tiles = self.spec, self.tiles
        size, exchange = given.size[3 - spec.dims :], EXCHANGES[tiles.backend.kind]
        whole = tiles.hardware.dac.scaling == "layer"  # the ranges are those of calibration
        values, scales = Scaled(order.arranged(given.values)) if whole else self.scaled(given.values, order)
        x = exchange.given(values)
        y, counts = tiles.reader.read(
            x if given.margins is None else Unpadded(x, given.margins),
            read=run.number,
            reads=run.reads,
            shared=given.shared,
            first_sample=run.first_sample if order.samples or not given.leading else 0,
            shape=(*order.others, *size),
            call=call,
            noisy=run.noisy,
            threads=torch.get_num_threads(),
            scales=None if scales is None else exchange.given(scales),
        )
        self.counter.add(counts)
        out = exchange.returned(y.reshape(-1, *size, y.shape[1]), like)
        out = spec.assemble(order.restored(out))
        if len(given.leading) != 1:
            out = out.reshape(*like.shape[: like.ndim - 1 - spec.dims], *out.shape[1:])
        return out if run.channels_last else out.contiguous()

    @torch.no_grad()
    def digital(self, x: torch.Tensor, *, as_tiles: bool = False) -> torch.Tensor:
        """What the layer gives for x without tiles: torch's own arithmetic on the (folded) weights.

        Args:
            as_tiles: from the arranged inputs, as tiles compute it, where its kind has a faster way.
        """
        weights, bias = torch.from_numpy(self.matrix.weights), self.matrix.bias
        flat = None if bias is None else torch.from_numpy(bias).reshape(-1)
        given, spec = x.to("cpu", torch.float32), self.spec
        if self.equaliser is not None:
            y = spec.of_arranged(self._equalised(spec.arrange(given)), weights, flat)
            return y.reshape(*x.shape[: x.ndim - 1 - spec.dims], *y.shape[1:]).to(x)
        compute = Leaf.digital if as_tiles else type(spec).digital
        y = compute(spec, given, weights, flat).to(x)
        released(self.matrix.weights)
        return y

    def stored(self, kind: str) -> torch.Tensor:
        """Weight or bias, as `kind` says, in torch's layout: what the cells stand for, or before they do the exact."""
        matrix, programmed = self.matrix, self.programmed
        if kind == "bias":
            assert matrix.bias is not None
            if programmed is None or not matrix.bias_on_array:
                return self.spec.channels(torch.from_numpy(matrix.bias))
            return self.spec.channels(torch.from_numpy(programmed.weights[:, -1] * programmed.design.drive.limit))
        found = matrix.weights if programmed is None else programmed.weights[:, : matrix.weights.shape[1]]
        return self.spec.weight_of(torch.from_numpy(self.unequalised(found))).contiguous()

    def unequalised(self, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Weights (groups, rows, outputs) of the matrix as those of inputs that are not divided."""
        if self.equaliser is None:
            return weights
        found: np.ndarray[Any, Any] = weights / by_row(self.equaliser.numpy(), weights.shape)
        return found

    def _apply(self, fn: Any, recurse: bool = True) -> TileLayer:
        return self  # there is nothing to move or convert

    def scaling_operations(self, values: int, positions: int) -> int:
        """Digital operations that scale or equalise so many inputs, and scale the readings of so many positions."""
        equalised = self.equaliser is not None
        outputs = positions * self.matrix.weights.shape[0] * self.matrix.weights.shape[2]
        return operations(self.hardware.dac, values, outputs, equalised=equalised)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}{CELLS}"] = torch.frombuffer(bytearray(self.tiles.digest()), dtype=torch.uint8)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if CELLS in given and bytes(given[CELLS].cpu().numpy()) != self.tiles.digest():
            error_msgs.append(f"layer {self.name!r}: its cells are another chip's; save a chip with Chip.save")
        elif CELLS not in given and any(kind in given for kind in self._parameters):
            error_msgs.append(
                f"layer {self.name!r}: it is on tiles and takes no weights; load them, then map the model"
            )
        elif CELLS not in given:
            missing_keys.append(f"{prefix}{CELLS}")

    def extra_repr(self) -> str:
        placement = self.placement
        tiles = f"tiles={placement.tiles}, encoding={placement.tile.encoding}"
        return f"{self.spec.in_features}, {self.spec.out_features}, {tiles}"
