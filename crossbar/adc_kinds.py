"""Kinds of ADC: where the codes of one that is not ideal begin.

A kind gives the levels, in LSB, at which each next code begins; those of an ideal ADC are 1/2, 3/2, ... A class that
derives from `AdcKind` is one more kind that `adc.kind` may name.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

from ..devices.parts import Part, check_part, kinds_of
from ..devices.registry import Registry
from ..devices.units import Number

Array = np.ndarray[Any, Any]
BLOCK = 1 << 16  # levels that are searched together, so that all steps find them in the cache
Mismatch = Annotated[Number, Field(ge=0, le=0.3)]


class AdcKind(Part):
    """A circuit of ADCs, with the errors of its elements, which are frozen when the chip is made."""

    registry: ClassVar[Registry[Any]] = Registry("ADC kind", "mho.adc_kinds", check_part)

    @abstractmethod
    def draws(self, bits: int) -> int:
        """How many normal numbers an ADC takes."""

    @abstractmethod
    def transitions(self, bits: int, normals: Array) -> Array:
        """(ADCs, 2^bits - 1) levels in LSB, rising, for normals (ADCs, draws): code k begins at number k - 1.

        Levels are counted from where an ideal ADC has code 0, so that its code k is nearest to level k.
        """


class Bowed(AdcKind):
    """A counter and something that goes evenly but for a bow: INL(x) = 4 bow x (1 - x) LSB at the share x of the range.

    The bow is common to all ADCs; their offsets and gains are `adc.offset` and `adc.gain`.
    """

    bow: Annotated[Number, Field(ge=-1e3, le=1e3)] = 0.0

    def draws(self, bits: int) -> int:
        """None."""
        return 0

    def transitions(self, bits: int, normals: Array) -> Array:
        """Levels in LSB."""
        x = np.linspace(0, 1, 2**bits + 1)[1:-1]
        return np.tile(np.maximum.accumulate(_ideal(bits) + 4 * self.bow * x * (1 - x)), (len(normals), 1))


class Ramp(Bowed):
    """One ramp for all columns. A bow is the first term of what its current source's finite resistance makes."""

    kind: Literal["ramp"] = "ramp"


class Oscillator(Bowed):
    """A current-controlled oscillator for each column, whose cycles are counted while the current flows.

    Khaddam-Aljameh et al. 2022 (IEEE J. Solid-State Circuits 57:1027): HERMES.
    """

    kind: Literal["cco"] = "cco"


class Sar(AdcKind):
    """Successive approximation with capacitors of 1, 2, 4, ... units, each unit off by `mismatch`, relative.

    A capacitor of n units is off by mismatch / sqrt(n) (Pelgrom et al. 1989, IEEE J. Solid-State Circuits 24:1433).
    Its whole is taken as right: that is `adc.gain`.
    """

    kind: Literal["sar"] = "sar"
    mismatch: Mismatch = 0.0

    def draws(self, bits: int) -> int:
        """One for each capacitor."""
        return bits

    def transitions(self, bits: int, normals: Array) -> Array:
        """Levels in LSB."""
        units = 2.0 ** np.arange(bits)[::-1]  # the largest first
        weights = np.maximum(units * (1 + self.mismatch / np.sqrt(units) * normals), 0)
        return _searched(weights * (units.sum() / weights.sum(axis=1, keepdims=True)))


class Cyclic(AdcKind):
    """One stage used again for each bit, which doubles what is left over, but for a gain error of its capacitors.

    The residue is 2 (1 + e) (r - b / 2) with e normal, `mismatch` its standard deviation (Li et al. 1984, IEEE J.
    Solid-State Circuits 19:828).
    """

    kind: Literal["cyclic"] = "cyclic"
    mismatch: Mismatch = 0.0

    def draws(self, bits: int) -> int:
        """One: the gain of the stage."""
        return 1

    def transitions(self, bits: int, normals: Array) -> Array:
        """Levels in LSB."""
        gain = np.maximum(2 * (1 + self.mismatch * normals), 1)
        return _searched(2.0 ** (bits - 1) * gain ** -np.arange(bits, dtype=float))


class Flash(AdcKind):
    """A comparator for each level, off by `offset` LSB (standard deviation); their ones are counted."""

    kind: Literal["flash"] = "flash"
    offset: Annotated[Number, Field(ge=0, le=1e3)] = 0.0

    def draws(self, bits: int) -> int:
        """One for each comparator."""
        return 2**bits - 1

    def transitions(self, bits: int, normals: Array) -> Array:
        """Levels in LSB."""
        return np.sort(_ideal(bits) + self.offset * normals, axis=1)


class Measured(AdcKind):
    """Integral nonlinearity as measured: `inl` in LSB at evenly spaced levels from the lowest to the highest.

    The levels in between are interpolated; all ADCs have the same.
    """

    kind: Literal["table"] = "table"
    inl: Annotated[tuple[Annotated[Number, Field(ge=-1e3, le=1e3)], ...], Field(min_length=2, max_length=65536)]

    @model_validator(mode="after")
    def _no_way_back(self) -> Measured:
        if not np.isfinite(self.inl).all():
            raise ValueError("inl must be finite numbers of LSB")
        return self

    def draws(self, bits: int) -> int:
        """None."""
        return 0

    def transitions(self, bits: int, normals: Array) -> Array:
        """Levels in LSB."""
        ideal = _ideal(bits)
        given = np.linspace(ideal[0], ideal[-1], len(self.inl))
        return np.tile(np.maximum.accumulate(ideal + np.interp(ideal, given, self.inl)), (len(normals), 1))


def _ideal(bits: int) -> Array:
    """(2^bits - 1,) levels at which the codes of an ideal ADC begin."""
    return np.arange(1, 2**bits) - 0.5


def _searched(weights: Array) -> Array:
    """Where codes begin that are found bit by bit, with weights (ADCs, bits), the largest first.

    A bit is set if what it makes of the code is at most the level. A code has the levels from where its last bit that
    is set was, to where the first that is not would have been; where that is nothing, the code is missing.
    """
    at_once = max(1, BLOCK >> weights.shape[1])
    return np.concatenate([_found(weights[a : a + at_once]) for a in range(0, len(weights), at_once)])


def _found(weights: Array) -> Array:
    """`_searched` of some ADCs."""
    adcs, bits = weights.shape
    codes = np.arange(2**bits)
    total = np.zeros((adcs, 2**bits))
    lowest, above = np.full_like(total, -np.inf), np.full_like(total, np.inf)
    for i in range(bits):
        on = (codes >> (bits - 1 - i) & 1).astype(bool)
        reached = total + weights[:, i : i + 1]
        lowest = np.where(on, np.maximum(lowest, reached), lowest)
        above = np.where(on, above, np.minimum(above, reached))
        total = np.where(on, reached, total)
    begins = np.where(lowest < above, lowest, np.inf)[:, ::-1]
    return np.minimum.accumulate(begins, axis=1)[:, ::-1][:, 1:] - 0.5


Kind = Annotated[AdcKind, kinds_of(AdcKind), SerializeAsAny()]
