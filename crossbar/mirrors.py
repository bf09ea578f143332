"""Current mirrors that add up the slices of a weight in front of one conversion."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import Backend
from .design import Design
from .encoding import mirror_ratios
from .keys import stream_key
from .reader import Seeds

Array = np.ndarray[Any, Any]


def ratios_of(design: Design, group: int, seeds: Seeds, backend: Backend) -> Array | None:
    """(row tiles, slices, lines of each, columns) of those of a chip; None where no mirrors join slices.

    Each bit line of a row tile has one, or each pair that is subtracted as currents. Its ratio is off by
    `tile.mirror_mismatch`, relative and normal, from when the chip is made (Pelgrom et al. 1989, IEEE J. Solid-State
    Circuits 24:1433).
    """
    placement, tile, cell = design.placement, design.placement.tile, design.hardware.cell
    if not tile.joined:
        return None
    each = 2 if design.apart else 1
    columns = placement.outputs + (placement.column_tiles if tile.reference_columns else 0)
    ratios = np.broadcast_to(
        mirror_ratios(tile, cell.levels)[None, :, None, None], (placement.row_tiles, tile.slices, each, columns)
    )
    if not tile.mirror_mismatch:
        return ratios
    own = design.hardware.seeds.program
    key = stream_key(seeds.seed if own is None else own, "mirror", design.matrix.name, group, seeds.copy)
    normals = backend.normals((placement.row_tiles * tile.slices * each, columns), (0, 0), key).reshape(ratios.shape)
    return ratios * np.maximum(1 + tile.mirror_mismatch * normals.astype(np.float64), 0)
