"""A memory cell: the conductances it can take, and how it errs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .arrays import Array, Namespace, at_least
from .config import Config, Name
from .data import Fitted, Settings, outside
from .drift import Drift, NoDrift
from .nonlinearity import Linear, Nonlinearity
from .parts import Conditions
from .programming import NoProgrammingError, Programming
from .read_noise import NoReadNoise, ReadNoise
from .stuck import Stuck
from .units import Siemens, Volt, Whole

Draw = Callable[[Literal["program", "drift", "stuck"], int], Array]


class Cell(Config):
    """A cell programmed to conductances in [g_min, g_max] siemens: `levels` of them, evenly spaced, or any (None).

    `v_max` is the largest voltage it may be read at (None: no limit known): above it a read disturbs the cell, or the
    data behind its models end. Cells that are not linear (`nonlinearity`) bend what amplitudes of inputs do; on tiles
    whose wires have resistance, and on bit lines that float, cells must be linear.
    """

    technology: Name = "custom"
    g_min: Annotated[Siemens, Field(ge=0)]
    g_max: Annotated[Siemens, Field(gt=0)]
    levels: Annotated[Whole, Field(ge=2, le=65536)] | None = None
    programming: Programming = NoProgrammingError()
    stuck: Stuck = Stuck()
    drift: Drift = NoDrift()
    read_noise: ReadNoise = NoReadNoise()
    nonlinearity: Nonlinearity = Linear()
    v_max: Annotated[Volt, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_range(self) -> Cell:
        if self.g_min >= self.g_max:
            raise ValueError(f"g_min must be below g_max, got g_min = {self.g_min:g} S and g_max = {self.g_max:g} S")
        return self

    def settle(self, targets: Array, draw: Draw, conditions: Conditions, xp: Namespace) -> Array:
        """Conductances of cells programmed to `targets` (siemens), at `conditions.time_s`, in their shape.

        Programming error, then drift, then stuck cells; never negative.

        Args:
            draw: gives the i-th normal numbers of a purpose, in the shape and dtype of `targets`.
        """
        errors = [draw("program", i) for i in range(self.programming.draws)]
        g = at_least(self.programming.apply(targets, errors, conditions, xp), 0, xp)
        if conditions.time_s > 0:
            changes = [draw("drift", i) for i in range(self.drift.draws)]
            g = at_least(self.drift.apply(g, changes, conditions, xp), 0, xp)
        if self.stuck.any:
            g = self.stuck.apply(g, draw("stuck", 0), (self.g_min, self.g_max), xp)
        return g

    def extrapolations(self, settings: Settings, *, time_s: float) -> list[str]:
        """Where its models are used outside their data, a line each; `settings` are what they are used at.

        Drift is looked at where `time_s` is above 0.
        """
        models: dict[str, object] = {
            "cell.programming": self.programming,
            **({"cell.drift": self.drift} if time_s > 0 else {}),
        }
        models |= {f"cell.read_noise ({part.kind})": part for part in self.read_noise.parts}
        found = []
        for where, model in models.items():
            if isinstance(model, Fitted):
                found += outside(where, model.measured, settings)
        return found
