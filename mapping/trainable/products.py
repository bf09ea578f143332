"""What one row tile multiplies inputs by, there and back: a matrix product, or a convolution that is part of one."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from ...crossbar.patches import Patches

Tensor = torch.Tensor


class Product:
    """Of inputs (samples, depth, height, width, channels) and the weights (lines, columns) of some word lines.

    The word lines of a tile begin and end anywhere in a kernel. Those rows of the kernel (along its first axis that is
    longer than 1) that it has a part of are a convolution; what it has not of them is zero.

    Attributes:
        lines: first and last of the word lines, of those that read inputs.
        channels: first and last of the channels, those of a group.
    """

    def __init__(self, patches: Patches, channels: tuple[int, int], lines: tuple[int, int]) -> None:
        self.patches, self.channels, self.lines = patches, channels, lines
        kernel, self.width = patches.kernel, channels[1] - channels[0]
        self.plain = prod(kernel) == 1
        self.axis = next((i for i, size in enumerate(kernel) if size > 1), 2)
        self.inner = prod(kernel[self.axis + 1 :]) * self.width
        self.first = lines[0] // self.inner
        last = -(-lines[1] // self.inner)
        self.kernel = list(kernel)
        self.kernel[self.axis] = last - self.first
        self.padding = lines[0] - self.first * self.inner, last * self.inner - lines[1]

    def forth(self, x: Tensor, weight: Tensor) -> Tensor:
        """(rows, columns), contiguous: one row for each sample and position."""
        if self.lines[1] <= self.lines[0]:
            return x.new_zeros(len(x) * prod(self.patches.positions(tuple(x.shape[1:4]))), weight.shape[1])
        if self.plain:
            return self._rows(x) @ weight
        place, given = self._place(x)
        flat = given.ndim == 4
        y = torch.convolution(given, self._kernel(weight, flat), None, *self._steps(flat), False, [0] * (3 - flat), 1)
        del place
        return y.movedim(1, -1).reshape(-1, weight.shape[1])

    def back(self, x: Tensor, weight: Tensor, slopes: Tensor, to: Tensor | None, into: Tensor) -> None:
        """Slopes of the products back: those of the weights are added to `into` (lines, columns), of x to `to`."""
        if self.lines[1] <= self.lines[0]:
            return
        if self.plain:
            if to is not None:
                if to.shape[1:4] == (1, 1, 1):
                    self._rows(to).addmm_(slopes, weight.T)
                else:
                    part = self._place(to)[0]
                    part += (slopes @ weight.T).view(part.shape)
            into.addmm_(self._rows(x).T, slopes)
            return
        place, given = self._place(x)
        flat = given.ndim == 4
        size = self.patches.positions(tuple(x.shape[1:4]))
        given_slopes = slopes.view(len(x), *(size[1:] if flat else size), -1).movedim(-1, 1)
        kernel, wanted = self._kernel(weight, flat), [to is not None, True, False]
        of_x, of_kernel, _ = torch.ops.aten.convolution_backward(
            given_slopes, given, kernel, None, *self._steps(flat), False, [0] * (3 - flat), 1, wanted
        )
        if to is not None:
            part, _ = self._place(to)
            part += of_x.movedim(1, -1).view(part.shape) if not flat else of_x.movedim(1, -1)[:, None]
        del place
        found = of_kernel.permute(*range(2, of_kernel.ndim), 1, 0).reshape(-1, weight.shape[1])
        into += found[self.padding[0] : len(found) - self.padding[1]]

    def _place(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The part of x that is read, and the same as a convolution takes it, or a product of matrices."""
        out, (kernel, stride, dilation) = self.patches.positions(tuple(x.shape[1:4])), self._geometry()
        part = x[..., self.channels[0] : self.channels[1]]
        if self.plain:
            part = part[:, :: stride[0], :: stride[1], :: stride[2]][:, : out[0], : out[1], : out[2]]
            return part[..., self.lines[0] : self.lines[1]], part
        axis = self.axis
        needed = (out[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        part = part.narrow(1 + axis, self.first * dilation[axis], needed)
        moved = part.movedim(-1, 1)
        return part, moved[:, :, 0] if self._flat(x) else moved

    def _flat(self, x: Tensor) -> bool:
        return self.kernel[0] == 1 and x.shape[1] == 1

    def _rows(self, x: Tensor) -> Tensor:
        if x.shape[1:4] == (1, 1, 1) and x.is_contiguous():
            return x.view(len(x), -1)[:, self.channels[0] + self.lines[0] : self.channels[0] + self.lines[1]]
        part, _ = self._place(x)
        return part.reshape(-1, part.shape[-1])

    def _geometry(self) -> tuple[list[int], tuple[int, ...], tuple[int, ...]]:
        return self.kernel, self.patches.stride, self.patches.dilation

    def _steps(self, flat: bool) -> tuple[Any, Any, Any]:
        stride, dilation = list(self.patches.stride[flat:]), list(self.patches.dilation[flat:])
        return stride, [0] * (3 - flat), dilation

    def _kernel(self, weight: Tensor, flat: bool) -> Tensor:
        """(columns, channels, *kernel) of (lines, columns)."""
        if any(self.padding):
            weight = torch.nn.functional.pad(weight, (0, 0, *self.padding))
        made = weight.view(*self.kernel[flat:], self.width, -1)
        kind = torch.channels_last if flat else torch.channels_last_3d
        return made.permute(-1, -2, *range(made.ndim - 2)).contiguous(memory_format=kind)
