"""How the current of a cell follows its voltage.

Each law has `current(v, v_read=...)` and `slope(v, v_read=...)`: amperes, and siemens, for each siemens of a cell's
conductance at voltages v. The conductance is that at v_read, where cells are verified: current(v_read) = v_read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from .config import Config
from .units import Number, Volt

Array = np.ndarray[Any, Any]


class Linear(Config):
    """Ohm's law."""

    kind: Literal["linear"] = "linear"

    def current(self, v: Array, *, v_read: float) -> Array:
        """v."""
        return v

    def slope(self, v: Array, *, v_read: float) -> Array:
        """1."""
        return np.ones_like(v)


class Sinh(Config):
    """I = g v_read sinh(v / v_0) / sinh(v_read / v_0): conduction over barriers, tunnelling.

    Simmons 1963 (J. Appl. Phys. 34:1793) for a tunnel barrier at intermediate voltages; the usual form for filaments
    with a gap (Jiang et al. 2016, IEEE Trans. Electron Devices 63:1884, the Stanford-PKU model). v_0 far above the
    voltages used is Ohm's law.
    """

    kind: Literal["sinh"] = "sinh"
    v_0: Annotated[Volt, Field(gt=0)]

    def current(self, v: Array, *, v_read: float) -> Array:
        """Amperes per siemens."""
        return v_read * np.sinh(v / self.v_0) / np.sinh(v_read / self.v_0)

    def slope(self, v: Array, *, v_read: float) -> Array:
        """Its derivative."""
        return v_read / self.v_0 * np.cosh(v / self.v_0) / np.sinh(v_read / self.v_0)


class Cubic(Config):
    """I = g v (1 + c_3 v^2) / (1 + c_3 v_read^2) with c_3 per square volt: the first term beyond Ohm's law."""

    kind: Literal["cubic"] = "cubic"
    c_3: Annotated[Number, Field(ge=0, le=1e9)]

    def current(self, v: Array, *, v_read: float) -> Array:
        """Amperes per siemens."""
        return v * (1 + self.c_3 * np.square(v)) / (1 + self.c_3 * v_read**2)

    def slope(self, v: Array, *, v_read: float) -> Array:
        """Its derivative."""
        return (1 + 3 * self.c_3 * np.square(v)) / (1 + self.c_3 * v_read**2)


Nonlinearity = Annotated[Linear | Sinh | Cubic, Field(discriminator="kind")]
