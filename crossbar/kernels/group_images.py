"""The inputs of a box of outputs, laid out once for all places of the kernel: what products of groups take.

Groups of few columns are lanes of a vector (`fill_image`), others have their inputs side by side (`copy_image`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import kernel
from .lanes import LANES, Lanes
from .panel import PANEL


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


def _vector(builder: Any, pointer: Any, count: int) -> Lanes:
    """So many neighbours in memory as one vector."""
    kind = ir.VectorType(pointer.type.pointee, count).as_pointer()
    return Lanes(builder, builder.load(builder.bitcast(pointer, kind), align=2))


def _put(builder: Any, vector: Lanes, pointer: Any) -> None:
    builder.store(vector.value, builder.bitcast(pointer, vector.value.type.as_pointer()), align=2)


@intrinsic
def _pair(typingctx: Any, x: Any, image: Any, place: Any) -> Any:
    """PANEL pairs of the numbers of x from place[0] and from place[1] on, into image from place[2] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (
            context.make_array(k)(context, builder, a).data for k, a in zip(signature.args[:2], args, strict=False)
        )
        one, other, out = cgutils.unpack_tuple(builder, args[2])
        first, second = (_vector(builder, builder.gep(source, [start]), PANEL) for start in (one, other))
        _put(
            builder,
            first.shuffled(((k % 2) * PANEL + k // 2 for k in range(2 * PANEL)), second),
            builder.gep(target, [out]),
        )
        return context.get_dummy_value()

    return types.void(x, image, place), codegen


def _deal_of(own: int) -> Any:
    """Numbers of LANES groups, `own` of each one after the other, as `own` vectors."""

    @intrinsic
    def deal(typingctx: Any, x: Any, image: Any, place: Any) -> Any:
        """From x[place[0]] on into image, from place[1] on, each vector place[2] behind the one before."""

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, target = (
                context.make_array(k)(context, builder, a).data for k, a in zip(signature.args[:2], args, strict=False)
            )
            start, out, apart = cgutils.unpack_tuple(builder, args[2])
            whole = _vector(builder, builder.gep(source, [start]), own * LANES)
            for i in range(own):
                where = builder.add(out, builder.mul(apart, apart.type(i)))
                _put(builder, whole.shuffled(j * own + i for j in range(LANES)), builder.gep(target, [where]))
            return context.get_dummy_value()

        return types.void(x, image, place), codegen

    return deal


_deal_1, _deal_2, _deal_3, _deal_4 = (_deal_of(own) for own in range(1, 5))


@kernel()
def fill_neighbours(x, first, channels, count, along, lanes, image):
    """`fill_line` where groups have one channel: pairs are of pixels."""
    pixels, whole = image.shape[0] // (2 * lanes), count // PANEL * PANEL
    for p in range(pixels):
        here, out = first + p * channels, 2 * p * lanes
        if p + along < pixels:
            there = here + along * channels
            for j in range(0, whole, PANEL):
                _pair(x, image, (here + j, there + j, out + 2 * j))
            for j in range(whole, count):
                image[out + 2 * j] = x[here + j]
                image[out + 2 * j + 1] = x[there + j]
        else:
            for j in range(count):
                image[out + 2 * j] = x[here + j]
                image[out + 2 * j + 1] = 0
        image[out + 2 * count : out + 2 * lanes] = 0


@kernel()
def fill_steps(x, first, channels, count, own, lanes, image):
    """`fill_line` of what travels as one number, a float or a pair: `own` of each group."""
    pixels, whole = image.shape[0] // (own * lanes), count // LANES * LANES if own <= 4 else 0
    for p in range(pixels):
        here, out = first + p * channels, p * own * lanes
        for j in range(0, whole, LANES):
            place = here + j * own, out + j, lanes
            if own == 1:
                _deal_1(x, image, place)
            elif own == 2:
                _deal_2(x, image, place)
            elif own == 3:
                _deal_3(x, image, place)
            else:
                _deal_4(x, image, place)
        for i in range(own):
            start = out + i * lanes
            for j in range(whole, count):
                image[start + j] = x[here + j * own + i]
            image[start + count : start + lanes] = 0


@kernel()
def fill_line(x, first, channels, count, own, along, lanes, image):
    """One line of inputs into image, flat (pixels, pairs, lanes, 2 or 1): see `fill_image`.

    x is flat; the pixels start at `first`, and have so many `channels`, `own` of each of `count` groups one after the
    other. along: how many pixels apart the two of a pair are where own is 1.
    """
    if x.itemsize == 4:
        fill_steps(x, first, channels, count, own, lanes, image)
    elif own == 1:
        fill_neighbours(x, first, channels, count, along, lanes, image)
    elif own % 2 == 0 and channels % 2 == 0 and first % 2 == 0:
        fill_steps(x.view(np.int32), first >> 1, channels >> 1, count, own >> 1, lanes, image.view(np.int32))
    else:
        pairs = (own + 1) // 2
        for k in range(image.shape[0] // (2 * lanes)):
            p, i = k // pairs, k % pairs
            here, out = first + p * channels + 2 * i, image[2 * k * lanes : 2 * (k + 1) * lanes]
            out[:] = 0
            for j in range(count):
                out[2 * j] = x[here + j * own]
                if 2 * i + 1 < own:
                    out[2 * j + 1] = x[here + j * own + 1]


@kernel()
def fill_image(x, geometry, box, batch, lanes, image):
    """The inputs of a box into image, flat (samples, kernel depth, lines, pixels, pairs, lanes, 2 or 1).

    x (samples, depth, height, width, channels). The groups of a batch = (first, behind the last) have a lane each.
    Integers are pairs: of neighbouring channels or, where a group has one, of places of the kernel that are neighbours
    in a line. Floats are single. Returns how many numbers were written.
    """
    each = 2 if x.itemsize == 2 else 1
    lines, pixels = extent(geometry, box)
    channels, own, count = x.shape[4], geometry.channels, batch[1] - batch[0]
    pairs = (own + each - 1) // each
    flat, size, k = x.reshape(-1), pixels * pairs * lanes * each, 0
    for n in range(box.sample, box.sample + box.samples):
        for a in range(geometry.kernel[0]):
            z = box.plane * geometry.stride[0] + a * geometry.dilation[0]
            for y in range(box.line * geometry.stride[1], box.line * geometry.stride[1] + lines):
                pixel = ((n * x.shape[1] + z) * x.shape[2] + y) * x.shape[3] + box.pixel * geometry.stride[2]
                first = pixel * channels + batch[0] * own
                fill_line(flat, first, channels, count, own, geometry.dilation[2], lanes, image[k : k + size])
                k += size
    return k


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
def offsets_of(geometry, box, place, pairs, lanes, out):
    """Where in an image each step finds its inputs, from those of the first step on, in pairs (floats: in numbers)."""
    lines, pixels = extent(geometry, box)
    for k in range(place.shape[0]):
        y, x = place[k, 1] * geometry.dilation[1], place[k, 2] * geometry.dilation[2]
        out[k] = (((place[k, 0] * lines + y) * pixels + x) * pairs + place[k, 3]) * lanes


@kernel()
def places_of(geometry, box, place, size, out):
    """As `offsets_of`, in an image of pixels of this size, whose steps are next to each other in it."""
    lines, pixels = extent(geometry, box)
    for k in range(place.shape[0]):
        y, x = place[k, 1] * geometry.dilation[1], place[k, 2] * geometry.dilation[2]
        out[k] = ((place[k, 0] * lines + y) * pixels + x) * size + place[k, 3]


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
