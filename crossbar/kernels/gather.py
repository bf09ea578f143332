"""The rows of a matrix, taken from the inputs of a layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import kernel

MOVED = 16  # numbers that are moved at once


@intrinsic
def _move(typingctx: Any, source: Any, at: Any, target: Any, to: Any) -> Any:
    """MOVED numbers of `source` from `at` on into `target` from `to` on, both flat and of the same type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(context.get_value_type(source.dtype), MOVED).as_pointer()
        read, written = (
            builder.bitcast(
                builder.gep(context.make_array(signature.args[k])(context, builder, args[k]).data, [args[k + 1]]),
                vector,
            )
            for k in (0, 2)
        )
        builder.store(builder.load(read, align=2), written, align=2)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), codegen


@kernel()
def taken_from(x, geometry, run, runs, out):
    """out (places,) int64: how far behind the first input of a patch each run of so many inputs begins.

    A line of the kernel is in `runs` parts, of one or more runs each.
    """
    per_pixel = x.shape[4]
    per_line = x.shape[3] * per_pixel
    per_plane = x.shape[2] * per_line
    kd, kh, kw = geometry.kernel
    each = kw * geometry.channels // (run * runs)
    k = 0
    for a in range(kd):
        for b in range(kh):
            line = a * geometry.dilation[0] * per_plane + b * geometry.dilation[1] * per_line
            for c in range(runs):
                for i in range(each):
                    out[k] = line + c * geometry.dilation[2] * per_pixel + i * run
                    k += 1


@kernel()
def corners_of(x, geometry, start, out):
    """out (rows,) int64: where in x, flat, the first input of each row is, from row `start` on."""
    _, lines, pixels = geometry.out
    positions = geometry.out[0] * lines * pixels
    per_pixel = x.shape[4]
    per_line = x.shape[3] * per_pixel
    per_plane = x.shape[2] * per_line
    n = start // positions
    p = start - n * positions
    oz = p // (lines * pixels)
    oy = p // pixels - oz * lines
    ox = p % pixels
    for r in range(out.shape[0]):
        out[r] = (
            n * x.shape[1] * per_plane
            + oz * geometry.stride[0] * per_plane
            + oy * geometry.stride[1] * per_line
            + ox * geometry.stride[2] * per_pixel
            + geometry.first_channel
        )
        ox += 1
        if ox == pixels:
            ox = 0
            oy += 1
            if oy == lines:
                oy = 0
                oz += 1
                if oz == geometry.out[0]:
                    oz = 0
                    n += 1


@kernel()
def gather(x, geometry, start, stop, constant, out):
    """Rows start..stop of the matrix inputs into out (stop - start, rows): patches ordered (kd, kh, kw, channel).

    The word line behind the patch, if `out` has more columns, gets `constant`, and any further one 0. Both arrays are
    contiguous.
    """
    kd, kh, kw = geometry.kernel
    channels = geometry.channels
    filled = kd * kh * kw * channels
    whole = geometry.dilation[2] == 1 and channels == x.shape[4]  # then a line of the patch is one run of x
    run = kw * channels if whole else channels
    if run < MOVED:
        run = 1
    places, corners = np.empty(filled // run, np.int64), np.empty(stop - start, np.int64)
    taken_from(x, geometry, run, 1 if whole else kw, places)
    corners_of(x, geometry, start, corners)
    flat, target = x.reshape(-1), out.reshape(-1)
    for r in range(stop - start):
        corner, k = corners[r], r * out.shape[1]
        if run == 1:
            for i in range(filled):
                target[k + i] = flat[corner + places[i]]
        else:
            for j in range(places.shape[0]):
                source, to = corner + places[j], k + j * run
                for i in range(0, run - MOVED + 1, MOVED):
                    _move(flat, source + i, target, to + i)
                if run % MOVED > 0:
                    _move(flat, source + run - MOVED, target, to + run - MOVED)
        for i in range(filled, out.shape[1]):
            target[k + i] = constant if i == filled else 0
