"""The parts of the read that cost follows: how inputs are coded, what is sensed, when and by what it is converted."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, get_args

from ...crossbar.components import Inputs
from ...crossbar.conversion import Kind

if TYPE_CHECKING:
    from ...crossbar.components import Cost
    from ...crossbar.hardware import Hardware
    from ...crossbar.placement import Placement

__all__ = ["Chain"]
CONVERTERS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Chain:
    """What cost asks of the read's composition, in plain words.

    Attributes:
        inputs: coded as `amplitude`, `bit-serial` (pulses of a few bits) or `time` (the width of one pulse).
        phases: reads of one input by the signs of inputs: 1 or 2; 4 where those of weights take turns too.
        converter: kind of ADC. An oscillator (`cco`) counts while the current flows, and runs on a copy of it.
        columns: readings that one ADC converts one after the other; None: `cost.adcs_per_tile` share a tile's.
        accumulates: whether all pulses of a phase are added up before one conversion, not each converted.
        polarities: conversions of one reading: 2 where positive and negative cells are converted apart.
        devices: memory devices of a cell.
        joined: slices of a weight that mirrors add up before a conversion; 1: each is converted.
    """

    inputs: Inputs = "amplitude"
    phases: int = 1
    converter: Kind = "sar"
    columns: int | None = None
    accumulates: bool = False
    polarities: int = 1
    devices: int = 1
    joined: int = 1

    @classmethod
    def of(cls, hardware: Hardware, phases: int | None = None) -> Chain:
        """That of a hardware, with an ADC that is not named taken as one of successive approximation.

        `phases` are those of a layer, whose inputs may not be signed; None for signed ones.
        """
        dac, adc = hardware.dac, hardware.adc
        serial: Inputs = "amplitude" if dac.bits_per_pulse is None else "bit-serial"
        named: dict[str, Kind] = {name: name for name in CONVERTERS}
        return cls(
            inputs="time" if dac.coding == "time" else serial,
            phases=dac.phases if phases is None else phases,
            converter="sar" if adc.kind is None else named.get(adc.kind.kind, "sar"),
            accumulates=dac.accumulate != "digital",
            polarities=2 if adc.polarity == "apart" else 1,
            devices=hardware.tile.devices,
            joined=hardware.tile.slices if hardware.tile.joined else 1,
        )

    @property
    def mirrored(self) -> bool:
        """Whether a copy of a column's current is drawn from the supply, to drive an oscillator or to be added up."""
        return self.converter == "cco" or self.joined > 1

    def reads(self, pulses: int) -> int:
        """Pulses on the lines for one input."""
        return self.phases * pulses

    def converted(self, pulses: int) -> int:
        """Conversions of one reading for one input."""
        return self.polarities * (self.phases if self.accumulates else self.reads(pulses))

    def converters(self, placement: Placement, cost: Cost) -> int:
        """ADCs of one tile."""
        if self.columns is None:
            return cost.adcs_per_tile
        return ceil(placement.tile.readings / self.columns)

    def conversion_time(self, placement: Placement, cost: Cost, bits: int) -> float:
        """Seconds in which the ADCs of the fullest tile convert all its readings once."""
        most = placement.most_conversions * self.polarities
        if self.converter in ("sar", "flash"):  # a pipeline of conversions: no rounding up to whole turns
            turns = most / self.converters(placement, cost)
            return turns / cost.adc_rate
        return ceil(most / self.converters(placement, cost)) * cost.conversion_time(self.converter, bits)

    def interval(self, pulses: int, integrate: float, convert: float, overlap: bool) -> tuple[float, float]:
        """(before the first read is at full pace, from one read to the next), in seconds.

        Of pulses that take `integrate` and conversions that take `convert` seconds. With `overlap` the next pulse, or
        the next read where all pulses are added up, is integrated meanwhile. An oscillator counts during the pulse:
        the longer of the two is both.
        """
        reads = self.reads(pulses)
        if self.converter == "cco":
            each = max(integrate, convert) if not self.accumulates else max(integrate, convert / pulses)
            return 0.0, reads * each
        if self.accumulates:
            first, second, times = pulses * integrate, convert, self.phases
        else:
            first, second, times = integrate, convert, reads
        return (min(first, second), times * max(first, second)) if overlap else (0.0, times * (first + second))
