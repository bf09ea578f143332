"""What may win accuracy back: other settings, each a chip that is mapped again, or another way to use this one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...crossbar.cells import Given
from ...crossbar.extrapolation import extrapolations
from ...crossbar.hardware import Hardware
from ...crossbar.programmed import Programmed
from ...devices.data import ExtrapolationWarning
from ..architecture.cost import layer_costs
from ..chip import Chip
from ..errors import MappingError
from ..inputs.stream import Stream
from ..prepare import prepare
from .partly import Variant

Changes = Callable[[Hardware], dict[str, Any] | None]


class Cost(NamedTuple):
    """Of one decision: energy of what is on tiles and of layers made digital, and time, one layer after the other."""

    energy_j: float
    time_s: float


UNKNOWN = Cost(float("nan"), float("nan"))


@dataclass(frozen=True)
class Try:
    """Something to try.

    Attributes:
        name: what is changed.
        chip: makes the chip that is to be measured; None: it is the chip itself.
        variant: what of it is digital.
        votes: inferences of a decision, times those that are asked for.
    """

    name: str
    chip: Callable[[], Chip] | None = None
    variant: Variant = Variant()  # noqa: RUF009  # it is frozen
    votes: int = 1


def cost_of(chip: Chip, variant: Variant = Variant(), votes: int = 1) -> Cost:  # noqa: B008
    """What a decision takes; digital layers as operations of their digital unit. NaN where nothing is known."""
    try:
        costs = layer_costs(chip)
    except MappingError:
        return UNKNOWN
    energy, time = 0.0, 0.0
    for row in costs.to_dict("records"):
        cost = chip.layers[row["layer"]].hardware.cost
        digital = row["layer"] in variant.digital
        energy += row["operations"] * cost.digital_energy if digital else row["energy_j"]
        time += row["operations"] / cost.digital_rate if digital else row["stage_time_s"]
    return Cost(votes * energy, votes * time)


def outside(chip: Chip, than: Chip) -> str:
    """Which settings of a chip are outside the data behind their models, and were not before."""
    known = {said for layer in than.layers.values() for said in extrapolations(layer.hardware)}
    found = dict.fromkeys(said for layer in chip.layers.values() for said in extrapolations(layer.hardware))
    return "; ".join(said for said in found if said not in known)


class Settings:
    """The settings of the hardware that are worth a try, as `Try`s of a chip."""

    def __init__(self, chip: Chip, calibrate: Any, worst: str | None) -> None:
        self.chip, self.calibrate, self.worst = chip, calibrate, worst
        tiles = [layer.tiles for layer in chip.layers.values()]
        self.given = any(isinstance(one.cells, Given) for one in tiles)
        self.corrected = any(one.ranges.outputs is not None for one in tiles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)
            self.compensated = not self.given and chip.hardware.time_s > 0 and any(map(_compensated, tiles[:1]))

    def all(self) -> Iterator[Try]:
        """The cheapest first: what is done with this chip, then what asks for another one."""
        yield from self._same_cells()
        if not self.given:
            if self.chip.hardware.time_s or self.chip.hardware.reads:
                yield Try("programmed anew", lambda: self.mapped(lambda h: {"time_s": 0.0, "reads": 0}, fresh=True))
            yield from (
                Try(name, partial(self.mapped, changes))
                for name, changes in CHANGES.items()
                if any(changes(layer.hardware) is not None for layer in self.chip.layers.values())
            )
            worst = self.worst and self.chip.layers.get(self.worst)
            if worst and len(self.chip.layers) > 1 and _more_bits(worst.hardware) is not None:
                yield Try(f"{self.worst}: ADCs of 2 bits more", partial(self.mapped, _more_bits, only=self.worst))

    def _same_cells(self) -> Iterator[Try]:
        chip, layers = self.chip, list(self.chip.layers)
        active = [layer.hardware.cell.drift.active(layer.hardware.conditions) for layer in chip.layers.values()]
        if any(active) and not self.given and not self.compensated:
            yield Try(
                "drift compensation",
                lambda: chip.at(chip.hardware.time_s, reads=chip.hardware.reads, drift_compensation=True),
            )
        if all(layer.hardware.dac.scaling == "layer" for layer in chip.layers.values()):
            yield Try("recalibrated", lambda: chip.recalibrate(self.calibrate))
        for name in dict.fromkeys(name for name in (self.worst, layers[-1]) if name is not None):
            last = ", the last layer," if name == layers[-1] else ""
            yield Try(f"{name}{last} digital", variant=Variant(digital=frozenset([name])))
        yield Try("5 times the votes", votes=5)

    def mapped(self, changes: Changes, *, only: str | None = None, fresh: bool = False) -> Chip:
        """The network mapped again with other settings, and as old as the chip; the same seed draws the same errors.

        Args:
            changes: what is made of the hardware of a layer.
            only: the layer whose hardware is changed; None: of all.
            fresh: whether it is read as soon as it is programmed.

        Raises:
            ValueError: settings that do not fit the layers or each other.
        """
        made = self.chip.remade(self.chip.hardware, lambda layer: layer.tiles)
        for name, layer in made.layers.items():
            design = layer.tiles.design
            own = (changes(design.hardware) or {}) if only in (None, name) else {}
            layer.matrix = replace(design.matrix, hardware=design.hardware.replace(own))
            layer.programmed = None
        if idle := prepare(made, Stream.of(self.calibrate, made.model, "calibrate")):
            name, why = next(iter(idle.items()))
            raise MappingError(f"layer {name!r}: {why}")
        hardware = self.chip.hardware
        ages = {(layer.hardware.time_s, layer.hardware.reads) for layer in made.layers.values()}
        if not fresh and ages != {(hardware.time_s, hardware.reads)}:
            made = made.at(hardware.time_s, reads=hardware.reads, drift_compensation=self.compensated)
        return made.recalibrate(self.calibrate) if self.corrected else made


def _if(applies: bool, changes: dict[str, Any]) -> dict[str, Any] | None:
    return changes if applies else None


def _more_bits(h: Hardware) -> dict[str, Any] | None:
    most = 12 if h.adc.differ else 24
    return _if(h.adc.bits is not None and h.adc.bits + 2 <= most, {"adc.bits": (h.adc.bits or 0) + 2})


def _higher(h: Hardware) -> dict[str, Any] | None:
    """Half as much again, or as much as the cell takes."""
    v = min(1.5 * h.sensing.v_read, h.cell.v_max or np.inf)
    return _if(v > 1.001 * h.sensing.v_read, {"sensing.v_read": v})


def _interval(h: Hardware) -> dict[str, Any]:
    interval = h.sensing.read_interval
    return {} if interval is None else {"sensing.read_interval": max(interval, 4 * h.sensing.t_read)}


def _compensated(tiles: Programmed) -> bool:
    """Whether digital gains make up for drift: scales are other than those of the cells as they are."""
    plain = Programmed.of(tiles.design, tiles.cells, tiles.seeds, tiles.backend, tiles.ranges)
    pairs = zip(plain.packed, tiles.packed, strict=True)
    return any(not np.allclose(a.planes.scale, b.planes.scale, rtol=1e-5, atol=0) for a, b in pairs)


CHANGES: dict[str, Changes] = {
    "mapped anew, nothing changed": lambda h: {},
    "ADCs of 2 bits more": _more_bits,
    "a full scale of ADCs for each tile": lambda h: _if(
        h.adc.full_scale == "calibrated" and h.adc.per != "tile", {"adc.per": "tile"}
    ),
    "range of ADCs: 99.9 % of the currents": lambda h: _if(
        h.adc.full_scale == "calibrated" and h.adc.percentile != 99.9, {"adc.percentile": 99.9}
    ),
    "range of ADCs: all currents": lambda h: _if(
        h.adc.bits is not None and (h.adc.full_scale != "calibrated" or h.adc.percentile < 100),
        {"adc.full_scale": "calibrated", "adc.percentile": 100.0},
    ),
    "DACs of 2 bits more": lambda h: _if(
        h.dac.bits is not None and h.dac.bits <= 10, {"dac.bits": (h.dac.bits or 0) + 2}
    ),
    "range of DACs: 99.9 % of the inputs": lambda h: _if(
        h.dac.range == "calibrated" and h.dac.scaling == "layer" and h.dac.percentile != 99.9,
        {"dac.percentile": 99.9},
    ),
    "range of DACs: all inputs": lambda h: _if(
        h.dac.range is not None and (h.dac.range != "calibrated" or h.dac.percentile < 100),
        {"dac.range": "calibrated", "dac.percentile": 100.0},
    ),
    "half the word lines a tile": lambda h: _if(h.tile.rows >= 16, {"tile.rows": h.tile.rows // 2}),
    "twice the word lines a tile": lambda h: {"tile.rows": 2 * h.tile.rows},
    "encoding: a pair of cells a weight": lambda h: _if(not h.tile.paired, {"tile.encoding": "differential"}),
    "encoding: one cell a weight": lambda h: _if(h.tile.paired, {"tile.encoding": "offset"}),
    "a higher read voltage": _higher,
    "reads four times as long": lambda h: {"sensing.t_read": 4 * h.sensing.t_read} | _interval(h),
}
