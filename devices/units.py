"""Quantities in SI units for configuration fields, which YAML may write as text: ``50 uS``, ``0.2 V``, ``1e-3``.

Each name below is a `float` to type checkers and to code; pydantic fields of that type accept a number in the SI unit,
or text: a number, then, if you like, a prefix (f p n u µ m k M G) and the unit. Anything else is a ValueError that
quotes the text and names the unit. NaN, infinity and truth values are refused.

Every quantity has bounds, far outside what has been built and far inside what arithmetic can hold: a value other than 0
has a size between `low` and `high` of its unit, and `docs/devices.md` lists them. Numbers without a unit (`Number`,
`Whole`) have none but `LARGEST`; their fields say what is possible.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator

LARGEST = 1e15  # size of a number without a unit
_TEXT = re.compile(r"([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))(?:[eE]([+-]?\d{1,4}))?\s*(.*)", re.DOTALL)
_PREFIXES = {"": 0, "f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "k": 3, "M": 6, "G": 9}


def brief(value: object) -> str:
    """A value as messages show it, cut after 80 characters; numbers too long to write are named."""
    try:
        shown = repr(value)
    except Exception:  # integers of more than 4300 digits, lists in themselves, objects that fail at it
        return f"<{type(value).__name__}>"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


@dataclass(frozen=True)
class Unit:
    """Reads values in one unit: its `spellings`, the usual one first, and the `power` of a prefix (2 in mm2).

    Values other than 0 have a size from `low` to `high`, in the unit.
    """

    name: str
    spellings: tuple[str, ...]
    low: float
    high: float
    power: int = 1

    def __call__(self, value: object) -> float:
        number = math.nan
        if isinstance(value, Real) and not isinstance(value, bool):
            number = _float(value)
        elif isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
            mantissa, exponent, suffix = match.groups()
            shift = self._exponent(suffix)
            if shift is not None:
                number = float(f"{mantissa}e{int(exponent or 0) + shift}")
        if not math.isfinite(number):
            unit = f" or text such as '1 m{self.spellings[0]}'" if self.spellings else ""
            raise ValueError(f"expected {self.name}: a finite number{unit}, got {brief(value)}")
        if number and not self.low <= abs(number) <= self.high:
            raise ValueError(f"expected {self.name}: 0 or a size {self.bounds}, got {brief(value)}")
        return number

    @property
    def bounds(self) -> str:
        """In words."""
        unit = f" {self.spellings[0]}" if self.spellings else ""
        return f"of {self.low:g} to {self.high:g}{unit}" if self.low else f"of at most {self.high:g}{unit}"

    def _exponent(self, suffix: str) -> int | None:
        """Power of ten of a prefixed unit; 0 without a unit, None if it is not this one."""
        if not suffix:
            return 0
        for unit in self.spellings:
            if suffix.endswith(unit) and suffix.removesuffix(unit) in _PREFIXES:
                return self.power * _PREFIXES[suffix.removesuffix(unit)]
        return None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _whole(value: object) -> object:
    """Whole numbers of any library as Python's; a truth value is none. The rest is left to pydantic."""
    if isinstance(value, bool):
        raise ValueError(f"expected a whole number, got {value}")
    return int(value) if isinstance(value, Integral) else value


Siemens = Annotated[float, BeforeValidator(Unit("siemens", ("S",), 1e-15, 1e3))]
Volt = Annotated[float, BeforeValidator(Unit("volts", ("V",), 1e-6, 1e4))]
Ampere = Annotated[float, BeforeValidator(Unit("amperes", ("A",), 1e-18, 1e3))]
Second = Annotated[float, BeforeValidator(Unit("seconds", ("s",), 1e-15, 1e12))]
Kelvin = Annotated[float, BeforeValidator(Unit("kelvins", ("K",), 1e-3, 1e4))]
Ohm = Annotated[float, BeforeValidator(Unit("ohms", ("ohm", "Ohm", "\u03a9", "\u2126"), 1e-9, 1e12))]
Joule = Annotated[float, BeforeValidator(Unit("joules", ("J",), 1e-24, 1e3))]
Watt = Annotated[float, BeforeValidator(Unit("watts", ("W",), 1e-21, 1e6))]
Farad = Annotated[float, BeforeValidator(Unit("farads", ("F",), 1e-21, 1.0))]
ElectronVolt = Annotated[float, BeforeValidator(Unit("electronvolts", ("eV",), 1e-6, 1e2))]
Hertz = Annotated[float, BeforeValidator(Unit("hertz", ("Hz",), 1e-12, 1e15))]
Metre = Annotated[float, BeforeValidator(Unit("metres", ("m",), 1e-10, 1e2))]
SquareMetre = Annotated[float, BeforeValidator(Unit("square metres", ("m2", "m^2", "m²"), 1e-21, 1e2, power=2))]
VoltPerRootHertz = Annotated[
    float, BeforeValidator(Unit("volts per root hertz", ("V/rtHz", "V/sqrt(Hz)", "V/√Hz"), 1e-21, 1.0))
]
AmperePerRootHertz = Annotated[
    float, BeforeValidator(Unit("amperes per root hertz", ("A/rtHz", "A/sqrt(Hz)", "A/√Hz"), 1e-21, 1.0))
]
Number = Annotated[float, BeforeValidator(Unit("a number", (), 0.0, LARGEST))]
Whole = Annotated[int, BeforeValidator(_whole)]
