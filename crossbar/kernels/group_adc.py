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


@kernel()
def convert_close(signal, step, adc, scale, weight, start, first, out):
    """`adc.digitise_and_accumulate` into the columns of out from `first` on, as many as there are in `scale`."""
    low, high, centre = adc
    inverse = f32(1.0) / step
    columns, clipped = scale.shape[0], 0
    for m in range(signal.shape[0]):
        outside = i32(0)
        found, row = signal[m], out[start + m][first : first + columns]
        for j in range(columns):
            code = np.rint(found[j] * inverse - centre)
            inside = min(max(code, low), high)
            outside = i32(outside + i32(code != inside))
            row[j] += weight * scale[j] * ((inside + centre) * step - f32(0.0))
        clipped += int(outside)
    return clipped


@kernel()
def accumulate_groups(signal, pedestal, planes, batch, s, t, weight, start, out):
    """Add readings of a batch to rows of out (rows, groups outputs): see `adc.accumulate`."""
    outputs, taken = planes.outputs, pedestal.shape[0] > 0
    first, scale = batch[0] * outputs, planes.scale[s, t]
    for m in range(signal.shape[0]):
        for b in range(batch[1] - batch[0]):
            column, k = b * planes.pitch, (batch[0] + b) * planes.pitch
            taken_off = pedestal[m, column] if taken else f32(0.0)
            for o in range(outputs):
                value = signal[m, column + o] - taken_off
                if planes.reference.shape[0] > 0:
                    value -= signal[m, column + planes.reference[o]]
                out[start + m, first + b * outputs + o] += weight * scale[k + o] * value


@kernel()
def convert_groups(signal, planes, circuit, batch, s, t, weight, start, pedestal, out):
    """Digitise the currents of a batch and add them to rows of out (rows, groups outputs); returns clipped readings."""
    alike = planes.adc_inverse.shape[0] == 0 and circuit.step.shape[0] > 0
    if alike and planes.pitch == planes.outputs and circuit.pedestal == 0.0:
        adc = f32(circuit.low), f32(circuit.high), f32(circuit.centre)
        first, behind = batch[0] * planes.outputs, batch[1] * planes.outputs
        return convert_close(signal, circuit.step[s], adc, planes.scale[s, t][first:behind], weight, start, first, out)
    clipped = digitise_groups(signal, planes, circuit, batch, s, t)
    accumulate_groups(signal, pedestal, planes, batch, s, t, weight, start, out)
    return clipped
