"""Noise of many groups of a matrix at once: each column draws from the stream of its own group.

The numbers are those of `philox.add_noise`, one group after the other. There a vector of counters serves 32 columns of
one stream; where groups have few columns, most of its normals would be for none. Here a vector holds counters of
several streams, and only those words are made that a column takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import I64, LANES, Lanes
from .philox import GROUP, MULTIPLIERS, ROUNDS, counter_of, direction, minus_two_log, products, xor

f32, i32, i64, u32, u64 = np.float32, np.int32, np.int64, np.uint32, np.uint64
WORDS = GROUP // LANES  # normals of a counter


class Streams(NamedTuple):
    """Vectors of LANES counters, and which columns take their normals.

    The normal w of lane i of vector v is for the column `column[v]` + LANES w + i, for w below `parts[v]`.
    """

    keys: np.ndarray[Any, Any]  # (vectors, 2 ROUNDS, LANES) int32: round keys of the stream of each lane; see `_words`
    lanes: np.ndarray[Any, Any]  # (vectors, LANES) int32: block of each lane, the low part of its counter
    column: np.ndarray[Any, Any]  # (vectors,) int64
    parts: np.ndarray[Any, Any]  # (vectors,) int64


def _words(blocks: list[Lanes], rest: Any, keys: Any, count: int) -> list[list[Lanes]]:
    """The first `count` (2 or 4) words (int32) of counters (block, *rest) of several rows: for each row its words.

    rest (int32 scalars) are what all lanes of a row share. What is shared is computed once, and what no word needs not
    at all; the rows go step by step together, as each step waits for the one before. The second key of each round has
    its lanes exchanged, as those words have that it is for: see `philox.philox4x32`.
    """
    builder = blocks[0].builder
    states = [[block, *more] for block, more in zip(blocks, rest, strict=True)]
    for i in range(ROUNDS):
        k0, k1 = (Lanes.load(builder, builder.gep(keys, [I64(LANES * (2 * i + part))])) for part in range(2))
        second = [products(builder, c[2], MULTIPLIERS[1]) for c in states]
        if i == ROUNDS - 1 and count == 2:
            return [[xor(builder, high, c[1]) ^ k0, low] for (high, low), c in zip(second, states, strict=True)]
        first = [products(builder, c[0], MULTIPLIERS[0]) for c in states]
        states = [
            [xor(builder, k0, xor(builder, high1, c[1])), low1, xor(builder, k1, xor(builder, high0, c[3])), low0]
            for (high0, low0), (high1, low1), c in zip(first, second, states, strict=True)
        ]
    return [[c[0], c[1], c[2].exchanged(), c[3].exchanged()] for c in states]


def _noise_of(parts: int) -> Any:
    """The noise of one vector in some rows together, compiled for so many normals of each counter."""

    @intrinsic
    def noise(typingctx: Any, arrays: Any, streams: Any, place: Any, gain: Any, counters: Any) -> Any:
        """arrays = (signal, variance, extra, floor, unit, variance_unit); see `add_group_noise`.

        streams = (keys, lanes); place = (*rows, first column, vector); some of the rows may be the same. `variance` and
        `extra` may be of one row for all. counters (rows, 4) int32.
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
                    for noisy, pointer in found:  # behind all loads: rows may be the same
                        noisy.store(pointer)
            return context.get_dummy_value()

        return types.void(arrays, streams, place, gain, counters), codegen

    return noise


_noise_1, _noise_2, _noise_3, _noise_4 = (_noise_of(parts) for parts in range(1, WORDS + 1))


@kernel()
def counters_of(rows, start, where, out):
    """The first counters (rows, 4) int32 of rows from `start` on; where = (plane, read)."""
    count = rows.positions.shape[0]
    done = start // count
    p = start - done * count
    whose = u32(rows.first_sample + u64(done))
    for m in range(out.shape[0]):
        c0, c1, c2, c3 = counter_of(whose, rows.positions[p], where)
        out[m, 0], out[m, 1], out[m, 2], out[m, 3] = i32(c0), i32(c1), i32(c2), i32(c3)
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
        column, parts = streams.column[v] - first_column, streams.parts[v]
        if parts == 1:
            for m in range(0, rows, 4):  # each step of a normal waits for the one before: four are 1.4 times as fast
                four = m, min(m + 1, rows - 1), min(m + 2, rows - 1), min(m + 3, rows - 1)
                _noise_1(arrays, of_lanes, (*four, column, v), gain, counters)
        elif parts == 2:
            for m in range(0, rows, 2):
                _noise_2(arrays, of_lanes, (m, min(m + 1, rows - 1), column, v), gain, counters)
        elif parts == 3:
            for m in range(0, rows, 2):
                _noise_3(arrays, of_lanes, (m, min(m + 1, rows - 1), column, v), gain, counters)
        else:
            for m in range(0, rows, 2):
                _noise_4(arrays, of_lanes, (m, min(m + 1, rows - 1), column, v), gain, counters)


@kernel()
def give_keys(of_lanes, lane, keys):
    """Round keys (2 ROUNDS,) to a lane of (2 ROUNDS, LANES), the second ones to that which it is exchanged with."""
    k = lane % 4
    other = lane - k + (3 - k if k == 1 or k == 2 else k)
    for i in range(0, keys.shape[0], 2):
        of_lanes[i, lane] = i32(keys[i])
        of_lanes[i + 1, other] = i32(keys[i + 1])


@kernel()
def streams_of(keys, columns, pitch):
    """Streams for groups of so many columns, each group `pitch` columns behind the one before.

    keys (groups, 2 ROUNDS) int64. Groups of up to LANES columns are close together: pitch = columns.
    """
    groups = keys.shape[0]
    each = (columns + GROUP - 1) // GROUP
    vectors = (groups * columns + LANES - 1) // LANES if columns <= LANES else groups * each
    of_lanes = np.zeros((vectors, 2 * ROUNDS, LANES), np.int32)
    lanes, column = np.zeros((vectors, LANES), np.int32), np.empty(vectors, np.int64)
    parts = np.ones(vectors, np.int64)
    for v in range(vectors):
        if columns <= LANES:
            column[v] = LANES * v
            for i in range(LANES):
                g = (LANES * v + i) // columns
                if g < groups:
                    give_keys(of_lanes[v], i, keys[g])
                    lanes[v, i] = LANES * v + i - g * columns
        else:
            g, block = v // each, v % each
            column[v] = g * pitch + GROUP * block
            parts[v] = (min(columns - GROUP * block, GROUP) + LANES - 1) // LANES
            for i in range(LANES):
                give_keys(of_lanes[v], i, keys[g])
                lanes[v, i] = LANES * block + i
    return Streams(of_lanes, lanes, column, parts)
