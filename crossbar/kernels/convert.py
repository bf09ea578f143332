"""Element-wise kernels before and after the tiles: input codes and output-referred noise."""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .philox import GROUP, add_noise

f32, i32, u32 = np.float32, np.int32, np.uint32
BLOCK = 1 << 14
CHUNK = 64


@kernel()
def code_block(x, factor, low, high, rounds, out):
    """`make_codes` for one block, of fewer than 2^31 inputs."""
    clipped, broken = i32(0), i32(0)
    for i in range(x.shape[0]):
        value = x[i] * factor
        code = np.rint(value) if rounds else value
        inside = min(max(code, low), high)
        clipped = i32(clipped + i32(code != inside))
        broken = i32(broken + i32(value - value != f32(0.0)))  # NaN or infinite
        out[i] = inside
    return int(clipped), int(broken)


@kernel()
def make_codes(x, factor, low, high, rounds, out):
    """out = clip(round(x factor), low, high), flat; returns (clipped, not finite) counts. `out` may be int16."""
    clipped, broken = 0, 0
    for a in range(0, x.shape[0], BLOCK):
        part = slice(a, min(x.shape[0], a + BLOCK))
        found = code_block(x[part], factor, low, high, rounds, out[part])
        clipped += found[0]
        broken += found[1]
    return clipped, broken


@kernel(parallel=True)
def make_codes_parallel(x, factor, low, high, rounds, out):
    """`make_codes` in parallel."""
    blocks = (x.shape[0] + BLOCK - 1) // BLOCK
    counts = np.zeros((blocks, 2), np.int64)
    for b in prange(blocks):
        part = slice(b * BLOCK, min(x.shape[0], (b + 1) * BLOCK))
        counts[b] = code_block(x[part], factor, low, high, rounds, out[part])
    return counts[:, 0].sum(), counts[:, 1].sum()


@kernel()
def add_output_noise(out, sigma_add, sigma_mult, rows, start, read, key):
    """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place; `rows` from `start` on."""
    count, outputs = out.shape
    padded = (outputs + GROUP - 1) // GROUP * GROUP
    factors = f32(1.0), f32(0.0), sigma_mult * sigma_mult
    floor = np.full(padded, sigma_add * sigma_add)
    nothing, extra = np.zeros((1, padded), np.float32), np.zeros(1, np.float32)
    for a in range(0, count, CHUNK):
        b = min(count, a + CHUNK)
        signal = np.zeros((b - a, padded), np.float32)
        signal[:, :outputs] = out[a:b]
        add_noise(signal, nothing, floor, factors, extra, rows, start + a, (u32(0), read), key)
        out[a:b] = signal[:, :outputs]


@kernel(parallel=True)
def add_output_noise_parallel(out, sigma_add, sigma_mult, rows, start, read, key):
    """`add_output_noise` in parallel: the same bits."""
    count = out.shape[0]
    for c in prange((count + CHUNK - 1) // CHUNK):
        part = out[c * CHUNK : min(count, (c + 1) * CHUNK)]
        add_output_noise(part, sigma_add, sigma_mult, rows, start + c * CHUNK, read, key)
