"""Sensing: the voltage and time of a read, and the noise of the cells' carriers and of the sense amplifier."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .arrays import Array
from .config import Config
from .parts import Conditions
from .read_noise import ReadNoiseModel
from .sources import (
    Amplifier,
    CellNoise,
    Gain,
    NoiseSource,
    Reset,
    Sampling,
    SensingNoises,
    Shape,
    Shot,
    Supply,
    Thermal,
    VoltageAmplifier,
    in_order,
    total,
    white_fit,
    white_samples,
)
from .units import AmperePerRootHertz, Farad, Kelvin, Number, Second, Volt, VoltPerRootHertz


class Sensing(Config):
    """How a column is read.

    Attributes:
        mode: what is read. `current`: of bit lines that are held at 0 V. `voltage`: of bit lines that float, and settle
            at the mean of the word lines' voltages, weighted with the conductances; the digital side multiplies by
            their sum, as it was to be programmed (Wan et al. 2022, Nature 608:504).
        v_read: largest voltage on a word line.
        t_read: time that a current is averaged over (boxcar).
        temperature: of the array.
        thermal, shot: which white noise of the cells is counted.
        fano: shot noise relative to 2 q I: 1/3 in a diffusive wire (Beenakker and Buettiker 1992, PRB 46:1889),
            0 in one much longer than the electron-phonon length, 1 in a tunnel junction and in a transistor below
            threshold (Sarpeshkar et al. 1993, IEEE Circuits Devices Mag. 9(6):23).
        amplifier_noise: input-referred white current noise of each bit line's sense amplifier.
        amplifier_voltage_noise: likewise white voltage noise, of what reads a bit line that floats.
        capacitance: of the integrator that collects a bit line's charge, whose reset leaves noise; or that samples the
            voltage of one that floats (None: not counted).
        gain_noise: standard deviation of a column's gain from read to read, relative.
        supply_noise: standard deviation of the read voltage from read to read, relative, common to all columns.
        read_interval: time from the start of one read of a sample to the next, at least t_read (None: so long that
            reads share no noise).
        noise: sources of noise beside these, see `sources.SensingNoise`.
    """

    mode: Literal["current", "voltage"] = "current"
    v_read: Annotated[Volt, Field(gt=0)]
    t_read: Annotated[Second, Field(gt=0)]
    temperature: Annotated[Kelvin, Field(gt=0)] = 300.0
    thermal: bool = True
    shot: bool = True
    fano: Annotated[Number, Field(ge=0, le=1)] = 1 / 3
    amplifier_noise: Annotated[AmperePerRootHertz, Field(ge=0)] = 0.0
    amplifier_voltage_noise: Annotated[VoltPerRootHertz, Field(ge=0)] = 0.0
    capacitance: Annotated[Farad, Field(gt=0)] | None = None
    gain_noise: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    supply_noise: Annotated[Number, Field(ge=0, le=1000)] = 0.0
    read_interval: Annotated[Second, Field(gt=0)] | None = None
    noise: Annotated[tuple[SensingNoises, ...], Field(max_length=20)] = ()

    @model_validator(mode="after")
    def _reads_do_not_overlap(self) -> Sensing:
        if self.read_interval is not None and self.read_interval < self.t_read:
            raise ValueError(
                f"read_interval must be at least t_read = {self.t_read:g} s, or null, got {self.read_interval:g} s"
            )
        if self.mode == "current" and self.amplifier_voltage_noise:
            raise ValueError(
                "amplifier_voltage_noise must be 0 unless mode is 'voltage': bit lines that are held at 0 V have "
                f"amplifier_noise, got {self.amplifier_voltage_noise:g} V/sqrt(Hz)"
            )
        if self.mode == "voltage" and self.read_interval is not None:
            raise ValueError(
                f"read_interval must be null when mode is 'voltage': noise that reads share moves the sum of the "
                f"conductances too, which is not modelled; got {self.read_interval:g} s"
            )
        return self

    @property
    def bandwidth(self) -> float:
        """Noise bandwidth of a boxcar average, 1 / (2 t_read), in hertz."""
        return 1 / (2 * self.t_read)

    @model_serializer(mode="wrap")
    def _without_an_empty_list(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Hardware without sources of its own is written as it was before there could be any."""
        found: dict[str, Any] = fields(self)
        if not self.noise:
            found.pop("noise", None)
        return found

    def conditions(self, time_s: float = 0.0) -> Conditions:
        """Of a read so many seconds after programming."""
        return Conditions(v_read=self.v_read, t_read=self.t_read, temperature=self.temperature, time_s=time_s)

    def sources(self, read_noise: ReadNoiseModel | None = None) -> list[NoiseSource]:
        """All sources of noise of a column, in the order of their shapes, with those of cells of this read noise."""
        found: list[NoiseSource] = [Thermal(self.thermal), Shot(self.fano, self.shot)]
        found += [CellNoise(part) for part in (read_noise.parts if read_noise else ()) if part.kind != "none"]
        found.append(Amplifier(self.amplifier_noise))
        if self.mode == "current":
            found.append(Reset(self.capacitance or 0.0))
        else:
            found += [VoltageAmplifier(self.amplifier_voltage_noise), Sampling(self.capacitance or 0.0)]
        found += [Supply(self.supply_noise), Gain(self.gain_noise), *self.noise]
        return in_order(found)

    @property
    def amplifier_variance(self) -> float:
        """Variance of the current that one bit line's amplifier adds to a read, i_n^2 B, in A^2."""
        return Amplifier(self.amplifier_noise).amount(self.conditions())

    @property
    def reset_variance(self) -> float:
        """Variance of the charge that an integrator's reset leaves, as a current: k T C / t_read^2, in A^2."""
        return Reset(self.capacitance or 0.0).amount(self.conditions())

    @property
    def column_variance(self) -> float:
        """Variance of the current that each bit line's amplifier and integrator add to a read, in A^2."""
        return total(self.sources(), Shape.COLUMN, self.conditions())

    @property
    def reading_variance(self) -> float:
        """Variance of the current that is added to each reading, however many amplifiers it has, in A^2."""
        return total(self.sources(), Shape.READING, self.conditions())

    @property
    def voltage_variance(self) -> float:
        """Variance of the voltage that is added to each reading of a bit line that floats, in V^2."""
        return total(self.sources(), Shape.VOLTAGE, self.conditions())

    @property
    def gain_variance(self) -> float:
        """Relative variance of the factor that each reading comes with."""
        return total(self.sources(), Shape.GAIN, self.conditions())

    @property
    def supply_variance(self) -> float:
        """Relative variance of the factor that is common to all columns of a pulse."""
        return total(self.sources(), Shape.SUPPLY, self.conditions())

    def white_cell_variance(self, g: ArrayLike, v: ArrayLike) -> Array:
        """Variance in A^2 of the current of cells of conductance `g` (siemens) at voltage `v`; they broadcast.

        `[4 k T g (1 - F) + 2 q g F |v| coth(q |v| / 2 k T)] B`, which is 4 k T g B at v = 0 and adds shot noise
        2 q I F B well above 50 mV (Blanter and Buettiker 2000, Phys. Rep. 336:1, two-terminal conductor). Without
        `shot` it is 4 k T g B, without `thermal` what the formula has above that.

        Example:
            >>> float(hardware.sensing.white_cell_variance(20e-6, 0.2)) > 0  # square amperes
            True
        """
        v = np.asarray(v, dtype=float)
        white = [s.per_siemens(v, self.conditions()) for s in self.sources() if s.shape is Shape.CELL]
        return np.asarray(g) * np.sum([np.zeros_like(v), *white], axis=0)

    def white_cell_coefficients(self) -> tuple[float, float]:
        """(c0, c2) such that the white variance of a cell is about g (c0 + c2 v^2), both not negative.

        Least squares over [0, v_read]; `white_fit_error` says how good it is.
        """
        return white_fit(self.sources(), self.conditions())

    def timed_cell_coefficients(self) -> tuple[float, float]:
        """(c0, c1): the white variance of a cell that is at v_read for a share d of t_read is g (c0 + c1 d), exactly.

        In A^2 for each siemens: the noise power of the two voltages, each for its time.
        """
        idle, driven = self.white_cell_variance(1.0, np.array([0.0, self.v_read]))
        return float(idle), float(driven - idle)

    def white_fit_error(self) -> float:
        """Largest relative error of `white_cell_coefficients` over [0, v_read].

        Infinite for shot noise without thermal noise, which vanishes at v = 0; 0 without either.

        Example:
            >>> round(hardware.sensing.white_fit_error(), 3)
            0.051
        """
        v2, exact = white_samples(self.sources(), self.conditions())
        c0, c2 = self.white_cell_coefficients()
        error = np.abs(c0 + c2 * v2 - exact)
        if exact[0] == 0:
            return math.inf if error.any() else 0.0
        return float((error / exact).max())
