"""Programming error: how far from its target a cell ends up after write and verify.

Each model gives the standard deviation of a Gaussian error, in siemens, against the target conductance.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from .config import Config
from .units import Siemens

Array = np.ndarray[Any, Any]


class NoProgrammingError(Config):
    """Cells take exactly the conductance they are given."""

    kind: Literal["none"] = "none"

    def std(self, g: Array) -> Array:
        """Zeros of the shape of `g`."""
        return np.zeros_like(g)


class PolynomialProgrammingError(Config):
    """std(g) = max(sum_k c_k (g / g_ref)^k, 0): coefficients c_k and g_ref in siemens, the constant term first.

    A fit to measured arrays: ReRAM of Wan et al. 2022 (Nature 608:504, Extended Data Fig. 3) and of Milo et al. 2021
    (IRPS, Fig. 4), PCM of Joshi et al. 2020 (Nat. Commun. 11:2473, Fig. 3b).
    """

    kind: Literal["polynomial"] = "polynomial"
    coefficients: Annotated[tuple[Siemens, ...], Field(min_length=1)]
    g_ref: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array) -> Array:
        """Standard deviation in siemens for target conductances `g` in siemens, in the shape and dtype of `g`."""
        x = g / self.g_ref
        total = np.full_like(x, self.coefficients[-1])
        for coefficient in self.coefficients[-2::-1]:
            total *= x
            total += coefficient
        return np.maximum(total, 0, out=total)


class SaturatingProgrammingError(Config):
    """std(g) = s_max (1 - exp(-g / g_0)), with s_max and g_0 in siemens.

    Charge-trap cells: the error vanishes with the current and levels off (Agrawal et al. 2022, IEDM 21.7, Fig. 10a).
    """

    kind: Literal["saturating"] = "saturating"
    s_max: Annotated[Siemens, Field(ge=0)]
    g_0: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array) -> Array:
        """Standard deviation in siemens for target conductances `g` >= 0 in siemens, in the shape and dtype of `g`."""
        return -self.s_max * np.expm1(-g / self.g_0)


Programming = Annotated[
    NoProgrammingError | PolynomialProgrammingError | SaturatingProgrammingError, Field(discriminator="kind")
]
