"""What the circuits around an array cost in time and energy: the constants, each with its source."""

from __future__ import annotations

from math import log
from typing import Annotated

from pydantic import Field

from ..devices.config import Config
from ..devices.units import Hertz, Joule, Second, Watt

ADC_FLOOR = 0.5e-15
"""Joules of a quantisation step, at least. About the best measured: 0.44 fJ (Hsieh and Hsieh, VLSI Circuits 2016)."""


def adc_energy(bits: int, rate: float) -> float:
    """Joules of one analog-to-digital conversion, by a good converter of `bits` bits at `rate` conversions a second.

    Schreier figure of merit FoM_S = SNDR + 10 log10(B / P) with bandwidth B = rate / 2, so that
    P / rate = 10^(-(FoM_S - SNDR) / 10) / 2, with SNDR = 6.02 bits + 1.76 dB of an ideal quantiser and
    FoM_S = min(180.14, 302.74 - 6.461 ln rate) dB, a fit to Murmann's "ADC Performance Survey". The floor `ADC_FLOOR`
    times 2^bits holds where the fit would promise more than has been built (few bits, low rates).

    Raises:
        ValueError: fewer than one bit, or a rate that is not positive.
    """
    if bits < 1:
        raise ValueError(f"bits: a converter has at least 1 bit, got {bits}")
    if not rate > 0:
        raise ValueError(f"rate: conversions a second must be positive, got {rate}")
    figure_of_merit = min(180.14, 302.74 - 6.461 * log(rate))
    sndr = 6.02 * bits + 1.76
    return max(0.5 * 10 ** (-(figure_of_merit - sndr) / 10), ADC_FLOOR * 2**bits)


class Cost(Config):
    """Costs of a tile's periphery, at the 32 nm node where the source names one."""

    adcs_per_tile: Annotated[int, Field(ge=1)] = Field(
        1, description="ADCs that share the bit lines of a tile (ISAAC 2016: 8 for the 8 arrays of a unit)"
    )
    adc_rate: Annotated[Hertz, Field(gt=0)] = Field(
        1.28e9, description="conversions a second of one ADC (ISAAC 2016, after Kull 2013: 128 bit lines in 100 ns)"
    )
    adc_energy: Annotated[Joule, Field(gt=0)] | None = Field(
        None,
        description="of one conversion; null: the survey law at adc.bits and adc_rate (ISAAC 2016: 1.56 pJ at 8 bits)",
    )
    dac_energy: Annotated[Joule, Field(ge=0)] = Field(
        0.39e-12,
        description="of one word line's DAC for each bit of a pulse (ISAAC 2016: 3.9 uW for 1 bit, 100 ns a cycle)",
    )
    sense_power: Annotated[Watt, Field(ge=0)] = Field(
        9.7e-9,
        description="of one sensed line during a read: sample and hold (PUMA 2019); add your sense amplifier's",
    )
    shift_add_energy: Annotated[Joule, Field(ge=0)] = Field(
        0.021e-12, description="of adding one conversion to its output (ISAAC 2016: 0.05 mW)"
    )
    buffer_energy: Annotated[Joule, Field(ge=0)] = Field(
        20.45e-12 / 256,
        description="of moving one bit into or out of the buffer (ISAAC 2016: eDRAM, 20.45 pJ for 256 bits)",
    )
    digital_time: Annotated[Second, Field(gt=0)] = Field(
        100e-9, description="of a layer's digital end after its last read, and of the voter (ISAAC 2016: one cycle)"
    )

    def conversion_energy(self, bits: int) -> float:
        """Energy of one conversion of an ADC of `bits` bits, in joules."""
        return adc_energy(bits, self.adc_rate) if self.adc_energy is None else self.adc_energy

    def pulse_energy(self, bits: int) -> float:
        """Energy in joules of a DAC that drives one word line with a pulse of `bits` bits.

        Linear in the bits, which is an assumption: ISAAC has 1-bit DACs only. ZigZag-IMC (2023) is linear too, with
        50 fJ a bit at 1 V; doubling with every bit, as MNSIM 2.0 does, gives 16 times as much at 8 bits.
        """
        return self.dac_energy * bits
