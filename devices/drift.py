"""Drift and relaxation: what becomes of a programmed conductance with time.

`DriftModel` says what a kind must have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .arrays import Array, Namespace, at_least, interp, sqrt
from .config import Config, without_defaults
from .data import DataRange, Fitted
from .parts import Conditions, check_part, kinds_of
from .registry import Registry
from .settling import Settling
from .units import ElectronVolt, Kelvin, Number, Second, Siemens

Coefficient = Annotated[Number, Field(ge=-1000, le=1000)]
Ratio = Annotated[Number, Field(ge=0, le=1000)]
Rows = Field(max_length=1000)


class DriftModel(Settling):
    """What becomes of programmed conductances until they are read: `apply` gives `g` itself where nothing happened."""

    registry: ClassVar[Registry[Any]] = Registry("drift", "mho.drift", check_part)
    nodes: ClassVar[int] = 9

    def active(self, conditions: Conditions) -> bool:
        """Whether anything changes under these conditions; by default once some time has gone by."""
        return conditions.time_s > 0

    @property
    def parts(self) -> tuple[DriftModel, ...]:
        """The changes that it is made of, one after another."""
        return (self,)


class NoDrift(DriftModel):
    """Conductances stay as programmed."""

    kind: Literal["none"] = "none"
    draws: ClassVar[int] = 0

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """`g` itself."""
        return g


class LogLinear(Config):
    """f(x) = min(max(offset + slope ln x, low), high), a function of the relative conductance x.

    Attributes:
        offset: of f(x) = min(max(offset + slope ln x, low), high), x being g / g_ref.
        slope: of the same; 0: alike for all conductances.
        low, high: ends that f stays within.
    """

    offset: Coefficient
    slope: Coefficient
    low: Coefficient
    high: Coefficient

    @model_validator(mode="after")
    def _ordered(self) -> LogLinear:
        if self.low > self.high:
            raise ValueError(f"low must not exceed high, got low = {self.low} and high = {self.high}")
        return self

    def __call__(self, x: Array, xp: Namespace) -> Array:
        """f at `x` >= 0, in its shape and dtype."""
        positive = at_least(x, xp.finfo(x.dtype).tiny, xp)
        return xp.clip(self.offset + self.slope * xp.log(positive), self.low, self.high)


class PowerLawDrift(DriftModel, Fitted):
    """Structural relaxation of phase-change cells: G(t) = G_0 (1 + t / t_0)^-nu.

    G_0 is the conductance at the verifying read, t_0 seconds after the last programming pulse; t counts from that read.
    Each cell has its own exponent nu = max(mean(x) + spread(x) n, 0) with n standard normal and x = g / g_ref. Joshi et
    al. 2020 (Nat. Commun. 11:2473) and Nandakumar et al. 2019 (ICECS), in the fit that IBM's aihwkit publishes.

    At one temperature throughout, relaxation speeds up alike before and after the verifying read, which leaves t / t_0
    as it is. With an `activation` energy E_a, a second of storage at T counts exp(E_a / k (1 / T_p - 1 / T)) seconds,
    T_p being the temperature of programming, at which t_0 went by: relaxation is thermally activated (Ielmini et al.
    2008, Appl. Phys. Lett. 92:193511). None: temperatures change nothing.
    """

    kind: Literal["power_law"] = "power_law"
    t_0: Annotated[Second, Field(gt=0)]
    g_ref: Annotated[Siemens, Field(gt=0)]
    mean: LogLinear
    spread: LogLinear
    activation: Annotated[ElectronVolt, Field(ge=0)] | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(self, fields(self), "activation")

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances after `conditions.time_s` seconds."""
        pace = 1.0
        if self.activation is not None:
            pace = arrhenius(self.activation, conditions.programmed_at, conditions.stored_at)
        growth = 1 + conditions.time_s * pace / self.t_0
        x = g / self.g_ref
        nu = at_least(self.mean(x, xp) + self.spread(x, xp) * normals[0], 0, xp)
        return g * growth**-nu


