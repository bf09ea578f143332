"""What a dense block does between its convolutions, each in one pass over the data, there and back.

Arrays of signals have a row for each pixel of each picture and a column for each channel. They are float32, or uint16
that holds the bits of bfloat16; sums are float32 over a few rows and float64 over all. Rows are dealt out in a fixed
number of pieces, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import overload

from ...crossbar.kernels.compiled import kernel
from ...crossbar.kernels.philox import ALONE, GROUP, Rows, draw_normals, round_keys

f32, u16, u32, u64 = np.float32, np.uint16, np.uint32, np.uint64

PIECES = 16
ROW = 128 * GROUP  # normals that one row of counters gives
RUN = 256  # rows that are summed up in float32
FAST = {"nsz", "arcp", "contract", "reassoc"}


def wide(stored):
    """The float32 number that is stored; compiled code only."""
    raise NotImplementedError


@overload(wide, inline="always")
def _wide(stored):
    if stored == types.uint16:
        return lambda stored: u32(u32(stored) << u32(16)).view(f32)
    return lambda stored: stored


def put(out, column, number):
    """Store a float32 number in a row, in bfloat16 rounded to nearest and to even; compiled code only."""
    raise NotImplementedError


@overload(put, inline="always")
def _put(out, column, number):
    if out.dtype == types.uint16:

        def rounded(out, column, number):
            bits = f32(number).view(u32)
            out[column] = u16((bits + u32(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u32(16))

        return rounded

    def exact(out, column, number):
        out[column] = number

    return exact


def noise_factors(
    sigma: float, layer: int, key: int, shape: tuple[int, int], dropout: float = 0.0
) -> np.ndarray[Any, Any]:
    """1 + sigma z, float32 of this shape, without rows where all are 1; z are the normals of a layer and a key.

    With dropout, the share `dropout` of them is 0 and the rest larger, so that the mean stays 1.
    """
    if sigma == 0 and dropout == 0:
        return np.empty((0, 1), np.float32)
    size = shape[0] * shape[1]
    flat = np.empty((-(-size // ROW), ROW), np.float32)
    keys = round_keys(key)
    _draw_factors(f32(sigma), ALONE, (u32(layer), u32(0)), keys, flat)
    if dropout:
        kept = np.empty_like(flat)
        _draw_factors(f32(1), ALONE, (u32(layer), u32(1)), keys, kept)  # 1 + z
        flat *= np.where(kept < f32(1 + NormalDist().inv_cdf(dropout)), f32(0), f32(1 / (1 - dropout)))
    return flat.reshape(-1)[:size].reshape(shape)


@kernel(parallel=True)
def _draw_factors(sigma, alone, place, key, out):
    for m in prange(out.shape[0]):
        draw_normals(Rows(u64(m), alone), 0, place, key, out[m : m + 1])
        for k in range(out.shape[1]):
            out[m, k] = f32(1) + sigma * out[m, k]


@kernel(parallel=True, fastmath=FAST)
def scale_and_clip(buffer, scale, shift, out):
    """max(0, scale x + shift) of the first channels of the buffer into out (rows, channels)."""
    rows, channels = out.shape
    for m in prange(rows):
        x, y = buffer[m], out[m]
        for k in range(channels):
            put(y, k, max(wide(x[k]) * scale[k] + shift[k], f32(0)))


@kernel(fastmath=FAST)
def _flush(sums, products, near, near_products):
    """Add short float32 sums (w,) of a run of rows to the long float64 ones, and begin anew."""
    for k in range(near.shape[0]):
        sums[k] += near[k]
        products[k] += near_products[k]
        near[k] = near_products[k] = f32(0)


@kernel(parallel=True, fastmath=FAST)
def append(new, factors, buffer, first, sums, squares):
    """Channels new (rows, w), times their factors (rows, w; no rows: 1), into the buffer from column `first` on.

    sums, squares (PIECES, w) float64: of what is stored.
    """
    rows, w = new.shape
    step = (rows + PIECES - 1) // PIECES
    for p in prange(PIECES):
        near, near_squares = np.zeros(w, np.float32), np.zeros(w, np.float32)
        for k in range(w):
            sums[p, k] = squares[p, k] = 0.0
        for m in range(p * step, min(rows, (p + 1) * step)):
            x, y = new[m], buffer[m, first : first + w]
            if factors.shape[0]:
                z = factors[m]
                for k in range(w):
                    put(y, k, wide(x[k]) * z[k])
            else:
                for k in range(w):
                    y[k] = x[k]
            for k in range(w):
                stored = wide(y[k])
                near[k] += stored
                near_squares[k] += stored * stored
            if m % RUN == RUN - 1:
                _flush(sums[p], squares[p], near, near_squares)
        _flush(sums[p], squares[p], near, near_squares)


@kernel(parallel=True, fastmath=FAST)
def back_through_clip(slope, buffer, scale, shift, gain, gathered, shift_sums, gain_sums):
    """Slopes (rows, channels) of the loss after `scale_and_clip`, taken back to before it.

    gathered (rows, all channels) float32 += gain d with d the slope where the clipped number is above 0;
    shift_sums, gain_sums (PIECES, channels) float64: sums of d and of d x.
    """
    rows, channels = slope.shape
    step = (rows + PIECES - 1) // PIECES
    for p in prange(PIECES):
        near, near_products = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        for k in range(channels):
            shift_sums[p, k] = gain_sums[p, k] = 0.0
        for m in range(p * step, min(rows, (p + 1) * step)):
            g, x, s = slope[m], buffer[m], gathered[m]
            for k in range(channels):
                v = wide(x[k])
                d = wide(g[k]) if v * scale[k] + shift[k] > 0 else f32(0)
                s[k] += gain[k] * d
                near[k] += d
                near_products[k] += d * v
            if m % RUN == RUN - 1:
                _flush(shift_sums[p], gain_sums[p], near, near_products)
        _flush(shift_sums[p], gain_sums[p], near, near_products)


@kernel(parallel=True, fastmath=FAST)
def back_through_statistics(slope, gathered, buffer, first, factors, rates, out):
    """The whole slope of the channels from `first` on into out (rows, w), times their factors as in `append`.

    It is slope + r (gathered - a - b x), of the block's output and of all norms that read the channel; rates (3, w)
    float32 are r, r a and r b.
    """
    rows, w = out.shape
    for m in prange(rows):
        g, s = slope[m, first : first + w], gathered[m, first : first + w]
        x, y = buffer[m, first : first + w], out[m]
        if factors.shape[0]:
            z = factors[m]
            for k in range(w):
                put(y, k, (wide(g[k]) + rates[0, k] * s[k] - rates[1, k] - rates[2, k] * wide(x[k])) * z[k])
        else:
            for k in range(w):
                put(y, k, wide(g[k]) + rates[0, k] * s[k] - rates[1, k] - rates[2, k] * wide(x[k]))
