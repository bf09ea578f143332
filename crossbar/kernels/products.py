"""What one pulse makes of a plane: what word lines are driven with, currents, and variances of the cells' noise."""

from __future__ import annotations

import numpy as np

from .compiled import kernel
from .digits import keep_sign, look_up, magnitudes, row_sums, square, take_digit
from .group_products import multiply_alike
from .panel import multiply_panels

f32, i64 = np.float32, np.int64


@kernel()
def apart(circuit):
    """Whether a pulse drives something else than the input codes."""
    return circuit.pulses > 1 or circuit.phases > 1 or circuit.levels.shape[0] > 0


@kernel()
def drive(codes, circuit, pulse, digits):
    """What pulse number `pulse` of all phases drives, of input codes (rows, word lines)."""
    q = pulse % circuit.pulses
    if circuit.pulses > 1:
        take_digit(codes, circuit.digit_bits * q, 1 << circuit.digit_bits, digits)
    else:
        digits[:] = codes
    if circuit.phases > 1:
        keep_sign(digits, pulse >= circuit.pulses)
    if circuit.levels.shape[0] > 0:
        look_up(digits, circuit.levels, digits)


@kernel()
def operands(codes, circuit, pulse, floats, work):
    """What pulse number `pulse` of all phases makes of input codes: (digits, squares), and `work.firsts`."""
    rows, digits, squares = codes.shape[0], codes, work.squares[: codes.shape[0]]
    if apart(circuit):
        digits = work.digits[:rows]
        drive(codes, circuit, pulse, digits)
    if squares.shape[0] > 0:
        square(digits, circuit.integers, circuit.halve, squares)
    if work.firsts.shape[0] > 0:
        magnitudes(digits, floats, work.firsts[:rows])
    return digits, squares


@kernel()
def counts_of(circuit, pulse):
    """(unit, weight) of pulse number `pulse` of all phases: what a digit of 1 drives, and what the largest counts."""
    q = pulse % circuit.pulses
    full_digit = f32(circuit.full_code) if circuit.pulses == 1 else f32((1 << circuit.digit_bits) - 1)
    weight = f32(full_digit * f32(1 << (circuit.digit_bits * q)) / f32(circuit.full_code))
    return f32(1.0) / full_digit, weight


@kernel()
def plane_products(digits, squares, planes, circuit, s, t, current, variance):
    """Products of a plane, still without their units: currents and, unless `squares` is empty, their variances."""
    r0, r1 = planes.edges[t], planes.edges[t + 1]
    step = 2 if circuit.integers else 1
    multiply_panels(digits[:, r0:r1], planes.mean[s, :, r0 // step : r1 // step], current)
    if squares.shape[0] > 0:
        multiply_panels(squares[:, r0:r1], planes.variance[s, :, r0 // step : r1 // step], variance)


@kernel()
def direct_products(x, squares, planes, circuit, s, t, rows, work):
    """`plane_products` of inputs where they are: `work` says where; x and squares are flat, or these empty."""
    each = 2 if circuit.integers else 1
    steps, starts, none = (planes.edges[t] // each, planes.edges[t + 1] // each), work.starts[:rows], i64(-1)
    multiply_alike(x, starts, work.offsets, planes.mean[s], i64(0), steps, none, i64(0), work.current[:rows])
    if squares.shape[0] > 0:
        spread = work.variance[:rows]
        multiply_alike(squares, starts, work.offsets, planes.variance[s], i64(0), steps, none, i64(0), spread)


@kernel()
def add_linear(work, rows, planes, plane, circuit, unit):
    """Variances of a plane's currents in their units, with what goes with the first power of codes.

    On-times: variance += linear. A bit line that floats follows its cells: what one of them does to it goes with the
    square of its own voltage, sum of s_i^2 (v_i - V)^2 = sum s_i^2 v_i^2 - 2 V sum s_i^2 v_i + V^2 sum s_i^2.
    """
    s, t = plane
    r0, r1 = planes.edges[t], planes.edges[t + 1]
    step = 2 if circuit.integers else 1
    multiply_panels(work.firsts[:rows, r0:r1], planes.linear[s, :, r0 // step : r1 // step], work.linear[:rows])
    floats = planes.total.shape[0] > 0
    first, second, volts = unit * planes.linear_unit[s, t], unit * unit * planes.variance_unit[s, t], f32(0)
    signal = unit * planes.mean_unit[s, t]
    squared = work.squares.shape[0] > 0
    for m in range(rows):
        for j in range(work.variance.shape[1]):
            value = second * work.variance[m, j] if squared else f32(0)
            if floats:
                volts = signal * work.current[m, j]
                total = value + volts * (volts * planes.total[s, t, j] - f32(2) * first * work.linear[m, j])
                value = max(total, f32(0))
            else:
                value += first * work.linear[m, j]
            work.variance[m, j] = value


@kernel()
def add_up(codes, planes, circuit, phase, plane, work):
    """Currents and variances of a plane of all pulses of a phase, as charge adds them up, in their units.

    They are left in `work.current`, `work.variance` and `work.pedestal`. A pulse of weight w that is made n times, with
    w / n each, has the variance of one times w^2 / n.
    """
    s, t = plane
    rows = codes.shape[0]
    r0, r1 = planes.edges[t], planes.edges[t + 1]
    sums, spread = work.sums[0, :rows], work.sums[1, :rows]
    sums[:], spread[:] = f32(0), f32(0)
    taken_off = np.zeros(rows, np.float32)
    current, variance = work.current[:rows], work.variance[:rows]
    for q in range(circuit.pulses):
        pulse = phase * circuit.pulses + q
        unit, weight = counts_of(circuit, pulse)
        digits, squares = operands(codes, circuit, pulse, planes.total.shape[0] > 0, work)
        plane_products(digits, squares, planes, circuit, s, t, current, variance)
        variance_unit = unit * unit * planes.variance_unit[s, t]
        if work.linear.shape[0] > 0:
            add_linear(work, rows, planes, plane, circuit, unit)
            variance_unit = f32(1.0)
        if circuit.pedestal != 0.0:
            row_sums(digits, r0, r1, f32(circuit.pedestal) * unit * weight, work.pedestal)
            taken_off += work.pedestal[:rows]
        made = f32(1 << (circuit.digit_bits * q)) if circuit.joined == 2 else f32(1.0)
        power, signal = weight * weight / made * variance_unit, weight * unit * planes.mean_unit[s, t]
        for m in range(rows):
            for j in range(sums.shape[1]):
                sums[m, j] += signal * current[m, j]
                spread[m, j] += power * variance[m, j]
    current[:], variance[:] = sums, spread
    work.pedestal[:rows] = taken_off
