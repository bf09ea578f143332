"""Layers whose cells are given one by one, as measured on a chip: as arrays, or as a table of their places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..crossbar.cells import Given
from ..crossbar.limits import CELL
from ..crossbar.programmed import Programmed
from .cell_table import cells_of
from .errors import MappingError
from .layers import TileLayer


def measured(layer: TileLayer, groups: Any) -> Programmed:
    """The tiles of a layer with cells of these conductances: see `Chip.with_conductances`.

    Args:
        groups: a table of its cells, or the arrays of its groups.

    Raises:
        MappingError: arrays of another shape, a table of other cells, or what is no conductance in siemens.
    """
    if isinstance(groups, pd.DataFrame) or (isinstance(groups, np.ndarray) and groups.dtype.names):
        try:
            groups = cells_of(layer.tiles, groups)
        except ValueError as error:
            raise MappingError(f"layer {layer.name!r}: {error}") from error
    try:
        return layer.tiles.with_cells(Given(layer.hardware, _table(layer, groups)))
    except ValueError as error:
        raise error if isinstance(error, MappingError) else MappingError(str(error)) from error


def _table(layer: TileLayer, groups: Any) -> tuple[np.ndarray[Any, Any], ...]:
    """Copies of the conductances of a layer's groups.

    Raises:
        MappingError: no arrays of numbers, or more than any cell conducts, as of other units.
    """
    if not isinstance(groups, list | tuple):
        raise MappingError(
            f"layer {layer.name!r}: conductances must be a list of arrays (slices, polarities, rows, columns), one a "
            f"group, got {type(groups).__name__}"
        )
    try:
        with np.errstate(over="ignore"):  # infinity, which is refused
            tables = tuple(np.array(table, np.float32) for table in groups)
    except (TypeError, ValueError) as error:
        raise MappingError(f"layer {layer.name!r}: conductances must be arrays of numbers ({error})") from error
    most, largest = CELL * layer.hardware.cell.g_max, max((t.max(initial=0) for t in tables), default=0)
    if largest > most and np.isfinite(largest):
        raise MappingError(
            f"layer {layer.name!r}: conductances must be siemens, at most {CELL:,.0f} g_max = {most:g}, got {largest:g}"
        )
    return tables
