"""What training through a fresh chip does for each cell and each reading, in few passes: there, and back.

Arrays are flat where the number of columns does not matter: normals are counted by their place in the array, so bits
depend on no thread.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .philox import ALONE, Rows, draw_normals, noisy

f32, u32, u64 = np.float32, np.uint32, np.uint64
BLOCK = 1 << 13  # numbers that are made together, in the first-level cache
LINE = 256  # normals of a counter's row where they are drawn flat
RUN = 64  # rows that are summed up in float32
PIECES = 16


@kernel()
def fill_block(out, first, place, key):
    """`fill` for numbers from `first`, a multiple of LINE, on."""
    whole = out.shape[0] // LINE
    if whole:
        rows = Rows(u64(first // LINE), ALONE)
        draw_normals(rows, 0, place, key, out[: whole * LINE].reshape(whole, LINE))
    if whole * LINE < out.shape[0]:
        line = np.empty((1, LINE), np.float32)
        draw_normals(Rows(u64(first // LINE + whole), ALONE), 0, place, key, line)
        out[whole * LINE :] = line[0, : out.shape[0] - whole * LINE]


@kernel()
def fill(out, place, key):
    """Standard normals into out (n,) float32; place = (plane, read) tells streams of a key apart."""
    for a in range(0, out.shape[0], BLOCK):
        fill_block(out[a : a + BLOCK], a, place, key)


@kernel(parallel=True)
def fill_parallel(out, place, key):
    """`fill` on threads."""
    for b in prange((out.shape[0] + BLOCK - 1) // BLOCK):
        fill_block(out[b * BLOCK : (b + 1) * BLOCK], b * BLOCK, place, key)


@kernel()
def at(table, x, inverse):
    """A table at x >= 0, linear between places that are 1 / inverse apart; and its slope there."""
    place = x * inverse
    low = min(int(place), table.shape[0] - 2)
    slope = table[low + 1] - table[low]
    return table[low] + (place - f32(low)) * slope, slope * inverse


@kernel()
def program_pairs(weights, factors, spans, std, own, normals, signed, slope, spread, sums):
    """Pairs of cells for weights (lines, columns): the one of their sign holds them, the other holds nothing.

    A cell of target t ends up at max(t + std(t) n, 0). Conductances are in units of g_max.

    Args:
        weights, factors: relative to the largest of their column are weights times factors (columns,).
        spans: (lowest conductance, range, places of the tables for 1).
        std, own: tables of the std of a programming error, and of the variance of a read.
        normals: (2 lines columns,).
        signed, slope, spread: into: difference of the two, its slope with the relative weight, sum of the variances.
        sums: (columns,) float64, added to: conductances.
    """
    low, span, inverse = spans
    rest = at(std, low, inverse)[0]
    lines, columns = weights.shape
    for m in range(lines):
        first = normals[2 * m * columns : (2 * m + 1) * columns]
        second = normals[(2 * m + 1) * columns : (2 * m + 2) * columns]
        for j in range(columns):
            u = weights[m, j] * factors[j]
            target = low + span * abs(u)
            error, steeper = at(std, target, inverse)
            a, b = target + error * first[j], low + rest * second[j]
            held, other = max(a, f32(0.0)), max(b, f32(0.0))
            rising = span * (f32(1.0) + steeper * first[j]) if a > f32(0.0) else f32(0.0)
            if u == f32(0.0):  # half of the gradient of each
                rising = f32(0.5) * (rising + (span * (f32(1.0) + steeper * second[j]) if b > f32(0.0) else f32(0.0)))
            signed[m, j] = held - other if u >= f32(0.0) else other - held
            slope[m, j] = rising
            spread[m, j] = at(own, held, inverse)[0] + at(own, other, inverse)[0]
            sums[j] += held + other


@kernel()
def code_block(current, inverse, adc, codes):
    """`codes_of` for one block."""
    low, high, centre = adc
    for m in range(current.shape[0]):
        for j in range(current.shape[1]):
            code = np.rint(current[m, j] * inverse[j] - centre)
            codes[m, j] = np.int16(min(max(code, low - f32(1.0)), high + f32(1.0)))


@kernel()
def noisy_block(given, gain, floor, inverse, adc, rows, start, place, key, codes):
    """`noisy_codes` for one block of rows."""
    current, variance = given
    factors, extra = (f32(1.0), f32(1.0), gain), np.zeros(1, np.float32)
    noisy((current, variance, floor, current), factors, extra, rows, start, place, key)
    if codes.shape[1] > 0:
        code_block(current, inverse, adc, codes)


@kernel()
def noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, a, b):
    """`noisy_codes` for rows a to b."""
    current, variance = given
    part = variance[a:b] if variance.shape[0] > 1 else variance
    noisy_block((current[a:b], part), gain, floor, inverse, adc, rows, a, place, key, codes[a:b])


@kernel()
def noisy_codes(given, gain, floor, inverse, adc, rows, place, key, codes):
    """Noise of currents, in place, and the codes that an ADC gives.

    given = (current, variance) (rows, columns) float32, columns a multiple of GROUP; variance may be one row for all.
    The variance is that, floor (1, columns) and gain current^2. `inverse` (columns,) are codes for a unit of current,
    adc = (low, high, centre) float32. Codes (rows, columns) int16 are low - 1 and high + 1 where a reading was clipped;
    without columns none are made. Counters as in `philox.noisy`, for `rows` from the first on.
    """
    count, columns = given[0].shape
    step = max(2, BLOCK // columns // 2 * 2)
    for a in range(0, count, step):
        noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, a, min(count, a + step))


@kernel(parallel=True)
def noisy_codes_parallel(given, gain, floor, inverse, adc, rows, place, key, codes):
    """`noisy_codes` on threads."""
    count, columns = given[0].shape
    step = max(2, BLOCK // columns // 2 * 2)
    for i in prange((count + step - 1) // step):
        noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, i * step, min(count, (i + 1) * step))


@kernel()
def count_up(codes, adc, scale, reference, out):
    """out (rows, outputs) += sum over readings of scale (code + centre), less that of the reference column.

    codes (rows, readings, columns) of any type, clipped here; scale (readings, outputs); reference (outputs,) int64, or
    empty.
    """
    low, high, centre = adc
    outputs = out.shape[1]
    for m in range(codes.shape[0]):
        for s in range(codes.shape[1]):
            if reference.shape[0] > 0:
                for j in range(outputs):
                    taken_off = min(max(f32(codes[m, s, reference[j]]), low), high)
                    out[m, j] += scale[s, j] * (min(max(f32(codes[m, s, j]), low), high) - taken_off)
            else:
                for j in range(outputs):
                    out[m, j] += scale[s, j] * (min(max(f32(codes[m, s, j]), low), high) + centre)


@kernel(parallel=True)
def count_up_parallel(codes, adc, scale, reference, out):
    """`count_up` on threads."""
    step = (out.shape[0] + PIECES - 1) // PIECES
    for i in prange(PIECES):
        count_up(codes[i * step : (i + 1) * step], adc, scale, reference, out[i * step : (i + 1) * step])


@kernel()
def back_run(codes, adc, scale, reference, slopes, back, run):
    """`back_through` for some rows, with sums run (readings, outputs) float32."""
    low, high, centre = adc
    outputs = slopes.shape[1]
    for m in range(codes.shape[0]):
        for s in range(codes.shape[1]):
            for j in range(outputs):
                code, slope = f32(codes[m, s, j]), slopes[m, j]
                value = min(max(code, low), high)
                back[m, s, j] = scale[s, j] * slope if code == value else f32(0.0)
                run[s, j] += slope * (value + centre)
            if reference.shape[0] > 0:
                back[m, s, outputs:] = f32(0.0)
                for j in range(outputs):
                    code, slope = f32(codes[m, s, reference[j]]), slopes[m, j]
                    value = min(max(code, low), high)
                    if code == value:
                        back[m, s, reference[j]] -= scale[s, j] * slope
                    run[s, j] -= slope * (value + centre)


@kernel()
def back_piece(codes, adc, scale, reference, slopes, back, sums):
    """`back_through` for a piece of the rows, with sums (readings, outputs)."""
    run = np.empty(scale.shape, np.float32)
    for a in range(0, codes.shape[0], RUN):
        run[:] = f32(0.0)
        b = min(codes.shape[0], a + RUN)
        back_run(codes[a:b], adc, scale, reference, slopes[a:b], back[a:b], run)
        for s in range(run.shape[0]):
            for j in range(run.shape[1]):
                sums[s, j] += run[s, j]


@kernel()
def back_through(codes, adc, scale, reference, slopes, back, sums):
    """Slopes of currents back (rows, readings, columns) from those of outputs (rows, outputs), undoing `count_up`.

    None where a reading was clipped. `scale` is for a current; sums (PIECES, readings, outputs) float64 are added to:
    what a slope of the scale of a code is.
    """
    step = (codes.shape[0] + PIECES - 1) // PIECES
    for i in range(PIECES):
        part = slice(i * step, (i + 1) * step)
        back_piece(codes[part], adc, scale, reference, slopes[part], back[part], sums[i])


@kernel(parallel=True)
def back_through_parallel(codes, adc, scale, reference, slopes, back, sums):
    """`back_through` on threads."""
    step = (codes.shape[0] + PIECES - 1) // PIECES
    for i in prange(PIECES):
        part = slice(i * step, (i + 1) * step)
        back_piece(codes[part], adc, scale, reference, slopes[part], back[part], sums[i])
