"""Quantities in SI units for configuration fields, which YAML may write as text: ``50 uS``, ``0.2 V``, ``1e-3``.

Each name below is a `float` to type checkers and to code; pydantic fields of that type accept a number in the SI unit,
or text: a number, then, if you like, a prefix (f p n u µ m k M G) and the unit. Anything else is a ValueError that
quotes the text and names the unit. NaN and infinity are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Annotated

from pydantic import BeforeValidator

_TEXT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d{1,4}))?\s*(.*)")
_PREFIXES = {"": 0, "f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "k": 3, "M": 6, "G": 9}


@dataclass(frozen=True)
class _Unit:
    """Reads values in one unit: its `spellings`, the usual one first, and the `power` of a prefix (2 in mm2)."""

    name: str
    spellings: tuple[str, ...]
    power: int = 1

    def __call__(self, value: object) -> float:
        number = math.nan
        if isinstance(value, Real) and not isinstance(value, bool):
            number = float(value)
        elif isinstance(value, str) and (match := _TEXT.fullmatch(value.strip())):
            mantissa, exponent, suffix = match.groups()
            shift = self._exponent(suffix)
            if shift is not None:
                number = float(f"{mantissa}e{int(exponent or 0) + shift}")
        if not math.isfinite(number):
            unit = self.spellings[0]
            raise ValueError(f"expected {self.name}: a finite number or text such as '1 m{unit}', got {value!r}")
        return number

    def _exponent(self, suffix: str) -> int | None:
        """Power of ten of a prefixed unit; 0 without a unit, None if it is not this one."""
        if not suffix:
            return 0
        for unit in self.spellings:
            if suffix.endswith(unit) and suffix.removesuffix(unit) in _PREFIXES:
                return self.power * _PREFIXES[suffix.removesuffix(unit)]
        return None


Siemens = Annotated[float, BeforeValidator(_Unit("siemens", ("S",)))]
Volt = Annotated[float, BeforeValidator(_Unit("volts", ("V",)))]
Ampere = Annotated[float, BeforeValidator(_Unit("amperes", ("A",)))]
Second = Annotated[float, BeforeValidator(_Unit("seconds", ("s",)))]
Kelvin = Annotated[float, BeforeValidator(_Unit("kelvins", ("K",)))]
Ohm = Annotated[float, BeforeValidator(_Unit("ohms", ("ohm", "Ohm", "\u03a9", "\u2126")))]
Joule = Annotated[float, BeforeValidator(_Unit("joules", ("J",)))]
Watt = Annotated[float, BeforeValidator(_Unit("watts", ("W",)))]
Farad = Annotated[float, BeforeValidator(_Unit("farads", ("F",)))]
ElectronVolt = Annotated[float, BeforeValidator(_Unit("electronvolts", ("eV",)))]
Hertz = Annotated[float, BeforeValidator(_Unit("hertz", ("Hz",)))]
SquareMetre = Annotated[float, BeforeValidator(_Unit("square metres", ("m2", "m^2", "m²"), power=2))]
AmperePerRootHertz = Annotated[
    float, BeforeValidator(_Unit("amperes per root hertz", ("A/rtHz", "A/sqrt(Hz)", "A/√Hz")))
]
