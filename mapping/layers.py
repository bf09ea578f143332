"""A layer on tiles: the module that reads them in the place of the torch layer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional

from ..crossbar.backend import Backend
from ..crossbar.backends import DEFAULT, backend_of
from ..crossbar.calibration import calibrate
from ..crossbar.cells import Drawn
from ..crossbar.converters import Drive
from ..crossbar.design import Design, Tell
from ..crossbar.hardware import Hardware
from ..crossbar.matrix import Matrix
from ..crossbar.patches import Patches
from ..crossbar.placement import Placement
from ..crossbar.programmed import Programmed
from ..crossbar.reader import Counts, Seeds
from ..crossbar.wire_compensation import WireCompensation
from .counting import Counter
from .errors import MappingError
from .inference import Inference, OneByOne, Session, Unrecorded
from .order import FIRST, Order, SampleAxis, order_of
from .parameters import TileParameter
from .spec import LayerSpec, Matrices

CELLS = "cells"  # key of a layer's cells in a state dict: their digest


class TileLayer(nn.Module):
    """A linear or convolution layer on tiles; takes and returns what the torch layer does, without gradients.

    Attributes:
        matrix: the weights, and how inputs become word lines.
        programmed: the tiles, once the ranges of the inputs are known.
        seeds: of programming errors and of the noise of reads.
        counter: of the conversions.
        wire_compensation, tell: see `Design`.
        session: shared with the chip.
        samples_along: where the samples lie in its inputs; None where its rows belong to no sample.
        rows_are_samples: whether each row is a sample, however many the chip has: in the steps of recurrent layers.
        aliases: all names the layer has in its model.
    """

    def __init__(
        self, name: str, spec: LayerSpec, weights: Matrices, hardware: Hardware, seed: int, copy: int = 0
    ) -> None:
        super().__init__()
        self.name = name
        self.aliases: list[str] = [name]
        self.spec = spec
        self.session = Session()
        self.samples_along: SampleAxis | None = FIRST
        self.rows_are_samples = False
        patches = Patches(spec.kernel, spec.stride, spec.dilation)
        self.matrix = Matrix(name, weights.weights, weights.bias, hardware, patches)
        self.seeds = Seeds(seed, copy)
        self.backend: Backend = backend_of(DEFAULT)
        self.programmed: Programmed | None = None
        self.counter = Counter()
        self.wire_compensation: WireCompensation | None = None
        self.tell: Tell | None = None
        self.add_parameters()

    def add_parameters(self) -> None:
        """Weight and bias as the model may ask for them."""
        for kind, shape in (("weight", self.spec.weight_shape), ("bias", (self.spec.out_features,))):
            there = kind == "weight" or self.matrix.bias is not None
            self._parameters[kind] = TileParameter(self, kind, shape, self.spec.torch_dtype) if there else None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parameters": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.add_parameters()

    def __getattr__(self, name: str) -> Any:
        spec = vars(self).get("spec")
        if spec is not None and name in spec.attributes:
            return spec.attributes[name]
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

    def calibrate(self, inputs: list[np.ndarray[Any, Any]]) -> None:
        """Set the ranges from inputs (as in `Reader.read`), those of all calls of one inference, and program.

        Raises:
            ValueError: see `crossbar.calibration.calibrate`.
        """
        cells = Drawn(self.matrix.hardware, *self.seeds)
        options = self.seeds, self.backend, self.wire_compensation, self.tell
        self.programmed, self.counter.counts = calibrate(self.matrix, tuple(inputs), cells, *options), Counts()

    def program(self, drive: Drive) -> None:
        """Program without inputs, for those of this drive."""
        design = Design.of(self.matrix, drive, None, self.wire_compensation, self.tell, self.backend)
        cells = Drawn(self.matrix.hardware, *self.seeds)
        self.programmed = Programmed.of(design, cells, self.seeds, self.backend, tell=self.tell)

    @property
    def placement(self) -> Placement:
        return self.matrix.placement

    @property
    def pulses(self) -> int:
        return self.programmed.design.drive.pulses if self.programmed else 1

    @property
    def array_energy_j(self) -> float | None:
        return self.programmed.ranges.array_energy_j if self.programmed else None

    @property
    def positions(self) -> int | None:
        """Matrix reads per sample in one inference, all calls of the layer together; None before the first."""
        return self.session.positions(self.name)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # as torch names it
        self._check(input)
        run = self.session.inference
        if run is None:  # a read of this layer alone
            run = Inference(read=self.session.next_read(), samples=len(input) if input.ndim else 1, alone=True)
        if run.recorder is None:
            return self.read(input, run)
        judged, call = self.session.judged, run.calls.get(self.name, 0)
        judged[self.name] = max(judged.get(self.name, 0), call + 1)
        if run.recorder.rows.chosen(input):
            self.session.chosen.add(self.name)
        return run.recorder.read(self.name, self.spec, input, lambda: self.read(input, run))

    def _check(self, x: torch.Tensor) -> None:
        """Raises MappingError for what is no input of the layer, or has no values that tiles could read."""
        if not isinstance(x, torch.Tensor):
            raise MappingError(f"layer {self.name!r} takes a tensor, got {type(x).__name__}")
        if not x.is_floating_point():
            raise MappingError(
                f"layer {self.name!r} takes floating-point inputs, got {x.dtype}: convert them, as with x.float()"
            )
        if x.layout != torch.strided or x.is_meta or is_functorch_wrapped_tensor(x):
            what = "on the meta device" if x.is_meta else f"of layout {x.layout}"
            what = "inside of vmap or another transform of torch.func" if is_functorch_wrapped_tensor(x) else what
            raise MappingError(f"layer {self.name!r} takes dense tensors with values, got one {what}")
        for kind in ("weight", "bias"):
            there = kind == "weight" or self.matrix.bias is not None
            if isinstance(self._parameters.get(kind), TileParameter) is not there or kind in vars(self):
                raise MappingError(f"layer {self.name!r} is on tiles: its {kind} cannot be replaced in a call")

    def read(self, x: torch.Tensor, run: Inference) -> torch.Tensor:
        """The layer's output for x in an inference."""
        shared = run.shares(x)
        inputs, leading, spatial = self._arrange(x[: run.samples] if shared else x)
        call = run.calls.get(self.name, 0)
        if run.recorder is None and run.unlike(self.name, call, self.session.judged) and not self.rows_are_samples:
            raise Unrecorded
        run.calls[self.name] = call + 1
        if run.surveying:
            if self.name in run.inputs:
                run.inputs[self.name].append(inputs.copy())
            return self.digital(x)
        known = run.inputs.get(self.name)
        if run.calibrating and known is None and not (self.programmed if call else inputs.any()):
            return self.digital(x)  # no range comes from zeros, as a state starts with; later calls may have others
        if run.calibrating and not call:
            try:
                self.calibrate(known or [inputs])
            except ValueError as error:
                raise MappingError(str(error)) from error
        size = spatial[3 - self.spec.dims :]
        inputs, order = self._by_sample(inputs, leading, run.samples * (1 if shared else run.reads), run)
        y, counts = self.tiles.reader.read(
            inputs,
            read=run.read,
            reads=run.reads,
            shared=shared,
            first_sample=run.first_sample if order.samples or not leading else 0,
            shape=(*order.others, *size),
            call=call,
            noisy=run.noisy and not run.calibrating,
            threads=torch.get_num_threads(),
        )
        self.counter.add(counts)
        shape = (*size, self.spec.out_features)
        y = order.restored(y.reshape(-1, *shape))
        if shared:
            leading = (run.reads * leading[0], *leading[1:])
        out = torch.from_numpy(y.reshape(*leading, *shape))
        if x.dtype != torch.float32 or x.device.type != "cpu":
            out = out.to(x.device, x.dtype)
        if self.spec.dims == 0:
            return out
        out = out.movedim(-1, -1 - self.spec.dims)
        return out if run.channels_last else out.contiguous()

    def _by_sample(
        self, inputs: np.ndarray[Any, Any], leading: tuple[int, ...], samples: int, run: Inference
    ) -> tuple[np.ndarray[Any, Any], Order]:
        """Inputs with the samples first, and their order.

        Raises:
            OneByOne: the rows belong to no sample, and several reads are asked for.
        """
        place = self.samples_along
        if self.rows_are_samples:
            return inputs, order_of(leading, FIRST, len(inputs))
        if chosen := self.name in self.session.chosen and not run.alone:
            place = None
        if leading and place is not None and len(leading) > place.axis and leading[place.axis] % samples == 0:
            order = order_of(leading, place, samples)
            return order.arranged(inputs), order
        elsewhere = leading and leading[0] != 1 and place is not None  # chunks of a batch, say
        if (chosen or elsewhere) and not (run.alone or run.calibrating):
            self.session.one_by_one = True
            shape = f" has an input of shape {leading} before its features for {samples} samples: its rows"
            how = ": the model chooses its rows by their values, so that they" if chosen else shape
            said = f"{how} belong to no single sample, and its noise depends on the batch"
            warnings.warn(f"layer {self.name!r}{said}", stacklevel=2)
        if run.reads > 1:
            raise OneByOne
        return inputs, order_of(leading, FIRST, 0)

    def stored(self, kind: str) -> torch.Tensor:
        """Weight or bias, as `kind` says, in torch's layout: what the cells stand for, or before they do the exact."""
        matrix, programmed = self.matrix, self.programmed
        if kind == "bias":
            assert matrix.bias is not None
            if programmed is None or not matrix.bias_on_array:
                return torch.from_numpy(matrix.bias).reshape(-1)
            return torch.from_numpy(programmed.weights[:, -1] * programmed.design.drive.limit).reshape(-1)
        found = matrix.weights if programmed is None else programmed.weights[:, : matrix.weights.shape[1]]
        return self._as_torch(found).contiguous()

    def _as_torch(self, weights: np.ndarray[Any, Any]) -> torch.Tensor:
        """Matrices (groups, rows, outputs) in torch's layout."""
        spec, weight = self.spec, torch.from_numpy(weights).transpose(1, 2)
        return weight.reshape(spec.out_features, *spec.kernel[3 - spec.dims :], -1).movedim(-1, 1)

    def _apply(self, fn: Any, recurse: bool = True) -> TileLayer:
        return self  # there is nothing to move or convert

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

    @torch.no_grad()
    def digital(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer gives for x without tiles: torch's own arithmetic on the (folded) weights."""
        spec, matrix, given = self.spec, self.matrix, x
        x = x.to("cpu", torch.float32)
        weight = self._as_torch(matrix.weights)
        bias = None if matrix.bias is None else torch.from_numpy(matrix.bias).reshape(-1)
        if spec.dims == 0:
            return functional.linear(x, weight, bias).to(given)
        if spec.padding:
            x = functional.pad(x, spec.padding, mode=spec.padding_mode)
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[spec.dims - 1]
        stride, dilation = (triple[3 - spec.dims :] for triple in (spec.stride, spec.dilation))
        return conv(x, weight, bias, stride=stride, dilation=dilation, groups=spec.groups).to(given)

    def _arrange(self, x: torch.Tensor) -> tuple[np.ndarray[Any, Any], tuple[int, ...], tuple[int, int, int]]:
        """Input as (samples, depth, height, width, channels), the leading dimensions, and the output's spatial size."""
        spec = self.spec
        channels_at = -1 - spec.dims
        if (
            x.ndim < max(1, spec.dims + 1)
            or x.shape[channels_at] != spec.in_features
            or (spec.dims and x.ndim > spec.dims + 2)
        ):
            raise MappingError(
                f"layer {self.name!r} takes {spec.in_features} {'channels' if spec.dims else 'features'} "
                f"in dimension {channels_at}, got an input of shape {tuple(x.shape)}"
            )
        x = x.detach().resolve_neg()
        if x.dtype != torch.float32 or x.device.type != "cpu":
            x = x.to("cpu", torch.float32)
        if spec.dims == 0:
            return x.numpy().reshape(-1, 1, 1, 1, spec.in_features), tuple(x.shape[:-1]), (1, 1, 1)
        leading = tuple(x.shape[: -1 - spec.dims])
        x = x.reshape(-1, *x.shape[-1 - spec.dims :])
        if spec.padding:
            x = functional.pad(x, spec.padding, mode=spec.padding_mode)
        x = x.movedim(1, -1)
        x = x.reshape(x.shape[0], *(1,) * (3 - spec.dims), *x.shape[1:])
        size = self.matrix.patches.positions(x.shape[1:4])
        if min(size) < 1:
            raise MappingError(
                f"layer {self.name!r}: input of shape {tuple(x.shape)} is smaller than the kernel {spec.kernel}"
            )
        return x.numpy(), leading, size

    def extra_repr(self) -> str:
        placement = self.placement
        tiles = f"tiles={placement.tiles}, encoding={placement.tile.encoding}"
        return f"{self.spec.in_features}, {self.spec.out_features}, {tiles}"
