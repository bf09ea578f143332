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
def code_of(level, transitions):
    """The number of transitions at or below a level: found from the code that equal steps would give."""
    most = transitions.shape[0]
    code = min(max(int(np.rint(level)), 0), most)
    while code < most and level >= transitions[code]:
        code += 1
    while code > 0 and level < transitions[code - 1]:
        code -= 1
    return code


@kernel()
def digitise_each(signal, columns, planes, s, t):
    """`digitise` by converters that are not all alike."""
    inverse, shift = planes.adc_inverse[s, t], planes.adc_shift[s, t]
    step, zero, which = planes.adc_step[s, t], planes.adc_zero[s, t], planes.adc_which[s, t]
    last = f32(planes.adc_transitions.shape[1])
    clipped = 0
    for m in range(signal.shape[0]):
        for j in range(columns):
            level = signal[m, j] * inverse[j] + shift[j]
            nearest = np.rint(level)
            clipped += int(nearest < f32(0.0) or nearest > last)
            signal[m, j] = f32(code_of(level, planes.adc_transitions[which[j]])) * step[j] + zero[j]
    return clipped


@kernel()
def convert(signal, planes, circuit, s, t, weight, pedestal, start, out):
    """Digitise the currents of a plane and add them to rows of out (rows, outputs); returns clipped readings."""
    adc = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
    scale, reference = planes.scale[s, t], planes.reference
    clipped = 0
    if planes.adc_inverse.shape[0] > 0:
        columns = out.shape[1] if reference.shape[0] == 0 else reference.max() + 1
        clipped = digitise_each(signal, columns, planes, s, t)
    elif circuit.step.shape[0] > 0:
        if reference.shape[0] == 0:
            return digitise_and_accumulate(signal, circuit.step[s], adc, pedestal, scale, weight, start, out)
        clipped = digitise(signal, max(out.shape[1], reference.max() + 1), circuit.step[s], adc)
    accumulate(signal, pedestal, scale, weight, reference, start, out)
    return clipped
