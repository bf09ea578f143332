"""Time, energy and area of a mapped network, layer by layer, and of a tile that never waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...crossbar.drive import Drive
from ...crossbar.hardware import Hardware
from ...crossbar.periphery import Periphery
from ...crossbar.placement import Placement
from ..errors import MappingError, check_chip
from ..held import checked_layers
from ..trace import downstream
from .read_chain import Chain
from .stages import Reading, check_converters, reading

if TYPE_CHECKING:
    from ..mapped import MappedNetwork

__all__ = ["AREAS", "COMPONENTS", "Demand", "layer_costs", "peak"]

COMPONENTS = ("dac", "driver", "array", "sense", "adc", "digital", "buffer", "interconnect")
AREAS = (*COMPONENTS, "overhead")
SCALES_WITH_V = ("array",)
"""Components whose energy goes with the square of the read voltage (in proportion to it with `cost.array_supply`); the
others do not depend on it, but for an oscillator's copy of the current in `sense`, which goes in proportion."""


@dataclass(frozen=True)
class Demand:
    """What one inference of one sample asks of a layer.

    positions: reads of its matrix. array_energy_j: of the array for one of them. values: that it takes, each counted
    once. work: operations of its digital unit. composed: the parts of its read, where its hardware does not say.
    scaling: operations by which its inputs are scaled or equalised, and its readings scaled back.
    fillers: numbers of its matrix that are none of the layer's weights.
    """

    hardware: Hardware
    placement: Placement
    pulses: int
    positions: int
    array_energy_j: float
    values: int
    work: int
    composed: Chain | None = None
    scaling: int = 0
    fillers: int = 0

    @property
    def chain(self) -> Chain:
        """The parts of its read: `composed`, or what its hardware says."""
        return self.composed or Chain.of(self.hardware)

    @property
    def phases(self) -> int:
        """Of a read, by the signs of its inputs."""
        return self.chain.phases

    @property
    def times(self) -> Reading:
        """Of its reads."""
        return reading(self, self.chain)

    def energy(self) -> dict[str, float]:
        """Joules by component."""
        cost, placement, bits, adc_bits = self.hardware.cost, self.placement, *self._bits()
        chain, ends, sensing = self.chain, self._periphery(), self.hardware.sensing
        word_lines = placement.groups * placement.column_tiles * placement.rows
        pulses = self.positions * chain.reads(self.pulses) * word_lines * ends.drivers
        amplifiers = self.positions * placement.conversions * ends.amplifiers
        conversions = self.positions * chain.converted(self.pulses) * placement.conversions
        outputs = self.positions * placement.groups * placement.outputs
        array = self.array_energy_j
        if cost.array_power is not None:
            array = placement.tiles * cost.array_power * chain.reads(self.pulses) * sensing.t_read
        # at one amplitude the charge is array / v_read; it flows from the supply, and again through a mirror
        drawn = self.positions * array * (1 if cost.array_supply is None else cost.array_supply / sensing.v_read)
        copied = self.positions * array * (cost.array_supply or cost.supply) / sensing.v_read if chain.mirrored else 0.0
        # an input is written on arrival and read for every position, an output written and read on its way out
        buffered = self.values + self.positions * placement.groups * placement.rows + 2 * outputs
        registered = self.positions * word_lines + outputs * placement.row_tiles
        return {
            "dac": pulses * cost.pulse_energy(self._pulse_bits(), chain.inputs),
            "driver": pulses * cost.line_energy(self._bit_lines() * chain.devices),
            "array": drawn,
            "sense": amplifiers * cost.sense_power * self.times.interval_s
            + amplifiers * chain.reads(self.pulses) * cost.sense_energy
            + copied,
            "adc": conversions * cost.conversion_energy(adc_bits, chain.converter),
            "digital": conversions * cost.shift_add_energy
            + outputs * placement.row_tiles * cost.scale_energy
            + (self.work + self.scaling) * cost.digital_energy,
            "buffer": bits * (buffered * cost.buffer_energy + registered * cost.register_energy),
            "interconnect": bits * (self.values + outputs) * cost.interconnect_energy,
        }

    def area(self, replicas: float = 1) -> dict[str, float]:
        """Square metres by component, for a number of replicas of its tiles; digital unit and buffer are there once.

        A part of a replica is that of its tiles which there is room for.
        """
        cost, tile, ends, chain = self.hardware.cost, self.placement.tile, self._periphery(), self.chain
        tiles = replicas * self.placement.tiles
        adcs = tiles * chain.converters(self.placement, cost)
        # of each word line its input and a select for each device of a cell, of each bit line one end
        lines = (1 + chain.devices) * ends.all_drivers + self._bit_lines()
        analog = {
            "dac": tiles * ends.all_drivers * cost.input_area(self._pulse_bits(), chain.inputs),
            "driver": tiles * lines * cost.driver_area,
            "array": tiles * tile.rows * tile.columns * chain.devices * cost.device_area(),
            "sense": tiles * ends.all_amplifiers * cost.sense_area,
            "adc": adcs * cost.converter_area(self._bits()[1], chain.converter),
        }
        return analog | {
            "digital": adcs * (cost.shift_add_area + cost.scale_area) + cost.digital_area,
            "buffer": tiles * self._register_area() + self._buffer_bits() * cost.buffer_area,
            "interconnect": tiles * cost.interconnect_area,
            "overhead": cost.overhead * sum(analog.values()),
        }

    def leakage(self, replicas: float = 1) -> float:
        """Watts that it takes whether it works or not."""
        cost, tiles, ends = self.hardware.cost, replicas * self.placement.tiles, self._periphery()
        adcs = self.chain.converters(self.placement, cost)
        of_tile = (
            adcs * cost.converter_leakage(self._bits()[1], self.chain.converter)
            + ends.all_drivers * cost.dac_leakage
            + ends.all_amplifiers * cost.sense_leakage
            + cost.interconnect_leakage
        )
        return tiles * of_tile + cost.digital_leakage + self._buffer_bits() * cost.buffer_leakage

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        numbers = self.placement.groups * self.placement.rows * self.placement.outputs
        return 2 * self.positions * (numbers - self.fillers)

    def _periphery(self) -> Periphery:
        return Periphery.of(self.placement.tile, self.hardware.wires)

    def _bit_lines(self) -> int:
        """Of one tile: two columns of cells are on one where pairs share it."""
        tile = self.placement.tile
        return -(-tile.columns // 2) if tile.paired and self.hardware.wires.pairs == "shared" else tile.columns

    def _bits(self) -> tuple[int, int]:
        dac, adc = self.hardware.dac.bits, self.hardware.adc.bits
        assert dac is not None
        assert adc is not None
        return dac, adc

    def _pulse_bits(self) -> int:
        return self.hardware.dac.bits_per_pulse or self._bits()[0]

    def _register_area(self) -> float:
        """Of one tile: a latch for each bit of its inputs and of its readings, or given."""
        cost, tile, (dac_bits, adc_bits) = self.hardware.cost, self.placement.tile, self._bits()
        if cost.register_area is not None:
            return cost.register_area
        return (tile.rows * dac_bits + tile.readings * adc_bits) * cost.latch_area

    def _buffer_bits(self) -> float:
        """Size of its buffer: given for a tile, or one image of its inputs."""
        given = self.hardware.cost.buffer_bits
        return self.values * self._bits()[0] if given is None else given * self.placement.tiles


def demands(chip: MappedNetwork, layers: str | Sequence[str] | None = None) -> dict[str, Demand]:
    """What one inference asks of each layer on tiles, by name.

    Args:
        layers: count the calls of these layers and what comes after them only, as in a further vote of `mho.vote`.

    Raises:
        ValueError: `layers` that are none on tiles.
        MappingError: no layer on tiles, a converter without a number of bits, or a layer that has seen no input yet.
    """
    check_chip(chip)
    if not chip.layers:
        raise MappingError("cost: no layer of this chip is on tiles")
    again = [True] * len(chip.trace) if layers is None else downstream(chip.trace, checked_layers(chip.layers, layers))
    counted = [call for call, made in zip(chip.trace, again, strict=True) if made]
    found = {}
    for name, layer in chip.layers.items():
        hardware = layer.hardware
        if layer.positions is None or layer.array_energy_j is None or not chip.trace:
            raise MappingError(f"layer {name!r}: cost needs real inputs, map with calibrate=, a batch of them")
        check_converters(hardware, f"layer {name!r}: ")
        mine = [call for call in counted if call.layer == name]
        values, work = sum(call.values for call in mine), sum(call.work for call in mine)
        chain = Chain.of(hardware, layer.phases)
        array = layer.array_energy_j
        positions = sum(call.positions for call in mine)
        scaling = layer.scaling_operations(values, positions)
        demand = Demand(hardware, layer.placement, layer.pulses, positions, array, values, work, chain, scaling)
        found[name] = replace(demand, fillers=layer.fillers)
    return found


def layer_costs(chip: MappedNetwork) -> pd.DataFrame:
    """Time, energy and area of one inference of one sample, a row per layer on tiles.

    Columns: `layer`; `positions`, reads of the matrix; `read_time_s` of one of them and `read_interval_s` to the next,
    over all its pulses; `stage_time_s`, all reads and the way into the buffer; `energy_<component>_j` for dac, driver,
    array, sense, adc, digital, buffer and interconnect, and `energy_j`, their sum; `tiles`; `operations`,
    multiplications and additions; `area_<component>_m2`, for overhead too, and `area_m2`; `leakage_w`, beside the
    energies.

    All tiles of a layer work in parallel: see `mho.mapping.architecture.stages.reading`. Digital work between two
    layers on tiles counts for the one before it. `attrs["scaling_operations"]` are, by layer, the digital operations
    by which inputs are scaled or equalised and readings scaled back; they count in `energy_digital_j`.

    Raises:
        MappingError: no layer on tiles, a converter without a number of bits, or a layer that has seen no input yet.

    Example:
        >>> from mho.mapping.architecture.cost import layer_costs
        >>> list(layer_costs(chip)["layer"])
        ['0', '2']
    """
    asked = demands(chip)
    table = pd.DataFrame([_row(name, demand) for name, demand in asked.items()])
    table.attrs = {"scaling_operations": {name: demand.scaling for name, demand in asked.items()}}
    return table


def _row(name: str, demand: Demand) -> dict[str, Any]:
    times, energy, area = demand.times, demand.energy(), demand.area()
    return {
        "layer": name,
        "positions": demand.positions,
        "read_time_s": times.fill_s + times.interval_s,
        "read_interval_s": times.interval_s,
        "stage_time_s": times.time(demand.positions),
        **{f"energy_{part}_j": joules for part, joules in energy.items()},
        "energy_j": sum(energy.values()),
        "tiles": demand.placement.tiles,
        "operations": demand.operations,
        **{f"area_{part}_m2": size for part, size in area.items()},
        "area_m2": sum(area.values()),
        "leakage_w": demand.leakage(),
    }


def peak(hardware: Hardware, tiles: int = 1, chain: Chain | None = None) -> pd.DataFrame:
    """Power and area of `tiles` full tiles that read all the time, with a digital unit that never waits either.

    A row per component, `leakage` and `total`: `power_w`, `area_m2`. Its `attrs` hold `operations_per_s` (of
    multiplications and additions), `per_watt` and `per_m2`. Inputs are not signed and new for every read. `chain` says
    more of the read than the hardware does.

    Raises:
        MappingError: a converter without a number of bits, or `cost.array_power` is null: without a network there are
            no conductances and inputs to take it from.
    """
    check_converters(hardware)
    if hardware.cost.array_power is None:
        raise MappingError("cost.array_power is null, and without a network there is no array to take it from; set it")
    tile = hardware.tile
    placement = Placement.of(tile, tile.rows, tile.outputs, groups=tiles)
    drive = Drive.of(hardware.dac, 1.0, signed=False)
    pulses = 1 if chain and chain.inputs == "time" else drive.reads
    chain = chain or Chain.of(hardware, drive.phases)

    def demand(work: int) -> Demand:
        return Demand(hardware, placement, pulses, 1, 0.0, tiles * tile.rows, work, chain)

    interval = demand(0).times.interval_s
    busy = demand(round(hardware.cost.digital_rate * interval))
    power = {part: joules / interval for part, joules in busy.energy().items()}
    power |= {"overhead": 0.0, "leakage": busy.leakage()}
    table = pd.DataFrame({"power_w": pd.Series(power), "area_m2": pd.Series(busy.area() | {"leakage": 0.0})})
    rate, watts, area = busy.operations / interval, float(table["power_w"].sum()), float(table["area_m2"].sum())
    table.loc["total"] = [watts, area]
    table.attrs = {"operations_per_s": rate, "per_watt": rate / watts, "per_m2": rate / area}
    return table
