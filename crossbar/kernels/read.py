"""One read of a matrix that is spread over tiles: gather, multiply, add noise, digitise, accumulate.

Rows are the reads of the matrix: samples, times positions of a convolution. They are worked off in chunks of CHUNK
rows, in parallel, and no number depends on how: sums run in a fixed order (`panel.py`), random numbers are counted
(`philox.py`). A plane is what one set of converters sees: one slice of one row tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from .panel import PANEL, ROWS, multiply_panels
from .philox import draw_normals, row_counters

f32, u32, u64 = np.float32, np.uint32, np.uint64
Array = np.ndarray[Any, Any]

CHUNK = 48  # rows worked off together: a multiple of ROWS whose scratch stays in the second-level cache


class Geometry(NamedTuple):
    """How the rows of the matrix find their inputs in x (samples, depth, height, width, channels): see `gather`.

    The first four are (3,) int64, for depth, height and width; `out` is the number of positions.
    """

    kernel: Array
    stride: Array
    dilation: Array
    out: Array
    first_channel: int
    channels: int


class Planes(NamedTuple):
    """What a programmed matrix of `rows` word lines and `columns` outputs (padded to panels) is to the kernel.

    Conductances are in units of g_max, currents in units of v_read g_max.
    """

    mean: Array  # packed (slices, panels, ...): signed conductance, float32 or int16 as the input codes
    variance: Array  # packed likewise: variance of the conductance in each read; (slices, 0, 0, 0) when there is none
    mean_unit: Array  # (slices, row tiles) float32: what 1 of `mean` stands for
    variance_unit: (
        Array  # (slices, row tiles) float32: what 1 of `variance` times a squared code (see `square`) stands for
    )
    floor: Array  # (slices, row tiles, columns) float32: variance of the current that no input changes
    scale: Array  # (slices, row tiles, columns) float32: current to weight units
    edges: Array  # (row tiles + 1,) int64: first word line of each row tile
    reference: Array  # (columns,) int64: the column whose reading is taken off this one; empty when there is none
    bias: Array  # (outputs,) float32: digital bias


class Circuit(NamedTuple):
    """The converters and the noise that all planes share."""

    integers: bool  # codes and conductances are int16, else float32
    halve: bool  # squared codes would not fit into int16 and are halved

    pulses: int  # bit-serial input pulses
    digit_bits: int  # bits of each pulse
    full_code: float  # largest input code; 1 without a DAC
    constant: float  # input code of the word line behind the patch: the bias row's; 0 without one
    gain_variance: float  # relative variance of the column gain in each read
    noisy: bool
    step: Array  # (slices,) float32: current of one ADC step; empty without an ADC
    low: float  # lowest and highest ADC code
    high: float
    centre: float  # 0: codes stand for multiples of a step; 0.5: for the middle between them
    pedestal: float  # conductance that all cells have and the digital side takes off again


@njit(cache=True, nogil=True)
def gather(x, geometry, start, stop, constant, out):  # type: ignore[no-untyped-def]
    """Rows start..stop of the matrix inputs into out (>= stop - start, rows): patches ordered (kd, kh, kw, channel).

    The word line behind the patch, if `out` has more columns, gets `constant`, and any further one 0.
    """
    _, lines, pixels = geometry.out
    positions = geometry.out[0] * lines * pixels
    kd, kh, kw = geometry.kernel
    channels = geometry.channels
    filled = kd * kh * kw * channels
    whole = geometry.dilation[2] == 1 and channels == x.shape[4]  # then a line of the patch is one run of x
    run = kw * channels if whole else channels
    runs = 1 if whole else kw
    per_pixel = x.shape[4]
    per_line = x.shape[3] * per_pixel
    per_plane = x.shape[2] * per_line
    flat = x.reshape(-1)
    n = start // positions
    p = start - n * positions
    oz = p // (lines * pixels)
    oy = p // pixels - oz * lines
    ox = p % pixels
    for r in range(stop - start):
        row = out[r]
        corner = (
            n * x.shape[1] * per_plane
            + oz * geometry.stride[0] * per_plane
            + oy * geometry.stride[1] * per_line
            + ox * geometry.stride[2] * per_pixel
            + geometry.first_channel
        )
        k = 0
        for a in range(kd):
            for b in range(kh):
                line = corner + a * geometry.dilation[0] * per_plane + b * geometry.dilation[1] * per_line
                for c in range(runs):
                    source = line + c * geometry.dilation[2] * per_pixel
                    taken, patch = flat[source : source + run], row[k : k + run]
                    for i in range(run):
                        patch[i] = taken[i]
                    k += run
        for i in range(filled, row.shape[0]):
            row[i] = constant if i == filled else 0
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
    for r in range(stop - start, out.shape[0]):
        out[r] = 0


@njit(cache=True, nogil=True)
def take_digit(codes, shift, base, out):  # type: ignore[no-untyped-def]
    """The signed digit (|code| // 2^shift) mod base of each input code."""
    for m in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            code = int(codes[m, i])
            digit = (abs(code) >> shift) % base
            out[m, i] = -digit if code < 0 else digit


@njit(cache=True, nogil=True)
def square(codes, halve, out):  # type: ignore[no-untyped-def]
    """Squares of codes, or half of them rounded up to whole numbers, which fit into int16 for codes up to 255."""
    factor = f32(0.5) if halve else f32(1.0)
    extra = f32(0.5) if halve else f32(0.0)
    for m in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            code = f32(codes[m, i])
            out[m, i] = factor * (code * code) + extra


@njit(cache=True, nogil=True)
def row_sums(digits, r0, r1, factor, out):  # type: ignore[no-untyped-def]
    """out (rows,) = factor times the sum of the digits of word lines r0..r1."""
    for m in range(out.shape[0]):
        total = f32(0.0)
        if factor != 0.0:
            for i in range(r0, r1):
                total += f32(digits[m, i])
        out[m] = total * factor


@njit(cache=True, nogil=True)
def scale_rows(values, factor):  # type: ignore[no-untyped-def]
    for m in range(values.shape[0]):
        row = values[m]
        for j in range(row.shape[0]):
            row[j] *= factor


@njit(cache=True, nogil=True)
def plane_currents(digits, squares, planes, circuit, s, t, unit, current, variance):  # type: ignore[no-untyped-def]
    """Noiseless currents of a plane, in units of v_read g_max, and the variance that its cells' noise adds."""
    r0 = planes.edges[t]
    r1 = planes.edges[t + 1]
    step = 2 if circuit.integers else 1
    multiply_panels(digits[:, r0:r1], planes.mean[s, :, r0 // step : r1 // step], current)
    scale_rows(current, unit * planes.mean_unit[s, t])
    if variance.shape[0] > 0:
        multiply_panels(squares[:, r0:r1], planes.variance[s, :, r0 // step : r1 // step], variance)
        scale_rows(variance, unit * unit * planes.variance_unit[s, t])


@njit(cache=True, nogil=True)
def add_noise(current, variance, floor, gain_variance, normals, out):  # type: ignore[no-untyped-def]
    """out = current + sqrt(variance + floor + gain_variance current^2) normals, all (columns,); no variance is 0."""
    if variance.shape[0] > 0:
        for j in range(out.shape[0]):
            mean = current[j]
            out[j] = mean + np.sqrt(variance[j] + floor[j] + gain_variance * mean * mean) * normals[j]
    else:
        for j in range(out.shape[0]):
            mean = current[j]
            out[j] = mean + np.sqrt(floor[j] + gain_variance * mean * mean) * normals[j]


@njit(cache=True, nogil=True)
def digitise(signal, columns, step, low, high, centre):  # type: ignore[no-untyped-def]
    """Replace currents (columns,) by what an ADC of this step reads; returns how many were out of range."""
    inverse = f32(1.0) / step
    clipped = 0
    for j in range(columns):
        code = np.rint(signal[j] * inverse - centre)
        inside = min(max(code, low), high)
        clipped += code != inside
        signal[j] = (inside + centre) * step
    return clipped


@njit(cache=True, nogil=True)
def accumulate(signal, pedestal, scale, weight, reference, out):  # type: ignore[no-untyped-def]
    """out (outputs,) += weight scale (signal - reference column - pedestal)."""
    if reference.shape[0] > 0:
        for j in range(out.shape[0]):
            out[j] += weight * scale[j] * (signal[j] - pedestal - signal[reference[j]])
    else:
        for j in range(out.shape[0]):
            out[j] += weight * scale[j] * (signal[j] - pedestal)


@njit(cache=True, nogil=True)
def read_chunk(codes, planes, circuit, key, first_row, first_read, out):  # type: ignore[no-untyped-def]
    """All planes and pulses of a chunk, read as often as `out` (reads, rows, outputs) says; returns clipped readings.

    codes (padded rows, word lines) are the same in all reads, and so are their products; the noise is not.
    """
    padded = codes.shape[0]
    reads, rows, outputs = out.shape
    slices, panels = planes.mean.shape[:2]
    tiles = planes.edges.shape[0] - 1
    columns = panels * PANEL
    shown = outputs if planes.reference.shape[0] == 0 else max(outputs, planes.reference.max() + 1)
    cell_noise = circuit.noisy and planes.variance.shape[1] > 0
    current = np.empty((padded, columns), np.float32)
    variance = np.empty((padded if cell_noise else 0, columns), np.float32)
    nothing = np.empty(0, np.float32)
    normals = np.empty((rows if circuit.noisy else 0, columns), np.float32)
    counters = row_counters(first_row, normals.shape[0], columns // 4)
    signal = np.empty(columns, np.float32)
    pedestal = np.empty(rows, np.float32)
    digits = codes if circuit.pulses == 1 else np.empty_like(codes)
    squares = np.empty_like(codes) if cell_noise else codes
    for v in range(reads):
        for m in range(rows):
            for j in range(outputs):
                out[v, m, j] = planes.bias[j]
    clipped = 0
    base = 1 << circuit.digit_bits
    full_digit = f32(circuit.full_code) if circuit.pulses == 1 else f32(base - 1)
    unit = f32(1.0) / full_digit
    for q in range(circuit.pulses):
        weight = f32(full_digit * f32(1 << (circuit.digit_bits * q)) / f32(circuit.full_code))
        if circuit.pulses > 1:
            take_digit(codes, circuit.digit_bits * q, base, digits)
        if cell_noise:
            square(digits, circuit.halve, squares)
        for s in range(slices):
            for t in range(tiles):
                plane = u32((q * slices + s) * tiles + t)
                plane_currents(digits, squares, planes, circuit, s, t, unit, current, variance)
                row_sums(digits, planes.edges[t], planes.edges[t + 1], f32(circuit.pedestal) * unit, pedestal)
                for v in range(reads):
                    if circuit.noisy:
                        draw_normals(counters, plane, first_read + u32(v), key, normals)
                    for m in range(rows):
                        if circuit.noisy:
                            noise = variance[m] if cell_noise else nothing
                            gain = f32(circuit.gain_variance)
                            add_noise(current[m], noise, planes.floor[s, t], gain, normals[m], signal)
                        else:
                            signal[:] = current[m]
                        if circuit.step.shape[0] > 0:
                            low, high, centre = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
                            clipped += digitise(signal, shown, circuit.step[s], low, high, centre)
                        accumulate(signal, pedestal[m], planes.scale[s, t], weight, planes.reference, out[v, m])
    return clipped


@njit(cache=True, nogil=True)
def chunk_codes(x, geometry, planes, circuit, start, stop):  # type: ignore[no-untyped-def]
    """The input codes of rows start..stop, padded with zero rows to whole blocks."""
    padded = (stop - start + ROWS - 1) // ROWS * ROWS
    codes = np.empty((padded, planes.edges[-1]), x.dtype)
    gather(x, geometry, start, stop, circuit.constant, codes)
    return codes


@njit(cache=True, nogil=True, parallel=True)
def read_matrix(x, geometry, planes, circuit, key, first_row, first_read, out):  # type: ignore[no-untyped-def]
    """Read the whole matrix into out (reads, rows, outputs) float32; returns the number of clipped ADC readings.

    x (samples, depth, height, width, channels) holds input codes, int16 or float32 as the planes (plain inputs without
    a DAC). Its samples are those of one read, which all reads share, or of all reads one after the other.
    """
    reads, rows, _ = out.shape
    positions = geometry.out[0] * geometry.out[1] * geometry.out[2]
    shared = x.shape[0] * positions == rows
    chunks = (rows + CHUNK - 1) // CHUNK
    jobs = chunks if shared else chunks * reads
    clipped = np.zeros(jobs, np.int64)
    for job in prange(jobs):
        v = 0 if shared else job // chunks
        start = (job - v * chunks) * CHUNK
        stop = min(rows, start + CHUNK)
        codes = chunk_codes(x, geometry, planes, circuit, v * rows + start, v * rows + stop)
        target = out[:, start:stop] if shared else out[v : v + 1, start:stop]
        row, read = first_row + u64(start), first_read + u32(v)
        clipped[job] = read_chunk(codes, planes, circuit, key, row, read, target)
    return clipped.sum()


@njit(cache=True, nogil=True)
def read_currents(x, geometry, planes, circuit, start, stop, out):  # type: ignore[no-untyped-def]
    """Noiseless currents of rows start..stop into out (pulses, slices, row tiles, stop - start, columns)."""
    codes = chunk_codes(x, geometry, planes, circuit, start, stop)
    current = np.empty((codes.shape[0], planes.mean.shape[1] * PANEL), np.float32)
    nothing = np.empty((0, 0), np.float32)
    base = 1 << circuit.digit_bits
    unit = f32(1.0) / (f32(circuit.full_code) if circuit.pulses == 1 else f32(base - 1))
    for q in range(circuit.pulses):
        digits = codes
        if circuit.pulses > 1:
            digits = np.empty_like(codes)
            take_digit(codes, circuit.digit_bits * q, base, digits)
        for s in range(out.shape[1]):
            for t in range(out.shape[2]):
                plane_currents(digits, digits, planes, circuit, s, t, unit, current, nothing)
                out[q, s, t] = current[: stop - start, : out.shape[4]]
