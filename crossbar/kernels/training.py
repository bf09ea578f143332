"""What training through a fresh chip does for each cell and each reading, in few passes: there, and back.

Arrays are flat where the number of columns does not matter: normals are counted by their place in the array, so bits
depend on no thread.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .philox import ALONE, Rows, draw_normals, noisy

f32, i32, u32, u64 = np.float32, np.int32, np.uint32, np.uint64
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
def driven_part(values, scale, codes, out, part):
    """`driven` for numbers part = (a, b)."""
    (low, high), (a, b) = codes, part
    for i in range(a, b):
        out[i] = min(max(np.rint(values[i] * scale), low), high) / high


@kernel()
def driven(values, scale, codes, out):
    """Codes of values (n,), scale for one of 1, clipped to codes = (lowest, highest), as shares of the highest."""
    driven_part(values, scale, codes, out, (0, out.shape[0]))


@kernel(parallel=True)
def driven_parallel(values, scale, codes, out):
    """`driven` on threads."""
    step = (out.shape[0] + PIECES - 1) // PIECES
    for i in prange(PIECES):
        driven_part(values, scale, codes, out, (i * step, min(out.shape[0], (i + 1) * step)))


@kernel()
def driven_back_part(values, scale, codes, slopes, part):
    """`driven_back` for numbers part = (a, b)."""
    (low, high), (a, b) = codes, part
    rate = scale / high
    for i in range(a, b):
        code = np.rint(values[i] * scale)
        slopes[i] = slopes[i] * rate if code >= low and code <= high else f32(0.0)


@kernel()
def driven_back(values, scale, codes, slopes):
    """Slopes (n,) of what is driven to those of the values, in place: straight through rounding, none where clipped."""
    driven_back_part(values, scale, codes, slopes, (0, slopes.shape[0]))


@kernel(parallel=True)
def driven_back_parallel(values, scale, codes, slopes):
    """`driven_back` on threads."""
    step = (slopes.shape[0] + PIECES - 1) // PIECES
    for i in prange(PIECES):
        driven_back_part(values, scale, codes, slopes, (i * step, min(slopes.shape[0], (i + 1) * step)))


@kernel()
def largest(weights, sizes, places):
    """Into (columns,): the largest magnitude of each column of weights (lines, columns), and the first line with it."""
    sizes[:] = f32(0.0)
    places[:] = i32(0)
    for m in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            size = abs(weights[m, j])
            places[j] = i32(m) if size > sizes[j] else places[j]
            sizes[j] = max(size, sizes[j])


@kernel()
def program_line(weights, factors, spans, std, own, normals, made, sums):
    """`program_pairs` for one line."""
    (low, span), (s0, s1, s2, s3, s4, s5), (q0, q1, q2) = spans, std, own
    columns, (signed, slope, spread) = weights.shape[0], made
    first, second = normals[:columns], normals[columns:]
    rest = max(((((s5 * low + s4) * low + s3) * low + s2) * low + s1) * low + s0, f32(0.0))
    for j in range(columns):
        u = weights[j] * factors[j]
        target = low + span * abs(u)
        error = ((((s5 * target + s4) * target + s3) * target + s2) * target + s1) * target + s0
        steep = (
            ((f32(5.0) * s5 * target + f32(4.0) * s4) * target + f32(3.0) * s3) * target + f32(2.0) * s2
        ) * target + s1
        a = target + max(error, f32(0.0)) * first[j]
        b = low + rest * second[j]
        held, other = max(a, f32(0.0)), max(b, f32(0.0))
        rising = f32(1.0) + (steep * first[j] if error > f32(0.0) else f32(0.0))
        rising = rising if a > f32(0.0) else f32(0.0)
        falling = f32(1.0) + (steep * second[j] if error > f32(0.0) else f32(0.0))
        falling = falling if b > f32(0.0) else f32(0.0)
        slope[j] = span * (rising if u != f32(0.0) else f32(0.5) * (rising + falling))  # at 0 half of each
        difference = held - other
        signed[j] = difference if u >= f32(0.0) else -difference
        spread[j] = (q0 + held * (q1 + q2 * held)) + (q0 + other * (q1 + q2 * other))
        sums[j] += held + other


@kernel()
def program_block(weights, factors, curves, place, key, made, sums):
    """`program_pairs` for a block of lines, with sums (columns,) float32."""
    lines, columns = weights.shape
    normals = np.empty(2 * lines * columns, np.float32)
    fill(normals, place, key)
    spans, std, own = curves
    signed, slope, spread = made
    for m in range(lines):
        drawn = normals[2 * m * columns : 2 * (m + 1) * columns]
        program_line(weights[m], factors, spans, std, own, drawn, (signed[m], slope[m], spread[m]), sums)


@kernel()
def program_pairs(weights, factors, curves, plane, key, made, sums):
    """Pairs of cells for weights (lines, columns): the one of their sign holds them, the other holds nothing.

    A cell of target t ends up at max(t + std(t) n, 0). Conductances are in units of g_max.

    Args:
        factors: relative to the largest of their column are weights times factors (columns,).
        curves: (lowest conductance, range), coefficients of polynomials: the std of programming (6), and the variance
            of a cell in each read (3), constants first.
        plane: of the normals.
        made: three (lines, columns) to fill: difference of the two, its slope with the relative weight, and the sum of
            the variances.
        sums: (PIECES, columns), to be filled: conductances of the lines of each piece.
    """
    step = (weights.shape[0] + PIECES - 1) // PIECES
    for i in range(PIECES):
        program_piece(weights, factors, curves, plane, key, made, sums[i], i * step, step)


@kernel()
def program_piece(weights, factors, curves, plane, key, made, sums, start, step):
    """`program_pairs` for so many lines from one on."""
    each = max(1, BLOCK // weights.shape[1] // 2)
    signed, slope, spread = made
    sums[:] = f32(0.0)
    stop = min(weights.shape[0], start + step)
    for a in range(start, stop, each):
        part, place = slice(a, min(stop, a + each)), (u32(plane), u32(a))
        own = signed[part], slope[part], spread[part]
        program_block(weights[part], factors, curves, place, key, own, sums)


@kernel(parallel=True)
def program_pairs_parallel(weights, factors, curves, plane, key, made, sums):
    """`program_pairs` on threads."""
    step = (weights.shape[0] + PIECES - 1) // PIECES
    for i in prange(PIECES):
        program_piece(weights, factors, curves, plane, key, made, sums[i], i * step, step)


@kernel()
def back_to_weights(slopes, rising, weights, inverse, out, sums):
    """out (lines, outputs) = slopes rising inverse, for one reading; sums (outputs,) float64 += out weights.

    slopes (lines, columns) are those of signed conductances, rising (lines, outputs) of these with relative weights,
    inverse (outputs,) of relative weights with weights.
    """
    run = np.zeros(out.shape[1], np.float32)
    for m in range(out.shape[0]):
        for j in range(out.shape[1]):
            value = slopes[m, j] * rising[m, j] * inverse[j]
            out[m, j] = value
            run[j] += value * weights[m, j]
        if m % RUN == RUN - 1 or m == out.shape[0] - 1:
            for j in range(out.shape[1]):
                sums[j] += run[j]
                run[j] = f32(0.0)


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
def noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, part):
    """`noisy_codes` for rows part = (a, b)."""
    (current, variance), (a, b) = given, part
    own = variance[a:b] if variance.shape[0] > 1 else variance
    noisy_block((current[a:b], own), gain, floor, inverse, adc, rows, a, place, key, codes[a:b])


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
        noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, (a, min(count, a + step)))


@kernel(parallel=True)
def noisy_codes_parallel(given, gain, floor, inverse, adc, rows, place, key, codes):
    """`noisy_codes` on threads."""
    count, columns = given[0].shape
    step = max(2, BLOCK // columns // 2 * 2)
    for i in prange((count + step - 1) // step):
        noisy_part(given, gain, floor, inverse, adc, rows, place, key, codes, (i * step, min(count, (i + 1) * step)))


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
