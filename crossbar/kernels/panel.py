"""Matrix products with sums in a fixed order: every output adds its terms one after another, whatever the batch or the
threads.

A BLAS changes the order of its sums with the shape of the matrices and with the number of threads, so it cannot promise
the same bits twice. Here the unit of work is a block of ROWS x PANEL outputs held in vector registers; each step of the
inner loop is a fused multiply-add (IEEE 754-2008, one rounding), which all processors agree on.

Matrices are packed for it once: (depth, columns) becomes (panels, depth, PANEL), columns padded with zeros.
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
_VECTOR = ir.VectorType(_F32, PANEL)
_I32 = ir.IntType(32)


def pack(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(depth, columns) float32 to panels (ceil(columns / PANEL), depth, PANEL), padded with zeros."""
    depth, columns = matrix.shape
    panels = -(-columns // PANEL)
    padded = np.zeros((depth, panels * PANEL), dtype=np.float32)
    padded[:, :columns] = matrix
    return np.ascontiguousarray(padded.reshape(depth, panels, PANEL).transpose(1, 0, 2))


@intrinsic
def _multiply_block(typingctx: Any, x: Any, panel: Any, out: Any) -> Any:
    """out (ROWS, PANEL) = x (ROWS, depth) @ panel (depth, PANEL); the last axis of each is contiguous."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_array, panel_array, out_array = (
            context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, args, strict=True)
        )
        depth = cgutils.unpack_tuple(builder, panel_array.shape)[0]
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{PANEL}f32"
        )

        def row_pointers(array: Any) -> list[Any]:
            base = builder.ptrtoint(array.data, context.get_value_type(types.intp))
            stride = cgutils.unpack_tuple(builder, array.strides)[0]
            return [
                builder.inttoptr(builder.add(base, builder.mul(stride, stride.type(m))), _F32.as_pointer())
                for m in range(ROWS)
            ]

        x_rows, out_rows = row_pointers(x_array), row_pointers(out_array)
        panel_start = builder.bitcast(panel_array.data, _VECTOR.as_pointer())
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first_lane = ir.Constant(ir.VectorType(_I32, PANEL), [0] * PANEL)
        sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * PANEL)) for _ in range(ROWS)]

        def step(k: Any) -> None:
            weights = builder.load(builder.gep(panel_start, [k]), align=4)
            for m in range(ROWS):
                value = builder.load(builder.gep(x_rows[m], [k]))
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, value, _I32(0)), undefined, first_lane
                )
                builder.store(builder.call(fma, [spread, weights, builder.load(sums[m])]), sums[m])

        unrolled = builder.udiv(depth, depth.type(UNROLL))
        with cgutils.for_range(builder, unrolled) as loop:
            start = builder.mul(loop.index, depth.type(UNROLL))
            for u in range(UNROLL):
                step(builder.add(start, depth.type(u)))
        done = builder.mul(unrolled, depth.type(UNROLL))
        with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
            step(builder.add(done, loop.index))
        for m in range(ROWS):
            target = builder.bitcast(out_rows[m], _VECTOR.as_pointer())
            builder.store(builder.load(sums[m]), target, align=4)
        return context.get_dummy_value()

    return types.void(x, panel, out), codegen


@njit(nogil=True, cache=True)
def multiply_panels(x, panels, out):  # type: ignore[no-untyped-def]
    """out (m, panels * PANEL) = x (m, depth) @ panels (panels, depth, PANEL), all float32; m is a multiple of ROWS."""
    for p in range(panels.shape[0]):
        for m in range(0, x.shape[0], ROWS):
            _multiply_block(x[m : m + ROWS], panels[p], out[m : m + ROWS, p * PANEL : (p + 1) * PANEL])
