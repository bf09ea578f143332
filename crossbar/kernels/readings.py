"""Noise, conversion and sum of the readings of a plane, block of rows by block of rows.

The random words of some rows are drawn first, then their readings are made in one pass over vectors: mean and variance,
normal, ADC, output. What the two passes hand over stays in the first-level cache. Numbers are those of `philox.noisy`
and `adc.digitise_and_accumulate` one after the other.

The first two rounds of Philox are alike for all rows of a read, but for numbers that all counters of a row share: their
vectors are made once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import I32, I64, LANES, Lanes
from .philox import GROUP, MULTIPLIERS, counter_of, direction, minus_two_log, philox4x32

f32, i32, i64, u32, u64 = np.float32, np.int32, np.int64, np.uint32, np.uint64

BEGUN = 3  # vectors of a group that two rounds make
TABLE = BEGUN * LANES  # their numbers
BLOCK = 2048  # readings whose random words are drawn together


@intrinsic
def _begin(typingctx: Any, first: Any, read: Any, key: Any, table: Any, start: Any) -> Any:
    """Into table from `start` on: what two rounds make of LANES counters from `first` on, beside numbers of the row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        keys, target = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (2, 3))
        key1 = builder.trunc(builder.load(builder.gep(keys, [I64(1)])), I32)
        high0, low0 = (Lanes.numbered(builder) + args[0]).products(MULTIPLIERS[0])
        high1, low1 = (high0 ^ builder.xor(args[1], key1)).products(MULTIPLIERS[1])
        for part, vector in enumerate((high1, low1, low0)):
            vector.store(builder.gep(target, [builder.add(args[4], I64(LANES * part))]))
        return context.get_dummy_value()

    return types.void(types.uint32, types.uint32, key, table, types.int64), codegen


