"""The layers that go onto tiles: one handler turns a torch module into a `LayerSpec`, one module reads its tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..crossbar.hardware import Hardware
from ..crossbar.matrix import TiledMatrix
from ..crossbar.tile import Plan
from .errors import MappingError

Triple = tuple[int, int, int]
_PAD_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


@dataclass(frozen=True)
class LayerSpec:
    """Geometry of a matrix layer. `dims` is 0 for a linear layer, else the spatial dimensions of a convolution (1 to
    3).

    `padding` is in the order of `torch.nn.functional.pad`: last dimension first, before and after.
    """

    dims: int
    in_features: int
    out_features: int
    groups: int = 1
    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    padding: tuple[int, ...] = ()
    padding_mode: str = "constant"


@dataclass(frozen=True)
class Matrices:
    """Weights (groups, rows, outputs) and bias (groups, outputs) float32 of a layer.

    Rows are in the order (kernel depth, height, width, channel).
    """

    weights: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None


def linear_spec(module: nn.Linear) -> LayerSpec:
    return LayerSpec(0, module.in_features, module.out_features)


def conv_spec(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> LayerSpec:
    dims = len(module.kernel_size)
    if isinstance(module.padding, str):
        total = [
            d * (k - 1) if module.padding == "same" else 0
            for d, k in zip(module.dilation, module.kernel_size, strict=True)
        ]
        pairs = [(t // 2, t - t // 2) for t in total]
    else:
        pairs = [(p, p) for p in module.padding]
    padding = tuple(p for pair in reversed(pairs) for p in pair)
    return LayerSpec(
        dims,
        module.in_channels,
        module.out_channels,
        module.groups,
        _triple(module.kernel_size),
        _triple(module.stride),
        _triple(module.dilation),
        padding if any(padding) else (),
        _PAD_MODE[module.padding_mode],
    )


HANDLERS: dict[type[nn.Module], Callable[[Any], LayerSpec]] = {
    nn.Linear: linear_spec,
    nn.Conv1d: conv_spec,
    nn.Conv2d: conv_spec,
    nn.Conv3d: conv_spec,
}


def _triple(values: tuple[int, ...]) -> Triple:
    return (1,) * (3 - len(values)) + tuple(values)  # type: ignore[return-value]


def matrices(weight: torch.Tensor, bias: torch.Tensor | None, spec: LayerSpec) -> Matrices:
    """Weight (out, in) or (out, in / groups, *kernel) as matrices of word lines by bit lines."""
    w = weight.detach().to("cpu", torch.float32)
    w = w.movedim(1, -1).reshape(spec.groups, spec.out_features // spec.groups, -1).transpose(1, 2)
    b = None if bias is None else bias.detach().to("cpu", torch.float32).reshape(spec.groups, -1).numpy()
    return Matrices(np.ascontiguousarray(w.numpy()), b)


@dataclass
class Inference:
    """What one pass through a chip shares among its layers.

    A pass can be several reads, numbered from `read`: the layers then see their samples one read after the other, and
    `repeated` is the tensor that holds the same samples for each read. With `channels_last` convolutions return the
    memory layout that they compute in. A pass that is `surveying` computes digitally and keeps, in `inputs`, what goes
    into the layers named there, over all their calls; one that is `calibrating` sets their ranges from that.
    """

    read: int = 0
    reads: int = 1
    repeated: torch.Tensor | None = None
    first_sample: int = 0
    samples: int = 1
    surveying: bool = False
    calibrating: bool = False
    noisy: bool = True
    channels_last: bool = False
    inputs: dict[str, list[np.ndarray[Any, Any]]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

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


@dataclass
class Session:
    """What a chip shares with its layers: the inference under way, and how many there have been."""

    inference: Inference = field(default_factory=Inference)
    calls: int = 0


class TileLayer(nn.Module):
    """A linear or convolution layer on tiles; takes and returns what the torch layer does, without gradients.

    Attributes:
        matrix: the tiles.
        session: shared with the chip.
        positions: matrix reads per sample in one inference, all calls of the layer together; None before the first.
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
        self.positions: int | None = None
        self.matrix = TiledMatrix(
            weights.weights, weights.bias, hardware, name, seed, copy, spec.kernel, spec.stride, spec.dilation
        )

    @property
    def hardware(self) -> Hardware:
        return self.matrix.hardware

    @property
    def plan(self) -> Plan:
        return self.matrix.plan

    @property
    def pulses(self) -> int:
        return self.matrix.drive.pulses if self.matrix.drive else 1

    @property
    def array_energy_j(self) -> float | None:
        return self.matrix.array_energy_j

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        run = self.session.inference
        shared = run.shares(x)
        inputs, leading, spatial = self._arrange(x[: run.samples] if shared else x)
        rows = inputs.shape[0] * prod(spatial)
        samples = run.samples if shared else run.samples * run.reads
        per_sample = max(1, rows // samples) if leading else rows
        call = run.calls.get(self.name, 0)
        run.calls[self.name] = call + 1
        if run.surveying:
            if self.name in run.inputs:
                run.inputs[self.name].append(inputs.copy())
            return self.digital(x)
        positions = per_sample + (self.positions or 0 if call else 0)
        if positions != self.positions:  # setting a module's attribute takes longer than a small read
            self.positions = positions
        known = run.inputs.get(self.name)
        if run.calibrating and known is None and not (self.matrix.programmed if call else inputs.any()):
            return self.digital(x)  # no range comes from zeros, as a state starts with; later calls may have others
        if run.calibrating and not call:
            try:
                self.matrix.calibrate(*(known or [inputs]))
            except ValueError as error:
                raise MappingError(str(error)) from error
        if (run.first_sample or run.reads > 1) and rows % samples:
            raise MappingError(
                f"layer {self.name!r} has {rows} rows for {samples} samples: batches can't be told apart; "
                "give all samples at once (batch_size=None)"
            )
        y = self.matrix.read(
            inputs,
            read=run.read,
            reads=run.reads,
            shared=shared,
            first_row=run.first_sample * per_sample,
            call=call,
            noisy=run.noisy and not run.calibrating,
            threads=torch.get_num_threads(),
        )
        if shared:
            leading = (run.reads * leading[0], *leading[1:])
        y = y.reshape(*leading, *spatial[3 - self.spec.dims :], self.spec.out_features)
        out = torch.from_numpy(y).to(x.device, x.dtype)
        if self.spec.dims == 0:
            return out
        out = out.movedim(-1, -1 - self.spec.dims)
        return out if run.channels_last else out.contiguous()

    @torch.no_grad()
    def digital(self, x: torch.Tensor) -> torch.Tensor:
        """What the layer gives for x without tiles: torch's own arithmetic on the (folded) weights."""
        spec, matrix, given = self.spec, self.matrix, x
        x = x.to("cpu", torch.float32)
        weight = torch.from_numpy(matrix.weights).transpose(1, 2)
        weight = weight.reshape(spec.out_features, *spec.kernel[3 - spec.dims :], -1).movedim(-1, 1)
        bias = None if matrix.bias is None else torch.from_numpy(matrix.bias).reshape(-1)
        if spec.dims == 0:
            return functional.linear(x, weight, bias).to(given)
        if spec.padding:
            x = functional.pad(x, spec.padding, mode=spec.padding_mode)
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[spec.dims - 1]
        stride, dilation = (triple[3 - spec.dims :] for triple in (spec.stride, spec.dilation))
        return conv(x, weight, bias, stride=stride, dilation=dilation, groups=spec.groups).to(given)

    def _arrange(self, x: torch.Tensor) -> tuple[np.ndarray[Any, Any], tuple[int, ...], Triple]:
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
        x = x.detach()
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
        size = self.matrix.positions(x.shape[1:4])
        if min(size) < 1:
            raise MappingError(
                f"layer {self.name!r}: input of shape {tuple(x.shape)} is smaller than the kernel {spec.kernel}"
            )
        return x.numpy(), leading, size

    def extra_repr(self) -> str:
        plan = self.plan
        return f"{self.spec.in_features}, {self.spec.out_features}, tiles={plan.tiles}, encoding={plan.tile.encoding}"
