"""Element-wise kernels before and after the tiles: input codes and output-referred noise."""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .philox import GROUP, add_noise

f32, u32, u64 = np.float32, np.uint32, np.uint64
BLOCK = 1 << 14
CHUNK = 64


@kernel()
def code_block(x, factor, low, high, rounds, out):  # type: ignore[no-untyped-def]
    """`make_codes` for one block."""
    clipped = 0
    broken = 0
    for i in range(x.shape[0]):
        value = x[i] * factor
        code = np.rint(value) if rounds else value
        inside = min(max(code, low), high)
        clipped += code != inside
        broken += value - value != f32(0.0)  # NaN or infinite
        out[i] = inside
    return clipped, broken


@kernel()
def make_codes(x, factor, low, high, rounds, out):  # type: ignore[no-untyped-def]
    """out = clip(round(x factor), low, high), flat; returns (clipped, not finite) counts. `out` may be int16."""
    return code_block(x, factor, low, high, rounds, out)


@kernel(parallel=True)
def make_codes_parallel(x, factor, low, high, rounds, out):  # type: ignore[no-untyped-def]
    """`make_codes` in parallel."""
    blocks = (x.shape[0] + BLOCK - 1) // BLOCK
    counts = np.zeros((blocks, 2), np.int64)
    for b in prange(blocks):
        part = slice(b * BLOCK, min(x.shape[0], (b + 1) * BLOCK))
        counts[b] = code_block(x[part], factor, low, high, rounds, out[part])
    return counts[:, 0].sum(), counts[:, 1].sum()


@kernel()
def add_output_noise(out, sigma_add, sigma_mult, first_row, read, key):  # type: ignore[no-untyped-def]
    """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place; `first_row` is a uint64."""
    rows, outputs = out.shape
    padded = (outputs + GROUP - 1) // GROUP * GROUP
    factors = f32(1.0), f32(0.0), sigma_mult * sigma_mult
    floor = np.full(padded, sigma_add * sigma_add)
    nothing, extra = np.zeros((1, padded), np.float32), np.zeros(1, np.float32)
    for start in range(0, rows, CHUNK):
        stop = min(rows, start + CHUNK)
        signal = np.zeros((stop - start, padded), np.float32)
        signal[:, :outputs] = out[start:stop]
        add_noise(signal, nothing, floor, factors, extra, first_row + u64(start), (u32(0), read), key)
        out[start:stop] = signal[:, :outputs]


@kernel(parallel=True)
def add_output_noise_parallel(out, sigma_add, sigma_mult, first_row, read, key):  # type: ignore[no-untyped-def]
    """`add_output_noise` in parallel: the same bits."""
    rows = out.shape[0]
    for c in prange((rows + CHUNK - 1) // CHUNK):
        start = c * CHUNK
        part = out[start : min(rows, start + CHUNK)]
        add_output_noise(part, sigma_add, sigma_mult, first_row + u64(start), read, key)