def _words_of(rows: int, groups: int) -> Any:
    """Words of so many groups of each of so many rows, compiled for these numbers."""

    @intrinsic
    def draw(typingctx: Any, table: Any, key: Any, begun: Any, units: Any, words: Any) -> Any:
        """From `begun` in the table on; each of `units` = (start in words, what its row has beside the table)."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made, keys, target = (
                context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 1, 4)
            )
            starts, shared = zip(
                *(cgutils.unpack_tuple(builder, unit) for unit in cgutils.unpack_tuple(builder, args[3])), strict=True
            )

            def part(number: int) -> Lanes:
                places = [I64(TABLE * group + LANES * number) for group in range(groups)]
                return Lanes.load(builder, *(builder.gep(made, [builder.add(args[2], p)]) for p in places * rows))

            alike = list(zip(*(cgutils.unpack_tuple(builder, each) for each in shared), strict=True))
            if rows == 1:
                x0, x2, c3 = (values[0] for values in alike)
            else:
                x0, x2, c3 = (Lanes.joined([Lanes.spread(builder, value) for value in values]) for values in alike)
            for w, word in enumerate(philox4x32(builder, [part(0) ^ x0, part(1), part(2) ^ x2, c3], keys, first=2)):
                places = [builder.add(s, I64(GROUP * group + LANES * w)) for s in starts for group in range(groups)]
                word.store(*(builder.gep(target, [place]) for place in places))
            return context.get_dummy_value()

        unit = types.Tuple([types.int64, types.UniTuple(types.uint32, 3)])
        return types.void(table, key, types.int64, types.UniTuple(unit, rows), words), codegen

    return draw


_two_groups_of_words, _two_rows_of_words = _words_of(1, 2), _words_of(2, 1)


@kernel()
def rounds_of_a_row(sample, plane, key):
    """Two rounds of what all counters of a row have alike: (xor to the first vector, to the third, last word)."""
    product = u64(plane) * u64(MULTIPLIERS[1])
    c0 = u32(u32(product >> u64(32)) ^ sample ^ u32(key[0]))
    c1 = u32(product)
    product = u64(c0) * u64(MULTIPLIERS[0])
    return u32(c1 ^ u32(key[2])), u32(u32(product >> u64(32)) ^ u32(key[3])), u32(product)


@kernel()
def draw_words(rows, start, count, place, key, table, words):
    """Words (count or more, columns) int32 of rows from number `start` on: those of column j are for its normal.

    place = (plane, read); see `philox.noisy`. The last number of `table` says whose vectors it holds: -1 for none.
    """
    positions = rows.positions.shape[0]
    done = start // positions
    p = start - done * positions
    whose = u32(rows.first_sample + u64(done))
    columns = words.shape[1]
    groups = columns // GROUP
    end = table.shape[0] - 1
    flat = words.reshape(-1)
    odd = i64(TABLE * (groups - 1))
    last = i64(0), (u32(0), u32(0), u32(0))
    waiting = False
    for m in range(count):
        first, sample, plane, read = counter_of(whose, rows.positions[p], place)
        p += 1
        if p == positions:
            p = 0
            whose = u32(whose + u32(1))
        if table[end] != i32(first):
            if waiting:
                _two_rows_of_words(table, key, odd, (last, last), flat)
                waiting = False
            for group in range(groups):
                _begin(u32(u32(LANES * group) | first), read, key, table, i64(TABLE * group))
            table[end] = i32(first)
        shared = rounds_of_a_row(sample, plane, key)
        at = i64(m * columns)
        for group in range(0, groups - 1, 2):
            _two_groups_of_words(table, key, i64(TABLE * group), ((at + GROUP * group, shared),), flat)
        if groups % 2:
            this = i64(at + GROUP * (groups - 1)), shared
            if waiting or m == count - 1:
                _two_rows_of_words(table, key, odd, (last if waiting else this, this), flat)
            last = this
            waiting = not waiting


def _readings_of(gains: bool, rows: int, groups: int) -> Any:
    """Readings of so many groups of each of so many rows, compiled for a gain that has noise or for one without."""

    @intrinsic
    def make(typingctx: Any, given: Any, units: Any, column: Any, numbers: Any) -> Any:
        """From `column` on; given = (currents, variance, floor, words, weights, before, out, counts).

        Each of `units` = (rows of `given`, (extra, taken off)), numbers = (unit, variance unit, gain, inverse, centre,
        low, high, step) float32. Clipped readings are taken off the counts (rows, GROUP).
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds, values = signature.args[0], cgutils.unpack_tuple(builder, args[0])
            arrays = [
                context.make_array(kind)(context, builder, each) for kind, each in zip(kinds, values, strict=True)
            ]
            starts, own = [], []
            for unit in cgutils.unpack_tuple(builder, args[1]):
                lines, offsets = (cgutils.unpack_tuple(builder, part) for part in cgutils.unpack_tuple(builder, unit))
                own.append([Lanes.spread(builder, value, LANES * groups) for value in offsets])
                begun = []
                for number, (array, line) in enumerate(zip(arrays, lines, strict=True)):
                    behind = builder.mul(line, cgutils.unpack_tuple(builder, array.shape)[-1])
                    first = I64(0) if number == len(arrays) - 1 else args[2]
                    begun.append(builder.gep(builder.gep(array.data, [behind]), [first]))
                starts += [(*(builder.gep(b, [I64(GROUP * g)]) for b in begun[:-1]), begun[-1]) for g in range(groups)]
            currents, variance, floor, words, weights, before, out, counts = zip(*starts, strict=True)
            extra, taken_off = (Lanes.joined(2 * list(each)) for each in zip(*own, strict=True))
            unit, variance_unit, gain, inverse, centre, low, high, step = cgutils.unpack_tuple(builder, args[3])

            def pointers(of: Any, side: int) -> list[Any]:
                return [builder.gep(begin, [I64(LANES * (2 * half + side))]) for half in range(2) for begin in of]

            def loaded(of: Any, side: int) -> Lanes:
                return Lanes.load(builder, *pointers(of, side))

            squared_radius = minus_two_log(loaded(words, 0))
            for side, component in enumerate(direction(loaded(words, 1))):
                mean = loaded(currents, side) * unit
                total = loaded(variance, side).fma(variance_unit, loaded(floor, side) + extra)
                if gains:
                    total = (mean * mean).fma(gain, total)
                reading = component.fma((total * squared_radius).sqrt(), mean)
                code = (reading * inverse - centre).nearest()
                inside = code.clipped(low, high)
                value = (inside + centre) * step - taken_off
                (loaded(before, side) + loaded(weights, side) * value).store(*pointers(out, side))
                outside = code.differs(inside)
                for part, pointer in enumerate(pointers(counts, side)):
                    mine = outside.shuffled(range(LANES * part, LANES * (part + 1)))
                    (Lanes.load(builder, pointer) + mine).store(pointer)
            return context.get_dummy_value()

        unit = types.Tuple([types.UniTuple(types.int64, 8), types.UniTuple(types.float32, 2)])
        return types.void(given, types.UniTuple(unit, rows), types.int64, numbers), codegen

    return make


