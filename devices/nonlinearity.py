"""How the current of a cell follows its voltage.

`NonlinearityModel` says what a kind must have.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny

from .arrays import Array, Namespace
from .parts import Conditions, Part, check_part, kinds_of
from .registry import Registry
from .units import Number, Volt


class NonlinearityModel(Part):
    """A law of current and voltage, the same for all cells but for their conductance.

    The conductance is that at `conditions.v_read`, where cells are verified: current(v_read) = v_read. Voltages `v`
    have any shape, results have that shape and dtype.
    """

    registry: ClassVar[Registry[Any]] = Registry("nonlinearity", "mho.nonlinearity", check_part)

    @abstractmethod
    def current(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Amperes for each siemens of a cell's conductance at voltages `v`, rising with them, 0 at 0."""

    @abstractmethod
    def slope(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Its derivative: siemens for each siemens."""


class Linear(NonlinearityModel):
    """Ohm's law."""

    kind: Literal["linear"] = "linear"

    def current(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """v."""
        return v

    def slope(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """1."""
        return xp.ones_like(v)


class Sinh(NonlinearityModel):
    """I = g v_read sinh(v / v_0) / sinh(v_read / v_0): conduction over barriers, tunnelling.

    Simmons 1963 (J. Appl. Phys. 34:1793) for a tunnel barrier at intermediate voltages; the usual form for filaments
    with a gap (Jiang et al. 2016, IEEE Trans. Electron Devices 63:1884, the Stanford-PKU model). v_0 far above the
    voltages used is Ohm's law.
    """

    kind: Literal["sinh"] = "sinh"
    v_0: Annotated[Volt, Field(gt=0)]

    def current(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Amperes per siemens."""
        v_read = conditions.v_read
        return v_read * xp.sinh(v / self.v_0) / float(np.sinh(v_read / self.v_0))

    def slope(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Its derivative."""
        v_read = conditions.v_read
        return v_read / self.v_0 * xp.cosh(v / self.v_0) / float(np.sinh(v_read / self.v_0))


class Cubic(NonlinearityModel):
    """I = g v (1 + c_3 v^2) / (1 + c_3 v_read^2) with c_3 per square volt: the first term beyond Ohm's law."""

    kind: Literal["cubic"] = "cubic"
    c_3: Annotated[Number, Field(ge=0, le=1e9)]

    def current(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Amperes per siemens."""
        return v * (1 + self.c_3 * xp.square(v)) / (1 + self.c_3 * conditions.v_read**2)

    def slope(self, v: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Its derivative."""
        return (1 + 3 * self.c_3 * xp.square(v)) / (1 + self.c_3 * conditions.v_read**2)


Nonlinearity = Annotated[NonlinearityModel, kinds_of(NonlinearityModel), SerializeAsAny()]
