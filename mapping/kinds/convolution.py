"""Convolutions as matrices."""

from __future__ import annotations

from functools import cached_property
from math import prod
from operator import index
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from ...crossbar.arrays import Margins
from ...crossbar.patches import Patches, Triple
from .handler import dtype_of
from .leaf import LEAVES, Leaf, Size

Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)]
Padding = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
MOST_PADDED = 2**26  # values that the padding of a file may make of a single pixel


@LEAVES.register("convolution")
class Convolution(Leaf):
    """`nn.Conv1d`, `Conv2d` and `Conv3d`: their word lines are kernel positions times channels of the group.

    Attributes:
        kernel, stride, dilation: one number for each dimension of space, 1 to 3.
        padding: in the order of `torch.nn.functional.pad`: last dimension first, before and after; empty for none.
        padding_mode: as `torch.nn.functional.pad` names it.
    """

    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    folds: ClassVar[bool] = True

    groups: Size = 1
    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    padding: tuple[Padding, ...] = ()
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"

    @model_validator(mode="after")
    def _consistent(self) -> Convolution:
        if self.in_features % self.groups or self.out_features % self.groups:
            raise ValueError(f"groups = {self.groups} must divide {self.in_features} and {self.out_features}")
        for name in ("stride", "dilation"):
            if len(getattr(self, name)) != self.dims:
                raise ValueError(f"{name} must be {self.dims} numbers like kernel, got {len(getattr(self, name))}")
        if len(self.padding) not in (0, 2 * self.dims):
            raise ValueError(f"padding must be {2 * self.dims} numbers or none, got {len(self.padding)}")
        return self

    @classmethod
    def of(cls, module: Any) -> Convolution:
        made = cls(
            in_features=index(module.in_channels),
            out_features=index(module.out_channels),
            groups=index(module.groups),
            kernel=whole(module.kernel_size),
            stride=whole(module.stride),
            dilation=whole(module.dilation),
            padding=_padding(module),
            padding_mode=PAD_MODES[module.padding_mode],
            dtype=dtype_of(module),
        )
        if module.padding_mode != "zeros":
            used = tuple(module._reversed_padding_repeated_twice)
            if used != (made.padding or (0,) * len(used)):
                raise ValueError(f"it pads by {used}, its attributes say {made.padding}")
        return made

    @classmethod
    def build(cls, plain: dict[str, Any]) -> Leaf:
        made = super().build(plain)
        assert isinstance(made, Convolution)
        pairs = zip(made.padding[::2], made.padding[1::2], strict=True)
        if made.padding and made.in_features * prod(1 + a + b for a, b in pairs) > MOST_PADDED:
            raise ValueError(f"padding = {list(made.padding)} makes more than {MOST_PADDED} values of one pixel")
        return made

    @property
    def dims(self) -> int:
        return len(self.kernel)

    @property
    def patches(self) -> Patches:
        return Patches(triple(self.kernel), triple(self.stride), triple(self.dilation))

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        rows = prod(self.kernel) * self.in_features // self.groups
        return self.groups, rows, self.out_features // self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features // self.groups, *self.kernel

    @property
    def shiftable(self) -> bool:
        padded = bool(self.padding) or type(self).arrange is not Convolution.arrange
        return self.padding_mode != "constant" or not padded

    @cached_property
    def attributes(self) -> dict[str, Any]:
        pads = tuple(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1]
        alike = all(a == b for a, b in pads)
        return {
            "in_channels": self.in_features,
            "out_channels": self.out_features,
            "groups": self.groups,
            "kernel_size": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": (tuple(a for a, _ in pads) or (0,) * self.dims) if alike else "same",
            "padding_mode": next(name for name, found in PAD_MODES.items() if found == self.padding_mode),
            "transposed": False,
            "output_padding": (0,) * self.dims,
            "_reversed_padding_repeated_twice": list(self.padding or (0, 0) * self.dims),
        }

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.movedim(1, -1).reshape(self.groups, self.out_features // self.groups, -1).transpose(1, 2)

    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices.transpose(1, 2).reshape(self.out_features, *self.kernel, -1).movedim(-1, 1)

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, *x.shape[-1 - self.dims :])
        if self.padding and self.padding_mode == "constant":  # with channels last: the values are copied once
            x = functional.pad(x.movedim(1, -1), (0, 0, *self.padding))
        else:
            x = self._padded(x).movedim(1, -1)
        return x.reshape(x.shape[0], *(1,) * (3 - self.dims), *x.shape[1:])

    def laid_out(self, x: torch.Tensor) -> tuple[torch.Tensor, Margins | None]:
        if type(self).arrange is not Convolution.arrange or (self.padding and self.padding_mode != "constant"):
            return super().laid_out(x)
        x = x.reshape(-1, *x.shape[-1 - self.dims :]).movedim(1, -1)
        pairs = list(zip(self.padding[::2], self.padding[1::2], strict=True))[::-1] or [(0, 0)] * self.dims
        first, second, third = [(0, 0)] * (3 - self.dims) + pairs
        samples_first = slice(None), *(None,) * (3 - self.dims)
        return x[samples_first], (first, second, third)

    def assemble(self, y: torch.Tensor) -> torch.Tensor:
        return y.movedim(-1, 1)

    def digital(self, x: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        conv: Any = (functional.conv1d, functional.conv2d, functional.conv3d)[self.dims - 1]
        x, weight = self._padded(x), self.weight_of(matrices)
        y: torch.Tensor = conv(x, weight, bias, stride=self.stride, dilation=self.dilation, groups=self.groups)
        return y

    def rows_needed(self, rows: int, rows_in: int) -> tuple[int, ...] | None:
        if self.dims != 2:
            return None
        before = self.padding[2] if self.padding else 0
        reach = self.dilation[0] * (self.kernel[0] - 1) - before
        return tuple(min(max(row * self.stride[0] + reach, 0), rows_in - 1) for row in range(rows))

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x, self.padding, mode=self.padding_mode) if self.padding else x


def whole(values: Any) -> tuple[int, ...]:
    """Numbers that are whole, in any sequence."""
    return tuple(index(value) for value in values)


def triple(values: tuple[int, ...]) -> Triple:
    """1 to 3 numbers as those of depth, height and width."""
    return (1,) * (3 - len(values)) + values  # type: ignore[return-value]


def _padding(module: Any) -> tuple[int, ...]:
    """Of a convolution, in the order of `torch.nn.functional.pad`; empty for none."""
    if isinstance(module.padding, str):
        sizes = zip(module.dilation, module.kernel_size, strict=True)
        total = [d * (k - 1) if module.padding == "same" else 0 for d, k in sizes]
        pairs = [(t // 2, t - t // 2) for t in total]
    else:
        pairs = [(p, p) for p in module.padding]
    found = whole(p for pair in reversed(pairs) for p in pair)
    return found if any(found) else ()
