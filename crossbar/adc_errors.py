"""What to expect of ADCs that differ, over all chips: an ADC has the same errors in all that it converts."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .converters import Adc

Array = np.ndarray[Any, Any]
TRIALS = 256  # ADCs that errors are averaged over


class AdcErrors(NamedTuple):
    """The errors of an ADC, in LSB of a reading, over all ADCs.

    Attributes:
        offset: standard deviation of what is the same at all levels.
        gain: that of the factor that readings come with.
        shift: (codes,) mean of what elements that err make of a reading near a code.
        shapes: (parts, codes) what makes a part of one standard deviation of it; the parts of an ADC are independent.
        rest: (codes,) variance of what is left, independent from code to code: of elements that have one code each.
    """

    offset: float
    gain: float
    shift: Array
    shapes: Array
    rest: Array

    @classmethod
    def of(cls, adc: Adc) -> AdcErrors:
        """Those of ADCs with bits."""
        assert adc.bits is not None
        inl, draws = np.zeros((1, 2**adc.bits - 1)), 0
        if adc.kind is not None:
            draws = adc.kind.draws(adc.bits)
            normals = np.random.default_rng(0).standard_normal((TRIALS if draws else 1, draws))
            inl = adc.kind.transitions(adc.bits, normals) - (np.arange(1, 2**adc.bits) - 0.5)
        ends = np.pad(-inl, [(0, 0), (1, 1)], mode="edge")
        near = (ends[:, 1:] + ends[:, :-1]) / 2  # of the two levels that a code lies between
        shift = near.mean(axis=0)
        few = draws if draws <= adc.bits else 0
        _, size, shapes = np.linalg.svd((near - shift) / np.sqrt(len(near)), full_matrices=False)
        shapes = (size[:, None] * shapes)[:few]
        spread = np.square(ends - ends.mean(axis=0)).mean(axis=0)
        rest = (spread[1:] + spread[:-1]) / 2 - np.square(shapes).sum(axis=0)
        known = adc.calibrated
        return cls(0.0 if known else adc.offset, 0.0 if known else adc.gain, shift, shapes, np.maximum(rest, 0))

    def near(self, table: Array, level: Array) -> Array:
        """What `shift`, `rest` or one of `shapes` has for readings at these levels, counted from the lowest code."""
        return np.interp(level, np.arange(len(table)), table)

    def parts(self, level: Array, current: Array) -> list[Array]:
        """What makes of readings one standard deviation of each error that an ADC has once, in LSB.

        `level` and `current` in LSB, the former counted from the lowest code.
        """
        linear = [np.full_like(level, self.offset), self.gain * current] if self.linear else []
        return linear + [self.near(shape, level) for shape in self.shapes]

    @property
    def linear(self) -> bool:
        """Whether there are offsets or gains."""
        return self.offset > 0 or self.gain > 0


class OfRowTile:
    """The errors in the outputs of a row tile that are the same in all that an ADC converts: they add up, or cancel.

    Args:
        which: (readings, columns) the ADC of each.
        reference: (outputs,) the column whose reading is taken off that of an output; empty where there is none.
    """

    def __init__(self, errors: AdcErrors, which: Array, reference: Array, outputs: int, rows: int) -> None:
        self.errors, self.outputs = errors, outputs
        mine = [which[:, :outputs], *([which[:, reference]] if reference.size else [])]
        all_of_one = np.concatenate(mine)  # (readings of an output, outputs)
        first = np.argmax(all_of_one[:, None] == all_of_one[None], axis=1)  # the first reading with the same ADC
        kinds, slot = np.unique(first, return_inverse=True)
        self._slot = slot.reshape(first.shape)
        parts = (2 if errors.linear else 0) + len(errors.shapes)
        self._sums = np.zeros((len(kinds), parts, rows, outputs))
        self._readings, self._reference = len(which), reference

    def add(self, r: int, current: Array, level: Array, counts: Array) -> None:
        """A conversion of the reading r, which counts (outputs,) outputs an LSB; others (rows, columns), in LSB."""
        for k, part in enumerate(self.errors.parts(level, current)):
            self._put(r, k, part[:, : self.outputs] * counts)
            if self._reference.size:
                self._put(self._readings + r, k, -part[:, self._reference] * counts)

    def variance(self) -> Array:
        """(rows, outputs)."""
        return np.square(self._sums).sum(axis=(0, 1))

    def _put(self, reading: int, part: int, values: Array) -> None:
        for slot in np.unique(self._slot[reading]):
            self._sums[slot, part] += np.where(self._slot[reading] == slot, values, 0.0)


def undithered_share(noise: Array) -> Array:
    """Share of the variance LSB^2 / 12 of a quantiser's error that is the same in all reads, for noise in LSB.

    Gaussian noise ahead of it leaves a mean error sum_m (LSB / pi m) exp(-2 (pi m noise)^2) sin(2 pi m I / LSB), up to
    signs (Gray and Stockham 1993, IEEE Trans. Inf. Theory 39:805), whose mean square is this share for currents spread
    over many levels.
    """
    m = np.arange(1, 9)
    terms = np.exp(-4 * np.square(np.pi * m * noise[..., None])) / m**2
    return np.where(noise == 0, 1.0, terms.sum(axis=-1) * 6 / np.pi**2)
