"""Sensing: the voltage and time of a read, and the noise of the cells' carriers and of the sense amplifier."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator
from scipy.constants import elementary_charge
from scipy.constants import k as boltzmann

from .config import Config
from .units import AmperePerRootHertz, Farad, Kelvin, Number, Second, Volt

Array = np.ndarray[Any, Any]


class Sensing(Config):
    """How a column is read.

    Attributes:
        v_read: largest voltage on a word line.
        t_read: time that a current is averaged over (boxcar).
        temperature: of the array.
        thermal, shot: which white noise of the cells is counted.
        fano: shot noise relative to 2 q I: 1/3 in a diffusive wire (Beenakker and Buettiker 1992, PRB 46:1889),
            0 in one much longer than the electron-phonon length, 1 in a tunnel junction and in a transistor below
            threshold (Sarpeshkar et al. 1993, IEEE Circuits Devices Mag. 9(6):23).
        amplifier_noise: input-referred white current noise of each bit line's sense amplifier.
        capacitance: of the integrator that collects a bit line's charge; its reset leaves noise (None: not counted).
        gain_noise: standard deviation of a column's gain from read to read, relative.
        supply_noise: standard deviation of the read voltage from read to read, relative, common to all columns.
        read_interval: time from the start of one read of a sample to the next, at least t_read (None: so long that
            reads share no noise).
    """

    v_read: Annotated[Volt, Field(gt=0)]
    t_read: Annotated[Second, Field(gt=0)]
    temperature: Annotated[Kelvin, Field(gt=0)] = 300.0
    thermal: bool = True
    shot: bool = True
    fano: Annotated[Number, Field(ge=0, le=1)] = 1 / 3
    amplifier_noise: Annotated[AmperePerRootHertz, Field(ge=0)] = 0.0
    capacitance: Annotated[Farad, Field(gt=0)] | None = None
    gain_noise: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    supply_noise: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    read_interval: Annotated[Second, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _reads_do_not_overlap(self) -> Sensing:
        if self.read_interval is not None and self.read_interval < self.t_read:
            raise ValueError(
                f"read_interval must be at least t_read = {self.t_read:g} s, or null, got {self.read_interval:g} s"
            )
        return self

    @property
    def bandwidth(self) -> float:
        """Noise bandwidth of a boxcar average, 1 / (2 t_read), in hertz."""
        return 1 / (2 * self.t_read)

    @property
    def amplifier_variance(self) -> float:
        """Variance of the current that one bit line's amplifier adds to a read, i_n^2 B, in A^2."""
        return self.amplifier_noise**2 * self.bandwidth

    @property
    def reset_variance(self) -> float:
        """Variance of the charge that an integrator's reset leaves, as a current: k T C / t_read^2, in A^2."""
        return boltzmann * self.temperature * (self.capacitance or 0.0) / self.t_read**2

    @property
    def column_variance(self) -> float:
        """Variance of the current that one bit line's amplifier and integrator add to a read, in A^2."""
        return self.amplifier_variance + self.reset_variance

    def white_cell_variance(self, g: ArrayLike, v: ArrayLike) -> Array:
        """Variance in A^2 of the current of cells of conductance `g` (siemens) at voltage `v`; they broadcast.

        [4 k T g (1 - F) + 2 q g F |v| coth(q |v| / 2 k T)] B, which is 4 k T g B at v = 0 and adds shot noise 2 q I F B
        well above 50 mV (Blanter and Buettiker 2000, Phys. Rep. 336:1, two-terminal conductor). Without `shot` it is
        4 k T g B, without `thermal` what the formula has above that.
        """
        return np.asarray(g) * self._variance_per_siemens(v)

    def white_cell_coefficients(self) -> tuple[float, float]:
        """(c0, c2) such that the white variance of a cell is about g (c0 + c2 v^2), both not negative.

        Least squares over [0, v_read]. The form adds up over a column with the two products sum g and sum g v^2;
        `white_fit_error` says how good it is.
        """
        v2, exact = self._samples()
        rise = exact - exact[0]
        centred = v2 - v2.mean()
        slope = (centred @ rise) / (centred @ centred)
        return float(exact[0] + rise.mean() - slope * v2.mean()), float(slope)

    def white_fit_error(self) -> float:
        """Largest relative error of `white_cell_coefficients` over [0, v_read].

        Infinite for shot noise without thermal noise, which vanishes at v = 0; 0 without either.
        """
        v2, exact = self._samples()
        c0, c2 = self.white_cell_coefficients()
        error = np.abs(c0 + c2 * v2 - exact)
        if exact[0] == 0:
            return math.inf if error.any() else 0.0
        return float((error / exact).max())

    def _samples(self) -> tuple[Array, Array]:
        """Squares of voltages evenly over [0, v_read], and the exact variance per siemens there."""
        v = np.linspace(0, self.v_read, 257)
        return v**2, self._variance_per_siemens(v)

    def _variance_per_siemens(self, v: ArrayLike) -> Array:
        thermal = 4 * boltzmann * self.temperature * self.bandwidth
        u = elementary_charge * np.abs(np.asarray(v, dtype=float)) / (2 * boltzmann * self.temperature)
        small = u < 1e-2  # u coth u - 1 loses digits there; its series does not
        above = np.where(small, u**2 / 3 * (1 - u**2 / 15), u / np.tanh(np.where(small, 1.0, u)) - 1)
        return np.asarray(thermal * (self.thermal + self.shot * self.fano * above))