_two_groups, _two_rows = _readings_of(False, 1, 2), _readings_of(False, 2, 1)
_two_groups_gained, _two_rows_gained = _readings_of(True, 1, 2), _readings_of(True, 2, 1)


@kernel()
def add_readings(given, factors, adc, offsets, place, where, key, buffers, bias, out):
    """Readings of currents, added to the rows of out (rows, outputs) from `place.start` on; returns the clipped ones.

    given = (currents, variance, floor), factors and where = (plane, read) as in `philox.noisy`; adc = (step, low, high,
    centre) as in `adc.digitise`. offsets = (extra, pedestal): extra (rows,) or one for all, pedestal (rows,) or (0,).
    buffers = (words, table, weights (1, columns), what an output becomes for a reading). Where `bias` (outputs,) is not
    empty, it is what outputs are before. Outputs are whole groups, and all arrays contiguous.
    """
    currents, variance, floor = given
    words, table, weights = buffers
    extra, pedestal = offsets
    step, low, high, centre = adc
    gained = factors[2] > f32(0.0)
    numbers = factors[0], factors[1], factors[2], f32(1.0) / step, centre, low, high, step
    rows, outputs = currents.shape[0], out.shape[1]
    groups = outputs // GROUP
    fresh = bias.shape[0] > 0
    before = bias.reshape(1, outputs) if fresh else out
    counts = np.zeros((2, GROUP), np.int32)  # of readings, and of those that are made for nothing
    arrays = currents, variance, floor, words, weights, before, out, counts
    end = i64(GROUP * (groups - 1))
    zero = i64(0)
    last = (zero, zero, zero, zero, zero, zero, zero, zero), (f32(0.0), f32(0.0))
    table[table.shape[0] - 1] = -1
    for begun in range(0, rows, words.shape[0]):
        ended = min(rows, begun + words.shape[0])
        draw_words(place.rows, place.start + begun, ended - begun, where, key, table, words)
        for m in range(begun, ended):
            own = extra[min(m, extra.shape[0] - 1)], pedestal[m] if pedestal.shape[0] > 0 else f32(0.0)
            to, of = i64(place.start + m), i64(min(m, variance.shape[0] - 1))
            old = zero if fresh else to
            this = (i64(m), of, zero, i64(m - begun), zero, old, to, zero), own
            for group in range(0, groups - 1, 2):
                if gained:
                    _two_groups_gained(arrays, (this,), i64(GROUP * group), numbers)
                else:
                    _two_groups(arrays, (this,), i64(GROUP * group), numbers)
            if groups % 2:
                one = (m - begun) % 2 == 0
                if one and m == ended - 1:  # a row without another is made twice, and counted once
                    last = (i64(m), of, zero, i64(m - begun), zero, old, to, i64(1)), own
                    one = False
                if not one:
                    if gained:
                        _two_rows_gained(arrays, (last, this), end, numbers)
                    else:
                        _two_rows(arrays, (last, this), end, numbers)
                last = this
    clipped = 0
    for i in range(GROUP):
        clipped -= int(counts[0, i])
    return clipped
