"""Layers, tiles and costs of a chip as CSV or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from ..architecture.cost import layer_costs
from ..mapped import MappedNetwork
from ..saved.folders import as_path, whole

ENDINGS = (".csv", ".json")


def layers_table(chip: MappedNetwork) -> pd.DataFrame:
    """A row for each layer on tiles: its matrix, what holds it, and what a sample asks of it.

    Columns: `layer`, `kind` (as it is registered); `rows` (word lines of the matrix, a bias row included),
    `outputs`, `groups`; `positions`, products a sample (empty before the layer has seen inputs); `macs`, multiply-
    accumulates a sample; `tiles`, `row_tiles`, `column_tiles`; `tile_rows`, `tile_columns`; `encoding`, `slices`,
    `levels` of a cell (empty: any conductance); `cells` in use; `utilisation`, their share of those of the tiles;
    `dac_bits`, `adc_bits`; `weights`, of the layer.
    """
    return pd.DataFrame([_layer(name, layer) for name, layer in chip.layers.items()])


def _layer(name: str, layer: Any) -> dict[str, Any]:
    placement, hardware = layer.placement, layer.hardware
    tile = placement.tile
    numbers = placement.groups * placement.rows * placement.outputs - layer.fillers
    return {
        "layer": name,
        "kind": layer.spec.kind,
        "rows": placement.rows,
        "outputs": placement.outputs,
        "groups": placement.groups,
        "positions": layer.positions,
        "macs": None if layer.positions is None else layer.positions * numbers,
        "tiles": placement.tiles,
        "row_tiles": placement.row_tiles,
        "column_tiles": placement.column_tiles,
        "tile_rows": tile.rows,
        "tile_columns": tile.columns,
        "encoding": tile.encoding,
        "slices": tile.slices,
        "levels": hardware.cell.levels,
        "cells": placement.cells,
        "utilisation": placement.utilisation,
        "dac_bits": hardware.dac.bits,
        "adc_bits": hardware.adc.bits,
        "weights": math.prod(layer.spec.weight_shape),
    }


def tiles_table(chip: MappedNetwork) -> pd.DataFrame:
    """A row for each block of a layer's matrix: the tile that it is on, and the rows and outputs that it holds.

    Columns: `layer`, `tile` (number within the layer), `group`, `first_row`, `last_row`, `first_output`, `last_output`
    (the last ones excluded), `cells` that hold weights, and `utilisation`, their share of the tile's cells.
    """
    rows = []
    for name, layer in chip.layers.items():
        placement = layer.placement
        for block in placement.blocks:
            outputs = block.last_output - block.first_output
            cells = (block.last_row - block.first_row) * outputs * placement.tile.columns_per_output
            rows.append(
                {
                    "layer": name,
                    "tile": block.tile,
                    "group": block.group,
                    "first_row": block.first_row,
                    "last_row": block.last_row,
                    "first_output": block.first_output,
                    "last_output": block.last_output,
                    "cells": cells,
                    "utilisation": cells / (placement.tile.rows * placement.tile.columns),
                }
            )
    return pd.DataFrame(rows)


def costs_table(chip: MappedNetwork) -> pd.DataFrame:
    """Time (s), energy (J), area (m2) and leakage (W) of each layer: see `mapping.architecture.cost.layer_costs`."""
    return layer_costs(chip)


TABLES: dict[str, Callable[[MappedNetwork], pd.DataFrame]] = {
    "layers": layers_table,
    "tiles": tiles_table,
    "costs": costs_table,
}


def check_ending(path: str | PathLike[str]) -> Path:
    """A path that says which form its table has.

    Raises:
        ValueError: another ending.
    """
    found = as_path(path, "table")
    if found.suffix.lower() not in ENDINGS:
        raise ValueError(f"table: expected a file that ends in {' or '.join(ENDINGS)}, got {found.name!r}")
    return found


def write_rows(table: pd.DataFrame, path: str | PathLike[str]) -> None:
    """A table as CSV or JSON (a list of rows), by the ending: complete or not there.

    What is not known is empty or null.

    Raises:
        ValueError: another ending.
        OSError: it cannot be written.
    """
    found = check_ending(path)
    if found.suffix.lower() == ".csv":
        text = table.to_csv(index=False)
    else:
        rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
        text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(text, found)


def write_text(text: str, path: Path) -> None:
    """A text file, complete or not there.

    Raises:
        OSError: it cannot be written; the error names the folder where that is missing.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
