"""Element-wise kernels before and after the tiles: input codes and output-referred noise."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from .philox import draw_normals, row_counters

f32, u32, u64 = np.float32, np.uint32, np.uint64
BLOCK = 1 << 14
CHUNK = 64


@njit(cache=True, nogil=True, parallel=True)
def make_codes(x, factor, low, high, rounds, out):  # type: ignore[no-untyped-def]
    """out = clip(round(x factor), low, high), flat; returns (clipped, not finite) counts. `out` may be int16."""
    blocks = (x.shape[0] + BLOCK - 1) // BLOCK
    clipped = np.zeros(blocks, np.int64)
    broken = np.zeros(blocks, np.int64)
    for b in prange(blocks):
        outside = 0
        bad = 0
        for i in range(b * BLOCK, min(x.shape[0], (b + 1) * BLOCK)):
            value = x[i] * factor
            bad += not np.isfinite(value)
            code = np.rint(value) if rounds else value
            inside = min(max(code, low), high)
            outside += code != inside
            out[i] = inside
        clipped[b] = outside
        broken[b] = bad
    return clipped.sum(), broken.sum()


@njit(cache=True, nogil=True, parallel=True)
def add_output_noise(out, sigma_add, sigma_mult, first_row, read, key):  # type: ignore[no-untyped-def]
    """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place; `first_row` is a uint64."""
    rows, outputs = out.shape
    padded = (outputs + 3) // 4 * 4
    add2 = sigma_add * sigma_add
    mult2 = sigma_mult * sigma_mult
    for c in prange((rows + CHUNK - 1) // CHUNK):
        start = c * CHUNK
        stop = min(rows, start + CHUNK)
        normals = np.empty((stop - start, padded), np.float32)
        draw_normals(row_counters(first_row + u64(start), stop - start, padded // 4), u32(0), read, key, normals)
        for m in range(start, stop):
            for j in range(outputs):
                y = out[m, j]
                out[m, j] = y + np.sqrt(add2 + mult2 * y * y) * normals[m - start, j]
