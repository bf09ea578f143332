"""Products of many small groups of a matrix: the columns of several groups side by side in one vector.

A panel (`panel.py`) multiplies one input by 16 columns, which have it in common. Groups have inputs of their own: where
they have few columns, most of a panel would be empty. Here each lane of a vector has the input of its column's group.
The inputs are laid out for that once, for all places of the kernel, and a step of the product takes them at another.
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
from .panel import _FLOATS, _SUMS, PANEL, ROWS, _fused_multiply_add, _multiply_pairs_add

f32, i32, i64, u32, u64 = np.float32, np.int32, np.int64, np.uint32, np.uint64
TOGETHER = 4  # rows
_I64 = ir.IntType(64)


class Steps(NamedTuple):
    """The steps of the product, row tile by row tile: see `Lanes`.

    A step adds a pair of word lines in integers, one in float32.
    """

    place: np.ndarray[Any, Any]  # (steps, 4) int64: kernel depth, height and width, and which channel or pair of them
    taken: np.ndarray[Any, Any]  # (steps, 2) bool: which of the two word lines are of the row tile
    edges: np.ndarray[Any, Any]  # (row tiles + 1,) int64: first step of each row tile


class Box(NamedTuple):
    """Neighbouring outputs, and the inputs that they take: of some samples, in one plane."""

    sample: int
    samples: int
    plane: int
    line: int
    lines: int
    pixel: int
    pixels: int


@kernel()
def extent(geometry, box):
    """(lines, pixels) of the inputs that a box of outputs spans."""
    lines = (box.lines - 1) * geometry.stride[1] + (geometry.kernel[1] - 1) * geometry.dilation[1] + 1
    pixels = (box.pixels - 1) * geometry.stride[2] + (geometry.kernel[2] - 1) * geometry.dilation[2] + 1
    return lines, pixels


@kernel()
def fill_neighbours(x, first, channels, source, along, lanes, image):
    """`fill_line` where groups have one channel: pairs are of pixels."""
    count = source.shape[0]
    close = count > 0 and source[count - 1] - source[0] == count - 1
    pixels = image.shape[0] // (2 * lanes)
    for p in range(pixels):
        here = first + p * channels
        there = here + along * channels
        out = image[2 * p * lanes : 2 * (p + 1) * lanes]
        if p + along < pixels and close:
            one, other = x[here + source[0] :][:count], x[there + source[0] :][:count]
            for j in range(count):
                out[2 * j] = one[j]
                out[2 * j + 1] = other[j]
        else:
            for j in range(count):
                out[2 * j] = x[here + source[j]]
                out[2 * j + 1] = x[there + source[j]] if p + along < pixels else 0
        for j in range(2 * count, 2 * lanes):
            out[j] = 0


@kernel()
def fill_twos(x, first, channels, source, alike, pairs, lanes, image):
    """`fill_line` of pairs (int32), of which an even number of neighbours are `alike`: two at a time (int64)."""
    groups, two = source.shape[0] // alike, alike >> 1
    pixels = image.shape[0] // (pairs * lanes)
    for p in range(pixels):
        for i in range(pairs):
            here, out = first + p * channels + i, (p * pairs + i) * lanes
            for g in range(groups):
                pair = u64(u32(x[here + (source[g * alike] >> 1)]))
                both = i64(pair | pair << u64(32))
                for j in range(out + g * two, out + (g + 1) * two):
                    image[j] = both
            for j in range(out + groups * two, out + lanes):
                image[j] = 0


@kernel()
def fill_line(x, first, channels, source, alike, own, along, lanes, image):
    """One line of inputs into image, flat (pixels, pairs, lanes, 2 or 1): see `fill_image`.

    x is flat; the pixels start at `first`, and have so many `channels`. source (lanes,) is the first channel of each
    lane, `own` how many its group has. along: how many pixels apart the two of a pair are where own is 1.
    """
    each = 2 if x.itemsize == 2 else 1
    pairs = (own + each - 1) // each
    pixels = image.shape[0] // (pairs * lanes * each)
    count = source.shape[0]
    if own == 1 and each == 2:
        fill_neighbours(x, first, channels, source, along, lanes, image)
    elif own % 2 == 0 and each == 2 and alike % 2 == 0:
        fill_twos(
            x.view(np.int32), first >> 1, channels >> 1, source, alike, own >> 1, lanes >> 1, image.view(np.int64)
        )
    else:
        for k in range(pixels * pairs):
            p, i = k // pairs, k % pairs
            here, out = first + p * channels + each * i, k * lanes * each
            other = 1 if each * i + 1 < own else 0  # else nothing is taken of it
            for j in range(count):
                for part in range(each):
                    image[out + each * j + part] = x[here + source[j] + part * other]
            for j in range(count * each, lanes * each):
                image[out + j] = 0


@kernel()
def fill_image(x, geometry, box, source, alike, lanes, image):
    """The inputs of a box into image, flat (samples, kernel depth, lines, pixels, pairs, lanes, 2 or 1).

    x (samples, depth, height, width, channels). source (lanes or less,) is the first channel of each lane, the same for
    so many neighbours that are `alike`. Integers are pairs: of neighbouring channels or, where a group has one, of
    places of the kernel that are neighbours in a line. Floats are single. Returns how many numbers were written.
    """
    each = 2 if x.itemsize == 2 else 1
    lines, pixels = extent(geometry, box)
    channels = x.shape[4]
    pairs = (geometry.channels + each - 1) // each
    flat, size, k = x.reshape(-1), pixels * pairs * lanes * each, 0
    for n in range(box.sample, box.sample + box.samples):
        for a in range(geometry.kernel[0]):
            z = box.plane * geometry.stride[0] + a * geometry.dilation[0]
            for y in range(box.line * geometry.stride[1], box.line * geometry.stride[1] + lines):
                first = (
                    ((n * x.shape[1] + z) * x.shape[2] + y) * x.shape[3] + box.pixel * geometry.stride[2]
                ) * channels
                line = image[k : k + size]
                fill_line(flat, first, channels, source, alike, geometry.channels, geometry.dilation[2], lanes, line)
                k += size
    return k


@kernel()
def offsets_of(geometry, box, place, pairs, lanes, out):
    """Where in an image each step finds its inputs, from those of the first step on, in pairs (floats: in numbers)."""
    lines, pixels = extent(geometry, box)
    for k in range(place.shape[0]):
        y, x = place[k, 1] * geometry.dilation[1], place[k, 2] * geometry.dilation[2]
        out[k] = (((place[k, 0] * lines + y) * pixels + x) * pairs + place[k, 3]) * lanes


@kernel()
def rows_of(geometry, box, pairs, lanes, out):
    """Where in an image the inputs of each row of a box begin, counted likewise; returns how many rows it has."""
    lines, pixels = extent(geometry, box)
    m = 0
    for n in range(box.samples):
        for y in range(box.lines):
            line = (n * geometry.kernel[0] * lines + y * geometry.stride[1]) * pixels
            for x in range(box.pixels):
                out[m] = (line + x * geometry.stride[2]) * pairs * lanes
                m += 1
    return m


def _block_of(rows: int, *, alike: bool) -> Any:
    """The product of so many rows with PANEL columns, whose inputs are `alike`, or one each from the first on."""

    @intrinsic
    def multiply(typingctx: Any, image: Any, starts: Any, offsets: Any, weights: Any, out: Any, place: Any) -> Any:
        """out[m:, column:] = what `multiply_lanes` says, for place = (m, column, shift, first, last step, constant).

        Inputs are `shift` behind their starts. The number `constant` of the image is multiplied by the weights behind
        those of the last step; none below 0.
        """
        integers = image.dtype == types.int16
        vector = _SUMS if integers else _FLOATS
        multiply_add = _multiply_pairs_add if integers else _fused_multiply_add

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                context.make_array(k)(context, builder, a) for k, a in zip(signature.args[:5], args, strict=False)
            ]
            pixels, begins, steps, panel, target = (array.data for array in arrays)
            m, column, shift, first, last, constant = cgutils.unpack_tuple(builder, args[5])
            undefined, lane = ir.Constant(vector, ir.Undefined), ir.Constant(_SUMS, [0] * PANEL)
            one = builder.bitcast(pixels, vector.element.as_pointer())  # a pair of int16 travels as an int32
            panel = builder.bitcast(panel, vector.as_pointer())
            bases = [builder.load(builder.gep(begins, [builder.add(m, _I64(r))])) for r in range(rows)]
            bases = [builder.gep(one, [builder.add(base, shift)]) for base in bases]
            zeros = ir.Constant(vector, [0 if integers else 0.0] * PANEL)
            sums = [cgutils.alloca_once_value(builder, zeros) for _ in range(rows)]

            def spread(pointer: Any) -> Any:
                """The number there for all columns."""
                value = builder.insert_element(undefined, builder.load(pointer, align=2), ir.IntType(32)(0))
                return builder.shuffle_vector(value, undefined, lane)

            with cgutils.for_range_slice(builder, first, last, _I64(1)) as (k, _):
                offset = builder.load(builder.gep(steps, [k]))
                weight = builder.load(builder.gep(panel, [k]), align=4)
                for base, total in zip(bases, sums, strict=True):
                    taken = builder.gep(base, [offset])
                    if alike:
                        value = spread(taken)
                    else:
                        value = builder.load(builder.bitcast(taken, vector.as_pointer()), align=2)
                    builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
            with cgutils.if_unlikely(builder, builder.icmp_signed(">=", constant, _I64(0))):
                value = spread(builder.gep(one, [constant]))
                steps_in_all = cgutils.unpack_tuple(builder, arrays[2].shape)[0]
                weight = builder.load(builder.gep(panel, [steps_in_all]), align=4)
                for total in sums:
                    builder.store(multiply_add(builder, value, weight, builder.load(total)), total)
            width = cgutils.unpack_tuple(builder, arrays[4].shape)[1]
            for r, total in enumerate(sums):
                found = builder.load(total)
                found = builder.sitofp(found, _FLOATS) if integers else found
                start = builder.add(builder.mul(builder.add(m, _I64(r)), width), column)
                builder.store(found, builder.bitcast(builder.gep(target, [start]), _FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(image, starts, offsets, weights, out, place), codegen

    return multiply


_lanes_4, _lanes_1 = _block_of(TOGETHER, alike=False), _block_of(1, alike=False)
_alike_6, _alike_1 = _block_of(ROWS, alike=True), _block_of(1, alike=True)


@kernel()
def multiply_lanes(image, starts, offsets, weights, steps, constant, out):
    """out[m, j] = sum over steps = (first, last) of image[starts[m] + offset + j] times weights, j lane by lane.

    image is flat; weights (panels, all steps + 1, 2 PANEL) int16 or (..., PANEL) float32, as the image; out (rows,
    lanes) float32, contiguous, with the lanes of whole panels. Where `constant` is 0 or more, that number of the image
    is multiplied by the last of the weights and added.
    """
    rows = out.shape[0]
    whole = rows // TOGETHER * TOGETHER
    for p in range(weights.shape[0]):
        panel, lane = weights[p], i64(p * PANEL)
        for m in range(0, whole, TOGETHER):
            _lanes_4(image, starts, offsets, panel, out, (m, lane, lane, steps[0], steps[1], constant))
        for m in range(whole, rows):
            _lanes_1(image, starts, offsets, panel, out, (m, lane, lane, steps[0], steps[1], constant))


@kernel()
def copy_image(x, geometry, box, first, channels, image):
    """So many channels of the inputs of a box, from the `first` on, into image, flat (..., pixels, channels).

    As `fill_image`, for columns that have their inputs in common. Returns how many numbers were written.
    """
    lines, pixels = extent(geometry, box)
    flat, k = x.reshape(-1), 0
    for n in range(box.sample, box.sample + box.samples):
        for a in range(geometry.kernel[0]):
            z = box.plane * geometry.stride[0] + a * geometry.dilation[0]
            for y in range(box.line * geometry.stride[1], box.line * geometry.stride[1] + lines):
                line = ((n * x.shape[1] + z) * x.shape[2] + y) * x.shape[3] + box.pixel * geometry.stride[2]
                for p in range(line, line + pixels):
                    start = p * x.shape[4] + first
                    taken, out = flat[start : start + channels], image[k : k + channels]
                    for c in range(channels):
                        out[c] = taken[c]
                    k += channels
    return k


@kernel()
def places_of(geometry, box, place, size, out):
    """As `offsets_of`, in an image of pixels of this size, whose steps are next to each other in it."""
    lines, pixels = extent(geometry, box)
    for k in range(place.shape[0]):
        y, x = place[k, 1] * geometry.dilation[1], place[k, 2] * geometry.dilation[2]
        out[k] = ((place[k, 0] * lines + y) * pixels + x) * size + place[k, 3]


@kernel()
def multiply_alike(image, starts, offsets, panels, shift, steps, constant, column, out):
    """out[m, column:] = sum over steps = (first, last) of image[starts[m] + shift + offset] times packed panels.

    panels (panels, steps or more, ...) of `panel.py`; `out` and `constant` as in `multiply_lanes`, whose weights are
    behind those of all steps.
    """
    rows = out.shape[0]
    whole = rows // ROWS * ROWS
    for p in range(panels.shape[0]):
        panel, first = panels[p], i64(column + p * PANEL)
        for m in range(0, whole, ROWS):
            _alike_6(image, starts, offsets, panel, out, (m, first, shift, steps[0], steps[1], constant))
        for m in range(whole, rows):
            _alike_1(image, starts, offsets, panel, out, (m, first, shift, steps[0], steps[1], constant))


@kernel()
def squared_lanes(image, starts, offsets, taken, steps, constant, factor, out):
    """out[m, j] = factor[j] times the sum of the squared inputs of steps = (first, last), as `digits.row_squares`."""
    lanes = out.shape[1]
    integers = image.itemsize == 2
    exact, total = np.empty(lanes, np.int64), np.empty(lanes, np.float32)
    for m in range(out.shape[0]):
        exact[:], total[:] = 0, f32(0)
        for k in range(steps[0], steps[1]):
            start = starts[m] + offsets[k]
            if integers:
                values = image[2 * start : 2 * (start + lanes)]
                one, other = i32(taken[k, 0]), i32(taken[k, 1])
                for j in range(lanes):
                    a, b = one * i32(values[2 * j]), other * i32(values[2 * j + 1])
                    exact[j] += i64(a) * i64(a) + i64(b) * i64(b)
            else:
                for j in range(lanes):
                    total[j] += image[start + j] * image[start + j]
        if constant >= 0:
            value = image[(2 if integers else 1) * constant]
            for j in range(lanes):
                exact[j] += i64(value) * i64(value)
                total[j] += f32(value) * f32(value)
        for j in range(lanes):
            out[m, j] = (f32(exact[j]) if integers else total[j]) * factor[j]
