"""The cells of a layer as a table with a line for each of them, by their places on tiles, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..crossbar.addresses import Part, parts_of
from ..crossbar.programmed import Programmed

Array = np.ndarray[Any, Any]
KINDS: dict[str, Any] = {
    "slice": np.int16,
    "polarity": np.int8,
    "tile": np.int32,
    "word_line": np.int32,
    "bit_line": np.int32,
    "device": np.int8,
    "siemens": np.float32,
}
PLACES = ("tile", "word_line", "bit_line", "device")


def table_of(tiles: Programmed, *, devices: bool) -> pd.DataFrame:
    """The cells of a matrix, tile by tile, with the columns of `KINDS`; `device` where that is asked for."""
    cells, found = tiles.conductances(), []
    for part in parts_of(tiles.design):
        grid = part.grid(cells[part.block.group])  # (devices, word lines, bit lines)
        slices, polarities = part.kinds
        device, word, bit = np.ogrid[tuple(slice(size) for size in grid.shape)]
        columns: tuple[Any, ...] = (slices, polarities, np.int32(part.block.tile), word, bit, device, grid)
        found.append(
            {
                name: np.moveaxis(np.broadcast_to(values, grid.shape), 0, -1).reshape(-1).astype(KINDS[name])
                for name, values in zip(KINDS, columns, strict=True)
                if devices or name != "device"
            }
        )
    return pd.DataFrame({name: np.concatenate([part[name] for part in found]) for name in found[0]})


def cells_of(tiles: Programmed, table: Any) -> list[Array]:
    """The conductances of each group, (slices, polarities x devices, rows, columns) float64, from a table of all cells.

    Raises:
        ValueError: columns that are missing, or no numbers; cells that are missing, that there are none of, or that
            are there twice. The message names the first.
    """
    places, siemens = _columns(table, tiles.design.devices)
    design, placement = tiles.design, tiles.design.placement
    design.encode(solver=tiles.backend)
    encodings = design.encodings
    shapes = [(placement.tile.slices, e.polarities * design.devices, placement.rows, e.columns) for e in encodings]
    found = [np.empty(shape) for shape in shapes]
    order = np.argsort(places["tile"], kind="stable")
    tile = places["tile"][order]
    parts = parts_of(design)
    if odd := np.setdiff1d(tile, [part.block.tile for part in parts])[:1].tolist():
        raise ValueError(f"tile {odd[0]} is none of its {len(parts)} tiles, which are numbered from 0")
    for part in parts:
        lines = order[np.searchsorted(tile, part.block.tile) : np.searchsorted(tile, part.block.tile, side="right")]
        part.put(
            _grid(part, {name: values[lines] for name, values in places.items()}, siemens[lines]),
            found[part.block.group],
        )
    return found


def _grid(part: Part, places: dict[str, Array], siemens: Array) -> Array:
    """(devices, word lines, bit lines) of the cells of a tile.

    Raises:
        ValueError: see `cells_of`.
    """
    slices, polarities = part.kinds
    shape = (part.devices, *slices.shape)
    tile = part.block.tile
    index = tuple(places[name] for name in ("device", "word_line", "bit_line"))
    inside = np.all([(at >= 0) & (at < size) for at, size in zip(index, shape, strict=True)], axis=0)
    if not inside.all():
        raise ValueError(
            f"{_said(tile, index, int(np.argmin(inside)), part.devices)}: there is no such cell, the tile has "
            f"{shape[1]} word lines and {shape[2]} bit lines in use"
        )
    flat = np.ravel_multi_index(index, shape)
    counts = np.bincount(flat, minlength=slices.size * part.devices)
    if (counts > 1).any():
        twice = int(np.argmax(counts[flat] > 1))
        raise ValueError(f"{_said(tile, index, twice, part.devices)}: this cell is there {counts[flat[twice]]} times")
    if not counts.all():
        first = tuple(np.array([at]) for at in np.unravel_index(int(np.argmin(counts)), shape))
        many = int((counts == 0).sum())
        raise ValueError(
            f"{_said(tile, first, 0, part.devices)}: this cell is missing, as are {many - 1} more of this tile"
            if many > 1
            else f"{_said(tile, first, 0, part.devices)}: this cell is missing"
        )
    for name, kind in (("slice", slices), ("polarity", polarities)):
        own = kind[places["word_line"], places["bit_line"]]
        if (wrong := places[name] != own).any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"{_said(tile, index, at, part.devices)}: its {name} must be {own[at]}, got {places[name][at]}"
            )
    grid = np.empty(counts.size)
    grid[flat] = siemens
    return grid.reshape(shape)


def _said(tile: int, index: tuple[Array, ...], at: int, devices: int) -> str:
    device, word, bit = (int(values[at]) for values in index)
    return f"tile {tile}, word line {word}, bit line {bit}" + (f", device {device}" if devices > 1 else "")


def _columns(table: Any, devices: int) -> tuple[dict[str, Array], Array]:
    """The columns of a table that say where cells are, whole numbers, and their conductances.

    Raises:
        ValueError: they are missing, or hold something else.
    """
    names = table.dtype.names if isinstance(table, np.ndarray) else list(table.columns)
    wanted = [name for name in KINDS if name != "device" or devices > 1]
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"the table must have the columns {', '.join(wanted)}, got none named {', '.join(missing)}")
    found = {name: np.asarray(table[name]) for name in wanted}
    for name, values in found.items():
        if values.dtype.kind not in "iuf" or values.ndim != 1:
            raise ValueError(f"the column {name} must hold numbers, got {values.dtype}")
        fractions = values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.rint(values))).all()
        if name != "siemens" and fractions:
            raise ValueError(f"the column {name} must hold whole numbers")
    places = {name: values.astype(np.int64) for name, values in found.items() if name != "siemens"}
    places.setdefault("device", np.zeros(len(found["siemens"]), np.int64))
    siemens = found["siemens"].astype(np.float64)
    if not (good := np.isfinite(siemens) & (siemens >= 0)).all():
        at = int(np.argmin(good))
        said = _said(
            int(places["tile"][at]), tuple(places[n] for n in ("device", "word_line", "bit_line")), at, devices
        )
        raise ValueError(f"{said}: siemens must be finite and at least 0, got {siemens[at]:g}")
    return places, siemens
