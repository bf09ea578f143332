"""Magnitudes of any number of values in little memory: a histogram, from which percentiles are taken."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SHIFT = 13  # bits of a float32 that a bin leaves out, of 23 behind the point: bins are 0.1 % wide


class Magnitudes:
    """How large values were, bin by bin; a percentile below 100 is right to 0.1 %, the largest exactly.

    Attributes:
        count: of values.
        largest: magnitude.
        negative: whether any value was below 0.
        finite: whether all were numbers, and none infinite.
    """

    def __init__(self) -> None:
        self.count, self.largest, self.negative, self.finite = 0, 0.0, False, True
        self._zeros, self._start, self._bins = 0, 0, np.zeros(0, np.int64)

    def add(self, values: Array) -> None:
        """More values, of any shape."""
        flat = values.reshape(-1).astype(np.float32, copy=False)
        if not flat.size:
            return
        self.negative |= bool((flat < 0).any())
        sizes = np.abs(flat)
        self.finite &= bool(np.isfinite(sizes).all())
        self._count(sizes, np.ones(1, np.int64))

    def with_scaled(self, factor: float, other: Magnitudes) -> Magnitudes:
        """These values times a positive factor, and others."""
        made = Magnitudes()
        for given, times in ((self, factor), (other, 1.0)):
            made._zeros += given._zeros
            made._count((given._edges(0.5) * times).astype(np.float32), given._bins)
            made.count += given._zeros
            made.negative |= given.negative
            made.finite &= given.finite
        made.largest = max(self.largest * factor, other.largest)
        return made

    def percentile(self, percentile: float) -> float:
        """That many percent of the magnitudes are no larger."""
        if percentile == 100 or not self.count:
            return self.largest
        place = (self.count - 1) * percentile / 100 - self._zeros
        before = np.concatenate([[0], np.cumsum(self._bins)])
        if place < 0 or not before[-1]:
            return 0.0
        k = min(int(np.searchsorted(before, place, side="right")) - 1, len(self._bins) - 1)
        inside = min(1.0, (place - before[k] + 0.5) / self._bins[k])
        low, high = (float(self._edges(at)[k]) for at in (0.0, 1.0))
        return min(low + inside * (high - low), self.largest)

    def _edges(self, at: float) -> Array:
        """Of each bin what is so far between its ends, 0 to 1."""
        codes = self._start + np.arange(len(self._bins) + 1, dtype=np.uint32)
        ends = (codes.astype(np.uint32) << SHIFT).view(np.float32).astype(np.float64)
        found: Array = ends[:-1] + at * (ends[1:] - ends[:-1])
        return found

    def _count(self, sizes: Array, times: Array) -> None:
        """Count float32 magnitudes, each so many times."""
        times = np.broadcast_to(times, sizes.shape)
        known = np.isfinite(sizes)
        sizes, times = sizes[known], times[known]
        if not sizes.size:
            return
        self.largest = max(self.largest, float(sizes.max()))
        codes = (np.ascontiguousarray(sizes).view(np.uint32) >> SHIFT).astype(np.int64)
        zero = codes == 0
        self.count += int(times.sum())
        self._zeros += int(times[zero].sum())
        codes, times = codes[~zero], times[~zero]
        if not codes.size:
            return
        first, last = int(codes.min()), int(codes.max()) + 1
        if len(self._bins):
            first, last = min(first, self._start), max(last, self._start + len(self._bins))
        bins = np.bincount(codes - first, times, last - first).astype(np.int64)
        at = self._start - first
        if len(self._bins):
            bins[at : at + len(self._bins)] += self._bins
        self._start, self._bins = first, bins
