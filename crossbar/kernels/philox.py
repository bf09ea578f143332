"""Counter-based random numbers: Philox4x32-10, standard normals from it, and noise of a given variance.

Philox4x32-10 is the generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds of
multiply, exchange and xor turn a 128-bit counter and a 64-bit key into 128 random bits. There is no state, so a number
depends on its counter alone and not on who draws it, when, or in which company.

Normals come in pairs from two words by the transform of Box and Muller (1958). Logarithm, sine and cosine are minimax
polynomials in float32 (relative errors below 3e-7). All of it is written on vectors (`lanes.py`): 8 counters at a time
give 32 normals, word w of the i-th counter that of column 8 w + i, so that nothing has to change its lane.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import I64, LANES, Lanes, horner

f32, u32, u64 = np.float32, np.uint32, np.uint64

GROUP = 4 * LANES  # columns whose normals are drawn together
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF
POSITION_BITS, PLANE_BITS = 28, 20  # of the counter; the low 12 bits of the position stand above the plane
BESIDE_PLANE = 32 - PLANE_BITS


class Rows(NamedTuple):
    """Whose the rows of a block are, which is what their random numbers depend on.

    Row i is that of sample `first_sample` + i // P at the position `positions[i % P]`, for P = len(positions).
    """

    first_sample: Any  # uint64, below 2^32
    positions: np.ndarray[Any, Any]  # (P,) uint32, below 2^POSITION_BITS


ALONE = np.zeros(1, np.uint32)  # the positions where each row is a sample of its own, as each word line is


def _rounded(*coefficients: float) -> tuple[float, ...]:
    return tuple(float(f32(c)) for c in coefficients)


# ln(1 + f) / f on [-1/3, 1/3]
LOG = _rounded(0.99999984, -0.49999876, 0.3333799, -0.25012037, 0.19795013, -0.1634062, 0.17111331, -0.15774376)
# sin(pi t) / t and cos(pi t) as polynomials in t^2 on |t| <= 1/2
SIN = _rounded(3.14159264, -5.16771009, 2.55007766, -0.59829216, 0.07765941)
COS = _rounded(0.99999995, -4.93479286, 4.05841191, -1.33188016, 0.21969679)
LN2 = float(f32(0.6931471805599453))
TWO_THIRDS = 0x3F2AAAAB  # the bits of 2/3: mantissas are taken from [2/3, 4/3)
EXPONENT_MASK = 0xFF800000


def philox4x32(counter: list[Lanes], round_keys: Any) -> list[Lanes]:
    """Four random words (int32) for each lane of the counter's four (int64 below 2^32).

    `round_keys` points to the 2 ROUNDS keys (int64) of `round_keys`.
    """
    c0, c1, c2, c3 = counter
    builder = c0.builder
    for i in range(ROUNDS):
        k0, k1 = (
            Lanes.spread(builder, builder.load(builder.gep(round_keys, [I64(2 * i + part)]))) for part in range(2)
        )
        p0, p1 = ((c & WORD) * multiplier for c, multiplier in zip((c0, c2), MULTIPLIERS, strict=True))
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1, (p0 >> 32) ^ c3 ^ k1, p0  # only low words count from here on
    return [c.low_word() for c in (c0, c1, c2, c3)]


def round_keys(key: int) -> np.ndarray[Any, Any]:
    """The keys of all rounds (2 ROUNDS,) int64, two a round, of a key of 64 bits: low word, high word."""
    low, high = key & WORD, key >> 32
    steps = [(low + WEYL[0] * i & WORD, high + WEYL[1] * i & WORD) for i in range(ROUNDS)]
    return np.array(steps, dtype=np.int64).reshape(-1)


def minus_two_log(word: Lanes) -> Lanes:
    """-2 ln(u) for u = (word // 2 + 1/2) / 2^31, never negative."""
    u = (word >> 1).to_float().fma(2.0**-31, 2.0**-32)
    exponent = (u.bits() - TWO_THIRDS) & EXPONENT_MASK
    f = (u.bits() - exponent).as_float() - 1.0
    log = (exponent.to_float() * 2.0**-23).fma(LN2, horner(f, LOG) * f)
    return (log * -2.0).at_least(0.0)


def direction(word: Lanes) -> tuple[Lanes, Lanes]:
    """Cosine and sine of an angle evenly spread over the circle."""
    t = word.to_float() * 2.0**-32  # the angle is pi t, |t| <= 1/2; a sign fills the other half circle
    sign, q = word << 31, t * t
    return tuple((part.bits() ^ sign).as_float() for part in (horner(q, COS), horner(q, SIN) * t))  # type: ignore[return-value]


@intrinsic
def _words(typingctx: Any, counter: Any, key: Any, out: Any) -> Any:
    """Into out (4, LANES) int32: the words of counters (c0 + lane, c1, c2, c3), for tests."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, *rest = (Lanes.spread(builder, builder.zext(c, I64)) for c in cgutils.unpack_tuple(builder, args[0]))
        keys, target = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[1:], args[1:], strict=True)
        )
        words = philox4x32([first + Lanes.numbered(builder), *rest], keys)
        for w, word in enumerate(words):
            word.store(builder.gep(target, [I64(LANES * w)]))
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.uint32, 4), key, out), codegen


@kernel()
def words(counter, key, out):
    """Philox words of the LANES counters from `counter` (four uint32) on, into out (4, LANES) int32."""
    _words(counter, key, out)


@intrinsic
def _noise_group(
    typingctx: Any, signal: Any, variance: Any, floor: Any, key: Any, place: Any, factors: Any, counter: Any
) -> Any:
    """`add_noise` for GROUP columns of one row; place = (row of signal, row of variance, first column)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *arrays, keys = (
            context.make_array(k)(context, builder, a) for k, a in zip(signature.args[:4], args, strict=False)
        )
        row, variance_row, column = cgutils.unpack_tuple(builder, args[4])
        unit, variance_unit, extra, gain = (Lanes.spread(builder, x) for x in cgutils.unpack_tuple(builder, args[5]))
        first, *rest = (Lanes.spread(builder, builder.zext(c, I64)) for c in cgutils.unpack_tuple(builder, args[6]))
        drawn = philox4x32([first + Lanes.numbered(builder), *rest], keys.data)
        starts = [
            builder.gep(
                array.data, [builder.add(column, builder.mul(m, cgutils.unpack_tuple(builder, array.shape)[-1]))]
            )
            for array, m in zip(arrays, (row, variance_row, I64(0)), strict=True)
        ]
        for half in range(2):
            squared_radius = minus_two_log(drawn[2 * half])
            for side, component in enumerate(direction(drawn[2 * half + 1])):
                pointers = [builder.gep(start, [I64(LANES * (2 * half + side))]) for start in starts]
                raw, cells, base = (Lanes.load(builder, pointer) for pointer in pointers)
                mean = raw * unit
                total = (mean * mean).fma(gain, cells.fma(variance_unit, base + extra))
                component.fma((total * squared_radius).sqrt(), mean).store(pointers[0])
        return context.get_dummy_value()

    numbers = types.UniTuple(types.int64, 3), types.UniTuple(types.float32, 4), types.UniTuple(types.uint32, 4)
    return types.void(signal, variance, floor, key, *numbers), codegen


@kernel()
def counter_of(sample, position, place):
    """The first counter of a row; place = (plane, read), and all are uint32, the plane below 2^PLANE_BITS."""
    plane, read = place
    low = position & u32((1 << BESIDE_PLANE) - 1)
    return u32((position >> u32(BESIDE_PLANE)) << u32(16)), sample, u32(plane | (low << u32(PLANE_BITS))), read


@kernel()
def add_noise(signal, variance, floor, factors, extra, rows, start, place, key):
    """signal (rows, columns) float32 becomes its mean plus Gaussian noise, in place; columns are a multiple of GROUP.

    mean = unit signal and the variance is variance_unit variance + floor + extra + gain mean^2, with factors = (unit,
    variance_unit, gain) float32, variance (rows, columns) or one row for all, floor (columns,), extra (rows,) or one.
    All arrays are contiguous.

    The normal of (row, column) is word w of the counter

        (block + 2^16 (position // 2^12), sample, plane + 2^20 (position mod 2^12), read)

    with w = column // LANES mod 4 and block = LANES (column // GROUP) + column mod LANES: it depends on nothing else.
    The first row of `signal` is number `start` of `rows`, which say sample and position; place = (plane, read) are
    uint32; `key` are the `round_keys`.
    """
    unit, variance_unit, gain = factors
    count = rows.positions.shape[0]
    done = start // count
    p = start - done * count
    whose = u32(rows.first_sample + u64(done))
    for m in range(signal.shape[0]):
        first, sample, plane, read = counter_of(whose, rows.positions[p], place)
        p += 1
        if p == count:
            p = 0
            whose = u32(whose + u32(1))
        n = min(m, variance.shape[0] - 1)
        terms = (unit, variance_unit, extra[min(m, extra.shape[0] - 1)], gain)
        for block in range(signal.shape[1] // GROUP):
            counter = (u32(u32(LANES * block) | first), sample, plane, read)
            _noise_group(signal, variance, floor, key, (m, n, GROUP * block), terms, counter)


@kernel()
def draw_normals(rows, start, place, key, out):
    """Standard normals into out (rows, columns) float32, columns a multiple of GROUP; counters as in `add_noise`."""
    out[:] = 0
    nothing, one = np.zeros((1, out.shape[1]), np.float32), np.ones(out.shape[1], np.float32)
    add_noise(out, nothing, one, (f32(0), f32(0), f32(0)), np.zeros(1, np.float32), rows, start, place, key)
