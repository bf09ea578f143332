"""Standard normals of a whole array, in parallel."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .philox import draw_normals, row_counters

u32, u64 = np.uint32, np.uint64
CHUNK = 64


@njit(cache=True, nogil=True, parallel=True)
def fill_normals(out, plane, read, key):  # type: ignore[no-untyped-def]
    """out (rows, columns) float32: the normals of rows 0.. under one counter; see `draw_normals`."""
    rows, columns = out.shape
    padded = (columns + 3) // 4 * 4
    for c in prange((rows + CHUNK - 1) // CHUNK):
        start = c * CHUNK
        stop = min(rows, start + CHUNK)
        scratch = np.empty((stop - start, padded), np.float32)
        draw_normals(row_counters(u64(start), stop - start, padded // 4), u32(plane), u32(read), key, scratch)
        out[start:stop] = scratch[:, :columns]
