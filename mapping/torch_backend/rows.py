"""The rows of a matrix, taken from the inputs of a layer, some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch

from ...crossbar.kernels.read import Geometry
from ...crossbar.patches import taps

Tensor = torch.Tensor


def positions(geometry: Geometry) -> tuple[int, int, int]:
    """Along depth, height and width."""
    depth, height, width = map(int, geometry.out)
    return depth, height, width


def chunks(rows: int, most: int, geometry: Geometry) -> Iterator[tuple[int, int]]:
    """(start, stop) of parts of at most so many rows, in whole samples, planes or lines where these fit."""
    depth, height, width = positions(geometry)
    for whole in (depth * height * width, height * width, width):
        if most >= whole:
            most -= most % whole
            break
    for start in range(0, rows, max(1, most)):
        yield start, min(rows, start + max(1, most))


def gather(x: Tensor, geometry: Geometry, start: int, stop: int) -> Tensor:
    """Rows start..stop (rows, kernel volume * channels) of all patches of x (samples, depth, height, width, channels).

    No more is unfolded than the samples, or the planes or lines of one sample, that they lie in.
    """
    depth, height, width = positions(geometry)
    per_sample, per_plane = depth * height * width, height * width
    first, last = start // per_sample, (stop - 1) // per_sample
    x, geometry, start, stop = _part(x, geometry, 0, first, last, start, stop, per_sample)
    if first == last and depth > 1:
        x, geometry, start, stop = _along(x, geometry, 0, start, stop, per_plane)
    if first == last and int(geometry.out[0]) == 1 and height > 1:
        x, geometry, start, stop = _along(x, geometry, 1, start, stop, width)
    if prod(geometry.kernel) == 1:
        return taps(x, geometry)[0].reshape(-1, geometry.channels)[start:stop]
    rows: Tensor = _Unfolded.apply(x, geometry)
    return rows[start:stop]


class _Unfolded(torch.autograd.Function):
    """All patches. Their gradients are added up in place: torch makes an array as large as the input of each part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.geometry, ctx.shape = geometry, x.shape
        return torch.cat(taps(x, geometry), dim=-1).flatten(0, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        found = gradient.new_zeros(ctx.shape)
        places = taps(found, ctx.geometry)
        parts = gradient.unflatten(0, places[0].shape[:4]).split(ctx.geometry.channels, dim=-1)
        for place, part in zip(places, parts, strict=True):
            place += part
        return found, None


def with_constant(codes: Tensor, lines: int, constant: float) -> Tensor:
    """Codes (rows, word lines) with those behind the patches: that of a bias on the array, and one that makes pairs."""
    extra = lines - codes.shape[1]
    if extra:
        codes = torch.nn.functional.pad(codes, (0, 1), value=constant)
    return torch.nn.functional.pad(codes, (0, extra - 1)) if extra > 1 else codes


def _part(
    x: Tensor, geometry: Geometry, axis: int, first: int, last: int, start: int, stop: int, each: int
) -> tuple[Tensor, Geometry, int, int]:
    return x.narrow(axis, first, last + 1 - first), geometry, start - first * each, stop - first * each


def _along(
    x: Tensor, geometry: Geometry, axis: int, start: int, stop: int, each: int
) -> tuple[Tensor, Geometry, int, int]:
    """What rows start..stop need of the inputs, with `each` of them at one place along depth (0) or height (1)."""
    first, last = start // each, (stop - 1) // each
    size = geometry.out.copy()
    size[axis] = last + 1 - first
    needed = int((last - first) * geometry.stride[axis] + (geometry.kernel[axis] - 1) * geometry.dilation[axis] + 1)
    part = x.narrow(1 + axis, int(first * geometry.stride[axis]), needed)
    return part, geometry._replace(out=size), start - first * each, stop - first * each
