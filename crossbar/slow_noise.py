"""Noise of cells that outlives a read: what successive reads of a sample have in common.

A cell's fluctuation in read k is the sum of components that keep their value for 1, 2, 4, ... reads, and of one that
never changes: the generator of 1/f noise that Voss and Clarke describe (1978, J. Acoust. Soc. Am. 63:258). A component
of variance w that lasts L reads, renewed at times that are evenly spread over the word lines, gives two reads d apart
the covariance w max(0, 1 - d / L). Sums of these are all convex, falling functions that are linear between powers of
two, and so meet the correlation of 1/f and of telegraph noise there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import Backend
from .keys import Key

Array = np.ndarray[Any, Any]
DOUBLINGS = 12  # the slowest component that changes lasts 4,096 reads


def block_shares(correlation: Callable[[Array], Array]) -> Array:
    """Shares (DOUBLINGS + 2,) of a noise's variance, by how long they last: 1, 2, ... 2^DOUBLINGS reads, and for ever.

    Args:
        correlation: of two reads that are so many reads apart; 1 at 0, falling and convex.

    They sum to 1 and have exactly the given correlation at distances of 0, 1, 2, 4, ... 2^DOUBLINGS; in between it is
    linear, above it constant.

    Raises:
        ValueError: a correlation that rises or is not convex, which no such shares have.
    """
    distance = np.concatenate([[0], 2.0 ** np.arange(DOUBLINGS + 1)])
    value = np.concatenate([[1.0], correlation(distance[1:])])
    slope = -np.diff(value) / np.diff(distance)
    shares = 2.0 ** np.arange(DOUBLINGS + 1) * -np.diff(slope, append=0)
    shares = np.concatenate([shares, value[-1:]])
    if shares.min() < -1e-6:
        at = 2 ** int(shares.argmin())
        raise ValueError(
            f"its correlation must be convex in the lag, falling ever less from read to read; it bends down {at} "
            "read_interval after a read"
        )
    shares = np.maximum(shares, 0)
    return shares / shares.sum()


def variance_of_mean(shares: Array, reads: int) -> float:
    """Variance of the mean of so many successive reads of a cell, relative to that of one read."""
    distance = np.arange(1, reads)
    lasting = 2.0 ** np.arange(len(shares) - 1)
    common = np.maximum(0, 1 - distance[:, None] / lasting) @ shares[:-1] + shares[-1]
    return float((reads + 2 * ((reads - distance) * common).sum()) / reads**2)


def shared_on_average(shares: Array, reads: int) -> float:
    """Mean correlation of a cell's noise between two different reads of a series of so many, at least 2.

    The rest of the variance is what the reads of the series show as their variance about their mean.
    """
    return (reads * variance_of_mean(shares, reads) - 1) / (reads - 1)


def perturbed(mean: Array, std: Array, shares: Array, place: tuple[int, int, int], key: Key, backend: Backend) -> Array:
    """Conductances (rows, columns) float32 of one read: `mean` plus the slow part of noise of the given std.

    The first of the `shares`, which lasts one read, is left out: the read itself draws it. place =
    (word line of the first row, read, plane), where the plane tells apart cells of the same row and column.
    """
    out = mean.copy()
    amplitudes = np.sqrt(shares).astype(np.float32)
    backend.fluctuate(std, amplitudes, place, key, out)
    return out
