"""Where the cells of a matrix are: on which tile, at which of its word lines and bit lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .design import Design
from .placement import Block
from .wiring import Layout, placed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Part:
    """The cells of a matrix that are on one tile. Lines are counted from 0 over those in use.

    Word lines are counted from the far end of the bit lines on, bit lines from the drivers of the word lines on.

    Attributes:
        block: which weights they stand for.
        columns: of the block's group: its outputs, and its reference column if it has one.
        layout: the order of its cells along the lines.
        devices: in parallel in each cell.
    """

    block: Block
    columns: Array
    layout: Layout
    devices: int

    def grid(self, cells: Array) -> Array:
        """(devices, word lines, bit lines) siemens of cells (slices, polarities x devices, rows, columns) of the group.

        Conductances are float64 and exact.
        """
        own = cells[:, :, self.block.first_row : self.block.last_row][..., self.columns]
        slices, many, rows, columns = own.shape
        own = own.reshape(slices, many // self.devices, self.devices, rows, columns)
        return np.stack([self.layout.arrange(own[:, :, d]) for d in range(self.devices)])

    def put(self, grid: Array, cells: Array) -> None:
        """The inverse of `grid`: write conductances into `cells`."""
        found = np.stack([self.layout.restore(values) for values in grid], axis=2)
        rows = slice(self.block.first_row, self.block.last_row)
        cells[:, :, rows, self.columns] = found.reshape(*found.shape[:1], -1, *found.shape[3:])

    @property
    def kinds(self) -> tuple[Array, Array]:
        """Slice and polarity (1: taken off) of the cells at each crossing (word lines, bit lines), integers."""
        sizes = dict(zip(self.layout.order, self.layout.shape, strict=True))
        shape = tuple(sizes[axis] for axis in range(4))
        slices, polarities, _, _ = np.indices(shape, sparse=True)
        both = (np.broadcast_to(kind, shape) for kind in (slices, polarities))
        one, other = (self.layout.arrange(kind).astype(np.int64) for kind in both)
        return one, other


def parts_of(design: Design) -> list[Part]:
    """The parts of a matrix, tile by tile."""
    found, placement, wires = [], design.placement, design.hardware.wires
    for block in sorted(placement.blocks, key=lambda block: block.tile):
        encoding, rows = design.encodings[block.group], slice(block.first_row, block.last_row)
        columns = encoding.column_tiles[placement.column_edges.index(block.first_output)]
        row_tile = placement.edges.index(block.first_row)
        shown = encoding.plain_targets(design.rows_of(block.group)[rows], row_tile)[..., columns]
        places = placed(shown, wires, design.moments_of(block.group).take(rows), bool(encoding.reference.size))
        found.append(Part(block, columns, Layout.of(shown, wires, places), design.devices))
    return found
