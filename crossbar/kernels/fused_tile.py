"""What a dissection spends its time on: a product of two panels taken off a tile, in vector instructions.

Steps are fused (rounded once) and run one after another, so that every processor gives the same bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDE = 8  # columns of a panel, rows and columns of a tile, and cells of the smallest blocks

_F64 = ir.DoubleType()
_VECTOR = ir.VectorType(_F64, WIDE)
_SPREAD = ir.Constant(ir.VectorType(ir.IntType(32), WIDE), [0] * WIDE)  # a shuffle that copies lane 0 to all


@intrinsic
def subtract_tile(typingctx: Any, out: Any, x: Any, y: Any) -> Any:
    """out (WIDE, WIDE or more) -= x^T y for panels x, y (depth, WIDE), float64, by fused steps one after another."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        o, a, b = (
            context.make_array(kind)(context, builder, value) for kind, value in zip(signature.args, args, strict=True)
        )
        depth = cgutils.unpack_tuple(builder, a.shape)[0]
        stride = cgutils.unpack_tuple(builder, o.strides)[0]
        base = builder.ptrtoint(o.data, context.get_value_type(types.intp))
        starts = [builder.add(base, builder.mul(stride, stride.type(m))) for m in range(WIDE)]
        rows = [builder.inttoptr(start, _VECTOR.as_pointer()) for start in starts]
        scalars, vectors = builder.bitcast(a.data, _F64.as_pointer()), builder.bitcast(b.data, _VECTOR.as_pointer())
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{WIDE}f64"
        )
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        sums = [cgutils.alloca_once_value(builder, builder.load(row, align=8)) for row in rows]
        with cgutils.for_range(builder, depth) as loop:
            taken = builder.fneg(builder.load(builder.gep(vectors, [loop.index]), align=8))
            first = builder.mul(loop.index, depth.type(WIDE))
            for m, total in enumerate(sums):
                value = builder.load(builder.gep(scalars, [builder.add(first, depth.type(m))]), align=8)
                lane = builder.insert_element(undefined, value, ir.IntType(32)(0))
                spread = builder.shuffle_vector(lane, undefined, _SPREAD)
                builder.store(builder.call(fma, [spread, taken, builder.load(total)]), total)
        for row, total in zip(rows, sums, strict=True):
            builder.store(builder.load(total), row, align=8)
        return context.get_dummy_value()

    return types.void(out, x, y), codegen
