"""Matrix products with sums in a fixed order: the same bits whatever the batch, the threads or the processor.

A BLAS changes the order of its sums with the shape of the matrices and with the number of threads, so it cannot promise
the same bits twice. Here the unit of work is a block of ROWS x PANEL outputs held in vector registers, and each output
adds its terms one after another. There are two kinds of it. In float32 each step is a fused multiply-add (IEEE
754-2008, one rounding), which all processors agree on. In int16 each step multiplies two pairs and adds both products
in int32: exact in any order, and one instruction (pmaddwd) where the processor has it; the code says what is meant, and
the compiler finds the instruction or does without.

Matrices are packed once: (depth, columns) becomes (panels, depth, PANEL) in float32, or (panels, depth / 2, 2 PANEL) in
int16 with the two of a pair side by side; columns are padded with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 6
PANEL = 16
UNROLL = 4

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_FLOATS = ir.VectorType(_F32, PANEL)
_SUMS = ir.VectorType(_I32, PANEL)
_PAIRS = ir.VectorType(ir.IntType(16), 2 * PANEL)
_WIDE = ir.VectorType(_I32, 2 * PANEL)
_SPREAD = ir.Constant(_SUMS, [0] * PANEL)  # a shuffle that copies lane 0 to all


def pack(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(depth, columns) to panels: float32 stays so, int16 is packed in pairs, for which depth must be even."""
    depth, columns = matrix.shape
    panels = -(-columns // PANEL)
    padded = np.zeros((depth, panels * PANEL), dtype=matrix.dtype)
    padded[:, :columns] = matrix
    if matrix.dtype == np.int16:
        pairs = padded.reshape(depth // 2, 2, panels, PANEL).transpose(2, 0, 3, 1)
        return np.ascontiguousarray(pairs).reshape(panels, depth // 2, 2 * PANEL)
    return np.ascontiguousarray(padded.reshape(depth, panels, PANEL).transpose(1, 0, 2))


def unpack(panels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Panels back to (depth, columns), the padding of the columns included."""
    if panels.dtype == np.int16:
        count, half, _ = panels.shape
        return panels.reshape(count, half, PANEL, 2).transpose(1, 3, 0, 2).reshape(2 * half, count * PANEL)
    return panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)


def _fused_multiply_add(builder: Any, value: Any, weights: Any, total: Any) -> Any:
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{PANEL}f32"
    )
    return builder.call(fma, [value, weights, total])


def _multiply_pairs_add(builder: Any, value: Any, weights: Any, total: Any) -> Any:
    wide = [builder.sext(builder.bitcast(v, _PAIRS), _WIDE) for v in (value, weights)]
    products = builder.mul(*wide)
    first, second = (
        builder.shuffle_vector(products, products, ir.Constant(_SUMS, [2 * i + part for i in range(PANEL)]))
        for part in (0, 1)
    )
    return builder.add(total, builder.add(first, second))


@intrinsic
def _multiply_block(typingctx: Any, x: Any, panel: Any, out: Any) -> Any:
    """out (ROWS, PANEL) float32 = x (ROWS, depth) @ panel, both float32 or both int16; the last axes are contiguous."""
    integers = panel.dtype == types.int16
    element, vector = (_I32, _SUMS) if integers else (_F32, _FLOATS)  # an int16 pair travels as an int32
    multiply_add = _multiply_pairs_add if integers else _fused_multiply_add

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_array, panel_array, out_array = (
            context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, args, strict=True)
        )
        depth = cgutils.unpack_tuple(builder, panel_array.shape)[0]

        def row_pointers(array: Any, kind: Any) -> list[Any]:
            base = builder.ptrtoint(array.data, context.get_value_type(types.intp))
            stride = cgutils.unpack_tuple(builder, array.strides)[0]
            rows = [builder.add(base, builder.mul(stride, stride.type(m))) for m in range(ROWS)]
            return [builder.inttoptr(row, kind.as_pointer()) for row in rows]

        x_rows, out_rows = row_pointers(x_array, element), row_pointers(out_array, _FLOATS)
        panel_start = builder.bitcast(panel_array.data, vector.as_pointer())
        undefined = ir.Constant(vector, ir.Undefined)
        zeros = ir.Constant(vector, [0 if integers else 0.0] * PANEL)
        sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(ROWS)]

        def step(k: Any) -> None:
            weights = builder.load(builder.gep(panel_start, [k]), align=4)
            for m in range(ROWS):
                value = builder.load(builder.gep(x_rows[m], [k]), align=2)
                first = builder.insert_element(undefined, value, _I32(0))
                spread = builder.shuffle_vector(first, undefined, _SPREAD)
                builder.store(multiply_add(builder, spread, weights, builder.load(sums[m])), sums[m])

        unrolled = builder.udiv(depth, depth.type(UNROLL))
        with cgutils.for_range(builder, unrolled) as loop:
            start = builder.mul(loop.index, depth.type(UNROLL))
            for u in range(UNROLL):
                step(builder.add(start, depth.type(u)))
        done = builder.mul(unrolled, depth.type(UNROLL))
        with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
            step(builder.add(done, loop.index))
        for total, row in zip(sums, out_rows, strict=True):
            result = builder.load(total)
            builder.store(builder.sitofp(result, _FLOATS) if integers else result, row, align=4)
        return context.get_dummy_value()

    return types.void(x, panel, out), codegen


@njit(nogil=True, cache=True)
def multiply_panels(x, panels, out):  # type: ignore[no-untyped-def]
    """out (m, panels * PANEL) float32 = x (m, depth) @ the packed matrix, both float32 or both int16.

    m is a multiple of ROWS. The caller sees to it that int32 sums of int16 products do not overflow.
    """
    for p in range(panels.shape[0]):
        for m in range(0, x.shape[0], ROWS):
            _multiply_block(x[m : m + ROWS], panels[p], out[m : m + ROWS, p * PANEL : (p + 1) * PANEL])
