"""A memory cell: the conductances it can take, and how it errs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .arrays import Array, Namespace, at_least
from .config import Config, Name
from .counts import Failure, ReadDisturb, Wear
from .data import Fitted, Setting, Settings, outside
from .drift import Changes, Drift, NoDrift
from .heat import TemperatureCoefficient, ThermallyActivated
from .nonlinearity import Linear, Nonlinearity
from .parts import Conditions
from .programming import NoProgrammingError, Programming
from .programming_errors import DeviceToDevice, QuantileProgrammingError, SkewedProgrammingError
from .read_noise import NoReadNoise, ReadNoise
from .settling import Numbers
from .stuck import Stuck
from .units import Siemens, Volt, Whole
from .verify import VerifiedProgramming

Draw = Callable[[Literal["program", "device", "drift", "stuck"], int], Array]
KINDS = (  # of other modules, which are there once these are imported
    DeviceToDevice,
    QuantileProgrammingError,
    SkewedProgrammingError,
    VerifiedProgramming,
    ReadDisturb,
    Wear,
    Failure,
    TemperatureCoefficient,
    ThermallyActivated,
    Changes,
)


class Cell(Config):
    """A cell programmed to conductances in [g_min, g_max] siemens: `levels` of them, evenly spaced, or any (None).

    `v_max` is the largest voltage it may be read at (None: no limit known): above it a read disturbs the cell, or the
    data behind its models end. Cells that are not linear (`nonlinearity`) bend what amplitudes of inputs do; on tiles
    whose wires have resistance, and on bit lines that float, cells must be linear.
    """

    technology: Name = Field("custom", description="what the cell is made of, in words")
    g_min: Annotated[Siemens, Field(ge=0)] = Field(description="lowest conductance that it is programmed to")
    g_max: Annotated[Siemens, Field(gt=0)] = Field(description="highest conductance that it is programmed to")
    levels: Annotated[Whole, Field(ge=2, le=65536)] | None = Field(
        None, description="conductances that it can be programmed to, evenly spaced; null: any"
    )
    programming: Programming = NoProgrammingError()
    stuck: Stuck = Stuck()
    drift: Drift = NoDrift()
    read_noise: ReadNoise = NoReadNoise()
    nonlinearity: Nonlinearity = Linear()
    v_max: Annotated[Volt, Field(gt=0)] | None = Field(
        None, description="largest voltage that it may be read at; null: no limit known"
    )

    @model_validator(mode="after")
    def _a_range(self) -> Cell:
        if self.g_min >= self.g_max:
            raise ValueError(f"g_min must be below g_max, got g_min = {self.g_min:g} S and g_max = {self.g_max:g} S")
        return self

    def settle(self, targets: Array, draw: Draw, conditions: Conditions, xp: Namespace) -> Array:
        """Conductances of cells programmed to `targets` (siemens), at `conditions.time_s`, in their shape.

        Programming error, then drift, then stuck cells; never negative.

        Args:
            draw: gives the i-th normal numbers of a purpose, in the shape and dtype of `targets`: `device` for those
                that a cell keeps when it is programmed again, see `Settling.lasting`.
        """
        lasting = self.programming.lasting
        errors = Numbers(lambda i: draw("device" if i < lasting else "program", i), self.programming.draws)
        g = at_least(self.programming.apply(targets, errors, conditions, xp), 0, xp)
        if self.drift.active(conditions):
            changes = Numbers(lambda i: draw("drift", i), self.drift.draws)
            g = at_least(self.drift.apply(g, changes, conditions, xp), 0, xp)
        if self.stuck.any:
            g = self.stuck.apply(g, draw("stuck", 0), (self.g_min, self.g_max), xp)
        return g

    def extrapolations(self, settings: Settings, conditions: Conditions) -> list[str]:
        """Where its models are used outside their data, a line each; `settings` are what they are used at.

        Drift is looked at where it changes anything. Temperatures are those of reading for read noise, of programming
        for programming errors, and of storage for drift.
        """
        heat = {
            "program_temperature": conditions.program_temperature,
            "storage_temperature": conditions.storage_temperature,
        }
        own = {name: {**settings, "temperature": [Setting(name, t)]} for name, t in heat.items() if t is not None}
        models: list[tuple[str, object, Settings]] = [
            ("cell.programming", self.programming, own.get("program_temperature", settings))
        ]
        for change in self.drift.parts if self.drift.active(conditions) else ():
            where = "cell.drift" if change is self.drift else f"cell.drift ({change.kind})"
            models.append((where, change, own.get("storage_temperature", settings)))
        models += [(f"cell.read_noise ({part.kind})", part, settings) for part in self.read_noise.parts]
        found = []
        for where, model, used in models:
            if isinstance(model, Fitted):
                found += outside(where, model.measured, used)
        return found
