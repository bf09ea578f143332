"""The slow part of the noise of cells: components that last 2, 4, 8, ... reads, and one that lasts for ever."""

from __future__ import annotations

import numpy as np

from .compiled import kernel
from .philox import GROUP, Rows, draw_normals

f32, u32, u64 = np.float32, np.uint32, np.uint64

FRACTION = u64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: its multiples are evenly spread over 64 bits
NEVER = 32  # doublings after which a component counts as lasting for ever


@kernel()
def renewals(row, read, doubling):
    """How often the component that lasts 2^doubling reads has been renewed in a word line by that read.

    The times of renewal are evenly spread over the word lines. All arguments and the result are unsigned.
    """
    offset = (row * FRACTION) >> (u64(64) - u64(doubling))
    return u32((u64(read) + offset) >> u64(doubling))


@kernel()
def fluctuation(std, amplitudes, first_row, read, plane, key, out):
    """out (rows, columns) float32 += std times the sum of amplitude times normal over the components behind the first.

    amplitudes (components,) float32: component m lasts 2^m reads, the last one for ever. first_row is uint64, read and
    plane are uint32. The normal of (row, column, component) is that of the counter of row and column, with the plane
    `plane` * NEVER + m and the renewals as read: see `philox.noisy`.
    """
    rows, columns = out.shape
    components = amplitudes.shape[0]
    padded = (columns + GROUP - 1) // GROUP * GROUP
    normals, total = np.empty((1, padded), np.float32), np.empty(padded, np.float32)
    alone = np.zeros(1, np.uint32)
    for i in range(rows):
        row = first_row + u64(i)
        total[:] = 0
        for m in range(1, components):
            amplitude = amplitudes[m]
            if amplitude == 0:
                continue
            renewed = u32(0) if m == components - 1 else renewals(row, read, m)
            draw_normals(Rows(row, alone), 0, (plane * u32(NEVER) + u32(m), renewed), key, normals)
            for j in range(padded):
                total[j] += amplitude * normals[0, j]
        for j in range(columns):
            out[i, j] += std[i, j] * total[j]
