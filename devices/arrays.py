"""What arrays of every kind have in common, so that each model of a cell is written once.

Models get an array namespace `xp` beside their arrays: `numpy`, or `torch` where gradients are to flow. They use what
both have under one name and with the same arguments (`xp.exp`, `xp.clip`, `xp.where`, `xp.full_like`, ...; not
`xp.maximum`, as torch's takes no numbers), change no array that they are given, and use these functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr as scipy_ndtr

Array = np.ndarray[Any, Any]  # or a tensor
Namespace = Any  # `numpy` or `torch`


def at_least(x: Array, low: float, xp: Namespace) -> Array:
    """The larger of `x` and a number."""
    return np.maximum(x, low) if xp is np else xp.clip(x, low, None)


def interp(x: Array, at: Sequence[float], values: Sequence[float], xp: Namespace) -> Array:
    """Values at `x`, linear between those `at` increasing places, constant outside; in the shape and dtype of `x`."""
    if xp is np:
        return np.interp(x, at, values).astype(x.dtype, copy=False)
    tensor: Any = x
    places, heights = (xp.asarray(list(map(float, v)), dtype=x.dtype, device=tensor.device) for v in (at, values))
    if len(places) == 1:
        return heights[0] + 0 * x
    after = xp.clip(xp.searchsorted(places, tensor.detach().contiguous()), 1, len(places) - 1)
    low, high = places[after - 1], places[after]
    share = xp.clip((x - low) / (high - low), 0, 1)
    return heights[after - 1] + share * (heights[after] - heights[after - 1])


def interp_table(
    x: Array, y: Array, axes: tuple[Sequence[float], Sequence[float]], table: Sequence[Sequence[float]], xp: Namespace
) -> Array:
    """Values of a table (len(axes[0]), len(axes[1])) at x and y, both of one shape, in it and in the dtype of `x`.

    Linear along both increasing axes. Outside it is constant along the first, and goes on along the second.
    """
    tensor: Any = x
    kind = {"dtype": x.dtype} if xp is np else {"dtype": x.dtype, "device": tensor.device}
    rows, columns, values = (xp.asarray(np.asarray(part, dtype=float), **kind) for part in (*axes, table))
    found: list[tuple[Array, Array, Array]] = []
    for at, axis, ends in ((x, rows, True), (y, columns, False)):
        held: Any = at if xp is np else at.detach().contiguous()  # type: ignore[attr-defined]
        if len(axis) == 1:
            first = xp.zeros_like(held, dtype=xp.int64)
            found.append((first, first, 0 * at))
            continue
        after = xp.clip(xp.searchsorted(axis, held), 1, len(axis) - 1)
        share = (at - axis[after - 1]) / (axis[after] - axis[after - 1])
        found.append((after - 1, after, xp.clip(share, 0, 1) if ends else share))
    (a, b, u), (c, d, v) = found
    low, high = (values[row, c] + v * (values[row, d] - values[row, c]) for row in (a, b))
    return low + u * (high - low)


def sqrt(x: Array, xp: Namespace) -> Array:
    """The square root of `x` >= 0, with a gradient of 0 at 0."""
    return np.sqrt(x) if xp is np else xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1)), 0)


def ndtr(x: Array, xp: Namespace) -> Array:
    """The probability of a standard normal number below `x`, in the shape and dtype of `x`."""
    return scipy_ndtr(x) if xp is np else xp.special.ndtr(x)
