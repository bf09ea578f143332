"""Sources of error of a layer on tiles, and the same layer without some of them.

Without a source everything else stays as it is on the chip: the same cells draw the same errors, reads the same noise,
and ranges of converters are those of the chip. Two sources change all currents, wires and nonlinear cells: without
them the ranges of ADCs are found anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ...crossbar.calibration import recalibrated
from ...crossbar.cells import Drawn, Given
from ...crossbar.faults import map_of
from ...crossbar.programmed import Programmed
from ...crossbar.reader import Counts
from ..layers import TileLayer
from .partly import CLIPPING, ROUNDING

Array = np.ndarray[Any, Any]
Inputs = Callable[[TileLayer], tuple[Array, ...]]

NOISE = "noise of reads"  # all of it; its parts are told apart where there are several
GIVEN = "cells as given"
ADC_ROUNDING, ADC_CLIPPING, ADC_ALL = "ADC rounding", "ADC clipping", "ADC rounding, clipping and errors"
FINEST, WIDER = 24, 6  # bits of an ADC that rounds as good as nothing; bits by which its range is widened
REMADE = ("drift", "wires")  # without these digital gains that make up for them go too
REFITTED = ("wires", "nonlinear cells")
FROZEN: dict[str, dict[str, Any]] = {  # what of the hardware is changed without a source
    "programming error": {"cell.programming": {"kind": "none"}},
    "levels of conductance": {"cell.levels": None},
    "drift": {"cell.drift": {"kind": "none"}},
    "stuck cells": {"cell.stuck": {}},
    "mirrors": {"tile.mirror_mismatch": 0.0},
    "wires": {"wires": {}},
    "nonlinear cells": {"cell.nonlinearity": {"kind": "linear"}},
}
FRESH: dict[str, dict[str, Any]] = {
    "read noise of cells": {"cell.read_noise": {"kind": "none"}},
    "thermal and shot noise": {"sensing.thermal": False, "sensing.shot": False},
    "amplifier": {
        "sensing.amplifier_noise": 0.0,
        "sensing.amplifier_voltage_noise": 0.0,
        "sensing.capacitance": None,
    },
    "supply": {"sensing.supply_noise": 0.0},
    "gain": {"sensing.gain_noise": 0.0},
    "other noise of sensing": {"sensing.noise": ()},
    "output noise": {"output_noise": {}},
}
CHANGES = FROZEN | FRESH
ORDER = (GIVEN, *FROZEN, NOISE, *FRESH, ROUNDING, CLIPPING, ADC_ROUNDING, ADC_CLIPPING, ADC_ALL)


class Without(NamedTuple):
    """A layer without some sources: its tiles, whether its reads are quiet, what its inputs are spared."""

    tiles: Programmed
    quiet: bool
    spared: frozenset[str]


@dataclass
class Present:
    """The sources of error of a chip.

    Attributes:
        layers: what each layer suffers from.
        possible: the same, and what it might: clipping, which its own inputs do not show, but others may.
        left_out: what cannot be told apart, with the layers.
    """

    layers: dict[str, list[str]] = field(default_factory=dict)
    possible: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, layers: Mapping[str, TileLayer], counts: Mapping[str, Counts]) -> Present:
        """Of layers whose reads had these counts: without a conversion that was clipped, clipping is no source."""
        made = cls()
        for name, layer in layers.items():
            possible = _of_layer(layer)
            unclipped = {CLIPPING: not counts[name].inputs_clipped, ADC_CLIPPING: not counts[name].readings_clipped}
            made.possible[name] = [source for source in ORDER if source in possible]
            made.layers[name] = [source for source in made.possible[name] if not unclipped.get(source)]
            if layer.hardware.dac.scaling == "sample" and counts[name].inputs:
                made._leave_out("DAC rounding and clipping, where dac.scaling is 'sample'", name)
            if layer.hardware.cell.levels is not None and _digits(layer):
                made._leave_out("levels of conductance, which are digits of slices", name)
            if layer.tiles.ranges.outputs is not None:
                made._leave_out("gains and offsets of a recalibration, which stay as they are,", name)
        return made

    def _leave_out(self, what: str, layer: str) -> None:
        known = next((i for i, line in enumerate(self.left_out) if line.startswith(f"{what}: ")), None)
        if known is None:
            self.left_out.append(f"{what}: {layer}")
        else:
            self.left_out[known] += f", {layer}"

    @property
    def all(self) -> list[str]:
        """Those of all layers together."""
        found = {source for sources in self.layers.values() for source in sources}
        return [source for source in ORDER if source in found]


def _of_layer(layer: TileLayer) -> set[str]:
    """The sources that a layer may have."""
    tiles, hardware = layer.tiles, layer.hardware
    cell, sensing, adc = hardware.cell, hardware.sensing, hardware.adc
    given = isinstance(tiles.cells, Given)
    drive, dac = tiles.design.drive, hardware.dac
    fresh = {
        "read noise of cells": cell.read_noise.kind != "none",
        "thermal and shot noise": sensing.thermal or sensing.shot,
        "amplifier": bool(
            sensing.amplifier_noise or sensing.amplifier_voltage_noise or sensing.capacitance is not None
        ),
        "supply": sensing.supply_noise > 0,
        "gain": sensing.gain_noise > 0,
        "other noise of sensing": bool(sensing.noise),
        "output noise": any(hardware.output_noise.model_dump().values()),
    }
    several = sum(fresh.values()) > 1
    found = {
        GIVEN: given,
        "programming error": not given and cell.programming.kind != "none",
        "levels of conductance": not given and cell.levels is not None and not _digits(layer),
        "drift": not given and cell.drift.active(hardware.conditions),
        "stuck cells": not given and _stuck(tiles),
        "mirrors": hardware.tile.mirror_mismatch > 0,
        "wires": not hardware.wires.ideal,
        "nonlinear cells": tiles.design.curved,
        **fresh,
        NOISE: several,
        ROUNDING: drive.rounds and dac.scaling != "sample",
        CLIPPING: drive.clips and dac.scaling != "sample",
        ADC_ROUNDING: adc.bits is not None and adc.bits < FINEST and not adc.differ,
        ADC_CLIPPING: adc.bits is not None and not adc.differ and adc.bits < FINEST,
        ADC_ALL: adc.differ,
    }
    return {source for source, there in found.items() if there}


def _digits(layer: TileLayer) -> bool:
    """Whether slices hold digits, which levels of conductance are the base of."""
    tile = layer.placement.tile
    return tile.slices > 1 and tile.slicing == "digits"


def _stuck(tiles: Programmed) -> bool:
    stuck = tiles.hardware.cell.stuck
    return stuck.any or stuck.alive < 1 or map_of(tiles.design, stuck) is not None


def without(layer: TileLayer, off: Iterable[str], inputs: Inputs) -> Without:
    """A layer without these sources of error; those that it does not have change nothing.

    Args:
        inputs: gives what the layer is read with, as `Reader.read` takes it, where ranges are found anew.

    Raises:
        ValueError: hardware that cannot be so.
    """
    off = set(off)
    tiles, changes = layer.tiles, {key: value for s in CHANGES if s in off for key, value in CHANGES[s].items()}
    cells: Any = tiles.cells
    if GIVEN in off and isinstance(cells, Given):
        cells = Drawn(tiles.hardware.replace(_perfect()), *layer.seeds)
    if changes or cells is not tiles.cells:
        tiles = _other_cells(tiles, replace(cells, hardware=cells.hardware.replace(changes)), changes, off)
    if off & set(REFITTED) and tiles.hardware.adc.full_scale == "calibrated":
        tiles = recalibrated(tiles, inputs(layer))
    return Without(_finer(tiles, off), NOISE in off, frozenset(off & {ROUNDING, CLIPPING}))


def _perfect() -> dict[str, Any]:
    return {
        key: value for source in ("programming error", "drift", "stuck cells") for key, value in FROZEN[source].items()
    }


def _other_cells(tiles: Programmed, cells: Any, changes: Mapping[str, Any], off: set[str]) -> Programmed:
    """The matrix with these cells, and hardware that is changed; with the same ranges and digital gains."""
    matrix = replace(tiles.design.matrix, hardware=tiles.design.hardware.replace(changes))
    design, ranges = replace(tiles.design, matrix=matrix), tiles.ranges
    if "wires" in off:
        design, ranges = replace(design, wire_compensation=None), replace(ranges, gains=())
    made = Programmed.of(design, cells, tiles.seeds, tiles.backend, ranges)
    if off & set(REMADE):
        return made
    pairs = zip(made.packed, tiles.packed, strict=True)
    packed = tuple(replace(new, planes=new.planes._replace(scale=old.planes.scale)) for new, old in pairs)
    return Programmed.assembled(design, cells, tiles.seeds, tiles.backend, made.ranges, packed)


def _finer(tiles: Programmed, off: set[str]) -> Programmed:
    """The same cells read by ADCs that do not round, or do not clip: with more bits, in the same range or a wider one.

    An ADC whose range is widened keeps its step.
    """
    adc = tiles.hardware.adc
    rounds, clips = bool(off & {ADC_ROUNDING, ADC_ALL}), bool(off & {ADC_CLIPPING, ADC_ALL})
    if adc.bits is None or not (rounds or clips):
        return tiles
    bits = FINEST if rounds else min(FINEST, adc.bits + WIDER)
    changes: dict[str, Any] = {"adc.bits": bits}
    if adc.differ:
        changes |= {"adc.kind": None, "adc.offset": 0.0, "adc.gain": 0.0, "adc.calibrated": False}
    matrix = replace(tiles.design.matrix, hardware=tiles.design.hardware.replace(changes))
    design = replace(tiles.design, matrix=matrix)
    cells: Any = replace(tiles.cells, hardware=tiles.hardware.replace(changes))  # type: ignore[type-var]
    wider = 1.0
    if clips:
        signed = design.signed_codes
        wider = adc.codes(signed).relative_step / cells.hardware.adc.codes(signed).relative_step
        wider = 2.0**WIDER if rounds else wider
    ranges = replace(tiles.ranges, full_scale=tiles.ranges.full_scale * wider)
    return Programmed.assembled(design, cells, tiles.seeds, tiles.backend, ranges, tiles.packed)
