"""Stuck cells: those that no programming moves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .arrays import Array, Namespace, ndtr
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

    @property
    def any(self) -> bool:
        """Whether there are stuck cells."""
        return self.at_g_min + self.at_g_max > 0

    def apply(self, g: Array, normal: Array, ends: tuple[float, float], xp: Namespace) -> Array:
        """Conductances `g` (siemens) with the stuck cells at one of the `ends` (g_min, g_max) of the range.

        Args:
            normal: of the shape of `g`, standard normal: cells of the lowest numbers are stuck at g_min, those of the
                highest at g_max.
        """
        u = ndtr(normal, xp)
        return xp.where(u < self.at_g_min, ends[0], xp.where(u >= 1 - self.at_g_max, ends[1], g))
