"""Matrix products with sums in a fixed order: the same bits whatever the batch, the threads or the processor.

A BLAS changes the order of its sums with the shape of the matrices and with the number of threads, so it cannot promise
the same bits twice. Here the unit of work is a block of up to 6 x PANEL outputs held in vector registers, and each
output adds its terms one after another. There are two kinds of it. In float32 each step is a fused multiply-add (IEEE
754-2008, one rounding), which all processors agree on. In int16 each step multiplies two pairs and adds both products
in int32: exact in any order, and one instruction (pmaddwd) where the processor has it; the code says what is meant, and
the compiler finds the instruction or does without.

Matrices are packed once: (depth, columns) becomes (panels, depth, PANEL) in float32, or (panels, depth / 2, 2 PANEL) in
int16 with the two of a pair side by side; columns are padded with zeros.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel

ROWS = 6  # rows processed together; those left over go by 2 and by 1
PANEL = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_FLOATS = ir.VectorType(_F32, PANEL)
_SUMS = ir.VectorType(_I32, PANEL)
_SPREAD = ir.Constant(_SUMS, [0] * PANEL)  # a shuffle that copies lane 0 to all


@kernel()
def pack_rows(matrix, factor, first, panels):
    """Rows (rows, columns) float32 times `factor` into packed panels, from row `first` on; int16 are rounded."""
    integers = panels.shape[2] == 2 * PANEL
    for r in range(matrix.shape[0]):
        for p in range(panels.shape[0]):
            row = first + r
            width = min(PANEL, matrix.shape[1] - p * PANEL)
            if integers:
                pairs = panels[p, row >> 1]
                for j in range(width):
                    pairs[2 * j + (row & 1)] = np.rint(matrix[r, p * PANEL + j] * factor)
            else:
                for j in range(width):
                    panels[p, row, j] = matrix[r, p * PANEL + j] * factor


def unpack(panels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Panels back to (depth, columns), the padding of the columns included."""
    if panels.dtype == np.int16:
        count, half, _ = panels.shape
        return panels.reshape(count, half, PANEL, 2).transpose(1, 3, 0, 2).reshape(2 * half, count * PANEL)
    return panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)


def fused_multiply_add(builder: Any, value: Any, weights: Any, total: Any) -> Any:
    """total + value weights, vectors of float32, in one rounding."""
    kind = total.type
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fma.v{kind.count}f32"
    )
    return builder.call(fma, [value, weights, total])


def multiply_pairs_add(builder: Any, value: Any, weights: Any, total: Any) -> Any:
    """total (int32) + both products of each pair of int16; pairs travel as int32."""
    count = total.type.count
    pairs, wide = ir.VectorType(ir.IntType(16), 2 * count), ir.VectorType(_I32, 2 * count)
    products = builder.mul(*(builder.sext(builder.bitcast(v, pairs), wide) for v in (value, weights)))
    first, second = (
        builder.shuffle_vector(products, products, ir.Constant(total.type, [2 * i + part for i in range(count)]))
        for part in (0, 1)
    )
    return builder.add(total, builder.add(first, second))


def _block_of(rows: int, count: int) -> Any:
    """The product of a block of so many rows and panels, compiled for these numbers."""

    @intrinsic
    def multiply_block(typingctx: Any, x: Any, panels: Any, out: Any) -> Any:
        """out (rows, count PANEL) float32 = x (rows, depth) @ panels (count, depth, ...), float32 or int16 both."""
        integers = panels.dtype == types.int16
        element, vector = (_I32, _SUMS) if integers else (_F32, _FLOATS)  # an int16 pair travels as an int32
        multiply_add = multiply_pairs_add if integers else fused_multiply_add

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x_array, panel_array, out_array = (
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, args, strict=True)
            )
            depth = cgutils.unpack_tuple(builder, panel_array.shape)[1]

            def pointers(array: Any, number: int, kind: Any) -> list[Any]:
                """To the start of the first `number` parts of an array, apart by its first stride."""
                base = builder.ptrtoint(array.data, context.get_value_type(types.intp))
                stride = cgutils.unpack_tuple(builder, array.strides)[0]
                starts = [builder.add(base, builder.mul(stride, stride.type(m))) for m in range(number)]
                return [builder.inttoptr(start, kind.as_pointer()) for start in starts]

            x_rows, out_rows = pointers(x_array, rows, element), pointers(out_array, rows, _FLOATS)
            panel_starts = pointers(panel_array, count, vector)
            undefined = ir.Constant(vector, ir.Undefined)
            zeros = ir.Constant(vector, [0 if integers else 0.0] * PANEL)
            sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(count)] for _ in range(rows)]

            # one step a turn: of several the compiler adds up the products of int32 first, which costs registers
            with cgutils.for_range(builder, depth) as loop:
                k = loop.index
                weights = [builder.load(builder.gep(start, [k]), align=4) for start in panel_starts]
                for m in range(rows):
                    value = builder.load(builder.gep(x_rows[m], [k]), align=2)
                    first = builder.insert_element(undefined, value, _I32(0))
                    spread = builder.shuffle_vector(first, undefined, _SPREAD)
                    for total, weight in zip(sums[m], weights, strict=True):
                        builder.store(multiply_add(builder, spread, weight, builder.load(total)), total)
            for totals, row in zip(sums, out_rows, strict=True):
                for p, total in enumerate(totals):
                    result = builder.load(total)
                    value = builder.sitofp(result, _FLOATS) if integers else result
                    builder.store(value, builder.gep(row, [ir.IntType(64)(p)]), align=4)
            return context.get_dummy_value()

        return types.void(x, panels, out), codegen

    return multiply_block


_block_6x1, _block_2x2, _block_2x1, _block_1x4, _block_1x1 = itertools.starmap(
    _block_of, [(ROWS, 1), (2, 2), (2, 1), (1, 4), (1, 1)]
)


@kernel()
def multiply_panels(x, panels, out):
    """out (m, panels * PANEL or more) float32 = x (m, depth) @ the packed matrix, both float32 or both int16.

    Columns of `out` behind the panels stay as they are. The caller sees to it that int32 sums of int16 products do not
    overflow. Fewer than ROWS rows take several panels at a time, so that enough sums are under way at once.
    """
    rows, count = x.shape[0], panels.shape[0]
    sixes = rows // ROWS * ROWS
    twos = rows // 2 * 2
    for p in range(count):
        for m in range(0, sixes, ROWS):
            _block_6x1(x[m : m + ROWS], panels[p : p + 1], out[m : m + ROWS, p * PANEL :])
    for m in range(sixes, twos, 2):
        for p in range(0, count // 2 * 2, 2):
            _block_2x2(x[m : m + 2], panels[p : p + 2], out[m : m + 2, p * PANEL :])
        if count % 2:
            _block_2x1(x[m : m + 2], panels[count - 1 :], out[m : m + 2, (count - 1) * PANEL :])
    if twos < rows:
        for p in range(0, count // 4 * 4, 4):
            _block_1x4(x[twos:], panels[p : p + 4], out[twos:, p * PANEL :])
        for p in range(count // 4 * 4, count):
            _block_1x1(x[twos:], panels[p:], out[twos:, p * PANEL :])
