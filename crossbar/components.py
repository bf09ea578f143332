"""What the circuits around an array cost in time and energy: the constants, each with its source."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, model_validator

from ..devices.config import Config
from ..devices.units import Farad, Hertz, Joule, Metre, Number, Second, SquareMetre, Volt, Watt, Whole
from . import nodes
from .conversion import ADC_FLOOR, Kind, adc_energy, conversion_area, conversion_energy, conversion_time

__all__ = ["ADC_FLOOR", "CONSTANTS", "Constant", "Cost", "Inputs", "adc_energy"]

Inputs = Literal["amplitude", "bit-serial", "time"]
"""How an input is coded: as a voltage, as pulses of a few bits each, or as the width of one pulse."""


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


_DIGITAL_ENERGIES = (
    "dac_energy",
    "toggle_energy",
    "shift_add_energy",
    "scale_energy",
    "digital_energy",
    "buffer_energy",
    "register_energy",
    "interconnect_energy",
)
_ANALOG_ENERGIES = ("sense_power", "sense_energy", "comparison_energy")
_DIGITAL_AREAS = (
    "dac_area",
    "latch_area",
    "shift_add_area",
    "scale_area",
    "digital_area",
    "buffer_area",
    "interconnect_area",
)
_ANALOG_AREAS = ("level_area", "driver_area", "sense_area", "comparator_area")
_CAPACITANCES = ("line_capacitance", "driver_capacitance")


_METRES: TypeAdapter[float] = TypeAdapter(Metre)
_VOLTS: TypeAdapter[float] = TypeAdapter(Volt)


def _factors(node: float, supply: float) -> dict[str, float]:
    """What the constants of 32 nm and 0.9 V are multiplied by, the others left out."""
    if (node, supply) == (nodes.NODE, nodes.SUPPLY):
        return {}
    return (
        dict.fromkeys(_DIGITAL_ENERGIES, nodes.digital_energy(node, supply))
        | dict.fromkeys(_ANALOG_ENERGIES, nodes.analog_energy(supply))
        | dict.fromkeys(_DIGITAL_AREAS, nodes.digital_area(node))
        | dict.fromkeys(_ANALOG_AREAS, nodes.analog_area(node))
        | dict.fromkeys(_CAPACITANCES, node / nodes.NODE)
    )


class Cost(Config):
    """Costs of a tile's periphery and of what stands between tiles. Defaults and sources: `costs.yaml`.

    The defaults are those of 32 nm and 0.9 V. At another `node` or `supply` those that are left at their default are
    scaled: digital energies and areas by Stillmaker and Baas 2017, analog areas with node^0.993, analog energies with
    the square of the supply, capacitances with the node. Times, leakage and programming stay, and so does what is
    given. Laws of scaling are rough: a factor of two is nothing unusual. A hardware that is scaled already is not
    scaled again: start from one of 32 nm.
    """

    overlap: bool = _constant("overlap", "whether the next pulse is integrated while the last one is converted")
    drive_time: Time = _constant("drive_time", "of a DAC and its word line to settle, before t_read")
    adcs_per_tile: Annotated[Whole, Field(ge=1, le=65536)] = _constant(
        "adcs_per_tile", "ADCs that share the bit lines of a tile"
    )
    adc_rate: Rate = _constant("adc_rate", "conversions a second of one ADC")
    adc_clock: Rate = _constant("adc_clock", "steps a second of an ADC that steps or counts: ramp, cyclic, oscillator")
    add_time: Time = _constant("add_time", "of one level of the tree that adds the row tiles")
    digital_rate: Rate = _constant("digital_rate", "operations a second of a layer's digital unit: activation, pooling")
    digital_time: Annotated[Second, Field(gt=0)] = _constant(
        "digital_time", "from the last conversion of a layer to its result in the buffer; of the voter"
    )
    write_time: Time = _constant("write_time", "of programming one cell, verified")

    tiles: Annotated[Whole, Field(ge=1, le=10**9)] | None = _constant(
        "tiles", "that the chip has; null: as many as a network needs"
    )
    written_at_once: Annotated[Whole, Field(ge=1, le=2**32)] = _constant(
        "written_at_once", "cells of a tile that are programmed at the same time; tiles are written in parallel"
    )
    buffer_bits: Annotated[Number, Field(ge=0)] | None = _constant(
        "buffer_bits", "of buffer for each tile; null: as many as a layer's inputs take"
    )
    node: Annotated[Metre, Field(ge=7e-9, le=130e-9)] = _constant(
        "node", "technology, which cells, converters and constants that are not given follow"
    )
    supply: Annotated[Volt, Field(gt=0)] = _constant("supply", "that lines and circuits switch to")
    array_supply: Annotated[Volt, Field(gt=0)] | None = _constant(
        "array_supply", "that the cells' currents are drawn from, through regulators; null: rails at sensing.v_read"
    )

    dac_energy: Energy = _constant("dac_energy", "of one word line's DAC for each bit of a pulse")
    toggle_energy: Energy = _constant("toggle_energy", "of one bit of a register or counter that changes")
    line_capacitance: Annotated[Farad, Field(ge=0)] = _constant(
        "line_capacitance", "of a word line at each of its cells"
    )
    driver_capacitance: Annotated[Farad, Field(ge=0)] = _constant("driver_capacitance", "of a word line's driver")
    array_power: Power | None = _constant(
        "array_power", "of one array in a read; null: from its conductances and inputs"
    )
    sense_power: Power = _constant("sense_power", "of one sensed line's sample and hold during a read")
    sense_energy: Energy = _constant("sense_energy", "of one sensed line's amplifier and integrator for each pulse")
    adc_energy: Annotated[Joule, Field(gt=0)] | None = _constant(
        "adc_energy", "of one conversion; null: by kind of converter, bits and rate"
    )
    comparison_energy: Energy = _constant("comparison_energy", "of one decision of a comparator")
    shift_add_energy: Energy = _constant("shift_add_energy", "of adding one conversion to its output")
    scale_energy: Energy = _constant("scale_energy", "of multiplying one sum of a tile by the scale of its output")
    digital_energy: Energy = _constant("digital_energy", "of one digital operation: activation, pooling, batch norm")
    buffer_energy: Energy = _constant("buffer_energy", "of moving one bit into or out of the buffer")
    register_energy: Energy = _constant("register_energy", "of one bit through the registers at the tile's edge")
    interconnect_energy: Energy = _constant("interconnect_energy", "of one bit between the buffer and the tiles")
    write_energy: Energy = _constant("write_energy", "of programming one cell, verified")

    adc_leakage: Power | None = _constant("adc_leakage", "of one ADC, always; null: a tenth of its power")
    dac_leakage: Power = _constant("dac_leakage", "of one word line's DAC, always")
    sense_leakage: Power = _constant("sense_leakage", "of one bit line's sense circuit, always")
    digital_leakage: Power = _constant("digital_leakage", "of a layer's digital unit, always")
    buffer_leakage: Power = _constant("buffer_leakage", "of one bit of buffer, always")
    interconnect_leakage: Power = _constant("interconnect_leakage", "of one tile's share of the bus, always")

    cell: Literal["crosspoint", "1T1R", "2T1R", "NAND"] = _constant(
        "cell", "what a memory device shares its area with; a unit cell of 8T4R is four devices of 2T1R"
    )
    cell_area: Area | None = _constant("cell_area", "of one memory device; null: by kind of cell and node")
    dac_area: Area = _constant("dac_area", "of one word line's DAC for each bit of a pulse")
    level_area: Area = _constant("level_area", "of a DAC of several bits, for each of its levels")
    latch_area: Area = _constant("latch_area", "of one bit of a register, counter or pulse-width modulator")
    driver_area: Area = _constant(
        "driver_area", "of one line's driver, level shifter and switch: select and input of each word line, bit lines"
    )
    sense_area: Area = _constant("sense_area", "of one bit line's amplifier, integrator, and sample and hold")
    adc_area: Area | None = _constant("adc_area", "of one ADC of 8 bits; null: by kind of converter, bits and rate")
    comparator_area: Area = _constant("comparator_area", "of one comparator with its reference")
    shift_add_area: Area = _constant("shift_add_area", "of the shift-and-add unit of one ADC")
    scale_area: Area = _constant("scale_area", "of the multiplier of one ADC")
    digital_area: Area = _constant("digital_area", "of a layer's digital unit")
    buffer_area: Area = _constant("buffer_area", "of one bit of buffer")
    register_area: Area | None = _constant(
        "register_area", "of the registers of one tile; null: a latch for each bit of its inputs and readings"
    )
    interconnect_area: Area = _constant("interconnect_area", "of one tile's share of bus and router")
    overhead: Annotated[Number, Field(ge=0, le=100)] = _constant(
        "overhead", "area of control, clock, wiring and write circuits of a tile, relative to its array and converters"
    )

    @model_validator(mode="before")
    @classmethod
    def _at_its_node(cls, data: Any) -> Any:
        """Constants that are left out, or numbers equal to their defaults, are those of `node` and `supply`."""
        if not isinstance(data, dict):
            return data
        try:
            node = _METRES.validate_python(data.get("node", nodes.NODE))
            factors = _factors(node, _VOLTS.validate_python(data.get("supply", nodes.SUPPLY)))
        except ValueError:
            return data  # the fields say what is wrong with it
        if not factors:
            return data
        plain = cls()
        left = [name for name in factors if data.get(name, getattr(plain, name)) == getattr(plain, name)]
        return data | {name: factors[name] * getattr(plain, name) for name in left}

    def conversion_time(self, kind: Kind, bits: int) -> float:
        """Of one conversion of an ADC of `bits` bits, in seconds."""
        return conversion_time(kind, bits, self.adc_rate, self.adc_clock)

    def conversion_energy(self, bits: int, kind: Kind = "sar") -> float:
        """Energy of one conversion of an ADC of `bits` bits, in joules."""
        if self.adc_energy is not None:
            return self.adc_energy
        rate = 1 / self.conversion_time(kind, bits)
        return conversion_energy(kind, bits, rate, comparison=self.comparison_energy, gate=self.toggle_energy)

    def converter_area(self, bits: int, kind: Kind = "sar") -> float:
        """Area of one ADC of `bits` bits, in square metres.

        By its kind, bits and rate (`crossbar/conversion.py`). Where `adc_area` is given for 8 bits, comparator and
        logic grow with the bits, the capacitors with 2^bits, and at 8 bits they take 54.5 % and 45.5 %: a fit to the
        areas of 4 to 10 bits in Accelergy's component library, which scales ISAAC's ADC after Saberi et al. (2011,
        IEEE TCAS-I).
        """
        if self.adc_area is not None:
            return self.adc_area * (0.545 * bits / 8 + 0.455 * 2**bits / 256)
        rate, energy = 1 / self.conversion_time(kind, bits), self.conversion_energy(bits, kind)
        sizes = {"comparator": self.comparator_area, "latch": self.latch_area}
        return conversion_area(kind, bits, rate, energy, self.node, **sizes)

    def converter_leakage(self, bits: int, kind: Kind = "sar") -> float:
        """Watts that one ADC of `bits` bits takes always: given, or a tenth of its power as in PUMA's simulator."""
        if self.adc_leakage is not None:
            return self.adc_leakage
        return 0.1 * self.conversion_energy(bits, kind) / self.conversion_time(kind, bits)

    def pulse_energy(self, bits: int, inputs: Inputs = "amplitude") -> float:
        """Energy in joules of a DAC that drives one word line with a pulse of `bits` bits, the line itself left out.

        Linear in the bits, which is an assumption: ISAAC has 1-bit DACs only. ZigZag-IMC (2023) is linear too, with
        50 fJ a bit at 1 V; doubling with every bit, as MNSIM 2.0 does, gives 16 times as much at 8 bits. A pulse-width
        modulator compares its register with a counter that all share: one bit changes with each of 2^bits steps.
        """
        return self.toggle_energy * 2**bits if inputs == "time" else self.dac_energy * bits

    def input_area(self, bits: int, inputs: Inputs = "amplitude") -> float:
        """Square metres of one word line's DAC of `bits` bits a pulse, or of its pulse-width modulator.

        A DAC of one bit is an inverter (ISAAC); one of several has a switch a bit and a capacitor for each of its
        2^bits levels, as large as those of a converter. A modulator is a register and a comparison of `bits` bits.
        """
        if inputs == "time":
            return 2 * bits * self.latch_area
        return self.dac_area * bits + (self.level_area * 2**bits if bits > 1 else 0.0)

    def line_energy(self, cells: int) -> float:
        """Joules of one pulse on a word line of so many memory devices: C V^2, charged from `supply`."""
        return (cells * self.line_capacitance + self.driver_capacitance) * self.supply**2

    def device_area(self) -> float:
        """Square metres of one memory device with its transistors."""
        return CELLS[self.cell] * self.node**2 if self.cell_area is None else self.cell_area


CELLS = {"crosspoint": 4, "1T1R": 126, "2T1R": 252, "NAND": 4}
"""Area of a memory device in squares of the node. 1T1R: NeuRRAM (Wan et al. 2022: arrays are 12 % of a core whose 256
neurons of 1270 um2 are 28 %, 2.13 um2 at 130 nm); Intel's at 22 nm has 100 (0.0486 um2, Golonzka et al., VLSI 2019).
2T1R: two such transistors, an assumption. crosspoint, NAND: 4, the least that lines at the finest pitch allow."""
