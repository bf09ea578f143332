"""A transistor that holds its conductance as a threshold voltage, alone or in a NAND string."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .arrays import Array, Namespace, at_least
from .config import Config
from .units import Number, Ohm, Siemens, Volt


class NandString(Config):
    """How much the conductance of a string changes with the threshold voltage of the cell that is read.

    The cell is a transistor in its linear region, in series with `r_pass`, the other cells and the select transistors
    (0: a cell alone). Its conductance goes as ln(1 + exp(V / n phi_T)) with the gate overdrive V, the usual
    interpolation between the exponential below threshold and the straight line above; phi_T = kT / q. A string of
    conductance `g_ref` has the overdrive `v_overdrive`, which may be negative; other conductances are other threshold
    voltages under the same gate voltage. More overdrive for the same conductances makes them less sensitive.

    Attributes:
        g_ref: conductance of the whole string at `v_overdrive`.
        v_overdrive: gate overdrive of the cell that is read, there; negative: below threshold.
        r_pass: of the other cells and the select transistors; 0: a cell alone.
        slope_factor: n, the subthreshold slope in units of phi_T ln 10 per decade.
    """

    g_ref: Annotated[Siemens, Field(gt=0)]
    v_overdrive: Volt
    r_pass: Annotated[Ohm, Field(ge=0)] = 0.0
    slope_factor: Annotated[Number, Field(ge=1, le=1000)] = 1.5

    @model_validator(mode="after")
    def _the_cell_has_a_part(self) -> NandString:
        if self.g_ref * self.r_pass >= 1:
            raise ValueError(
                f"r_pass must be below 1 / g_ref = {1 / self.g_ref:g} ohm, the whole string, got {self.r_pass:g} ohm"
            )
        return self

    def sensitivity(self, g: Array, temperature: float, xp: Namespace) -> Array:
        """-dg / dV_T in siemens per volt for strings of conductance `g` (siemens), in their shape and dtype.

        (dg / dV_T) / g is R_cell / R_string times 1 / V above threshold and 1 / n phi_T below, between them
        (1 - e^-y) / (y n phi_T), y = ln(1 + exp(V / n phi_T)). 0 for a string of more than 1 / r_pass.
        """
        step = self.slope_factor * boltzmann * temperature / elementary_charge
        y_ref = float(np.logaddexp(0, self.v_overdrive / step))
        if y_ref == 0:
            lowest = -700 * step
            raise ValueError(
                f"v_overdrive must be at least {lowest:g} V at {temperature:g} K, below which no current is left, got "
                f"{self.v_overdrive:g} V"
            )
        part = at_least(1 - g * self.r_pass, 0, xp)  # R_cell / R_string
        per_y = self.g_ref / (1 - self.g_ref * self.r_pass) / y_ref  # conductance of the cell itself, g / part, over y
        with np.errstate(divide="ignore", over="ignore"):
            y = g / xp.where(part > 0, part, 1) / per_y
        return -(per_y / step) * xp.expm1(-y) * part**2
