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
from .lanes import I32, I64, LANES, Lanes, horner

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


# -2 ln(1 + f) / f on [-1/3, 1/3]
LOG = tuple(
    -2 * c
    for c in _rounded(0.99999984, -0.49999876, 0.3333799, -0.25012037, 0.19795013, -0.1634062, 0.17111331, -0.15774376)
)
# sin(pi t) / t and cos(pi t) as polynomials in t^2 on |t| <= 1/2
SIN = _rounded(3.14159264, -5.16771009, 2.55007766, -0.59829216, 0.07765941)
COS = _rounded(0.99999995, -4.93479286, 4.05841191, -1.33188016, 0.21969679)
LN2 = float(f32(0.6931471805599453))
TWO_THIRDS = 0x3F2AAAAB  # the bits of 2/3: mantissas are taken from [2/3, 4/3)
EXPONENT_MASK = 0xFF800000


def philox4x32(builder: Any, counter: list[Any], round_keys: Any, first: int = 0) -> list[Lanes]:
    """Four random words (int32) for each lane of a counter of four words (int32, taken as unsigned).

    The first word is `Lanes`; the others are too, or numbers for all lanes, and as long as they are, one is computed.
    `round_keys` points to the 2 ROUNDS keys (int64) of `round_keys`. `Lanes.products` exchanges lanes: c0 and c1 have
    the lanes as they are, c2 and c3 have them exchanged, and each round leaves it so. With `first`, the counter is what
    so many rounds have made of one.
    """
    c0, c1, c2, c3 = counter
    for i in range(first, ROUNDS):
        keys = (builder.load(builder.gep(round_keys, [I64(2 * i + part)])) for part in range(2))
        k0, k1 = (builder.trunc(key, I32) for key in keys)
        (high0, low0), (high1, low1) = (products(builder, *pair) for pair in zip((c0, c2), MULTIPLIERS, strict=True))
        c0, c1 = xor(builder, high1, xor(builder, c1, k0)), low1
        c2, c3 = xor(builder, high0, xor(builder, c3, k1)), low0
    return [c0, c1, c2.exchanged(), c3.exchanged()]


def products(builder: Any, word: Any, factor: int) -> tuple[Any, Any]:
    """High and low word of int32, in lanes or a number, times a factor, both taken as unsigned."""
    if isinstance(word, Lanes):
        return word.products(factor)
    wide = builder.mul(builder.zext(word, I64), I64(factor))
    return builder.trunc(builder.lshr(wide, I64(32)), I32), builder.trunc(wide, I32)


def xor(builder: Any, a: Any, b: Any) -> Any:
    """Of int32 in lanes or numbers."""
    if isinstance(a, Lanes) or isinstance(b, Lanes):
        return a ^ b if isinstance(a, Lanes) else b ^ a
    return builder.xor(a, b)


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
    return exponent.to_float().fma(-2 * LN2 * 2.0**-23, horner(f, LOG) * f).at_least_zero()


def direction(word: Lanes) -> tuple[Lanes, Lanes]:
    """Cosine and sine of an angle evenly spread over the circle."""
    t = word.to_float() * 2.0**-32  # the angle is pi t, |t| <= 1/2; a sign fills the other half circle
    sign, q = word << 31, t * t
    return tuple((part.bits() ^ sign).as_float() for part in (horner(q, COS), horner(q, SIN) * t))  # type: ignore[return-value]


