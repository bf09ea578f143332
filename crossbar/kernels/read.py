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
from .philox import draw_normals

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

    mean: Array  # (slices, panels, rows, PANEL) float32: signed conductance
    variance: Array  # the same shape: variance of the conductance in each read; (slices, 0, 0, 0) when there is none
    floor: Array  # (slices, row tiles, columns) float32: variance of the current that no input changes
    scale: Array  # (slices, row tiles, columns) float32: current to weight units
    edges: Array  # (row tiles + 1,) int64: first word line of each row tile
    reference: Array  # (columns,) int64: the column whose reading is taken off this one; empty when there is none
    bias: Array  # (outputs,) float32: digital bias


class Circuit(NamedTuple):
    """The converters and the noise that all planes share."""

    pulses: int  # bit-serial input pulses
    digit_bits: int  # bits of each pulse
    full_code: float  # largest input code; 1 without a DAC
    constant: float  # input code of the bias row, when there is one
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

    A bias row, when `out` has one column more, gets `constant`.
    """
    depth, height, width = geometry.out
    positions = depth * height * width
    kd, kh, kw = geometry.kernel
    channels = geometry.channels
    c0 = geometry.first_channel
    filled = kd * kh * kw * channels
    run = geometry.dilation[2] == 1 and channels == x.shape[4]
    for r in range(start, stop):
        n = r // positions
        p = r - n * positions
        oz = p // (height * width)
        oy = p // width - oz * height
        ox = p - (p // width) * width
        row = out[r - start]
        k = 0
        for a in range(kd):
            z = oz * geometry.stride[0] + a * geometry.dilation[0]
            for b in range(kh):
                y = oy * geometry.stride[1] + b * geometry.dilation[1]
                left = ox * geometry.stride[2]
                if run:
                    line = x[n, z, y].reshape(-1)[left * channels : (left + kw) * channels]
                    for i in range(kw * channels):
                        row[k + i] = line[i]
                    k += kw * channels
                else:
                    for c in range(kw):
                        pixel = x[n, z, y, left + c * geometry.dilation[2]]
                        for i in range(channels):
                            row[k + i] = pixel[c0 + i]
                        k += channels
        if row.shape[0] > filled:
            row[filled] = constant
    for r in range(stop - start, out.shape[0]):
        out[r] = 0.0


@njit(cache=True, nogil=True)
def take_digit(codes, shift, base, out):  # type: ignore[no-untyped-def]
    """The signed digit (|code| // 2^shift) mod base of each input code."""
    for m in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            code = int(codes[m, i])
            digit = (abs(code) >> shift) % base
            out[m, i] = -digit if code < 0 else digit


@njit(cache=True, nogil=True)
def square(x, out):  # type: ignore[no-untyped-def]
    for m in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[m, i] = x[m, i] * x[m, i]


@njit(cache=True, nogil=True)
def add_noise(current, variance, floor, gain_variance, unit, normals):  # type: ignore[no-untyped-def]
    """current (rows, columns) += sqrt(variance unit^2 + floor + gain_variance current^2) * normals, in place."""
    unit2 = unit * unit
    for m in range(current.shape[0]):
        for j in range(current.shape[1]):
            mean = current[m, j]
            v = floor[j] + gain_variance * mean * mean
            if variance.shape[0] > 0:
                v += variance[m, j] * unit2
            current[m, j] = mean + np.sqrt(v) * normals[m, j]


@njit(cache=True, nogil=True)
def digitise(current, columns, step, low, high, centre):  # type: ignore[no-untyped-def]
    """Replace currents by what an ADC of this step reads; returns how many of the first `columns` were out of range."""
    inverse = f32(1.0) / step
    clipped = 0
    for m in range(current.shape[0]):
        for j in range(columns):
            code = np.rint(current[m, j] * inverse - centre)
            inside = min(max(code, low), high)
            clipped += code != inside
            current[m, j] = (inside + centre) * step
    return clipped


@njit(cache=True, nogil=True)
def accumulate(current, pedestal, scale, weight, reference, out):  # type: ignore[no-untyped-def]
    """out (rows, outputs) += weight scale (current - reference column - pedestal of the row)."""
    for m in range(out.shape[0]):
        for j in range(out.shape[1]):
            value = current[m, j] - pedestal[m]
            if reference.shape[0] > 0:
                value -= current[m, reference[j]]
            out[m, j] += weight * scale[j] * value


@njit(cache=True, nogil=True)
def plane_currents(digits, squares, planes, circuit, s, t, unit, current, variance):  # type: ignore[no-untyped-def]
    """Noiseless currents of a plane, in units of v_read g_max, and the variance that its cells' noise adds."""
    r0 = planes.edges[t]
    r1 = planes.edges[t + 1]
    multiply_panels(digits[:, r0:r1], planes.mean[s, :, r0:r1], current)
    for m in range(current.shape[0]):
        for j in range(current.shape[1]):
            current[m, j] *= unit
    if variance.shape[0] > 0:
        multiply_panels(squares[:, r0:r1], planes.variance[s, :, r0:r1], variance)


@njit(cache=True, nogil=True)
def row_sums(digits, r0, r1, factor, out):  # type: ignore[no-untyped-def]
    for m in range(out.shape[0]):
        total = f32(0.0)
        if factor != 0.0:
            for i in range(r0, r1):
                total += digits[m, i]
        out[m] = total * factor


@njit(cache=True, nogil=True)
def read_chunk(codes, planes, circuit, key, first_row, read, out):  # type: ignore[no-untyped-def]
    """All planes and pulses of a chunk: codes (padded rows, word lines) to out (rows, outputs).

    Returns the number of clipped readings.
    """
    padded = codes.shape[0]
    slices, panels = planes.mean.shape[:2]
    tiles = planes.edges.shape[0] - 1
    columns = panels * PANEL
    shown = out.shape[1] if planes.reference.shape[0] == 0 else max(out.shape[1], planes.reference.max() + 1)
    cell_noise = circuit.noisy and planes.variance.shape[1] > 0
    current = np.empty((padded, columns), np.float32)
    variance = np.empty((padded if cell_noise else 0, columns), np.float32)
    normals = np.empty((padded if circuit.noisy else 0, columns), np.float32)
    pedestal = np.empty(out.shape[0], np.float32)
    digits = codes if circuit.pulses == 1 else np.empty_like(codes)
    squares = np.empty_like(codes) if cell_noise else codes
    for m in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[m, j] = planes.bias[j]
    clipped = 0
    base = 1 << circuit.digit_bits
    full_digit = f32(circuit.full_code) if circuit.pulses == 1 else f32(base - 1)
    unit = f32(1.0) / full_digit
    for q in range(circuit.pulses):
        weight = f32(full_digit * f32(1 << (circuit.digit_bits * q)) / f32(circuit.full_code))
        if circuit.pulses > 1:
            take_digit(codes, circuit.digit_bits * q, base, digits)
        if cell_noise:
            square(digits, squares)
        for s in range(slices):
            for t in range(tiles):
                plane_currents(digits, squares, planes, circuit, s, t, unit, current, variance)
                if circuit.noisy:
                    draw_normals(normals, first_row, u32((q * slices + s) * tiles + t), read, key)
                    add_noise(current, variance, planes.floor[s, t], f32(circuit.gain_variance), unit, normals)
                if circuit.step.shape[0] > 0:
                    clipped += digitise(
                        current[: out.shape[0]],
                        shown,
                        circuit.step[s],
                        f32(circuit.low),
                        f32(circuit.high),
                        f32(circuit.centre),
                    )
                row_sums(digits, planes.edges[t], planes.edges[t + 1], f32(circuit.pedestal) * unit, pedestal)
                accumulate(current, pedestal, planes.scale[s, t], weight, planes.reference, out)
    return clipped


@njit(cache=True, nogil=True)
def chunk_codes(x, geometry, planes, circuit, start, stop):  # type: ignore[no-untyped-def]
    padded = (stop - start + ROWS - 1) // ROWS * ROWS
    codes = np.empty((padded, planes.mean.shape[2]), np.float32)
    gather(x, geometry, start, stop, f32(circuit.constant), codes)
    return codes


@njit(cache=True, nogil=True, parallel=True)
def read_matrix(x, geometry, planes, circuit, key, first_row, read, out):  # type: ignore[no-untyped-def]
    """Read the whole matrix for every row of `out` (rows, outputs) float32; returns the number of clipped ADC readings.

    x (samples, depth, height, width, channels) float32 holds input codes (or plain inputs without a DAC).
    """
    rows = out.shape[0]
    chunks = (rows + CHUNK - 1) // CHUNK
    clipped = np.zeros(chunks, np.int64)
    for c in prange(chunks):
        start = c * CHUNK
        stop = min(rows, start + CHUNK)
        codes = chunk_codes(x, geometry, planes, circuit, start, stop)
        clipped[c] = read_chunk(codes, planes, circuit, key, first_row + u64(start), read, out[start:stop])
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
