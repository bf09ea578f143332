"""Programming error: how far from its target a cell ends up after write and verify.

Each model has `std(g, *, temperature)`: the standard deviation of a Gaussian error, in siemens, for target conductances
`g` (siemens), in their shape and dtype, at `temperature` kelvins.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from scipy.constants import elementary_charge

from .config import Config
from .data import Fitted
from .string import NandString
from .units import Farad, Siemens, Volt

Array = np.ndarray[Any, Any]


class NoProgrammingError(Config):
    """Cells take exactly the conductance they are given."""

    kind: Literal["none"] = "none"

    def std(self, g: Array, *, temperature: float) -> Array:
        """Zeros of the shape of `g`."""
        return np.zeros_like(g)


class PolynomialProgrammingError(Fitted):
    """std(g) = max(sum_k c_k (g / g_ref)^k, 0): coefficients c_k and g_ref in siemens, the constant term first.

    A fit to measured arrays: ReRAM of Wan et al. 2022 (Nature 608:504, Extended Data Fig. 3) and of Milo et al. 2021
    (IRPS, Fig. 4), PCM of Joshi et al. 2020 (Nat. Commun. 11:2473, Fig. 3b).
    """

    kind: Literal["polynomial"] = "polynomial"
    coefficients: Annotated[tuple[Siemens, ...], Field(min_length=1, max_length=20)]
    g_ref: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array, *, temperature: float) -> Array:
        """Standard deviation in siemens."""
        x = g / self.g_ref
        total = np.full_like(x, self.coefficients[-1])
        for coefficient in self.coefficients[-2::-1]:
            total *= x
            total += coefficient
        return np.maximum(total, 0, out=total)


class SaturatingProgrammingError(Fitted):
    """std(g) = s_max (1 - exp(-g / g_0)), with s_max and g_0 in siemens.

    Charge-trap cells: the error vanishes with the current and levels off (Agrawal et al. 2022, IEDM 21.7, Fig. 10a).
    """

    kind: Literal["saturating"] = "saturating"
    s_max: Annotated[Siemens, Field(ge=0)]
    g_0: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array, *, temperature: float) -> Array:
        """Standard deviation in siemens for `g` >= 0."""
        return -self.s_max * np.expm1(-g / self.g_0)


class IncrementalProgrammingError(Fitted):
    """Pulses that raise the threshold voltage by `v_step` each, until it passes the level of the cell.

    The last pulse overshoots by anything up to a step, V_step / sqrt(12) (Suh et al. 1995, IEEE J. Solid-State Circuits
    30:1149), and injects V_step C_pp / q electrons, of which sqrt(q V_step / C_pp) volts are chance: C_pp = `c_pp` is
    the capacitance between control gate and charge; None: not counted (Monzio Compagnoni et al. 2008, IEEE Trans.
    Electron Devices 55:2695). The error is both in quadrature, times |dg / dV_T|: a bound, as verifying takes back half
    of the variance of Poisson electrons. The mean overshoot is taken to be allowed for.
    """

    kind: Literal["incremental"] = "incremental"
    v_step: Annotated[Volt, Field(gt=0)]
    c_pp: Annotated[Farad, Field(gt=0)] | None = None
    string: NandString

    @property
    def sigma_vt(self) -> float:
        """Standard deviation of the threshold voltage in volts."""
        injection = 0.0 if self.c_pp is None else elementary_charge * self.v_step / self.c_pp
        return math.sqrt(self.v_step**2 / 12 + injection)

    def std(self, g: Array, *, temperature: float) -> Array:
        """Standard deviation in siemens."""
        return self.sigma_vt * self.string.sensitivity(g, temperature=temperature)


Programming = Annotated[
    NoProgrammingError | PolynomialProgrammingError | SaturatingProgrammingError | IncrementalProgrammingError,
    Field(discriminator="kind"),
]
