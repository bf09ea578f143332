"""The range of the data behind a model, and the warning that a model is used outside it.

A fit says nothing of conductances, times, temperatures or voltages that were not measured: a cubic through points
between 1 and 40 uS is larger than the conductances themselves at 1 mS.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from .config import Config
from .units import Ampere, Kelvin, Second, Siemens, Volt

CLOSE = 1e-6  # relative, of a value to the end of a range: still inside


class ExtrapolationWarning(UserWarning):
    """A setting is outside the data behind a model: what the model says there is a guess."""


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= ends[0] <= ends[1]:
        raise ValueError(f"a range must have its low end first, at least 0, got {ends[0]:g} and {ends[1]:g}")
    return ends


class DataRange(Config):
    """From where to where a model was measured, each (low, high); None: not known, or it makes no difference.

    Attributes:
        conductance: siemens, that cells were programmed to.
        current: amperes, of a cell.
        time: seconds from the end of programming.
        temperature: kelvins.
        voltage: volts across a cell.
    """

    conductance: Annotated[tuple[Siemens, Siemens], AfterValidator(_ordered)] | None = None
    current: Annotated[tuple[Ampere, Ampere], AfterValidator(_ordered)] | None = None
    time: Annotated[tuple[Second, Second], AfterValidator(_ordered)] | None = None
    temperature: Annotated[tuple[Kelvin, Kelvin], AfterValidator(_ordered)] | None = None
    voltage: Annotated[tuple[Volt, Volt], AfterValidator(_ordered)] | None = None


UNITS = {"conductance": "S", "current": "A", "time": "s", "temperature": "K", "voltage": "V"}


class Fitted(Config):
    """A model with the range of its data."""

    data: DataRange | None = Field(None, description="range of the data behind the model; null: not known")

    @property
    def measured(self) -> DataRange:
        """The range of its data, as far as it is known."""
        return self.data or DataRange()


class Setting(NamedTuple):
    """What a model is used at: the name of a setting and its value in SI units."""

    name: str
    value: float


Settings = Mapping[str, Iterable[Setting]]  # by quantity, as `DataRange` names them


def outside(where: str, data: DataRange, settings: Settings) -> list[str]:
    """The settings outside the data of the model at `where`, a line each: setting, value and range."""
    found = []
    for quantity, unit in UNITS.items():
        ends = getattr(data, quantity)
        if ends is None:
            continue
        low, high = ends
        found += [
            f"{name} = {value:g} {unit} is outside the data of {where}, {low:g} to {high:g} {unit}"
            for name, value in settings.get(quantity, ())
            if value < low * (1 - CLOSE) or value > high * (1 + CLOSE)
        ]
    return found


def warn(found: Iterable[str], stacklevel: int = 2) -> None:
    """An `ExtrapolationWarning` for each line."""
    for text in found:
        warnings.warn(f"{text}: its model extrapolates", ExtrapolationWarning, stacklevel=stacklevel + 1)
