"""What the circuits around an array cost in time and energy: the constants, each with its source."""

from __future__ import annotations

from importlib import resources
from math import log
from typing import Annotated, Any

import yaml
from pydantic import Field

from ..devices.config import Config
from ..devices.units import Hertz, Joule, Number, Second, SquareMetre, Watt, Whole

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


class Constant(Config):
    """One entry of `costs.yaml`: a number, the technology node it belongs to, and where it comes from."""

    value: Any
    node: str
    source: str


def _constants() -> dict[str, Constant]:
    text = resources.files(__package__).joinpath("costs.yaml").read_text(encoding="utf-8")
    return {name: Constant.model_validate(entry) for name, entry in yaml.safe_load(text).items()}


CONSTANTS = _constants()


def _constant(name: str, meaning: str) -> Any:
    """A field with its default from `costs.yaml`."""
    constant = CONSTANTS[name]
    return Field(constant.value, description=f"{meaning} ({constant.source}; {constant.node})")


Rate = Annotated[Hertz, Field(gt=0)]
Time = Annotated[Second, Field(ge=0)]
Energy = Annotated[Joule, Field(ge=0)]
Power = Annotated[Watt, Field(ge=0)]
Area = Annotated[SquareMetre, Field(ge=0)]


class Cost(Config):
    """Costs of a tile's periphery and of what stands between tiles. Defaults, nodes and sources: `costs.yaml`."""

    overlap: bool = _constant("overlap", "whether the next pulse is integrated while the last one is converted")
    drive_time: Time = _constant("drive_time", "of a DAC and its word line to settle, before t_read")
    adcs_per_tile: Annotated[Whole, Field(ge=1, le=65536)] = _constant(
        "adcs_per_tile", "ADCs that share the bit lines of a tile"
    )
    adc_rate: Rate = _constant("adc_rate", "conversions a second of one ADC")
    add_time: Time = _constant("add_time", "of one level of the tree that adds the row tiles")
    digital_rate: Rate = _constant("digital_rate", "operations a second of a layer's digital unit: activation, pooling")
    digital_time: Annotated[Second, Field(gt=0)] = _constant(
        "digital_time", "from the last conversion of a layer to its result in the buffer; of the voter"
    )

    buffer_bits: Annotated[Number, Field(gt=0)] | None = _constant(
        "buffer_bits", "of buffer for each tile; null: as many as a layer's inputs take"
    )

    dac_energy: Energy = _constant("dac_energy", "of one word line's DAC for each bit of a pulse")
    array_power: Power | None = _constant(
        "array_power", "of one array in a read; null: from its conductances and inputs"
    )
    sense_power: Power = _constant("sense_power", "of one sensed line during a read")
    adc_energy: Annotated[Joule, Field(gt=0)] | None = _constant(
        "adc_energy", "of one conversion; null: the survey law"
    )
    shift_add_energy: Energy = _constant("shift_add_energy", "of adding one conversion to its output")
    digital_energy: Energy = _constant("digital_energy", "of one digital operation: activation, pooling, batch norm")
    buffer_energy: Energy = _constant("buffer_energy", "of moving one bit into or out of the buffer")
    register_energy: Energy = _constant("register_energy", "of one bit through the registers at the tile's edge")
    interconnect_energy: Energy = _constant("interconnect_energy", "of one bit between the buffer and the tiles")

    adc_leakage: Power = _constant("adc_leakage", "of one ADC, always")
    dac_leakage: Power = _constant("dac_leakage", "of one word line's DAC, always")
    sense_leakage: Power = _constant("sense_leakage", "of one bit line's sense circuit, always")
    digital_leakage: Power = _constant("digital_leakage", "of a layer's digital unit, always")
    buffer_leakage: Power = _constant("buffer_leakage", "of one bit of buffer, always")
    interconnect_leakage: Power = _constant("interconnect_leakage", "of one tile's share of the bus, always")

    cell_area: Area = _constant("cell_area", "of one cell")
    dac_area: Area = _constant("dac_area", "of one word line's DAC for each bit of a pulse")
    sense_area: Area = _constant("sense_area", "of one bit line's sense circuit")
    adc_area: Area = _constant("adc_area", "of one ADC of 8 bits")
    shift_add_area: Area = _constant("shift_add_area", "of the shift-and-add unit of one ADC")
    digital_area: Area = _constant("digital_area", "of a layer's digital unit")
    buffer_area: Area = _constant("buffer_area", "of one bit of buffer")
    register_area: Area = _constant("register_area", "of the registers of one tile")
    interconnect_area: Area = _constant("interconnect_area", "of one tile's share of bus and router")

    def conversion_energy(self, bits: int) -> float:
        """Energy of one conversion of an ADC of `bits` bits, in joules."""
        return adc_energy(bits, self.adc_rate) if self.adc_energy is None else self.adc_energy

    def converter_area(self, bits: int) -> float:
        """Area of one ADC of `bits` bits, in square metres.

        Comparator and logic grow with the bits, the capacitors with 2^bits; at 8 bits they take 54.5 % and 45.5 %. A
        fit to the areas of 4 to 10 bits in Accelergy's component library, which scales ISAAC's ADC after Saberi et al.
        (2011, IEEE TCAS-I).
        """
        return self.adc_area * (0.545 * bits / 8 + 0.455 * 2**bits / 256)

    def pulse_energy(self, bits: int) -> float:
        """Energy in joules of a DAC that drives one word line with a pulse of `bits` bits.

        Linear in the bits, which is an assumption: ISAAC has 1-bit DACs only. ZigZag-IMC (2023) is linear too, with
        50 fJ a bit at 1 V; doubling with every bit, as MNSIM 2.0 does, gives 16 times as much at 8 bits.
        """
        return self.dac_energy * bits
