"""Element-wise kernels before and after the tiles: input codes and output-referred noise."""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .philox import GROUP, add_noise

f32, i32, u32 = np.float32, np.int32, np.uint32
BLOCK = 1 << 14
CHUNK = 64
TURNED = 16  # channels that are brought from planes to pixels together
SPAN = 1024  # pixels of these


@kernel()
def code_block(x, factor, low, high, rounds, out):
    """`make_codes` for one block, of fewer than 2^31 inputs."""
    clipped, broken = i32(0), i32(0)
    for i in range(x.shape[0]):
        value = x[i] * factor
        code = np.rint(value) if rounds else value
        inside = min(max(code, low), high)
        clipped = i32(clipped + i32(code != inside))
        broken = i32(broken + i32(value - value != f32(0.0)))  # NaN or infinite
        out[i] = inside
    return int(clipped), int(broken)


@kernel()
def make_codes(x, factor, low, high, rounds, out):
    """out = clip(round(x factor), low, high), flat; returns (clipped, not finite) counts. `out` may be int16."""
    clipped, broken = 0, 0
    for a in range(0, x.shape[0], BLOCK):
        part = slice(a, min(x.shape[0], a + BLOCK))
        found = code_block(x[part], factor, low, high, rounds, out[part])
        clipped += found[0]
        broken += found[1]
    return clipped, broken


@kernel(parallel=True)
def make_codes_parallel(x, factor, low, high, rounds, out):
    """`make_codes` in parallel."""
    blocks = (x.shape[0] + BLOCK - 1) // BLOCK
    counts = np.zeros((blocks, 2), np.int64)
    for b in prange(blocks):
        part = slice(b * BLOCK, min(x.shape[0], (b + 1) * BLOCK))
        counts[b] = code_block(x[part], factor, low, high, rounds, out[part])
    return counts[:, 0].sum(), counts[:, 1].sum()


@kernel()
def turn(buffer, channels, out):
    """Codes (channels, pixels) to out (pixels, channels), some at a time."""
    if channels == TURNED:
        for p in range(out.shape[0]):
            pixel = out[p]
            for c in range(TURNED):
                pixel[c] = buffer[c, p]
    else:
        for c in range(channels):
            for p in range(out.shape[0]):
                out[p, c] = buffer[c, p]


@kernel()
def code_planar(x, start, between, coding, buffer, out):
    """Codes of neighbouring lines into out (lines, pixels, channels).

    x is flat; a channel has its lines one after the other, the first channel from `start` on, and the next `between`
    behind. Returns (clipped, not finite) counts.
    """
    factor, low, high, rounds = coding
    lines, pixels, channels = out.shape
    clipped, broken = 0, 0
    for c in range(0, channels, TURNED):
        many = min(TURNED, channels - c)
        for k in range(many):
            first = start + (c + k) * between
            found = code_block(x[first : first + lines * pixels], factor, low, high, rounds, buffer[k])
            clipped += found[0]
            broken += found[1]
        for y in range(lines):
            turn(buffer[:, y * pixels :], many, out[y, :, c : c + many])
    return clipped, broken


@kernel()
def code_boxes(x, shape, planar, before, coding, boxes, out):
    """Boxes = (lines of each, first, behind the last) of `make_padded_codes`, over samples, depth and height."""
    factor, low, high, rounds = coding
    depth, height, width, channels = shape[1], shape[2], shape[3], shape[4]
    each, deep = boxes[0], out.shape[1]
    across = max(1, (height + each - 1) // each)
    buffer, flat = np.empty((TURNED if planar else 0, each * width + TURNED), out.dtype), out.reshape(-1)
    clipped, broken = 0, 0
    for k in range(boxes[1], boxes[2]):
        n, a, b = k // (deep * across), k // across % deep, k % across
        y, z = b * each, a - before[0]
        lines = min(each, height - y)
        behind = out.shape[2] if b == across - 1 else before[1] + y + lines
        whole = out[n, a][before[1] + y if b > 0 else 0 : behind]
        if z < 0 or z >= depth:
            whole[:] = 0
            continue
        top = before[1] if b == 0 else 0
        whole[:top] = 0
        whole[top + lines :] = 0
        whole[:, : before[2]] = 0
        whole[:, before[2] + width :] = 0
        inside = whole[top : top + lines, before[2] : before[2] + width]
        if planar:
            start = ((n * channels * depth + z) * height + y) * width
            found = code_planar(x, start, depth * height * width, coding, buffer, inside)
            clipped += found[0]
            broken += found[1]
            continue
        size = width * channels
        for line in range(y, y + lines):
            start = ((n * depth + z) * height + line) * size
            into = (((n * deep + a) * out.shape[2] + before[1] + line) * out.shape[3] + before[2]) * channels
            target = flat[into : into + size]
            found = code_block(x[start : start + size], factor, low, high, rounds, target)
            clipped += found[0]
            broken += found[1]
    return clipped, broken


@kernel()
def boxes_of(shape, deep):
    """How many lines a box has, and how many boxes there are, of which there is one for every plane at least."""
    each = max(1, min(shape[2], SPAN // max(1, shape[3])))
    return each, shape[0] * deep * max(1, (shape[2] + each - 1) // each)


@kernel()
def make_padded_codes(x, shape, planar, before, coding, out):
    """`make_codes` of x, flat, into out (samples, depth, height, width, channels), which is zero around them.

    x is of this `shape`, of the same dimensions, or of (samples, channels, depth, height, width) where it is `planar`.
    before (3,): zeros before along depth, height and width. coding = (factor, low, high, rounds). Returns the counts.
    """
    each, count = boxes_of(shape, out.shape[1])
    return code_boxes(x, shape, planar, before, coding, (each, 0, count), out)


@kernel(parallel=True)
def make_padded_codes_parallel(x, shape, planar, before, coding, parts, out):
    """`make_padded_codes` in so many parts at once."""
    each, count = boxes_of(shape, out.shape[1])
    counts = np.zeros((parts, 2), np.int64)
    for b in prange(parts):
        some = each, count * b // parts, count * (b + 1) // parts
        counts[b] = code_boxes(x, shape, planar, before, coding, some, out)
    return counts[:, 0].sum(), counts[:, 1].sum()


@kernel()
def add_output_noise(out, sigma_add, sigma_mult, rows, start, read, key):
    """out (rows, outputs) += sqrt(sigma_add^2 + sigma_mult^2 out^2) normals, in place; `rows` from `start` on."""
    count, outputs = out.shape
    padded = (outputs + GROUP - 1) // GROUP * GROUP
    factors = f32(1.0), f32(0.0), sigma_mult * sigma_mult
    floor = np.full(padded, sigma_add * sigma_add)
    nothing, extra = np.zeros((1, padded), np.float32), np.zeros(1, np.float32)
    for a in range(0, count, CHUNK):
        b = min(count, a + CHUNK)
        signal = np.zeros((b - a, padded), np.float32)
        signal[:, :outputs] = out[a:b]
        add_noise(signal, nothing, floor, factors, extra, rows, start + a, (u32(0), read), key)
        out[a:b] = signal[:, :outputs]


@kernel(parallel=True)
def add_output_noise_parallel(out, sigma_add, sigma_mult, rows, start, read, key):
    """`add_output_noise` in parallel: the same bits."""
    count = out.shape[0]
    for c in prange((count + CHUNK - 1) // CHUNK):
        part = out[c * CHUNK : min(count, (c + 1) * CHUNK)]
        add_output_noise(part, sigma_add, sigma_mult, rows, start + c * CHUNK, read, key)
