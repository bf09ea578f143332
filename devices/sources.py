"""The sources of noise of a reading: what each adds, said once.

A source has one of a few shapes, and says how much it adds in that shape. What reads a column (the preparation of the
kernels), what expects its errors, and the budget all take their numbers from the list `Sensing.sources` of them.

Others add sources: a class that derives from `SensingNoise` is one more kind that `sensing.noise` may list.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import SerializeAsAny
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .arrays import Array
from .parts import Conditions, Part, check_part, kinds_of
from .read_noise import ReadNoiseSource
from .registry import Registry
from .units import brief

Powers = tuple[float, float, float]
SAMPLES = 257  # voltages that white noise is fitted at


class Shape(Enum):
    """What noise adds to the current of a column. The order is that of budgets."""

    CELL = "each cell of conductance g at voltage v adds the variance g per_siemens(v)"
    CONDUCTANCE = "each cell's conductance varies by std(g): it adds the variance v^2 std(g)^2"
    COLUMN = "each bit line's sense amplifier adds the variance amount"
    READING = "each reading gets the variance amount, after bit lines that make a pair were subtracted"
    VOLTAGE = "each reading of a bit line that floats gets the variance amount, in V^2"
    SUPPLY = "one factor of the variance amount about 1, the same for all columns of a pulse"
    GAIN = "a factor of the variance amount about 1 for each reading"


class NoiseSource(ABC):
    """One source. It defines `per_siemens` and `powers`, or `amount`, as its shape asks.

    Attributes:
        shape: what it adds.
    """

    shape: ClassVar[Shape]

    @property
    def name(self) -> str:
        """In budgets."""
        raise NotImplementedError

    @property
    def group(self) -> str:
        """In expected errors, which count the sources of a group together; its name by default."""
        return self.name

    @property
    def multiplicative(self) -> bool:
        """Whether its variance grows as the square of the read voltage, with the signal."""
        return self.shape in (Shape.CONDUCTANCE, Shape.SUPPLY, Shape.GAIN)

    def amount(self, conditions: Conditions) -> float:
        """Of `COLUMN` and `READING` the variance in A^2, of `VOLTAGE` in V^2, of the others the relative variance."""
        raise NotImplementedError

    def per_siemens(self, v: Array, conditions: Conditions) -> Array:
        """Of `CELL`: the variance of a cell's current at voltages `v`, in A^2 for each siemens, in their shape.

        Tiles read with c0 + c2 v^2, the least-squares fit over [0, v_read]; neither may come out negative.
        """
        raise NotImplementedError

    def powers(self, conditions: Conditions) -> Powers:
        """Of `CELL`: coefficients of (1, abs(v), v^2) that `per_siemens` comes to well above 2 k T / q = 52 mV."""
        raise NotImplementedError


def bandwidth(conditions: Conditions) -> float:
    """Noise bandwidth of a boxcar average, 1 / (2 t_read), in hertz."""
    return 1 / (2 * conditions.t_read)


class Named(NoiseSource):
    """A source whose names are given."""

    names: ClassVar[tuple[str, str]]

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def group(self) -> str:
        return self.names[1]


@dataclass(frozen=True)
class Thermal(Named):
    """4 k T g B (Nyquist 1928, Phys. Rev. 32:110): all cells of the column, driven or not."""

    counted: bool
    shape = Shape.CELL
    names = "thermal", "thermal and shot"

    def per_siemens(self, v: Array, conditions: Conditions) -> Array:
        return np.full(np.shape(v), self.powers(conditions)[0])

    def powers(self, conditions: Conditions) -> Powers:
        return 4 * boltzmann * conditions.temperature * bandwidth(conditions) * self.counted, 0.0, 0.0


@dataclass(frozen=True)
class Shot(Named):
    """4 k T g F (u coth u - 1) B, u = q |v| / 2 k T: what a current adds to thermal noise (Blanter and Buettiker 2000).

    At qV >> 2kT it is 2 q I F B, less the F parts of thermal noise that the cells carrying a current have lost; the
    powers say that.
    """

    fano: float
    counted: bool
    shape = Shape.CELL
    names = "shot", "thermal and shot"

    def per_siemens(self, v: Array, conditions: Conditions) -> Array:
        u = elementary_charge * np.abs(np.asarray(v, dtype=float)) / (2 * boltzmann * conditions.temperature)
        small = u < 1e-2  # u coth u - 1 loses digits there; its series does not
        above = np.where(small, u**2 / 3 * (1 - u**2 / 15), u / np.tanh(np.where(small, 1.0, u)) - 1)
        return -self.powers(conditions)[0] * above

    def powers(self, conditions: Conditions) -> Powers:
        scale = self.fano * bandwidth(conditions) * self.counted
        return -4 * boltzmann * conditions.temperature * scale, 2 * elementary_charge * scale, 0.0


@dataclass(frozen=True)
class CellNoise(NoiseSource):
    """sum_i V_i^2 s(g_i)^2: conductance noise of independent cells, one `part` of the cell's read noise."""

    part: ReadNoiseSource
    shape = Shape.CONDUCTANCE

    @property
    def name(self) -> str:
        return f"cell, {self.part.kind}"

    @property
    def group(self) -> str:
        return "cells"


