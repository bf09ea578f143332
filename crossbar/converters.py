"""The converters of a tile: DAC on the word lines, ADC on the bit lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..devices.config import Config
from ..devices.units import Ampere, Number, Volt, Whole

Array = np.ndarray[Any, Any]
Percentile = Annotated[Number, Field(gt=0, le=100)]


class Dac(Config):
    """Digital to analog conversion of the inputs.

    Inputs are divided by `range`, clipped and rounded (half to even) to codes, and driven as voltages of at most
    v_read. A layer whose inputs are never negative uses 2^bits levels on [0, range]; one with signed inputs uses 2^bits
    - 1 levels on [-range, range] (sign and magnitude, so that 0 is a level).
    """

    bits: Annotated[Whole, Field(ge=1, le=16)] | None = Field(None, description="resolution; null: no quantisation")
    range: Literal["calibrated"] | Annotated[Number, Field(ge=1e-15, le=1e15)] | None = Field(
        None,
        description="largest input, in the layer's own units; null: inputs are voltages in units of v_read, unclipped",
    )
    percentile: Percentile = Field(
        100.0, description="of |input|, taken as the range: over the calibration batch, or what `scaling` says"
    )
    scaling: Literal["layer", "sample", "token"] = Field(
        "layer",
        description="what has one range: all inputs of a layer, as calibrated; or, found digitally in each read, those "
        "of a sample, or each vector of features (a row of the matrix)",
    )
    bits_per_pulse: Annotated[Whole, Field(ge=1, le=15)] | None = Field(
        None,
        description="bit-serial streaming: bits of each pulse, least significant first; null: one voltage per input",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Dac:
        if self.bits is not None and self.range is None:
            raise ValueError("dac.range must be 'calibrated' or a number when dac.bits is set, got null")
        if self.scaling != "layer" and self.range != "calibrated":
            shown = "null" if self.range is None else f"{self.range:g}"
            raise ValueError(f"dac.range must be 'calibrated' when dac.scaling is {self.scaling!r}, got {shown}")
        if self.bits_per_pulse is not None and (self.bits is None or self.bits_per_pulse > self.bits):
            raise ValueError(f"dac.bits_per_pulse must be at most dac.bits = {self.bits}, got {self.bits_per_pulse}")
        return self


class Adc(Config):
    """Analog to digital conversion of the bit-line currents.

    `mid_tread` has a level at zero: 2^bits - 1 levels on [-full_scale, full_scale], or 2^bits on [0, full_scale] where
    currents cannot be negative. `mid_rise` has 2^bits levels centred in equal intervals of [-full_scale, full_scale].
    """

    bits: Annotated[Whole, Field(ge=1, le=24)] | None = Field(None, description="resolution; null: no quantisation")
    full_scale: Literal["calibrated"] | Annotated[Ampere, Field(gt=0)] | None = Field(
        None, description="largest current that is converted unclipped; calibrated: per layer and slice"
    )
    percentile: Percentile = Field(
        100.0, description="of |current| over the calibration batch, taken as the full scale"
    )
    calibrated_at: Annotated[Volt, Field(gt=0)] | None = Field(
        None,
        description="read voltage that a calibrated full scale is for, so that the range stays when sensing.v_read "
        "changes; null: the range tracks v_read",
    )
    transfer: Literal["mid_tread", "mid_rise"] = "mid_tread"

    @model_validator(mode="after")
    def _consistent(self) -> Adc:
        if self.calibrated_at is not None and self.full_scale != "calibrated":
            raise ValueError(
                f"adc.calibrated_at must be null unless adc.full_scale is 'calibrated', got {self.calibrated_at:g} V "
                f"and {self.full_scale}"
            )
        if (self.bits is None) != (self.full_scale is None):
            raise ValueError(
                f"adc.bits and adc.full_scale must both be set or both be null, got {self.bits} and {self.full_scale}"
            )
        if self.bits == 1 and self.transfer == "mid_tread":
            raise ValueError("adc.bits must be at least 2 for transfer 'mid_tread', got 1 (or use 'mid_rise')")
        return self

    def codes(self, signed: bool) -> AdcCodes:
        """The code range for currents of both signs (`signed`) or of one."""
        assert self.bits is not None
        if self.transfer == "mid_rise":
            half = 2 ** (self.bits - 1)
            return AdcCodes(-half, half - 1, 0.5, 1.0 / half) if signed else AdcCodes(0, 2 * half - 1, 0.5, 0.5 / half)
        if signed:
            top = 2 ** (self.bits - 1) - 1
            return AdcCodes(-top, top, 0.0, 1.0 / top)
        return AdcCodes(0, 2**self.bits - 1, 0.0, 1.0 / (2**self.bits - 1))


@dataclass(frozen=True)
class AdcCodes:
    """Code range: a code stands for (code + centre) * step, and step is `relative_step` times the full scale."""

    low: int
    high: int
    centre: float
    relative_step: float


@dataclass(frozen=True)
class Drive:
    """How one layer's inputs become codes: `full_code` stands for an input of `limit`; without a DAC full_code is 1."""

    limit: float
    signed: bool
    full_code: int
    pulses: int
    digit_bits: int
    rounds: bool
    clips: bool

    @property
    def largest_digit(self) -> int:
        """The largest code of one pulse."""
        return self.full_code if self.pulses == 1 else 2**self.digit_bits - 1

    @classmethod
    def of(cls, dac: Dac, limit: float | None, signed: bool) -> Drive:
        """The drive for a largest input `limit` (None: unscaled).

        Raises:
            ValueError: a signed input for a DAC of one bit, which has no level but zero.
        """
        if limit is None:
            return cls(1.0, True, 1, 1, 1, rounds=False, clips=False)
        if dac.bits is None:
            return cls(limit, signed, 1, 1, 1, rounds=False, clips=True)
        magnitude = dac.bits - 1 if signed else dac.bits
        if magnitude == 0:
            raise ValueError("dac.bits must be at least 2 for a layer with signed inputs, got 1")
        digit_bits = min(dac.bits_per_pulse or magnitude, magnitude)
        pulses = -(-magnitude // digit_bits)
        return cls(limit, signed, 2**magnitude - 1, pulses, digit_bits, rounds=True, clips=True)


def quantise(values: Array, codes: AdcCodes, full_scale: float) -> Array:
    """What an ADC of these codes reads for `values` (any shape), in the units of `full_scale`."""
    step = codes.relative_step * full_scale
    return (np.clip(np.rint(values / step - codes.centre), codes.low, codes.high) + codes.centre) * step


def input_codes(x: Array, drive: Drive) -> Array:
    """The input codes of `x` (any shape), float: integers with a DAC, x / limit without."""
    scaled = x / drive.limit * drive.full_code
    if drive.rounds:
        scaled = np.rint(scaled)
    return np.clip(scaled, -drive.full_code if drive.signed else 0, drive.full_code) if drive.clips else scaled


def digits(codes: Array, drive: Drive) -> Array:
    """Bit-serial digits (pulses, ...) of input codes, least significant first, signed, in units of v_read."""
    magnitude = np.abs(codes).astype(np.int64)
    base = 2**drive.digit_bits
    pulses = [(magnitude // base**q) % base for q in range(drive.pulses)]
    return np.sign(codes) * np.stack(pulses) / (base - 1)
