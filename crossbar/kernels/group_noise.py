"""Noise of many groups of a matrix at once: each column draws from the stream of its own group.

The numbers are those of `philox.add_noise`, one group after the other. There a vector of counters serves 32 columns of
one stream; where groups have few columns, most of its normals would be for none. Here a vector holds counters of
several streams, and only those words are made that a column takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import I32, I64, LANES, Lanes
from .philox import GROUP, MULTIPLIERS, ROUNDS, WORD, counter_of, direction, minus_two_log

f32, i64, u32, u64 = np.float32, np.int64, np.uint32, np.uint64
WORDS = GROUP // LANES  # normals of a counter


class Streams(NamedTuple):
    """Vectors of LANES counters, and which columns take their normals.

    The normal w of lane i of vector v is for the column `column[v]` + LANES w + i, for w below `parts[v]`.
    """

    keys: np.ndarray[Any, Any]  # (vectors, 2 ROUNDS, LANES) int64: round keys of the stream of each lane
    lanes: np.ndarray[Any, Any]  # (vectors, LANES) int64: block of each lane, the low part of its counter
    column: np.ndarray[Any, Any]  # (vectors,) int64
    parts: np.ndarray[Any, Any]  # (vectors,) int64


def _low(words: Lanes) -> Lanes:
    """The low 32 bits of int64."""
    return Lanes(words.builder, words.builder.trunc(words.value, ir.VectorType(I32, LANES)))


def _words(blocks: list[Lanes], rest: Any, keys: Any, count: int) -> list[list[Lanes]]:
    """The first `count` (2 or 4) words (int32) of counters (block, *rest) of several rows: for each row its words.

    rest (int64 scalars) are what all lanes of a row share. What is shared is computed once, and what no word needs not
    at all; the rows go step by step together, as each step waits for the one before.
    """
    builder = blocks[0].builder

    def of_round(i: int) -> tuple[Lanes, Lanes]:
        pair = (builder.gep(keys, [I64(LANES * (2 * i + part))]) for part in range(2))
        return tuple(Lanes.load(builder, pointer) for pointer in pair)  # type: ignore[return-value]

    def spread(scalar: Any) -> Lanes:
        return Lanes.spread(builder, scalar)

    k0, k1 = of_round(0)
    states = []
    for block, (c1, c2, c3) in zip(blocks, rest, strict=True):
        p0, p1 = (block & WORD) * MULTIPLIERS[0], builder.mul(c2, I64(MULTIPLIERS[1]))
        low, high = builder.and_(p1, I64(WORD)), builder.lshr(p1, I64(32))
        states.append([spread(builder.xor(high, c1)) ^ k0, spread(low), (p0 >> 32) ^ spread(c3) ^ k1, p0])
    for i in range(1, ROUNDS):
        k0, k1 = of_round(i)
        second = [(c[2] & WORD) * MULTIPLIERS[1] for c in states]
        if i == ROUNDS - 1 and count == 2:
            return [[_low(word) for word in ((p1 >> 32) ^ c[1] ^ k0, p1)] for p1, c in zip(second, states, strict=True)]
        first = [(c[0] & WORD) * MULTIPLIERS[0] for c in states]
        states = [
            [(p1 >> 32) ^ c[1] ^ k0, p1, (p0 >> 32) ^ c[3] ^ k1, p0]
            for p0, p1, c in zip(first, second, states, strict=True)
        ]
    return [[_low(word) for word in c] for c in states]


def _noise_of(parts: int) -> Any:
    """The noise of one vector in two rows together, compiled for so many normals of each counter."""

    @intrinsic
    def noise(typingctx: Any, arrays: Any, streams: Any, place: Any, gain: Any, counters: Any) -> Any:
        """arrays = (signal, variance, extra, floor, unit, variance_unit); see `add_group_noise`.

        streams = (keys, lanes); place = (one row, another or the same, first column, vector). `variance` and `extra`
        may be of one row for all. counters (rows, 4) int64.
        """

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def opened(kinds: Any, values: Any) -> list[Any]:
                each = cgutils.unpack_tuple(builder, values)
                return [context.make_array(k)(context, builder, a) for k, a in zip(kinds, each, strict=True)]

            work, (keys, lanes) = opened(signature.args[0], args[0]), opened(signature.args[1], args[1])
            numbers = context.make_array(signature.args[4])(context, builder, args[4])
            *rows, column, vector = cgutils.unpack_tuple(builder, args[2])
            spread_gain, one = Lanes.spread(builder, args[3]), I64(1)

            def start(array: Any, row: Any) -> Any:
                """Of the columns in a row, or in the only one."""
                many, width = cgutils.unpack_tuple(builder, array.shape)
                row = builder.select(builder.icmp_signed("==", many, one), I64(0), row)
                return builder.gep(array.data, [builder.add(column, builder.mul(row, width))])

            shared = [builder.gep(array.data, [column]) for array in work[3:]]
            lane = Lanes.load(builder, builder.gep(lanes.data, [builder.mul(vector, I64(LANES))]))
            own = builder.gep(keys.data, [builder.mul(vector, I64(2 * ROUNDS * LANES))])
            read = [
                [
                    builder.load(builder.gep(numbers.data, [builder.add(builder.mul(r, I64(4)), I64(w))]))
                    for w in range(4)
                ]
                for r in rows
            ]
            blocks = [lane ^ Lanes.spread(builder, counter[0]) for counter in read]
            drawn = _words(blocks, [counter[1:] for counter in read], own, 2 if parts <= 2 else 4)
            for half in range((parts + 1) // 2):
                radii = [minus_two_log(words[2 * half]) for words in drawn]
                sides = [direction(words[2 * half + 1]) for words in drawn]
                for side in range(min(2, parts - 2 * half)):
                    offset = [I64(LANES * (2 * half + side))]
                    base, unit, variance_unit = (Lanes.load(builder, builder.gep(s, offset)) for s in shared)
                    found = []
                    for r, squared_radius, components in zip(rows, radii, sides, strict=True):
                        pointers = [builder.gep(start(array, r), offset) for array in work[:3]]
                        raw, cells, more = (Lanes.load(builder, p) for p in pointers)
                        mean = raw * unit
                        total = (mean * mean).fma(spread_gain, cells.fma(variance_unit, base + more))
                        found.append((components[side].fma((total * squared_radius).sqrt(), mean), pointers[0]))
                    for noisy, pointer in found:  # behind both loads: the rows may be the same
                        noisy.store(pointer)
            return context.get_dummy_value()

        return types.void(arrays, streams, place, gain, counters), codegen

    return noise


_noise_1, _noise_2, _noise_3, _noise_4 = (_noise_of(parts) for parts in range(1, WORDS + 1))


@kernel()
def counters_of(rows, start, where, out):
    """The first counters (rows, 4) int64 of rows from `start` on; where = (plane, read)."""
    count = rows.positions.shape[0]
    done = start // count
    p = start - done * count
    whose = u32(rows.first_sample + u64(done))
    for m in range(out.shape[0]):
        c0, c1, c2, c3 = counter_of(whose, rows.positions[p], where)
        out[m, 0], out[m, 1], out[m, 2], out[m, 3] = c0, c1, c2, c3
        p += 1
        if p == count:
            p = 0
            whose = u32(whose + u32(1))


@kernel()
def add_group_noise(signal, variance, extra, tables, gain, streams, vectors, first_column, counters):
    """`philox.add_noise` for the columns of vectors = (first, behind the last) of `streams`.

    signal (rows, columns) are those from `first_column` on; so are variance and extra (rows, columns), or one row for
    all, and tables = (floor, unit, variance_unit), each (columns,). counters (rows, 4): see `counters_of`.
    """
    floor, unit, variance_unit = tables
    arrays = signal, variance, extra, floor, unit, variance_unit
    of_lanes = streams.keys, streams.lanes
    rows = signal.shape[0]
    for v in range(vectors[0], vectors[1]):
        column, parts = streams.column[v], streams.parts[v]
        for m in range(0, rows, 2):
            place = m, min(m + 1, rows - 1), column - first_column, v
            if parts == 1:
                _noise_1(arrays, of_lanes, place, gain, counters)
            elif parts == 2:
                _noise_2(arrays, of_lanes, place, gain, counters)
            elif parts == 3:
                _noise_3(arrays, of_lanes, place, gain, counters)
            else:
                _noise_4(arrays, of_lanes, place, gain, counters)


@kernel()
def streams_of(keys, columns, pitch):
    """Streams for groups of so many columns, each group `pitch` columns behind the one before.

    keys (groups, 2 ROUNDS) int64. Groups of up to LANES columns are close together: pitch = columns.
    """
    groups = keys.shape[0]
    each = (columns + GROUP - 1) // GROUP
    vectors = (groups * columns + LANES - 1) // LANES if columns <= LANES else groups * each
    of_lanes = np.zeros((vectors, 2 * ROUNDS, LANES), np.int64)
    lanes, column = np.zeros((vectors, LANES), np.int64), np.empty(vectors, np.int64)
    parts = np.ones(vectors, np.int64)
    for v in range(vectors):
        if columns <= LANES:
            column[v] = LANES * v
            for i in range(LANES):
                g = (LANES * v + i) // columns
                if g < groups:
                    of_lanes[v, :, i] = keys[g]
                    lanes[v, i] = LANES * v + i - g * columns
        else:
            g, block = v // each, v % each
            column[v] = g * pitch + GROUP * block
            parts[v] = (min(columns - GROUP * block, GROUP) + LANES - 1) // LANES
            for i in range(LANES):
                of_lanes[v, :, i] = keys[g]
                lanes[v, i] = LANES * block + i
    return Streams(of_lanes, lanes, column, parts)
