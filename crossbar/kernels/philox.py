"""Counter-based random numbers: Philox4x32-10 and standard normals from it.

Philox4x32-10 is the generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds of
multiply, exchange and xor turn a 128-bit counter and a 64-bit key into 128 random bits. There is no state, so a number
depends on its counter alone and not on who draws it, when, or in which company.

Normals come in pairs from two words by the transform of Box and Muller (1958). Logarithm, sine and cosine are minimax
polynomials in float32 (relative errors below 3e-7), evaluated by plain multiplications and additions without
contraction: the same bits on every processor, and loops that a compiler turns into vector instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

f32, i32, u32, u64 = np.float32, np.int32, np.uint32, np.uint64

MULTIPLIER_0 = u64(0xD2511F53)
MULTIPLIER_1 = u64(0xCD9E8D57)
WEYL_0 = u32(0x9E3779B9)
WEYL_1 = u32(0xBB67AE85)
ROUNDS = 10

# ln(1 + f) / f on [-1/3, 1/3]
LOG = tuple(
    f32(c) for c in (0.99999984, -0.49999876, 0.3333799, -0.25012037, 0.19795013, -0.1634062, 0.17111331, -0.15774376)
)
# sin(pi t) / t and cos(pi t) as polynomials in t^2 on |t| <= 1/2
SIN = tuple(f32(c) for c in (3.14159264, -5.16771009, 2.55007766, -0.59829216, 0.07765941))
COS = tuple(f32(c) for c in (0.99999995, -4.93479286, 4.05841191, -1.33188016, 0.21969679))
LN2 = f32(0.6931471805599453)
ONE_EXPONENT = i32(0x3F2AAAAB)  # the bits of 2/3: mantissas are taken from [2/3, 4/3)
EXPONENT_MASK = i32(-8388608)  # 0xff800000


@intrinsic
def bits_of(typingctx: Any, x: Any) -> Any:
    """The bits of a float32 as an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), codegen


@intrinsic
def float_of(typingctx: Any, x: Any) -> Any:
    """The float32 that has the bits of an int32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(inline="always")
def philox4x32(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Four random words of 32 bits for the counter (c0, c1, c2, c3) under the key (k0, k1); all uint32."""
    for _ in range(ROUNDS):
        p0 = MULTIPLIER_0 * u64(c0)
        p1 = MULTIPLIER_1 * u64(c2)
        c0 = u32(u32(p1 >> u64(32)) ^ c1 ^ k0)
        c2 = u32(u32(p0 >> u64(32)) ^ c3 ^ k1)
        c1 = u32(p1)
        c3 = u32(p0)
        k0 = u32(k0 + WEYL_0)
        k1 = u32(k1 + WEYL_1)
    return c0, c1, c2, c3


@njit(inline="always")
def minus_two_log(word):  # type: ignore[no-untyped-def]
    """-2 ln(u) for u = (word // 2 + 1/2) / 2^31, never negative."""
    u = (f32(i32(word >> u32(1))) + f32(0.5)) * f32(2.0**-31)
    bits = bits_of(u)
    exponent = i32(i32(bits - ONE_EXPONENT) & EXPONENT_MASK)
    f = float_of(i32(bits - exponent)) - f32(1.0)
    p = LOG[7]
    p = p * f + LOG[6]
    p = p * f + LOG[5]
    p = p * f + LOG[4]
    p = p * f + LOG[3]
    p = p * f + LOG[2]
    p = p * f + LOG[1]
    p = p * f + LOG[0]
    log = f32(exponent) * f32(2.0**-23) * LN2 + p * f
    return max(f32(-2.0) * log, f32(0.0))


@njit(inline="always")
def normal_pair(word_radius, word_angle):  # type: ignore[no-untyped-def]
    """Two independent standard normals (float32) from two random words."""
    radius = np.sqrt(minus_two_log(word_radius))
    t = f32(i32(word_angle)) * f32(2.0**-32)  # the angle is pi t, |t| <= 1/2; a sign fills the other half circle
    q = t * t
    s = SIN[4]
    s = s * q + SIN[3]
    s = s * q + SIN[2]
    s = s * q + SIN[1]
    s = s * q + SIN[0]
    c = COS[4]
    c = c * q + COS[3]
    c = c * q + COS[2]
    c = c * q + COS[1]
    c = c * q + COS[0]
    sign = i32(i32(word_angle & u32(1)) << i32(31))
    signed = float_of(i32(bits_of(radius) ^ sign))
    return signed * c, signed * (s * t)


@njit(cache=True, nogil=True)
def row_counters(first_row, rows, blocks):  # type: ignore[no-untyped-def]
    """First words of the counters of rows x blocks, flat uint32: block + 2^16 (row >> 32), and the low bits of row."""
    c0 = np.empty(rows * blocks, np.uint32)
    c1 = np.empty(rows * blocks, np.uint32)
    for m in range(rows):
        row = first_row + u64(m)
        high = u32(row >> u64(32)) << u32(16)
        low = u32(row & u64(0xFFFFFFFF))
        for b in range(blocks):
            c0[m * blocks + b] = u32(b) | high
            c1[m * blocks + b] = low
    return c0, c1


@njit(cache=True, nogil=True)
def draw_normals(counters, plane, read, key, out):  # type: ignore[no-untyped-def]
    """Standard normals into out (rows, columns) float32, columns a multiple of 4, for the counters of its rows.

    The number of (row, column) is word column mod 4 of the counter (column // 4 + 2^16 (row >> 32), row, plane, read),
    so it depends on nothing else. `counters` come from `row_counters(first_row, rows, columns / 4)`, with first_row a
    uint64 below 2^48; plane, read and the two parts of `key` are uint32.
    """
    c0, c1 = counters
    flat = out.reshape(-1)
    k0, k1 = key
    for i in range(c0.shape[0]):
        w0, w1, w2, w3 = philox4x32(c0[i], c1[i], plane, read, k0, k1)
        flat[4 * i], flat[4 * i + 1] = normal_pair(w0, w1)
        flat[4 * i + 2], flat[4 * i + 3] = normal_pair(w2, w3)
