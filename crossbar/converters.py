"""The converters of a tile: DAC on the word lines, ADC on the bit lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ..devices.config import Config
from ..devices.units import Ampere, Number, Volt, Whole
from .adc_kinds import Kind

Array = np.ndarray[Any, Any]
MOST_BITS = 12
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
    equalise: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None,
        description="alpha: inputs of each channel are divided, and weights multiplied, by max|x|^alpha / "
        "max|w|^(1 - alpha), from the calibration batch; null: not",
    )
    scaling: Literal["layer", "sample", "token"] = Field(
        "layer",
        description="what has one range: all inputs of a layer, as calibrated; or, found digitally in each read, those "
        "of a sample, or each vector of features (a row of the matrix)",
    )
    bits_per_pulse: Annotated[Whole, Field(ge=1, le=15)] | None = Field(
        None,
        description="bit-serial streaming: bits of each pulse, least significant first; null: one pulse per input",
    )
    coding: Literal["amplitude", "time"] = Field(
        "amplitude",
        description="what a pulse codes its value in: its voltage, or how much of t_read it is at v_read, 0 V after",
    )
    phases: Literal[1, 2] = Field(
        1, description="2: positive and negative inputs one after the other, both with positive voltages"
    )
    accumulate: Literal["digital", "scaled", "repeated"] = Field(
        "digital",
        description="what adds up the pulses of an input: digital: each is converted; else they are charge, and "
        "converted once: `scaled` by powers of two, as charge is shared, or `repeated` as often as it counts",
    )
    levels: Literal["voltage", "current"] = Field(
        "voltage", description="what is evenly spaced: voltages, or the currents of a cell whose law is not Ohm's"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Dac:
        if self.bits is not None and self.range is None:
            raise ValueError("dac.range must be 'calibrated' or a number when dac.bits is set, got null")
        if self.equalise is not None and self.range != "calibrated":
            shown = "null" if self.range is None else f"{self.range:g}"
            raise ValueError(f"dac.range must be 'calibrated' when dac.equalise is set, got {shown}")
        if self.scaling != "layer" and self.range != "calibrated":
            shown = "null" if self.range is None else f"{self.range:g}"
            raise ValueError(f"dac.range must be 'calibrated' when dac.scaling is {self.scaling!r}, got {shown}")
        if self.bits_per_pulse is not None and (self.bits is None or self.bits_per_pulse > self.bits):
            raise ValueError(f"dac.bits_per_pulse must be at most dac.bits = {self.bits}, got {self.bits_per_pulse}")
        if self.accumulate != "digital" and self.bits_per_pulse is None:
            raise ValueError(
                f"dac.accumulate must be 'digital' unless dac.bits_per_pulse is set, got {self.accumulate!r}"
            )
        if self.coding == "time":
            if self.range is None:
                raise ValueError("dac.range must be 'calibrated' or a number when dac.coding is 'time', got null")
            if self.accumulate != "digital":
                raise ValueError(
                    f"dac.accumulate must be 'digital' when dac.coding is 'time': one long pulse is what accumulating "
                    f"them makes, got {self.accumulate!r}"
                )
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
    transfer: Literal["mid_tread", "mid_rise"] = Field("mid_tread", description="where its levels are: see above")
    polarity: Literal["together", "apart"] = Field(
        "together",
        description="of the two bit lines of a pair: subtracted, then converted; or converted each, then subtracted",
    )
    per: Literal["layer", "slice", "tile"] = Field(
        "slice",
        description="what a calibrated full scale is for: all readings of a layer, of a slice, or of a row tile",
    )
    span: Literal["symmetric", "fitted"] = Field(
        "symmetric", description="of a calibrated range: about 0, or from the lowest to the highest current"
    )
    kind: Kind | None = Field(None, description="circuit, with the errors of its elements; null: equal steps")
    offset: Annotated[Number, Field(ge=0, le=1e6)] = Field(
        0.0, description="standard deviation of the offsets of the ADCs, in LSB"
    )
    gain: Annotated[Number, Field(ge=0, le=0.3)] = Field(
        0.0, description="standard deviation of the gains of the ADCs, relative"
    )
    calibrated: bool = Field(False, description="whether the digital side knows the offset and the gain of each ADC")

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
        if self.full_scale != "calibrated" and (self.per != "slice" or self.span != "symmetric"):
            raise ValueError(
                f"adc.per and adc.span must be 'slice' and 'symmetric' unless adc.full_scale is 'calibrated', got "
                f"{self.per!r} and {self.span!r}"
            )
        if self.bits is None and self.differ:
            raise ValueError("adc.kind, adc.offset and adc.gain must be null or 0 when adc.bits is null")
        if self.bits is not None and self.differ and self.bits > MOST_BITS:
            raise ValueError(
                f"adc.bits must be at most {MOST_BITS} for ADCs that differ (each has a table), got {self.bits}"
            )
        if self.calibrated and not (self.offset or self.gain):
            raise ValueError("adc.calibrated must be false where adc.offset and adc.gain are 0")
        if self.bits == 1 and self.transfer == "mid_tread":
            raise ValueError("adc.bits must be at least 2 for transfer 'mid_tread', got 1 (or use 'mid_rise')")
        return self

    @property
    def differ(self) -> bool:
        """Whether ADCs differ from an ideal one."""
        return self.kind is not None or self.offset > 0 or self.gain > 0

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


def quantise(values: Array, codes: AdcCodes, full_scale: float) -> Array:
    """What an ADC of these codes reads for `values` (any shape), in the units of `full_scale`."""
    step = codes.relative_step * full_scale
    return (np.clip(np.rint(values / step - codes.centre), codes.low, codes.high) + codes.centre) * step
