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


def philox4x32(builder: Any, counter: list[Any], round_keys: Any) -> list[Lanes]:
    """Four random words (int32) for each lane of a counter of four words (int32, taken as unsigned).

    The first word is `Lanes`; the others are too, or numbers for all lanes, and as long as they are, one is computed.
    `round_keys` points to the 2 ROUNDS keys (int64) of `round_keys`. Lanes are exchanged as `Lanes.products` has them:
    its high words meet low words of the round before, so that after an even number of rounds all are in place.
    """
    c0, c1, c2, c3 = counter
    for i in range(ROUNDS):
        keys = (builder.load(builder.gep(round_keys, [I64(2 * i + part)])) for part in range(2))
        k0, k1 = (builder.trunc(key, I32) for key in keys)
        (high0, low0), (high1, low1) = (_products(builder, *pair) for pair in zip((c0, c2), MULTIPLIERS, strict=True))
        c0, c1 = _xor(builder, high1, _xor(builder, c1, k0)), low1
        c2, c3 = _xor(builder, high0, _xor(builder, c3, k1)), low0
    return [c0, c1.exchanged(), c2, c3.exchanged()]


def _products(builder: Any, word: Any, factor: int) -> tuple[Any, Any]:
    """High and low word of int32, in lanes or a number, times a factor, both taken as unsigned."""
    if isinstance(word, Lanes):
        return word.products(factor)
    wide = builder.mul(builder.zext(word, I64), I64(factor))
    return builder.trunc(builder.lshr(wide, I64(32)), I32), builder.trunc(wide, I32)


def _xor(builder: Any, a: Any, b: Any) -> Any:
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

    @intrinsic
    def noise(typingctx: Any, given: Any, key: Any, factors: Any, column: Any, places: Any, end: Any) -> Any:
        """From `column` on. given = (current, variance, before, out, floor); places = (which row of the first three;
        extra; what is taken off; counter) of each row; `end` as in `noisy`. Returns clipped readings.
        """
        lanes = LANES * groups  # of a row, for each of the four words

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def parts(which: int) -> list[Any]:
                return cgutils.unpack_tuple(builder, args[which])

            def start_of(kind: Any, value: Any, row: Any) -> Any:
                array = context.make_array(kind)(context, builder, value)
                line = builder.mul(row, cgutils.unpack_tuple(builder, array.shape)[-1])
                return builder.gep(array.data, [builder.add(args[3], line)])

            kinds, ends = signature.args, parts(5)
            arrays = [*zip(kinds[0], parts(0), strict=True), *zip(kinds[5], ends, strict=True)][: 6 if ends else 5]
            firsts, rests, extras, offs, starts = [], [], [], [], []
            for place in parts(4):
                at, extra, off, counter = cgutils.unpack_tuple(builder, place)
                first, *rest = cgutils.unpack_tuple(builder, counter)
                firsts.append(Lanes.numbered(builder, lanes) + first)
                rests.append([Lanes.spread(builder, word, lanes) for word in rest] if rows > 1 else rest)
                extras.append(Lanes.spread(builder, extra, lanes))
                offs.append(Lanes.spread(builder, off, lanes))
                lines = cgutils.unpack_tuple(builder, at)
                lines += [lines[0], I64(0), I64(0)]
                begun = [start_of(*array, line) for array, line in zip(arrays, lines, strict=False)]
                starts += [[builder.gep(start, [I64(GROUP * group)]) for start in begun] for group in range(groups)]
            rest = rests[0] if rows == 1 else [Lanes.joined(words) for words in zip(*rests, strict=True)]
            keys = context.make_array(kinds[1])(context, builder, args[1]).data
            drawn = philox4x32(builder, [Lanes.joined(firsts), *rest], keys)
            (unit, variance_unit, gain), extra, off = parts(2), Lanes.joined(2 * extras), Lanes.joined(2 * offs)
            squared_radius, clipped = minus_two_log(Lanes.joined(drawn[::2])), I64(0)
            for side, component in enumerate(direction(Lanes.joined(drawn[1::2]))):
                current, cells, before, out, floor, *scale = (
                    [builder.gep(start, [I64(LANES * (2 * half + side))]) for half in range(2) for start in found]
                    for found in zip(*starts, strict=True)
                )
                mean = Lanes.load(builder, *current) * unit
                base = Lanes.load(builder, *floor) + extra
                total = (mean * mean).fma(gain, Lanes.load(builder, *cells).fma(variance_unit, base))
                value = component.fma((total * squared_radius).sqrt(), mean)
                if ends:
                    adc = cgutils.unpack_tuple(builder, ends[1])
                    value, outside = reading(value, adc, Lanes.load(builder, *scale[0]), off)
                    value, clipped = Lanes.load(builder, *before) + value, builder.add(clipped, outside)
                value.store(*out)
            return clipped

        place = types.Tuple(
            [types.UniTuple(types.int64, 3), types.float32, types.float32, types.UniTuple(types.uint32, 4)]
        )
        return types.int64(
            given, key, types.UniTuple(types.float32, 3), types.int64, types.UniTuple(place, rows), end
        ), codegen

    return noise


