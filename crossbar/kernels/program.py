"""What programming needs for each cell: a normal number of its own, and a place in the histogram."""

from __future__ import annotations

import numpy as np

from .compiled import kernel
from .philox import GROUP, draw_normals

u32, u64 = np.uint32, np.uint64


@kernel()
def fill_rows(out, first_row, plane, read, key):  # type: ignore[no-untyped-def]
    """out (rows, columns) float32: the normals of the rows from `first_row`, a uint64, on; see `draw_normals`."""
    rows, columns = out.shape
    padded = (columns + GROUP - 1) // GROUP * GROUP
    scratch = np.empty((1, padded), np.float32)
    for m in range(rows):
        draw_normals(first_row + u64(m), (u32(plane), u32(read)), key, scratch)
        out[m] = scratch[0, :columns]


@kernel()
def tally(values, factor, histogram):  # type: ignore[no-untyped-def]
    """Count values (n,) >= 0 by the whole part of value factor; the last bin holds all above."""
    top = np.float32(histogram.shape[0] - 1)
    for i in range(values.shape[0]):
        histogram[int(min(values[i] * factor, top))] += 1
