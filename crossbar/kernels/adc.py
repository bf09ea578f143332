"""From the currents of a plane to the outputs: digitise, take off what is no weight, scale, add."""

from __future__ import annotations

import numpy as np

from .compiled import kernel

f32, i32 = np.float32, np.int32


@kernel()
def digitise(signal, columns, step, adc):
    """Replace the first `columns` currents of all rows by what an ADC of this step reads; returns the clipped ones.

    adc = (low, high, centre) float32, in codes.
    """
    low, high, centre = adc
    inverse = f32(1.0) / step
    clipped = 0
    for m in range(signal.shape[0]):
        outside = i32(0)
        for j in range(columns):
            code = np.rint(signal[m, j] * inverse - centre)
            inside = min(max(code, low), high)
            outside = i32(outside + i32(code != inside))
            signal[m, j] = (inside + centre) * step
        clipped += int(outside)
    return clipped


@kernel()
def accumulate(signal, pedestal, scale, weight, reference, start, out):
    """Rows of out (rows, outputs) from `start` on += weight scale (signal - reference column - pedestal).

    pedestal is (rows,), or (0,) for none.
    """
    outputs = out.shape[1]
    for m in range(signal.shape[0]):
        taken_off = pedestal[m] if pedestal.shape[0] > 0 else f32(0.0)
        if reference.shape[0] > 0:
            for j in range(outputs):
                out[start + m, j] += weight * scale[j] * (signal[m, j] - taken_off - signal[m, reference[j]])
        else:
            for j in range(outputs):
                out[start + m, j] += weight * scale[j] * (signal[m, j] - taken_off)


@kernel()
def digitise_and_accumulate(signal, step, adc, pedestal, scale, weight, start, out):
    """`digitise` and `accumulate` without reference columns in one pass; the signal stays as it is."""
    low, high, centre = adc
    inverse = f32(1.0) / step
    outputs = out.shape[1]
    clipped = 0
    for m in range(signal.shape[0]):
        taken_off = pedestal[m] if pedestal.shape[0] > 0 else f32(0.0)
        outside = i32(0)
        for j in range(outputs):
            code = np.rint(signal[m, j] * inverse - centre)
            inside = min(max(code, low), high)
            outside = i32(outside + i32(code != inside))
            out[start + m, j] += weight * scale[j] * ((inside + centre) * step - taken_off)
        clipped += int(outside)
    return clipped


@kernel()
def convert(signal, planes, circuit, s, t, weight, pedestal, start, out):
    """Digitise the currents of a plane and add them to rows of out (rows, outputs); returns clipped readings."""
    adc = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
    scale, reference = planes.scale[s, t], planes.reference
    clipped = 0
    if circuit.step.shape[0] > 0:
        if reference.shape[0] == 0:
            return digitise_and_accumulate(signal, circuit.step[s], adc, pedestal, scale, weight, start, out)
        clipped = digitise(signal, max(out.shape[1], reference.max() + 1), circuit.step[s], adc)
    accumulate(signal, pedestal, scale, weight, reference, start, out)
    return clipped
