"""The same cells read the other way: bit lines are driven, and word lines are sensed.

A matrix on tiles gives x @ W; turned, its tiles give y @ W.T. Each row tile is a matrix of its own then, whose word
lines are the bit lines of the tile. The circuit is that of the forward read with the ends of all lines exchanged: sense
amplifiers where drivers are, drivers where sense amplifiers are. The scale that the weights of a column share, which is
put on readings in a forward read, is put on inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..crossbar.calibration import calibrate
from ..crossbar.cells import Given
from ..crossbar.converters import Dac
from ..crossbar.design import Design
from ..crossbar.drive import Drive
from ..crossbar.hardware import Hardware
from ..crossbar.matrix import Matrix
from ..crossbar.placement import Block, Placement
from ..crossbar.programmed import Programmed
from .counting import Counter
from .layers import TileLayer
from .scaling import range_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sides(Matrix):
    """A row tile of a matrix on tiles with rows and columns exchanged; `cut` is where its tiles are."""

    cut: Placement | None = None

    @cached_property
    def placement(self) -> Placement:
        assert self.cut is not None
        return self.cut


@dataclass(frozen=True)
class Turned:
    """What reads the cells of a layer the other way.

    Attributes:
        tiles: of each row tile of the layer, its cells in reverse order, so that the same are nearest to the drivers.
        scales: (row tiles, outputs) that inputs are multiplied by.
        factors: (rows,) that readings are multiplied by.
        counter: of the conversions.
    """

    tiles: tuple[Programmed, ...]
    scales: Array
    factors: Array
    counter: Counter

    @classmethod
    def of(cls, layer: TileLayer, inputs: Array | None) -> Turned:
        """The cells of a linear layer without groups and bias.

        Args:
            inputs: (samples, outputs) float32 that ranges are calibrated with; None where none are to be.

        Raises:
            ValueError: a layer that cannot be read the other way, or ranges that need inputs.
        """
        hardware = _hardware(layer)
        scales, factors, matrices = _matrices(layer, hardware)
        needs = "calibrated" in (hardware.dac.range, hardware.adc.full_scale)
        if needs and inputs is None:
            raise ValueError("A.T: its converters have ranges to calibrate; give calibrate= or calibrate_transposed=")
        found, options = [], (layer.seeds, layer.tiles.backend)
        for matrix, table, scale in zip(matrices, _tables(layer), scales, strict=True):
            cells = Given(hardware, (table,))
            if inputs is None:
                design = Design.of(matrix, Drive.of(hardware.dac, None, True), solver=layer.tiles.backend)
                found.append(Programmed.of(design, cells, *options))
                continue
            values = _divided(inputs * scale, hardware.dac)[0]
            driven = np.ascontiguousarray(values[:, ::-1])[:, None, None, None]
            found.append(calibrate(matrix, (driven,), cells, *options, wire_compensation=layer.wire_compensation))
        return cls(tuple(found), scales, factors, Counter())

    def on(self, layer: TileLayer, start: Turned | None = None) -> Turned:
        """The same drive and ranges for the cells of the layer on another copy, or at another age.

        Args:
            start: the cells as they were programmed, to whose total conductances readings are brought back.
        """
        hardware, found = _hardware(layer), []
        for old, table in zip(self.tiles, _tables(layer), strict=True):
            aged = old.seeds.copy == layer.seeds.copy
            ranges = old.ranges if aged else replace(old.ranges, gains=())
            found.append(Programmed.of(old.design, Given(hardware, (table,)), layer.seeds, layer.tiles.backend, ranges))
        if start is not None and not found[0].design.floats:
            for t, (late, early) in enumerate(zip(found, start.tiles, strict=True)):
                packed = tuple(p.compensated(q, late.design) for p, q in zip(late.packed, early.packed, strict=True))
                found[t] = Programmed.assembled(late.design, late.cells, late.seeds, late.backend, late.ranges, packed)
        return replace(self, tiles=tuple(found), counter=Counter())

    def measured(self, layer: TileLayer) -> Turned:
        """The same for cells of the layer that were given, with the digital gains of these."""
        pairs = zip(self.tiles, _tables(layer), strict=True)
        found = tuple(tiles.with_cells(Given(tiles.hardware, (table,))) for tiles, table in pairs)
        return replace(self, tiles=found, counter=Counter())

    def read(self, y: Array, read: int, *, noisy: bool) -> Array:
        """(samples, rows) float32 for y (samples, outputs) float32, in the read of this number."""
        found = []
        for tiles, scale in zip(self.tiles, self.scales, strict=True):
            values, ranges = _divided(y * scale, tiles.hardware.dac)
            driven = np.ascontiguousarray(values[:, ::-1])[:, None, None, None]
            out, counts = tiles.reader.read(
                driven, read=read, noisy=noisy, threads=torch.get_num_threads(), scales=ranges
            )
            self.counter.add(counts)
            found.append(-out[:, ::-1] if tiles.design.placement.tile.paired else out[:, ::-1])
        together: Array = np.concatenate(found, axis=1) * self.factors
        return together


def _hardware(layer: TileLayer) -> Hardware:
    """The hardware of a layer as it is the other way about.

    Raises:
        ValueError: it has none.
    """
    own = layer.hardware
    tile, wires = own.tile, own.wires
    if tile.encoding == "offset":
        raise ValueError(
            "A.T: tile.encoding is 'offset', whose reference column would have to be driven with the sum of all "
            "inputs; use 'differential'"
        )
    if layer.wire_compensation == "program":
        raise ValueError("A.T: wire_compensation is 'program', which is for the currents of bit lines; use 'gain'")
    placed = tile.slices == 1 and wires.order == "natural" and (wires.pairs != "apart" or not tile.paired)
    if not wires.ideal and not placed:
        raise ValueError(
            "A.T: wires with resistance are solved for tile.slices = 1, wires.order = 'natural' and wires.pairs "
            f"'adjacent' or 'shared', got {tile.slices}, {wires.order!r} and {wires.pairs!r}"
        )
    pairs = "adjacent" if wires.pairs == "shared" else "shared"
    apart = own.sensing.mode == "voltage" and pairs == "adjacent" and tile.paired
    return own.replace(
        {
            "tile.rows": tile.outputs,
            "tile.columns": tile.rows * tile.columns_per_output,
            "tile.scale": "tile",
            "tile.bias": "digital",
            "tile.amplifiers": "bit_line",
            "tile.join": "digital",  # slices are driven one after another
            "tile.mirror_mismatch": 0.0,
            "wires": {**wires.swapped.model_dump(), "pairs": pairs, "order": "natural"},
            "adc.polarity": "apart" if apart else "together",
            "dac.range": None if own.dac.range is None else "calibrated",
            "dac.equalise": None,
            "layers": {},
        }
    )


def _matrices(layer: TileLayer, hardware: Hardware) -> tuple[Array, Array, list[Sides]]:
    """The scales of the inputs, the factors of the readings, and the matrices of the row tiles, in reverse order."""
    design = layer.tiles.design
    placement, maxima = design.placement, design.encodings[0].maxima.astype(np.float32)
    weights, outputs, sign = design.matrix.weights[0], placement.outputs, -1 if placement.tile.paired else 1
    found = []
    for t, (a, b) in enumerate(pairwise(placement.edges)):
        edges = [outputs - edge for edge in reversed(placement.column_edges)]
        blocks = tuple(Block(0, first, last, 0, b - a, c) for c, (first, last) in enumerate(pairwise(edges)))
        cut = Placement(hardware.tile, outputs, b - a, 1, blocks)
        turned = np.ascontiguousarray(sign * (weights[a:b] / maxima[t])[::-1, ::-1].T)[None]
        found.append(Sides(f"{layer.name}.T.{t}", turned, None, hardware, cut=cut))
    ones = np.ones(len(weights), np.float32)
    return maxima, ones if layer.equaliser is None else 1 / layer.equaliser.numpy(), found


def _tables(layer: TileLayer) -> list[Array]:
    """The conductances of each row tile, (slices, polarities x devices, outputs, rows), in reverse order."""
    tiles = layer.tiles
    (cells,), placement, devices = tiles.conductances(), tiles.design.placement, tiles.design.devices
    slices, many, rows, columns = cells.shape
    cells = cells.reshape(slices, many // devices, devices, rows, columns)[:, ::-1, :, :, ::-1]
    found = []
    for a, b in pairwise(placement.edges):
        turned = cells[:, :, :, a:b][:, :, :, ::-1].swapaxes(3, 4)
        found.append(np.ascontiguousarray(turned.reshape(slices, many, columns, b - a)))
    return found


def _divided(values: Array, dac: Dac) -> tuple[Array, Array | None]:
    """Inputs (samples, outputs) divided by the range of each sample, and these, where each read has its own."""
    if dac.scaling == "layer":
        return values, None
    ranges = range_of(torch.from_numpy(values), dac.percentile).numpy()
    return values / np.where(ranges > 0, ranges, 1)[:, None], ranges
