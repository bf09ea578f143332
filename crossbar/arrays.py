"""The arrays in which a backend takes inputs and gives readings: numpy arrays, unless it redefines what is here."""

from __future__ import annotations

from math import isfinite
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..devices.arrays import Namespace

Margins = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Zeros before and behind along depth, height and width."""


class Unpadded(NamedTuple):
    """Inputs with zeros around them that are not in memory.

    Attributes:
        values: (samples, depth, height, width, channels), in memory of any order.
        margins: the zeros.
    """

    values: Any
    margins: Margins

    @property
    def shape(self) -> tuple[int, ...]:
        """With the zeros."""
        shape = self.values.shape
        return shape[0], *(n + sum(pair) for n, pair in zip(shape[1:4], self.margins, strict=True)), shape[4]


class Arrays:
    """What the reader does with inputs, their codes and readings; all else about a chip is in numpy arrays.

    A backend may have arrays of another library in their place, on a device of its own, or such that remember how they
    were computed. They have `shape` and `reshape`, their first dimension has a length and can be cut, and what is
    written into a part of one is in the whole.

    Attributes:
        kind: of the arrays, by which networks know how to turn tensors into them (see `mho.mapping.arrays`).
        namespace: of their functions, by which the models of cells compute with them (see `mho.devices.arrays`).
    """

    kind: ClassVar[str] = "numpy"
    namespace: ClassVar[Namespace] = np

    def array(self, x: Any) -> Any:
        """A numpy array, or an array of this kind, as one of this kind: contiguous float32."""
        return np.ascontiguousarray(x, dtype=np.float32)

    def padded(self, x: Unpadded) -> Any:
        """Inputs, numpy or of this kind, with the zeros around them, as `array` gives them."""
        return np.pad(self.array(x.values), ((0, 0), *x.margins, (0, 0)))

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        """An array of this kind, or a numpy array, as a numpy array of the same values."""
        return np.asarray(x)

    def empty(self, shape: tuple[int, ...], like: Any, *, integers: bool = False) -> Any:
        """A contiguous array to be filled, on the device of another one: of float32, or for codes that are `integers`.

        These have at most 16 bits and are the codes for int16 planes; a backend that reads floats takes float32 too.
        """
        return np.empty(shape, np.int16 if integers else np.float32)

    def joined(self, groups: Any) -> Any:
        """Readings (groups, reads, rows, outputs) as (reads, rows, groups x outputs), contiguous in each read."""
        many, reads, rows, outputs = groups.shape
        return groups[0] if many == 1 else groups.transpose(1, 2, 0, 3).reshape(reads, rows, many * outputs)

    def rescaled(self, y: Any, scales: Any, bias: np.ndarray[Any, Any]) -> Any:
        """y (reads, rows, outputs) times scales (1 or reads, rows), plus bias (outputs,); y may be overwritten."""
        y *= scales[:, :, None]
        y += bias
        return y

    def all_finite(self, x: Any) -> bool:
        """Whether no value is NaN or infinite."""
        return isfinite(np.vdot(x, x)) or bool(np.isfinite(x).all())
