"""Transposed convolutions as matrices: one read gives all outputs of a block of stride x stride pixels.

Output pixel o takes the tap k of the kernel where o + padding - k dilation is a multiple of the stride. So the outputs
of one phase, those whose o + padding has one remainder, see a convolution of the inputs with some of the taps. The
matrix has a column for each channel and phase: it is read as a plain convolution is, and its outputs are put side by
side, as in a sub-pixel convolution (Shi et al. 2016, arXiv:1609.07009). RED (Fan et al., DATE 2019) has this circuit.
"""

from __future__ import annotations

from functools import cached_property
from math import gcd, prod
from operator import index
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional

from ...crossbar.patches import Patches
from .convolution import MOST_PADDED, Padding, Sizes, triple, whole
from .handler import dtype_of
from .leaf import LEAVES, Leaf, Size, Tiles

MOST_TAPS = 2**16  # of the kernel of a file, in one dimension

Paddings = Annotated[tuple[Padding, ...], Field(min_length=1, max_length=3)]


class Axis:
    """A transposed convolution along one dimension of space.

    Attributes:
        places: for each tap of the kernel, where its weights are among kernel positions x phases of the matrix.
        taps, dilation: of the convolution that the matrix is read as.
        first: the block of outputs that is read first. Block b holds the outputs stride b - padding and those behind.
        left, right: inputs that are taken beyond the first and the last one; below 0, inputs that are not taken.
    """

    def __init__(self, kernel: int, stride: int, dilation: int, padding: int, output_padding: int) -> None:
        self.stride, self.padding, self.more = stride, padding, output_padding
        self.reach = dilation * (kernel - 1)
        steps = [tap * dilation // stride for tap in range(kernel)]
        self.dilation = gcd(*steps) or 1
        self.taps = steps[-1] // self.dilation + 1
        self.places = [
            (steps[-1] - step) // self.dilation * stride + tap * dilation % stride for tap, step in enumerate(steps)
        ]
        self.first = padding // stride
        self.left = steps[-1] - self.first
        self.right = (self.reach + output_padding - padding) // stride

    def size(self, inputs: int) -> int:
        """Of the output, for so many inputs."""
        return (inputs - 1) * self.stride - 2 * self.padding + self.reach + self.more + 1

    def inputs(self, size: int) -> int:
        """How many there are, for an output of this size."""
        return (size - 1 + 2 * self.padding - self.reach - self.more) // self.stride + 1

    def blocks(self, inputs: int) -> int:
        """Reads, for so many inputs."""
        return inputs - self.first + self.right


@LEAVES.register("transposed_convolution")
class TransposedConvolution(Leaf):
    """`nn.ConvTranspose1d`, `ConvTranspose2d` and `ConvTranspose3d`.

    Word lines are kernel positions, 1 / stride of those of the module in each dimension, times channels of the group;
    bit lines are channels times phases, stride x stride. Where the stride does not divide the kernel, some phases have
    less taps than others, and cells of the matrix that stand for none of the weights hold zero.

    Attributes:
        kernel, stride, dilation, padding, output_padding: as the module has them, a number for each dimension of space.
    """

    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    folds: ClassVar[bool] = True

    groups: Size = 1
    kernel: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Paddings
    output_padding: Paddings

    @model_validator(mode="after")
    def _consistent(self) -> TransposedConvolution:
        if self.in_features % self.groups or self.out_features % self.groups:
            raise ValueError(f"groups = {self.groups} must divide {self.in_features} and {self.out_features}")
        for name in ("stride", "dilation", "padding", "output_padding"):
            if len(getattr(self, name)) != self.dims:
                raise ValueError(f"{name} must be {self.dims} numbers like kernel, got {len(getattr(self, name))}")
        if max(self.kernel) > MOST_TAPS:
            raise ValueError(f"kernel = {list(self.kernel)}: it must be at most {MOST_TAPS}")
        return self

    @classmethod
    def of(cls, module: Any) -> TransposedConvolution:
        if module.padding_mode != "zeros":
            raise ValueError(f"its padding_mode is {module.padding_mode!r}, and torch takes 'zeros' alone")
        return cls(
            in_features=index(module.in_channels),
            out_features=index(module.out_channels),
            groups=index(module.groups),
            kernel=whole(module.kernel_size),
            stride=whole(module.stride),
            dilation=whole(module.dilation),
            padding=whole(module.padding),
            output_padding=whole(module.output_padding),
            dtype=dtype_of(module),
        )

    @classmethod
    def build(cls, plain: dict[str, Any]) -> Leaf:
        made = super().build(plain)
        assert isinstance(made, TransposedConvolution)
        if made.in_features * prod(1 + max(a.left, 0) + max(a.right, 0) for a in made.axes) > MOST_PADDED:
            raise ValueError(f"its padding makes more than {MOST_PADDED} values of one pixel")
        return made

    @property
    def dims(self) -> int:
        return len(self.kernel)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        fields = self.kernel, self.stride, self.dilation, self.padding, self.output_padding
        return tuple(Axis(*numbers) for numbers in zip(*fields, strict=True))

    @property
    def patches(self) -> Patches:
        taps, dilation = tuple(a.taps for a in self.axes), tuple(a.dilation for a in self.axes)
        return Patches(triple(taps), (1, 1, 1), triple(dilation))

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        rows = prod(a.taps for a in self.axes) * self.in_features // self.groups
        return self.groups, rows, prod(self.stride) * self.out_features // self.groups

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.in_features, self.out_features // self.groups, *self.kernel

    @property
    def shiftable(self) -> bool:
        return all(a.left <= 0 and a.right <= 0 for a in self.axes)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_features,
            "out_channels": self.out_features,
            "groups": self.groups,
            "kernel_size": self.kernel,
            "stride": self.stride,
            "dilation": self.dilation,
            "padding": self.padding,
            "padding_mode": "zeros",
            "transposed": True,
            "output_padding": self.output_padding,
            "_reversed_padding_repeated_twice": [p for pad in reversed(self.padding) for p in (pad, pad)],
        }

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        w = weight.unflatten(0, (self.groups, -1))  # (groups, inputs, outputs, *kernel)
        for k, axis in enumerate(self.axes):
            places = torch.tensor(axis.places, device=w.device)
            spread = w.new_zeros(*w.shape[: 3 + k], axis.taps * axis.stride, *w.shape[4 + k :])
            w = spread.index_copy(3 + k, places, w)
        for k, axis in reversed(list(enumerate(self.axes))):
            w = w.unflatten(3 + k, (axis.taps, axis.stride))
        taps, phases = range(3, 3 + 2 * self.dims, 2), range(4, 4 + 2 * self.dims, 2)
        return w.permute(0, *taps, 1, 2, *phases).reshape(self.matrix_shape)

    def weight_of(self, matrices: torch.Tensor) -> torch.Tensor:
        d, taps = self.dims, [a.taps for a in self.axes]
        w = matrices.reshape(self.groups, *taps, -1, self.out_features // self.groups, *self.stride)
        pairs = (p for k in range(d) for p in (1 + k, 3 + d + k))  # of a position of the kernel and a phase
        w = w.permute(0, 1 + d, 2 + d, *pairs)
        for k, axis in enumerate(self.axes):
            w = w.flatten(3 + k, 4 + k).index_select(3 + k, torch.tensor(axis.places, device=w.device))
        return w.flatten(0, 1)

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, 1).expand(-1, prod(self.stride)).reshape(self.groups, -1)

    def channels(self, columns: torch.Tensor) -> torch.Tensor:
        return columns.reshape(self.out_features, -1).double().mean(1).to(columns.dtype)

    def arrange(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, *x.shape[-1 - self.dims :])
        cut = [slice(max(-a.left, 0), max(n + min(a.right, 0), 0)) for a, n in zip(self.axes, x.shape[2:], strict=True)]
        if any(a.size(n) < 1 for a, n in zip(self.axes, x.shape[2:], strict=True)):
            cut[0] = slice(0)  # there is no output
        pads = [max(side, 0) for a in reversed(self.axes) for side in (a.left, a.right)]
        x = functional.pad(_cut(x, cut), pads).movedim(1, -1)
        return x.reshape(x.shape[0], *(1,) * (3 - self.dims), *x.shape[1:])

    def assemble(self, y: torch.Tensor) -> torch.Tensor:
        d, blocks = self.dims, y.shape[1:-1]
        y = y.reshape(-1, *blocks, self.out_features, *self.stride)
        y = y.permute(0, 1 + d, *(p for k in range(d) for p in (1 + k, 2 + d + k)))
        cut: list[slice] = []
        for k, axis in enumerate(self.axes):
            y = y.flatten(2 + k, 3 + k)
            start = axis.padding % axis.stride
            cut.append(slice(start, start + axis.size(blocks[k] + axis.first - axis.right)))
        return _cut(y, cut)

    def digital(self, x: torch.Tensor, matrices: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = self._transposed(x, self.weight_of(matrices))
        if bias is None:
            return y
        blocks = (a.blocks(n) for a, n in zip(self.axes, x.shape[x.ndim - self.dims :], strict=True))
        return y + self.assemble(bias.expand(1, *blocks, -1))[0]

    def _transposed(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        names = functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d
        fields = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        y: torch.Tensor = names[self.dims - 1](x, weight, None, *fields)
        return y

    def called(self, tiles: Tiles, input: torch.Tensor, output_size: Any = None) -> torch.Tensor:
        """As the module's forward. Where the output is to be larger than it is by itself, zeros go behind the input."""
        if output_size is None:
            return tiles(input)
        wanted, given = whole(output_size)[-self.dims :], input.shape[input.ndim - self.dims :]
        if len(output_size) not in (self.dims, input.ndim):
            raise ValueError(f"output_size must be {self.dims} or {input.ndim} numbers, got {len(output_size)}")
        pads: list[int] = []
        for axis, size, inputs in zip(self.axes, wanted, given, strict=True):
            own = axis.size(inputs)
            least = own - axis.more
            if not least <= size < least + axis.stride:
                raise ValueError(
                    f"output_size = {list(wanted)}: {size} must be {least} to {least + axis.stride - 1} for an input "
                    f"of size {inputs}"
                )
            pads = [0, -(-max(size - own, 0) // axis.stride), *pads]
        y = tiles(functional.pad(input, pads) if any(pads) else input)
        return _cut(y, [slice(size) for size in wanted])

    def reads(self, space: tuple[int, ...]) -> int:
        return prod(a.blocks(a.inputs(size)) for a, size in zip(self.axes, space, strict=True))

    def rows_needed(self, rows: int, rows_in: int) -> tuple[int, ...] | None:
        if self.dims != 2:
            return None
        axis = self.axes[0]
        return tuple(min((row + axis.padding) // axis.stride, rows_in - 1) for row in range(rows))


def _cut(x: torch.Tensor, parts: list[slice]) -> torch.Tensor:
    """Parts of x along its last dimensions."""
    index: tuple[Any, ...] = (..., *parts)
    return x[index]
