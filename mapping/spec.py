"""What a torch layer is as matrices: one handler turns its module into a `LayerSpec`, and its weights into matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

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
    dtype: str = "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the weights in the model."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of torch's weight."""
        return (self.out_features, self.in_features // self.groups, *self.kernel[3 - self.dims :])

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes that the layer has in torch, by their names there."""
        if self.dims == 0:
            return {"in_features": self.in_features, "out_features": self.out_features}
        pads = tuple(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]
        alike = all(a == b for a, b in pads)
        mode = next(name for name, found in _PAD_MODE.items() if found == self.padding_mode)
        return {
            "in_channels": self.in_features,
            "out_channels": self.out_features,
            "groups": self.groups,
            "kernel_size": self.kernel[3 - self.dims :],
            "stride": self.stride[3 - self.dims :],
            "dilation": self.dilation[3 - self.dims :],
            "padding": (tuple(a for a, _ in pads) or (0,) * self.dims) if alike else "same",
            "padding_mode": mode,
            "transposed": False,
            "output_padding": (0,) * self.dims,
            "_reversed_padding_repeated_twice": list(self.padding or (0, 0) * self.dims),
        }


@dataclass(frozen=True)
class Matrices:
    """Weights (groups, rows, outputs) and bias (groups, outputs) float32 of a layer.

    Rows are in the order (kernel depth, height, width, channel).
    """

    weights: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None


def linear_spec(module: nn.Linear) -> LayerSpec:
    return LayerSpec(0, module.in_features, module.out_features, dtype=_dtype(module))


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
        _dtype(module),
    )


def _dtype(module: nn.Module) -> str:
    return str(module.weight.dtype).removeprefix("torch.")


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
