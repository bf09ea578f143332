"""Maps of tiles: each cell with its conductance, and with what it is off what it was programmed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...crossbar.addresses import Part, parts_of
from ...crossbar.programmed import Programmed
from ..errors import MappingError
from ..layers import TileLayer
from .page import Figure, packed

Array = np.ndarray[Any, Any]
MOST_TILES = 12
MOST_CELLS = 1_600_000  # of all maps together: 8.5 MB of a page


class TileMap(NamedTuple):
    """One tile of a layer.

    Attributes:
        siemens, error: (word lines, bit lines); several devices of a cell are added up.
    """

    layer: str
    tile: int
    siemens: Array
    error: Array


def chosen(layers: Mapping[str, TileLayer], asked: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The tiles to show: those asked for, then those whose weights are furthest off, as long as there is room.

    Raises:
        MappingError: a tile that there is not.
    """
    worst: list[tuple[float, str, int, int]] = []
    cells: dict[tuple[str, int], int] = {}
    for name, layer in layers.items():
        for (tile, off), size in zip(_errors(layer), _sizes(layer), strict=True):
            worst.append((-off, name, tile, size))
            cells[name, tile] = size
    for place in asked:
        if isinstance(place, str) or not isinstance(place, Sequence) or len(place) != 2:
            raise MappingError(f"tiles: expected pairs of a layer and a number, as ('conv1', 0), got {place!r}")
        name, tile = place
        if (name, tile) not in cells:
            known = f"has tiles 0 to {layers[name].placement.tiles - 1}" if name in layers else "is not on tiles"
            raise MappingError(f"tiles: layer {name!r} {known}, got tile {tile}")
    found: list[tuple[str, int]] = []
    room = MOST_CELLS
    for place in [*dict.fromkeys(asked), *((name, tile) for _, name, tile, _ in sorted(worst))]:
        if place not in found and len(found) < MOST_TILES and cells[place] <= room:
            found.append(place)
            room -= cells[place]
    return found


def maps_of(layers: Mapping[str, TileLayer], places: Sequence[tuple[str, int]]) -> Iterator[TileMap]:
    """The maps of tiles, a layer at a time."""
    for name in dict.fromkeys(name for name, _ in places):
        programmed = layers[name].tiles
        cells, wanted = programmed.conductances(), _targets(programmed)
        for part in parts_of(programmed.design):
            if (name, part.block.tile) in places:
                g, target = (part.grid(values[part.block.group]).sum(axis=0) for values in (cells, wanted))
                yield TileMap(name, part.block.tile, g, g - target)


def figure_of(tile: TileMap) -> Figure:
    """Conductance and error of a tile side by side, cells as squares; both zoom together."""
    micro = 1e6 * tile.siemens
    off = 1e6 * tile.error
    most = float(np.abs(off).max()) or 1.0

    def heat(values: Array, axes: str, at: float, title: str, shown: str, **more: Any) -> dict[str, Any]:
        bar = {"title": {"text": title, "side": "right"}, "x": at, "thickness": 12}
        return {"type": "heatmap", "z": packed(values), "xaxis": f"x{axes}", "yaxis": f"y{axes}", "colorbar": bar} | {
            "hovertemplate": f"word line %{{y}}, bit line %{{x}}<br>{shown}<extra></extra>",
            **more,
        }

    both = "conductance %{{{}:.4g}} uS<br>error %{{{}:.3g}} uS".format  # `customdata`: those of the other map
    data = [
        heat(micro, "", 0.42, "conductance (uS)", both("z", "customdata"), customdata=1, colorscale="Cividis"),
        heat(
            off, "2", 1.0, "error (uS)", both("customdata", "z"), customdata=0, colorscale="RdBu", zmin=-most, zmax=most
        ),
    ]
    lines = {"title": {"text": "bit line"}, "constrain": "domain", "tickangle": 0, "nticks": 4}
    layout = {
        "xaxis": {**lines, "domain": [0, 0.41]},
        "yaxis": {"title": {"text": "word line"}, "autorange": "reversed", "scaleanchor": "x", "constrain": "domain"},
        "xaxis2": {**lines, "domain": [0.58, 0.99], "matches": "x"},
        "yaxis2": {"anchor": "x2", "matches": "y", "autorange": "reversed", "constrain": "domain"},
        "margin": {"l": 60, "r": 10, "t": 20, "b": 50},
    }
    return {"data": data, "layout": layout}


def _targets(programmed: Programmed) -> list[Array]:
    """What the cells of each group are programmed to, as `Programmed.conductances` has them."""
    design, cells = programmed.design, programmed.cells

    def of_group(group: int) -> Array:
        weights = design.rows_of(group)
        found = [
            cells.targets(design, weights[a:b], group, t, slice(None), programmed.backend)
            for t, (a, b) in enumerate(pairwise(design.placement.edges))
        ]
        return np.repeat(np.concatenate(found, axis=2), design.devices, axis=1)

    return [of_group(group) for group in range(design.placement.groups)]


def _errors(layer: TileLayer) -> Iterator[tuple[int, float]]:
    """Of each tile the RMS error of its weights, relative to the RMS weight of the layer."""
    exact = layer.matrix.weights
    stored = layer.tiles.weights[:, : exact.shape[1]]
    scale = float(np.sqrt(np.mean(np.square(exact)))) or 1.0
    for part in parts_of(layer.tiles.design):
        block = part.block
        place = block.group, slice(block.first_row, block.last_row), slice(block.first_output, block.last_output)
        off = (stored - exact)[place]
        yield block.tile, float(np.sqrt(np.mean(np.square(off)))) / scale if off.size else 0.0


def _sizes(layer: TileLayer) -> list[int]:
    """Of each tile how many cells are in use."""
    return [_size(part) for part in parts_of(layer.tiles.design)]


def _size(part: Part) -> int:
    return int(np.prod(part.layout.shape))
