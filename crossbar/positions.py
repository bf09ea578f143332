"""Numbers of the positions of a sample, by which its random numbers are told apart."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from .kernels.philox import POSITION_BITS

Array = np.ndarray[Any, Any]


def position_numbers(shape: tuple[int, ...]) -> Array:
    """(prod(shape),) uint32: the numbers of the positions of an array of this shape, the last index running fastest.

    The number of a position depends on its indices and not on the shape, so that padding at the end changes the number
    of no position that was there before. With one axis it is the index. With several the bits of the indices take turns
    (Morton 1966, IBM Germany, "A computer oriented geodetic data base"), so each axis has POSITION_BITS / axes of them:
    16,384 rows and columns of a picture, 512 of a volume. Where an axis is longer, positions are numbered one after
    another, and then the numbers do depend on the shape.

    Raises:
        ValueError: more positions than there are numbers.
    """
    count, axes = prod(shape), max(1, len(shape))
    if count > 1 << POSITION_BITS:
        raise ValueError(f"positions of a sample must be at most 2^{POSITION_BITS}, got {count} of shape {shape}")
    bits = POSITION_BITS // axes
    if axes == 1 or any(size > 1 << bits for size in shape):
        return np.arange(count, dtype=np.uint32)
    number = np.zeros(shape, dtype=np.uint32)
    for axis, index in enumerate(np.ogrid[tuple(slice(size) for size in shape)]):
        for bit in range(max(shape[axis] - 1, 0).bit_length()):
            number |= (index.astype(np.uint32) >> bit & 1) << np.uint32(bit * axes + axes - 1 - axis)
    return number.reshape(-1)
