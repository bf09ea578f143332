"""From the currents of several groups to their outputs: what `adc.py` does for one."""

from __future__ import annotations

import numpy as np

from .adc import code_of
from .compiled import kernel

f32, i32 = np.float32, np.int32


@kernel()
def digitise_groups(signal, planes, circuit, batch, s, t):
    """Replace currents of a batch by what their ADCs read; returns the clipped ones."""
    low, high, centre = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
    clipped = 0
    if planes.adc_inverse.shape[0] > 0:
        last = f32(planes.adc_transitions.shape[1])
        for m in range(signal.shape[0]):
            for g in range(batch[0], batch[1]):
                for c in range(planes.columns):
                    j, k = planes.pitch * (g - batch[0]) + c, planes.pitch * g + c
                    level = signal[m, j] * planes.adc_inverse[s, t, k] + planes.adc_shift[s, t, k]
                    nearest = np.rint(level)
                    clipped += int(nearest < f32(0.0) or nearest > last)
                    code = f32(code_of(level, planes.adc_transitions[planes.adc_which[s, t, k]]))
                    signal[m, j] = code * planes.adc_step[s, t, k] + planes.adc_zero[s, t, k]
        return clipped
    if circuit.step.shape[0] == 0:
        return clipped
    step = circuit.step[s]
    inverse = f32(1.0) / step
    for m in range(signal.shape[0]):
        outside = i32(0)
        for b in range(batch[1] - batch[0]):
            for j in range(b * planes.pitch, b * planes.pitch + planes.columns):
                code = np.rint(signal[m, j] * inverse - centre)
                inside = min(max(code, low), high)
                outside = i32(outside + i32(code != inside))
                signal[m, j] = (inside + centre) * step
        clipped += int(outside)
    return clipped


@kernel(inline="always")
def is_first(plane):
    """Whether no other plane = (pulse, slice, row tile) is read before."""
    return plane[0] == 0 and plane[1] == 0 and plane[2] == 0


@kernel(inline="always")
def nearest_code(value, inverse, adc):
    """(code, 1 where it is beyond the last ones) of a current; adc = (lowest, highest, centre)."""
    low, high, centre = adc
    code = np.rint(value * inverse - centre)
    inside = min(max(code, low), high)
    return inside + centre, i32(code != inside)


@kernel()
def convert_close(signal, step, adc, factors, start, first, out):
    """`adc.digitise_and_accumulate` into the columns of out from `first` on, as many as there are in `scale`.

    factors = (weight, scale, bias). Where there is a bias, out is empty so far, and readings are added to the bias.
    """
    weight, scale, bias = factors
    inverse = f32(1.0) / step
    columns, clipped = scale.shape[0], 0
    for m in range(signal.shape[0]):
        outside = i32(0)
        found, row = signal[m], out[start + m][first : first + columns]
        if bias.shape[0] > 0:
            for j in range(columns):
                code, beyond = nearest_code(found[j], inverse, adc)
                outside = i32(outside + beyond)
                row[j] = bias[j] + weight * scale[j] * (code * step - f32(0.0))
        else:
            for j in range(columns):
                code, beyond = nearest_code(found[j], inverse, adc)
                outside = i32(outside + beyond)
                row[j] += weight * scale[j] * (code * step - f32(0.0))
        clipped += int(outside)
    return clipped


@kernel()
def accumulate_groups(signal, pedestal, planes, batch, plane, weight, start, out):
    """Add readings of a batch to rows of out (rows, groups outputs): see `adc.accumulate` and `convert_groups`."""
    _, s, t = plane
    outputs, taken, first_plane = planes.outputs, pedestal.shape[0] > 0, is_first(plane)
    first, scale = batch[0] * outputs, planes.scale[s, t]
    for m in range(signal.shape[0]):
        for b in range(batch[1] - batch[0]):
            column, k = b * planes.pitch, (batch[0] + b) * planes.pitch
            taken_off = pedestal[m, column] if taken else f32(0.0)
            for o in range(outputs):
                value = signal[m, column + o] - taken_off
                if planes.reference.shape[0] > 0:
                    value -= signal[m, column + planes.reference[o]]
                column_of = first + b * outputs + o
                before = planes.bias[column_of] if first_plane else out[start + m, column_of]
                out[start + m, column_of] = before + weight * scale[k + o] * value


@kernel()
def convert_groups(signal, planes, circuit, batch, plane, weight, start, pedestal, out):
    """Digitise the currents of a batch and add them to rows of out (rows, groups outputs); returns clipped readings.

    plane = (pulse, slice, row tile). Those of the first plane are added to the bias instead: out is empty so far.
    """
    _, s, t = plane
    alike = planes.adc_inverse.shape[0] == 0 and circuit.step.shape[0] > 0
    if alike and planes.pitch == planes.outputs and circuit.pedestal == 0.0:
        adc = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
        first, behind = batch[0] * planes.outputs, batch[1] * planes.outputs
        bias = planes.bias[first : behind if is_first(plane) else first]
        factors = weight, planes.scale[s, t][first:behind], bias
        return convert_close(signal, circuit.step[s], adc, factors, start, first, out)
    clipped = digitise_groups(signal, planes, circuit, batch, s, t)
    accumulate_groups(signal, pedestal, planes, batch, plane, weight, start, out)
    return clipped
