"""Read noise of a cell: how much its conductance differs from one read to the next.

Each model has `std(g, *, v_read, time_s)`: the standard deviation in siemens for conductances `g` (siemens), read at
`v_read` volts, `time_s` seconds after programming ended. Noise measured as a current is divided by v_read.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from .config import Config
from .units import Ampere, Second, Siemens

Array = np.ndarray[Any, Any]


class NoReadNoise(Config):
    """Cells read the same every time."""

    kind: Literal["none"] = "none"

    def std(self, g: Array, *, v_read: float, time_s: float) -> Array:
        """Zeros of the shape of `g`."""
        return np.zeros_like(g)


class RelativeReadNoise(Config):
    """std = fraction g: 1/f and random-telegraph noise in proportion to the current."""

    kind: Literal["relative"] = "relative"
    fraction: Annotated[float, Field(ge=0)]

    def std(self, g: Array, *, v_read: float, time_s: float) -> Array:
        """Standard deviation in siemens, in the shape and dtype of `g`."""
        return self.fraction * g


class ConstantReadNoise(Config):
    """The same std for every cell, whatever its state: noise of the access path, or a bound where only one is known."""

    kind: Literal["constant"] = "constant"
    std_g: Annotated[Siemens, Field(ge=0)]

    def std(self, g: Array, *, v_read: float, time_s: float) -> Array:
        """Standard deviation in siemens, in the shape and dtype of `g`."""
        return np.full_like(g, self.std_g)


class PcmReadNoise(Config):
    """1/f noise of phase-change cells: std = g Q sqrt(ln((t + t_read) / (2 t_read))).

    Q = min(coefficient x^-exponent, maximum) with x = g / g_ref; t = t_0 + time_s is the time since the last pulse that
    programmed, so that a cell just verified has the noise of t_0. The logarithm is the spectrum Q^2 G^2 / f integrated
    over all frequencies seen since then by pulses of length t_read. Joshi et al. 2020 (Nat. Commun. 11:2473) and
    Nandakumar et al. 2019 (ICECS), in the fit that IBM's aihwkit publishes. Most of the variance lies below the rate of
    reads, so reads soon after one another share it in truth, while each draws it afresh here.
    """

    kind: Literal["pcm"] = "pcm"
    g_ref: Annotated[Siemens, Field(gt=0)]
    coefficient: Annotated[float, Field(ge=0)]
    exponent: Annotated[float, Field(ge=0, lt=1)]
    maximum: Annotated[float, Field(ge=0)]
    t_read: Annotated[Second, Field(gt=0)]
    t_0: Annotated[Second, Field(gt=0)]

    @model_validator(mode="after")
    def _verified_after_a_read(self) -> PcmReadNoise:
        if self.t_0 < self.t_read:
            raise ValueError(f"t_0 must be at least t_read = {self.t_read:g} s, got {self.t_0:g} s")
        return self

    def std(self, g: Array, *, v_read: float, time_s: float) -> Array:
        """Standard deviation in siemens, in the shape and dtype of `g`; 0 where `g` is 0.

        Raises:
            ValueError: negative time.
        """
        if not time_s >= 0:
            raise ValueError(f"time_s must be at least 0 seconds after programming, got {time_s}")
        x = np.maximum(g / self.g_ref, np.finfo(g.dtype).tiny)
        q = np.minimum(self.coefficient * x**-self.exponent, self.maximum)
        t = self.t_0 + time_s
        return g * q * math.sqrt(math.log((t + self.t_read) / (2 * self.t_read)))


class SaturatingReadNoise(Config):
    """std of the current = i_max (1 - exp(-I / i_0)) at I = g v_read, with i_max and i_0 in amperes.

    Charge-trap cells (Agrawal et al. 2022, IEDM 21.7, Fig. 11b). It becomes a conductance noise here: a cell driven at
    part of v_read has that part of the current noise.
    """

    kind: Literal["saturating"] = "saturating"
    i_max: Annotated[Ampere, Field(ge=0)]
    i_0: Annotated[Ampere, Field(gt=0)]

    def std(self, g: Array, *, v_read: float, time_s: float) -> Array:
        """Standard deviation in siemens, in the shape and dtype of `g` >= 0."""
        return -(self.i_max / v_read) * np.expm1(-g * (v_read / self.i_0))


ReadNoise = Annotated[
    NoReadNoise | RelativeReadNoise | ConstantReadNoise | PcmReadNoise | SaturatingReadNoise,
    Field(discriminator="kind"),
]