class TabulatedRelaxation(DriftModel, Fitted):
    """Measured relaxation: the mean moves by shift(g, t), and cells spread around it by std(g, t).

    `std` and `shift` (None: no shift) have a row per time and a column per conductance, and count from programming on;
    they and `conductances` are in units of g_ref. Between conductances shift and variance are linear (and constant
    outside the table); between times, from nothing at time 0, they are linear in ln(1 + t / t_0), since charge loss and
    filament relaxation go with the logarithm of time. Beyond the last time there are no data, and an error.

    With an `activation` energy E_a and the temperature `t_data` of the data, a second of storage at temperature T
    counts as exp(E_a / k (1 / t_data - 1 / T)) seconds (Arrhenius). Both None: temperature changes nothing.
    """

    kind: Literal["relaxation"] = "relaxation"
    t_0: Annotated[Second, Field(gt=0)]
    g_ref: Annotated[Siemens, Field(gt=0)]
    times: Annotated[tuple[Second, ...], Field(min_length=1, max_length=1000)]
    conductances: Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=1000)]
    std: Annotated[tuple[Annotated[tuple[Ratio, ...], Rows], ...], Rows]
    shift: Annotated[tuple[Annotated[tuple[Coefficient, ...], Rows], ...], Rows] | None = None
    activation: Annotated[ElectronVolt, Field(ge=0)] | None = None
    t_data: Annotated[Kelvin, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_table(self) -> TabulatedRelaxation:
        for name, axis in (("times", (0.0, *self.times)), ("conductances", self.conductances)):
            if any(b <= a for a, b in pairwise(axis)):
                raise ValueError(f"{name} must increase, times from above 0, got {getattr(self, name)}")
        shape = (len(self.times), len(self.conductances))
        for name, table in (("std", self.std), ("shift", self.std if self.shift is None else self.shift)):
            lengths = [len(row) for row in table]
            if lengths != [shape[1]] * shape[0]:
                raise ValueError(f"{name} must have {shape[0]} rows of {shape[1]}, got rows of {lengths}")
        if (self.activation is None) != (self.t_data is None):
            raise ValueError(
                f"activation and t_data must both be set or both be null, got {self.activation} and {self.t_data}"
            )
        return self

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances after `conditions.time_s` seconds, never negative.

        Raises:
            ValueError: a time beyond the table.
        """
        time_s, pace = conditions.time_s, self.pace(conditions.stored_at)
        if time_s * pace > self.times[-1]:
            last = f"{self.times[-1] / pace:g} s at {conditions.stored_at:g} K"
            raise ValueError(f"time_s must be at most {last}, where the drift data end, got {time_s:g}")
        time_s *= pace
        x = g / self.g_ref
        change = sqrt(self._at(np.square(self.std), time_s, x, xp), xp) * normals[0]
        if self.shift is not None:
            change = change + self._at(self.shift, time_s, x, xp)
        return at_least(g + self.g_ref * change, 0, xp)

    @property
    def measured(self) -> DataRange:
        """The range of its data: of the table, if nothing else is said; with an activation energy any temperature."""
        data = self.data or DataRange()
        table = (self.conductances[0] * self.g_ref, self.conductances[-1] * self.g_ref)
        conductance = table if data.conductance is None else data.conductance
        temperature = data.temperature if self.activation is None else None
        return data.model_copy(update={"conductance": conductance, "temperature": temperature})

    def pace(self, temperature: float) -> float:
        """Seconds of the data in one second at `temperature` kelvins."""
        if self.activation is None or self.t_data is None:
            return 1.0
        return arrhenius(self.activation, self.t_data, temperature)

    def _at(self, table: Any, time_s: float, x: Array, xp: Namespace) -> Array:
        """A table interpolated at one time and at relative conductances `x`."""
        ages = [math.log1p(t / self.t_0) for t in (0.0, *self.times)]
        rows = np.vstack([np.zeros(len(self.conductances)), table])
        age = math.log1p(time_s / self.t_0)
        row = [np.interp(age, ages, column) for column in rows.T]
        return interp(x, self.conductances, row, xp)


def arrhenius(activation: float, cold: float, hot: float) -> float:
    """exp(E / k (1 / cold - 1 / hot)), for an energy in electronvolts and temperatures in kelvins; at most exp(700)."""
    exponent = activation * elementary_charge / boltzmann * (1 / cold - 1 / hot)
    return math.exp(min(exponent, 700.0))  # beyond, any time is too long


Drift = Annotated[DriftModel, kinds_of(DriftModel), SerializeAsAny()]


class Changes(DriftModel):
    """Several changes, one after another, each with random numbers of its own: in the order that they happen in.

    Wear of earlier cycles first, then what time does, then reads, and the temperature of reading last.
    """

    kind: Literal["sequence"] = "sequence"
    changes: Annotated[tuple[Drift, ...], Field(min_length=1, max_length=20)]

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Of all changes."""
        return sum(change.draws for change in self.changes)

    @property
    def parts(self) -> tuple[DriftModel, ...]:
        """The changes, and those that they are made of."""
        return tuple(part for change in self.changes for part in change.parts)

    def active(self, conditions: Conditions) -> bool:
        """Whether one of them changes anything."""
        return any(change.active(conditions) for change in self.changes)

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances in siemens, never negative."""
        first = 0
        for change in self.changes:
            if change.active(conditions):
                own = [normals[first + i] for i in range(change.draws)]
                g = at_least(change.apply(g, own, conditions, xp), 0, xp)
            first += change.draws
        return g

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`: those of the changes, one after another."""
        active = [change for change in self.changes if change.active(conditions)]

        def after(settled: Array, weight: float, left: list[DriftModel]) -> Iterator[tuple[Array, float]]:
            if not left:
                yield settled, weight
                return
            for found, part in left[0].outcomes(settled, conditions, xp):
                yield from after(found, weight * part, left[1:])

        yield from after(g, 1.0, active)
