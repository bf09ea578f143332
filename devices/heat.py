"""What a cell's conductance is at the temperature it is read at, if it was programmed at another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .arrays import Array, Namespace, at_least, interp
from .data import Fitted
from .drift import DriftModel
from .parts import Conditions
from .units import ElectronVolt, Number, Siemens

Places = Annotated[tuple[Annotated[Number, Field(ge=0, le=1000)], ...], Field(min_length=1, max_length=1000)]
Many = Field(min_length=1, max_length=1000)


class Heated(DriftModel, Fitted):
    """A change with the temperature of reading alone, by a number of the cell's state.

    `conductances`, in units of g_ref and as programmed, are those that the numbers belong to; between them the numbers
    are linear, outside constant.
    """

    draws: ClassVar[int] = 0
    g_ref: Annotated[Siemens, Field(gt=0)]
    conductances: Places = (1.0,)

    @model_validator(mode="after")
    def _increase(self) -> Heated:
        if any(b <= a for a, b in pairwise(self.conductances)):
            raise ValueError(f"conductances must increase, got {self.conductances}")
        return self

    def _check(self, name: str, values: tuple[float, ...]) -> None:
        if len(values) != len(self.conductances):
            raise ValueError(
                f"{name} must have {len(self.conductances)} values, as conductances has, got {len(values)}"
            )

    def active(self, conditions: Conditions) -> bool:
        """At another temperature than that of programming."""
        return conditions.temperature != conditions.programmed_at


class TemperatureCoefficient(Heated):
    """g max(1 + per_kelvin (T - T_p), 0), at T of reading for a cell programmed at T_p: metallic filaments below 0."""

    kind: Literal["temperature_coefficient"] = "temperature_coefficient"
    per_kelvin: Annotated[tuple[Annotated[Number, Field(ge=-1, le=1)], ...], Many]

    @model_validator(mode="after")
    def _values(self) -> TemperatureCoefficient:
        self._check("per_kelvin", self.per_kelvin)
        return self

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances at `conditions.temperature`."""
        rise = interp(g / self.g_ref, self.conductances, self.per_kelvin, xp)
        return g * at_least(1 + rise * (conditions.temperature - conditions.programmed_at), 0, xp)


class ThermallyActivated(Heated):
    """g exp(E / k (1 / T_p - 1 / T)), at T of reading for a cell programmed at T_p: conduction of amorphous phases.

    The energy E depends on the state, more the more of the cell is amorphous (Ielmini and Zhang 2007, J. Appl. Phys.
    102:054517, for phase-change cells).
    """

    kind: Literal["thermally_activated"] = "thermally_activated"
    energies: Annotated[tuple[Annotated[ElectronVolt, Field(ge=0)], ...], Many]

    @model_validator(mode="after")
    def _values(self) -> ThermallyActivated:
        self._check("energies", self.energies)
        return self

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances at `conditions.temperature`."""
        energy = interp(g / self.g_ref, self.conductances, self.energies, xp)
        inverse = 1 / conditions.programmed_at - 1 / conditions.temperature
        return g * xp.exp(xp.clip(energy * (elementary_charge / boltzmann * inverse), None, 80.0))