@intrinsic
def _words(typingctx: Any, counter: Any, key: Any, out: Any) -> Any:
    """Into out (4, LANES) int32: the words of counters (c0 + lane, c1, c2, c3), for tests."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, *rest = cgutils.unpack_tuple(builder, args[0])
        keys, target = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[1:], args[1:], strict=True)
        )
        words = philox4x32(builder, [Lanes.numbered(builder) + first, *rest], keys)
        for w, word in enumerate(words):
            word.store(builder.gep(target, [I64(LANES * w)]))
        return context.get_dummy_value()

    return types.void(types.UniTuple(types.uint32, 4), key, out), codegen


@kernel()
def words(counter, key, out):
    """Philox words of the LANES counters from `counter` (four uint32) on, into out (4, LANES) int32."""
    _words(counter, key, out)


def _noise_of(rows: int, groups: int) -> Any:
    """`noisy` for so many groups of GROUP columns of each of so many rows, compiled for these numbers."""
    lanes = LANES * groups  # of a row, for each of the four words

    @intrinsic
    def noise(typingctx: Any, given: Any, key: Any, factors: Any, column: Any, places: Any) -> Any:
        """From `column` on; given = (currents, variance, floor, out), places = (which row of each, extra, counter)."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def start_of(kind: Any, value: Any, row: Any) -> Any:
                array = context.make_array(kind)(context, builder, value)
                line = builder.mul(row, cgutils.unpack_tuple(builder, array.shape)[-1])
                return builder.gep(array.data, [builder.add(args[3], line)])

            arrays, unit_and_more, every = (cgutils.unpack_tuple(builder, args[k]) for k in (0, 2, 4))
            keys = context.make_array(signature.args[1])(context, builder, args[1]).data
            firsts, rests, extras, starts = [], [], [], []
            for place in every:
                at, extra, counter = cgutils.unpack_tuple(builder, place)
                first, *rest = cgutils.unpack_tuple(builder, counter)
                firsts.append(Lanes.numbered(builder, lanes) + first)
                rests.append([Lanes.spread(builder, word, lanes) for word in rest] if rows > 1 else rest)
                extras.append(Lanes.spread(builder, extra, lanes))
                lines = cgutils.unpack_tuple(builder, at)
                begun = [start_of(*array) for array in zip(signature.args[0], arrays, lines, strict=True)]
                starts += [[builder.gep(start, [I64(GROUP * group)]) for start in begun] for group in range(groups)]
            rest = rests[0] if rows == 1 else [Lanes.joined(words) for words in zip(*rests, strict=True)]
            drawn = philox4x32(builder, [Lanes.joined(firsts), *rest], keys)
            (unit, variance_unit, gain), extra = unit_and_more, Lanes.joined(2 * extras)
            squared_radius = minus_two_log(Lanes.joined(drawn[::2]))
            for side, component in enumerate(direction(Lanes.joined(drawn[1::2]))):
                current, cells, floor, out = (
                    [builder.gep(start, [I64(LANES * (2 * half + side))]) for half in range(2) for start in found]
                    for found in zip(*starts, strict=True)
                )
                mean = Lanes.load(builder, *current) * unit
                base = Lanes.load(builder, *floor) + extra
                total = (mean * mean).fma(gain, Lanes.load(builder, *cells).fma(variance_unit, base))
                component.fma((total * squared_radius).sqrt(), mean).store(*out)
            return context.get_dummy_value()

        place = types.Tuple([types.UniTuple(types.int64, 4), types.float32, types.UniTuple(types.uint32, 4)])
        numbers = types.UniTuple(types.float32, 3), types.int64, types.UniTuple(place, rows)
        return types.void(given, key, *numbers), codegen

    return noise


_one_group, _two_groups, _two_rows = _noise_of(1, 1), _noise_of(1, 2), _noise_of(2, 1)


@kernel()
def counter_of(sample, position, place):
    """The first counter of a row; place = (plane, read), and all are uint32, the plane below 2^PLANE_BITS."""
    plane, read = place
    low = position & u32((1 << BESIDE_PLANE) - 1)
    return u32((position >> u32(BESIDE_PLANE)) << u32(16)), sample, u32(plane | (low << u32(PLANE_BITS))), read


@kernel()
def noisy(given, factors, extra, rows, start, place, key):
    """out (rows, columns) float32 = the means of currents plus Gaussian noise; columns are a multiple of GROUP.

    given = (currents, variance, floor, out). mean = unit current and the variance is variance_unit variance + floor +
    extra + gain mean^2, with factors = (unit, variance_unit, gain) float32, variance (rows, columns) or one row for
    all, floor (1, columns), extra (rows,) or one. All arrays are contiguous; `out` may be the currents.

    The normal of (row, column) is word w of the counter

        (block + 2^16 (position // 2^12), sample, plane + 2^20 (position mod 2^12), read)

    with w = column // LANES mod 4 and block = LANES (column // GROUP) + column mod LANES: it depends on nothing else.
    The first row of the currents is number `start` of `rows`, which say sample and position; place = (plane, read) are
    uint32; `key` are the `round_keys`.
    """
    currents, variance, _, _ = given
    count = rows.positions.shape[0]
    done = start // count
    p = start - done * count
    whose = u32(rows.first_sample + u64(done))
    end = currents.shape[1] - GROUP
    odd = currents.shape[1] // GROUP % 2 == 1  # the last group of a row is made with that of the next
    last = (0, 0, 0, 0), f32(0), (u32(0), u32(0), u32(0), u32(0))
    for m in range(currents.shape[0]):
        first, sample, plane, read = counter_of(whose, rows.positions[p], place)
        p += 1
        if p == count:
            p = 0
            whose = u32(whose + u32(1))
        at, more = (m, min(m, variance.shape[0] - 1), 0, m), extra[min(m, extra.shape[0] - 1)]
        for column in range(0, end, 2 * GROUP):
            this = at, more, (u32(u32(column // 4) | first), sample, plane, read)
            _two_groups(given, key, factors, column, (this,))
        if odd:
            this = at, more, (u32(u32(end // 4) | first), sample, plane, read)
            if m % 2:
                _two_rows(given, key, factors, end, (last, this))
            last = this
    if odd and currents.shape[0] % 2:
        _one_group(given, key, factors, end, (last,))


@kernel()
def add_noise(signal, variance, floor, factors, extra, rows, start, place, key):
    """`noisy` in place, for floor (columns,)."""
    given = signal, variance, floor.reshape(1, floor.shape[0]), signal
    noisy(given, factors, extra, rows, start, place, key)


@kernel()
def draw_normals(rows, start, place, key, out):
    """Standard normals into out (rows, columns) float32, columns a multiple of GROUP; counters as in `noisy`."""
    out[:] = 0
    nothing, one = np.zeros((1, out.shape[1]), np.float32), np.ones(out.shape[1], np.float32)
    add_noise(out, nothing, one, (f32(0), f32(0), f32(0)), np.zeros(1, np.float32), rows, start, place, key)
