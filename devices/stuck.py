"""Stuck cells: those that no programming moves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .config import Config
from .units import Number

Fraction = Annotated[Number, Field(ge=0, le=1)]


class Stuck(Config):
    """Fractions of the cells that sit at one end of the conductance range, whatever their target."""

    at_g_min: Fraction = 0.0
    at_g_max: Fraction = 0.0

    @model_validator(mode="after")
    def _at_most_all(self) -> Stuck:
        if self.at_g_min + self.at_g_max > 1:
            raise ValueError(f"at_g_min + at_g_max must be at most 1, got {self.at_g_min} + {self.at_g_max}")
        return self
