"""What programming does for each cell: draw its normal number, and add it to the planes and to the statistics."""

from __future__ import annotations

import numpy as np

from .compiled import kernel
from .philox import GROUP, Rows, draw_normals

f32, u32, u64 = np.float32, np.uint32, np.uint64
TABLES = 4


@kernel()
def fill_rows(out, first_row, plane, read, key):
    """out (rows, columns) float32: the normals of the rows from `first_row`, a uint64, on; see `draw_normals`."""
    rows, columns = out.shape
    padded = (columns + GROUP - 1) // GROUP * GROUP
    scratch, alone = np.empty((1, padded), np.float32), np.zeros(1, np.uint32)
    for m in range(rows):
        draw_normals(Rows(first_row + u64(m), alone), 0, (u32(plane), u32(read)), key, scratch)
        out[m] = scratch[0, :columns]


@kernel()
def add_cells(g, std, units, signed, spread, columns, histogram):
    """Add cells of conductances g >= 0 and read noise std, both (rows, columns) float32, to what they are part of.

    units = (unit, white, bins) float32: signed += g / unit, spread += (std / unit)^2 + white g, and columns (columns,)
    float64 += sums of g; a negative unit takes cells off. A cell is counted in the bin of `histogram` that is the whole
    part of bins g, the last one holding all above.
    """
    unit, white, bins = units
    inverse = f32(1.0) / unit
    top = f32(histogram.shape[0] - 1)
    places = np.empty(g.shape[1], np.int32)
    counts = np.zeros((TABLES, histogram.shape[0]), np.int64)  # neighbours are counted apart: none waits for another
    for m in range(g.shape[0]):
        for j in range(g.shape[1]):
            relative = std[m, j] * inverse
            signed[m, j] += g[m, j] * inverse
            spread[m, j] += relative * relative + white * g[m, j]
            columns[j] += g[m, j]
        for j in range(g.shape[1]):
            places[j] = np.int32(min(g[m, j] * bins, top))
        for j in range(g.shape[1]):
            counts[j % TABLES, places[j]] += 1
    for table in range(TABLES):
        for k in range(histogram.shape[0]):
            histogram[k] += counts[table, k]


@kernel()
def peak_and_total(values):
    """Largest magnitude of values (rows, columns) float32, and largest sum of magnitudes of a column."""
    totals = np.zeros(values.shape[1], np.float32)
    peaks = np.zeros(values.shape[1], np.float32)
    for m in range(values.shape[0]):
        for j in range(values.shape[1]):
            magnitude = abs(values[m, j])
            totals[j] += magnitude
            peaks[j] = max(peaks[j], magnitude)
    return peaks.max(), totals.max()