_one_group, _two_groups, _two_rows = _noise_of(1, 1), _noise_of(1, 2), _noise_of(2, 1)


def reading(value: Lanes, adc: Any, scale: Lanes, off: Lanes) -> tuple[Lanes, Any]:
    """What `digitise_and_accumulate` (`adc.py`) adds for currents, and how many of them are clipped."""
    low, high, centre, inverse, step, weight = adc
    code = (value * inverse - centre).rounded()
    inside = code.within(low, high)
    return scale * weight * ((inside + centre) * step - off), inside.unlike(code)


@kernel()
def counter_of(sample, position, place):
    """The first counter of a row; place = (plane, read), and all are uint32, the plane below 2^PLANE_BITS."""
    plane, read = place
    low = position & u32((1 << BESIDE_PLANE) - 1)
    return u32((position >> u32(BESIDE_PLANE)) << u32(16)), sample, u32(plane | (low << u32(PLANE_BITS))), read


@kernel()
def noisy(given, factors, extra, rows, start, place, key, columns, pedestal, end):
    """Currents (rows, ...) float32 with their mean and Gaussian noise, in columns = (first, behind the last).

    These are whole groups of GROUP.

    given = (current, variance, before, out, floor). mean = unit current and the variance is variance_unit variance +
    floor + extra + gain mean^2, with factors = (unit, variance_unit, gain) float32, variance (rows, ...) or one row for
    all, floor (columns,), extra (rows,) or one. All arrays are contiguous.

    The normal of (row, column) is word w of the counter

        (block + 2^16 (position // 2^12), sample, plane + 2^20 (position mod 2^12), read)

    with w = column // LANES mod 4 and block = LANES (column // GROUP) + column mod LANES: it depends on nothing else.
    The first row of `current` is number `start` of `rows`, which say sample and position; place = (plane, read) are
    uint32; `key` are the `round_keys`.

    What comes of it is written to `out`: with end = () the currents; with end = (scale, (low, high, centre, inverse,
    step, weight)) `before` (rows, ...), or one row, plus what `adc.digitise_and_accumulate` adds for that scale,
    ADC and weight, and for pedestal (rows,) or (0,). Returns the number of clipped readings.
    """
    count = rows.positions.shape[0]
    done = start // count
    p = start - done * count
    whose = u32(rows.first_sample + u64(done))
    current, variance, before = given[:3]
    begin, stop = columns
    odd, clipped = (stop - begin) // GROUP % 2 == 1, 0
    last = (0, 0, 0), f32(0), f32(0), (u32(0), u32(0), u32(0), u32(0))
    for m in range(current.shape[0]):
        first, sample, plane, read = counter_of(whose, rows.positions[p], place)
        p += 1
        if p == count:
            p = 0
            whose = u32(whose + u32(1))
        at = m, min(m, variance.shape[0] - 1), min(m, before.shape[0] - 1)
        more, off = extra[min(m, extra.shape[0] - 1)], pedestal[m] if pedestal.shape[0] > 0 else f32(0)
        for column in range(begin, stop - GROUP, 2 * GROUP):
            this = at, more, off, (u32(u32(column // 4) | first), sample, plane, read)
            clipped += _two_groups(given, key, factors, column, (this,), end)
        if odd:
            this = at, more, off, (u32(u32((stop - GROUP) // 4) | first), sample, plane, read)
            if m % 2:
                clipped += _two_rows(given, key, factors, stop - GROUP, (last, this), end)
            last = this
    if odd and current.shape[0] % 2:
        clipped += _one_group(given, key, factors, stop - GROUP, (last,), end)
    return clipped


@kernel()
def add_noise(signal, variance, floor, factors, extra, rows, start, place, key):
    """`noisy` for all columns of signal, in place."""
    given = signal, variance, signal, signal, floor
    noisy(given, factors, extra, rows, start, place, key, (0, signal.shape[1]), extra[:0], ())


@kernel()
def draw_normals(rows, start, place, key, out):
    """Standard normals into out (rows, columns) float32, columns a multiple of GROUP; counters as in `noisy`."""
    out[:] = 0
    nothing, one = np.zeros((1, out.shape[1]), np.float32), np.ones(out.shape[1], np.float32)
    add_noise(out, nothing, one, (f32(0), f32(0), f32(0)), np.zeros(1, np.float32), rows, start, place, key)