@dataclass(frozen=True)
class Amplifier(Named):
    """i_n^2 B: white current noise `density` (A / sqrt(Hz)) at the input of the sense amplifier."""

    density: float
    shape = Shape.COLUMN
    names = "amplifier", "amplifier"

    def amount(self, conditions: Conditions) -> float:
        return self.density**2 * bandwidth(conditions)


@dataclass(frozen=True)
class Reset(Named):
    """k T C / t_read^2: the charge that the reset of an integrator leaves, over the time it integrates."""

    capacitance: float
    shape = Shape.COLUMN
    names = "kTC", "amplifier"

    def amount(self, conditions: Conditions) -> float:
        return boltzmann * conditions.temperature * self.capacitance / conditions.t_read**2


class VoltageAmplifier(Amplifier):
    """e_n^2 B: white voltage noise `density` (V / sqrt(Hz)) at the input of what reads a bit line that floats."""

    shape = Shape.VOLTAGE
    names = "amplifier, voltage", "amplifier"


@dataclass(frozen=True)
class Sampling(Named):
    """k T / C: what a capacitor has too much when it has taken the voltage of a bit line (0 F: it is not counted)."""

    capacitance: float
    shape = Shape.VOLTAGE
    names = "kT/C", "amplifier"

    def amount(self, conditions: Conditions) -> float:
        return boltzmann * conditions.temperature / self.capacitance if self.capacitance else 0.0


@dataclass(frozen=True)
class Relative(Named):
    """(std I)^2: a factor of the current with this relative standard deviation."""

    std: float

    def amount(self, conditions: Conditions) -> float:
        return self.std**2


class Supply(Relative):
    """The read voltage itself, common to all columns of a pulse."""

    shape = Shape.SUPPLY
    names = "supply", "supply"


class Gain(Relative):
    """The gain of what makes a reading of a current."""

    shape = Shape.GAIN
    names = "gain", "gain"


def _check(name: str, thing: Any) -> None:
    """Raises TypeError for a source that does not say what its shape asks for."""
    check_part(name, thing)
    shape = getattr(thing, "shape", None)
    if not isinstance(shape, Shape):
        known = ", ".join(f"Shape.{one.name}" for one in Shape)
        raise TypeError(f"{thing.__name__}: must have a `shape`, one of {known}, got {brief(shape)}")
    needed = ("per_siemens", "powers") if shape is Shape.CELL else ("amount",)
    missing = [method for method in needed if getattr(thing, method) is getattr(NoiseSource, method)]
    if missing and shape is not Shape.CONDUCTANCE:
        raise TypeError(f"{thing.__name__}: must define {', '.join(missing)}, as its shape is {shape.name}")


class SensingNoise(Part, NoiseSource):
    """A source that `sensing.noise` lists, of any shape but `CONDUCTANCE`: that is read noise of the cell."""

    registry: ClassVar[Registry[Any]] = Registry("sensing noise", "mho.sensing_noise", _check)

    @property
    def name(self) -> str:
        """Its kind."""
        return self.kind


SensingNoises = Annotated[SensingNoise, kinds_of(SensingNoise), SerializeAsAny()]


def in_order(sources: Iterable[NoiseSource]) -> list[NoiseSource]:
    """Sources by their shapes."""
    order = list(Shape)
    return sorted(sources, key=lambda source: order.index(source.shape))


def total(sources: Iterable[NoiseSource], shape: Shape, conditions: Conditions) -> float:
    """The sum of the amounts of the sources of one shape."""
    return sum((source.amount(conditions) for source in sources if source.shape is shape), 0.0)


def white_fit(sources: Iterable[NoiseSource], conditions: Conditions) -> tuple[float, float]:
    """(c0, c2) such that the sources of shape `CELL` add about g (c0 + c2 v^2), by least squares over [0, v_read].

    The form adds up over a column with the two products sum g and sum g v^2.
    """
    v2, exact = white_samples(sources, conditions)
    rise = exact - exact[0]
    centred = v2 - v2.mean()
    slope = (centred @ rise) / (centred @ centred)
    return float(exact[0] + rise.mean() - slope * v2.mean()), float(slope)


def white_samples(sources: Iterable[NoiseSource], conditions: Conditions) -> tuple[Array, Array]:
    """Squares of voltages evenly over [0, v_read], and the exact variance per siemens there."""
    v = np.linspace(0, conditions.v_read, SAMPLES)
    exact = [source.per_siemens(v, conditions) for source in sources if source.shape is Shape.CELL]
    return v**2, np.sum([np.zeros(SAMPLES), *exact], axis=0)
