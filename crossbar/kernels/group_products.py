"""Products of many small groups of a matrix: several groups side by side in one vector.

A panel (`panel.py`) multiplies one input by 16 columns, which have it in common. Groups have inputs of their own: where
they have few columns, most of a panel would be empty. Here each lane of a vector is a group, and has its input. The
columns of a group take it one after the other. The inputs are laid out for that once, for all places of the kernel, and
a step of the product takes them at another.
Sums are those of `panel.py`: exact in integers, and in float32 term by term in the order of the word lines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import I64, LANES, Lanes
from .panel import PANEL, ROWS, fused_multiply_add, multiply_pairs_add

f32, i32, i64 = np.float32, np.int32, np.int64


class Steps(NamedTuple):
    """The steps of the product, row tile by row tile: see `Lanes`.

    A step adds a pair of word lines in integers, one in float32.
    """

    place: np.ndarray[Any, Any]  # (steps, 4) int64: kernel depth, height and width, and which channel or pair of them
    taken: np.ndarray[Any, Any]  # (steps, 2) bool: which of the two word lines are of the row tile
    edges: np.ndarray[Any, Any]  # (row tiles + 1,) int64: first step of each row tile


def _block_of(rows: int, columns: int, lanes: int, at_once: int = 0, *, alike: bool = False) -> Any:
    """The product of so many rows with `columns` vectors of weights, whose inputs are a vector, or `alike`: a number.

    Rows beyond the last are the last one. Sums take registers: so many columns are multiplied `at_once` (0: all).
    """
    at_once = at_once or columns
    integer, floats = ir.IntType(32), ir.VectorType(ir.FloatType(), lanes)

    @intrinsic
    def multiply(typingctx: Any, image: Any, starts: Any, offsets: Any, weights: Any, out: Any, place: Any) -> Any:
        """What `multiply_lanes` says, for place = (m, last row, column, shift, first, last step, constant).

        Inputs are `shift` behind their starts. The number `constant` of the image is multiplied by the weights behind
        those of the last step; none below 0.
        """
        integers = image.dtype == types.int16
        vector = ir.VectorType(integer, lanes) if integers else floats
        multiply_add = multiply_pairs_add if integers else fused_multiply_add

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                context.make_array(k)(context, builder, a) for k, a in zip(signature.args[:5], args, strict=False)
            ]
            pixels, begins, steps, panel, target = (array.data for array in arrays)
            m, final, column, shift, first, last, constant = cgutils.unpack_tuple(builder, args[5])
            one = builder.bitcast(pixels, vector.element.as_pointer())  # a pair of int16 travels as an int32
            panel = builder.bitcast(panel, vector.as_pointer())
            places = [builder.add(m, I64(r)) for r in range(rows)]
            places = [builder.select(builder.icmp_signed("<", p, final), p, final) for p in places]
            bases = [builder.load(builder.gep(begins, [p])) for p in places]
            bases = [builder.gep(one, [builder.add(base, shift)]) for base in bases]
            zeros = ir.Constant(vector, [0 if integers else 0.0] * lanes)
            sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(columns)] for _ in range(rows)]

            def spread(pointer: Any) -> Any:
                """The number there in all lanes."""
                return Lanes.spread(builder, builder.load(pointer, align=2), lanes).value

            def add(value: Any, weight: Any, total: Any) -> None:
                builder.store(multiply_add(builder, value, weight, builder.load(total)), total)

            def weights_of(step: Any, some: range) -> list[Any]:
                start = builder.mul(step, I64(columns))
                return [builder.load(builder.gep(panel, [builder.add(start, I64(c))]), align=4) for c in some]

            for c in range(0, columns, at_once):
                now = range(columns)[c : c + at_once]
                with cgutils.for_range_slice(builder, first, last, I64(1)) as (k, _):
                    offset = builder.load(builder.gep(steps, [k]))
                    found = weights_of(k, now)
                    for base, totals in zip(bases, sums, strict=True):
                        taken = builder.gep(base, [offset])
                        if alike:
                            value = spread(taken)
                        else:
                            value = builder.load(builder.bitcast(taken, vector.as_pointer()), align=2)
                        for weight, column_of in zip(found, now, strict=True):
                            add(value, weight, totals[column_of])
            with cgutils.if_unlikely(builder, builder.icmp_signed(">=", constant, I64(0))):
                value = spread(builder.gep(one, [constant]))
                behind = cgutils.unpack_tuple(builder, arrays[2].shape)[0]  # all steps
                found = weights_of(behind, range(columns))
                for totals in sums:
                    for weight, total in zip(found, totals, strict=True):
                        add(value, weight, total)
            width = cgutils.unpack_tuple(builder, arrays[4].shape)[1]
            for p, totals in zip(places, sums, strict=True):
                values = [builder.load(total) for total in totals]
                each = [Lanes(builder, builder.sitofp(v, floats) if integers else v) for v in values]
                start = builder.add(builder.mul(p, width), column)
                for k, some in enumerate(_in_turn(each)):
                    pointer = builder.gep(target, [builder.add(start, I64(k * lanes))])
                    builder.store(some.value, builder.bitcast(pointer, floats.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(image, starts, offsets, weights, out, place), codegen

    return multiply


def _in_turn(vectors: list[Lanes]) -> list[Lanes]:
    """Vectors with lane 0 of each, then lane 1 of each, and so on."""
    if len(vectors) == 1:
        return vectors
    count, lanes = len(vectors), vectors[0].count
    whole = Lanes.joined(vectors + [vectors[0]] * (-count % 2))
    return [
        whole.shuffled(e % count * lanes + e // count for e in range(k * lanes, (k + 1) * lanes)) for k in range(count)
    ]


_lanes_1, _lanes_2 = _block_of(6, 1, PANEL), _block_of(5, 2, LANES)  # as many sums as registers hold
_lanes_3, _lanes_4 = _block_of(3, 3, LANES), _block_of(5, 4, LANES, 2)
_alike_6, _alike_1 = _block_of(ROWS, 1, PANEL, alike=True), _block_of(1, 1, PANEL, alike=True)


@kernel()
def block_of(columns):
    """Groups of so many columns that lie side by side, each in a lane of its own."""
    return PANEL if columns == 1 else LANES


@kernel()
def multiply_lanes(image, starts, offsets, weights, steps, constant, out):
    """out[m, j] = sum over steps = (first, last) of image[starts[m] + offset + lane of j] times weights.

    image is flat; weights (blocks, all steps + 1, columns of a group, groups of a block; times 2 in int16), of the
    type of the image; out (rows, columns of all groups), contiguous, with room for
    whole blocks. Where `constant` is 0 or more, that number of the image is multiplied by the last of the weights and
    added.
    """
    columns, last = weights.shape[2], i64(out.shape[0] - 1)
    lanes = block_of(columns)
    for b in range(weights.shape[0]):
        block, lane = weights[b], i64(b * lanes)
        where = i64(b * lanes * columns), lane, steps[0], steps[1], constant
        if columns == 1:
            for m in range(0, last + 1, 6):
                _lanes_1(image, starts, offsets, block, out, (m, last, *where))
        elif columns == 2:
            for m in range(0, last + 1, 5):
                _lanes_2(image, starts, offsets, block, out, (m, last, *where))
        elif columns == 3:
            for m in range(0, last + 1, 3):
                _lanes_3(image, starts, offsets, block, out, (m, last, *where))
        else:
            for m in range(0, last + 1, 5):
                _lanes_4(image, starts, offsets, block, out, (m, last, *where))


@kernel()
def multiply_alike(image, starts, offsets, panels, shift, steps, constant, column, out):
    """out[m, column:] = sum over steps = (first, last) of image[starts[m] + shift + offset] times packed panels.

    panels (panels, steps or more, ...) of `panel.py`; `out` and `constant` as in `multiply_lanes`, whose weights are
    behind those of all steps.
    """
    rows, last = out.shape[0], i64(out.shape[0] - 1)
    whole = rows // ROWS * ROWS
    for p in range(panels.shape[0]):
        panel, where = panels[p], (i64(column + p * PANEL), shift, steps[0], steps[1], constant)
        for m in range(0, whole, ROWS):
            _alike_6(image, starts, offsets, panel, out, (m, last, *where))
        for m in range(whole, rows):
            _alike_1(image, starts, offsets, panel, out, (m, last, *where))


@kernel()
def squared_lanes(image, starts, offsets, taken, steps, constant, factor, lanes, out):
    """out[m, j] = factor[j] times the sum of the squared inputs of steps = (first, last), as `digits.row_squares`.

    The image has so many `lanes`, each of some columns of out.
    """
    integers, groups = image.itemsize == 2, lanes
    columns = max(1, factor.shape[0] // groups)
    exact, total = np.empty(groups, np.int64), np.empty(groups, np.float32)
    for m in range(out.shape[0]):
        exact[:], total[:] = 0, f32(0)
        for k in range(steps[0], steps[1]):
            start = starts[m] + offsets[k]
            if integers:
                values = image[2 * start : 2 * (start + groups)]
                one, other = i32(taken[k, 0]), i32(taken[k, 1])
                for j in range(groups):
                    a, b = one * i32(values[2 * j]), other * i32(values[2 * j + 1])
                    exact[j] += i64(a) * i64(a) + i64(b) * i64(b)
            else:
                for j in range(groups):
                    total[j] += image[start + j] * image[start + j]
        if constant >= 0:
            value = image[(2 if integers else 1) * constant]
            for j in range(groups):
                exact[j] += i64(value) * i64(value)
                total[j] += f32(value) * f32(value)
        for j in range(factor.shape[0]):
            g = j // columns
            out[m, j] = (f32(exact[g]) if integers else total[g]) * factor[j]
