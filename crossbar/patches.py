"""What the rows of a matrix take of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels.read import Geometry

Array = np.ndarray[Any, Any]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Patches:
    """How the rows of a matrix are taken from inputs (samples, depth, height, width, channels), as a convolution does.

    A row is one patch, in the order (kd, kh, kw, channel); a plain matrix takes the channels of each pixel.
    """

    kernel: Triple = (1, 1, 1)
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)

    def positions(self, size: tuple[int, ...]) -> Triple:
        """Patches along depth, height and width of inputs of this (depth, height, width), padding included."""
        if self.kernel == self.stride == (1, 1, 1):
            return size  # type: ignore[return-value]
        depth, height, width = (
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(size, self.kernel, self.stride, self.dilation, strict=True)
        )
        return depth, height, width

    def geometry(self, shape: tuple[int, ...], group: int, groups: int) -> Geometry:
        """How a kernel takes the patches of one of the groups from inputs of this shape."""
        channels, size = shape[4] // groups, self.positions(shape[1:4])
        kernel, stride, dilation, out = np.array([self.kernel, self.stride, self.dilation, size], dtype=np.int64)
        return Geometry(kernel, stride, dilation, out, group * channels, channels)


PLAIN = Patches()
"""The rows are the inputs."""


def taps(x: Any, geometry: Geometry) -> list[Any]:
    """What all patches have at each place of the kernel in turn: (samples, *positions, channels), parts of x.

    x (samples, depth, height, width, channels) may be an array of any library.
    """
    (kd, kh, kw), (sd, sh, sw), (dd, dh, dw), (od, oh, ow) = geometry[:4]
    x = x[..., geometry.first_channel : geometry.first_channel + geometry.channels]
    found = [
        x[:, a * dd : a * dd + od * sd : sd, b * dh : b * dh + oh * sh : sh, c * dw : c * dw + ow * sw : sw]
        for a in range(kd)
        for b in range(kh)
        for c in range(kw)
    ]
    return [tap[:, :od, :oh, :ow] for tap in found]


def gather(x: Array, geometry: Geometry) -> Array:
    """All patches (samples * positions, kernel volume * channels) of x (samples, depth, height, width, channels)."""
    rows = np.concatenate(taps(x, geometry), axis=-1)
    return rows.reshape(-1, rows.shape[-1])
