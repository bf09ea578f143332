"""One read of a matrix that is spread over tiles: gather, multiply, add noise, digitise, accumulate.

Rows are the reads of the matrix: samples, times positions of a convolution. They are processed in chunks, by as many
workers as there are threads, and no number depends on how: sums run in a fixed order (`panel.py`), random numbers are
counted (`philox.py`). A plane is what one set of converters sees: one slice of one row tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from .adc import convert
from .compiled import kernel
from .digits import row_squares, row_sums
from .gather import corners_of, gather, taken_from
from .philox import GROUP, PLANE_BITS, Rows, draw_normals, noisy
from .products import add_linear, add_up, apart, counts_of, direct_products, operands, plane_products
from .readings import BLOCK, TABLE, add_readings

f32, i64, u32 = np.float32, np.int64, np.uint32
Array = np.ndarray[Any, Any]

SUPPLY_PLANE = u32(1 << (PLANE_BITS - 1))  # random numbers of the read voltage: planes from here on
CHUNK = 48  # rows processed together, at most: their scratch stays in the second-level cache


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
    """What a programmed matrix of `rows` word lines and `columns` outputs is to the kernel.

    Conductances are in units of g_max, currents in units of v_read g_max. Columns of `floor` and `scale` are padded to
    whole groups (`philox.GROUP`). Where the bit lines of a pair are converted apart, the two are slices here.

    ADCs that are not all alike have the `adc_` fields, which are empty where `Circuit` says what all do. A reading of
    the current I is at the level I inverse + shift, its code is the number of transitions at or below that, and it
    counts as code step + zero.
    """

    mean: Array  # packed (slices, panels, ...): signed conductance, float32 or int16 as the input codes
    variance: Array  # packed likewise: variance of the conductance in each read; (slices, 0, 0, 0) when there is none
    mean_unit: Array  # (slices, row tiles) float32: what 1 of `mean` stands for
    variance_unit: (
        Array  # (slices, row tiles) float32: what 1 of `variance` times a squared code (see `square`) stands for
    )
    uniform: (
        Array  # (slices, row tiles) float32: variance that all cells of a tile have alike; empty when there is none
    )
    floor: Array  # (slices, row tiles, columns) float32: variance of the current that no input changes
    scale: Array  # (slices, row tiles, columns) float32: current to weight units
    edges: Array  # (row tiles + 1,) int64: first word line of each row tile
    reference: Array  # (columns,) int64: the column whose reading is taken off this one; empty when there is none
    bias: Array  # (outputs,) float32: digital bias
    linear: Array  # packed as `mean`: variance that goes with the first power of codes; (slices, 0, 0, 0) without it
    linear_unit: Array  # (slices, row tiles) float32: what 1 of `linear` stands for
    total: Array  # (slices, row tiles, columns) float32: variance of all cells of a bit line that floats; else empty
    adc_inverse: Array  # (slices, row tiles, columns) float32: codes for a unit of current
    adc_shift: Array  # the same: level, counted from the lowest code, at no current
    adc_step: Array  # the same: current for a code, as the digital side takes it
    adc_zero: Array  # the same: current that the lowest code stands for
    adc_which: Array  # (slices, row tiles, columns) int32: the row of
    adc_transitions: Array  # (ADCs, codes - 1) float32, rising: levels at which the next code begins


ALIKE: dict[str, Array] = {
    **{f"adc_{name}": np.empty((0, 0, 0), np.float32) for name in ("inverse", "shift", "step", "zero")},
    "adc_which": np.empty((0, 0, 0), np.int32),
    "adc_transitions": np.empty((0, 0), np.float32),
}  # those fields of planes whose ADCs are all alike


class Circuit(NamedTuple):
    """The converters and the noise that all planes share."""

    integers: bool  # codes and conductances are int16, else float32
    halve: bool  # squared codes would not fit into int16 and are halved

    pulses: int  # of an input and phase
    digit_bits: int  # bits of each pulse
    full_code: float  # largest input code; 1 without a DAC
    constant: float  # input code of the word line behind the patch: the bias row's; 0 without one
    gain_variance: float  # relative variance of the column gain in each read
    supply: float  # relative standard deviation of the read voltage, which all columns of a pulse share
    noisy: bool
    step: Array  # (slices,) float32: current of one ADC step; empty without an ADC
    low: float  # lowest and highest ADC code
    high: float
    centre: float  # 0: codes stand for multiples of a step; 0.5: for the middle between them
    pedestal: float  # conductance that all cells have and the digital side takes off again
    phases: int  # 2: pulses of positive inputs, then of negative ones, which are taken off
    levels: Array  # (digits,) float32: what each digit drives; empty where it drives its number
    joined: int  # 0: each pulse is converted; else all of a phase together: 1: scaled charge, 2: repeated pulses

    @property
    def conversions(self) -> int:
        """Of a bit line in one read."""
        return self.phases * (1 if self.joined else self.pulses)


class Deal(NamedTuple):
    """Where reads stand among all reads, and how their rows are dealt out."""

    first_sample: Any  # uint64 and
    positions: Array  # whose the rows of each read are: see `Rows`, which numba takes apart no further here
    first_read: Any  # uint32
    chunk: int  # rows processed together


class Place(NamedTuple):
    """Where a chunk stands: among all reads, in the inputs, and in the outputs (reads, rows, outputs)."""

    rows: Rows  # of the whole read
    first_read: Any  # uint32: of all reads
    source: int  # first row of the inputs
    start: int  # first row of the outputs
    first: int  # first read of the outputs
    reads: int  # how many reads have these inputs
    rows_here: int  # rows of the chunk


class Plane(NamedTuple):
    """Which plane of which pulse."""

    pulse: int  # counted over all phases
    slice: int
    tile: int  # row tile


class Scratch(NamedTuple):
    """What a worker needs for one chunk; filled anew for each."""

    starts: Array  # (chunk,) int64: where the inputs of each row begin, and
    offsets: Array  # (steps,) int64: how far behind that each step finds them; both empty where rows are gathered
    codes: Array  # (chunk, word lines) input codes; no row where none are gathered, as of the next three
    digits: Array  # the same: what one pulse drives; (0, 0) where that is the codes themselves
    squares: Array  # the same: their squares; (0, 0) without noise of cells
    firsts: Array  # the same: what `Planes.linear` is multiplied by; (0, 0) where there is none
    linear: Array  # (chunk, columns) float32: that product; no row where there is none
    sums: Array  # (2, chunk, columns) float32: of currents and variances of pulses that are converted together, or none
    current: Array  # (chunk, columns) float32
    variance: Array  # (chunk, columns) float32, or one row of zeros
    signal: Array  # (chunk, columns) float32
    pedestal: Array  # (chunk,) float32
    extra: Array  # (chunk,) float32: variance that all columns of a row have alike
    normals: Array  # (chunk, GROUP) float32, or no row: normals of the read voltage
    words: Array  # (some rows, columns) int32: random words; see `draw_words`, and for
    table: Array  # (numbers,) int32
    weights: Array  # (1, columns) float32: what an output becomes for a reading


@kernel()
def make_scratch(x, held, chunk):
    """Scratch for chunks of this many rows; columns are whole groups, zero behind the panels."""
    geometry, planes, circuit, direct = held.geometry, held.planes, held.circuit, held.direct
    lines, each = planes.edges[-1], 2 if circuit.integers else 1
    offsets = np.empty(lines // each if direct else 0, np.int64)
    if direct:
        taken_from(x, geometry, each, geometry.kernel[2], offsets)
        offsets //= each
    columns = planes.floor.shape[2]
    cells = circuit.noisy and planes.variance.shape[1] > 0
    uniform = circuit.noisy and planes.uniform.shape[0] > 0
    linear = circuit.noisy and planes.linear.shape[1] > 0
    return Scratch(
        np.empty(chunk if direct else 0, np.int64),
        offsets,
        np.empty((0 if direct else chunk, lines), x.dtype),
        np.empty((chunk, lines) if apart(circuit) else (0, 0), x.dtype),
        np.empty((chunk, lines) if cells and not direct else (0, 0), x.dtype),
        np.empty((chunk, lines) if linear else (0, 0), x.dtype),
        np.zeros((chunk if linear else 0, columns), np.float32),
        np.zeros((2, chunk, columns) if circuit.joined > 0 else (0, 0, 0), np.float32),
        np.zeros((chunk, columns), np.float32),
        np.zeros((chunk if cells or linear or circuit.joined > 0 else 1, columns), np.float32),
        np.empty((chunk, columns), np.float32),
        np.empty(chunk, np.float32),
        np.zeros(chunk if uniform else 1, np.float32),
        np.empty((chunk if circuit.noisy and circuit.supply > 0 else 0, GROUP), np.float32),
        np.empty((max(1, BLOCK // columns), columns), np.int32),
        np.empty(columns // GROUP * TABLE + 1, np.int32),
        np.empty((1, columns), np.float32),
    )


@kernel()
def in_one_pass(planes, circuit):
    """Whether readings are made with `add_readings`: noisy ones, by ADCs that are alike, none taken off another."""
    alike = planes.adc_inverse.shape[0] == 0 and planes.reference.shape[0] == 0
    return circuit.noisy and circuit.step.shape[0] > 0 and alike and planes.bias.shape[0] % GROUP == 0


@kernel()
def move_supply(current, supply, rows, start, pulse, read, key, normals):
    """Scale each row of current (rows, columns) by 1 + supply times its normal, the same for all planes of a pulse."""
    draw_normals(rows, start, (SUPPLY_PLANE + u32(pulse), read), key, normals)
    for m in range(current.shape[0]):
        factor = f32(1.0) + f32(supply) * normals[m, 0]
        for j in range(current.shape[1]):
            current[m, j] *= factor


@kernel()
def convert_plane(planes, circuit, key, place, plane, factors, weight, rows, work, out):
    """Noise and conversion of the products of a plane, in `work`: see `read_plane`. `factors` as in `noisy`."""
    pulse, s, t = plane
    reads = place.reads
    current, variance, signal = work.current[:rows], work.variance[:rows], work.signal[:rows]
    pedestal = work.pedestal[: rows if circuit.pedestal != 0.0 else 0]
    number = u32((pulse * planes.mean.shape[0] + s) * (planes.edges.shape[0] - 1) + t)
    floor = planes.floor[s, t].reshape(1, signal.shape[1])
    direct = in_one_pass(planes, circuit)
    bias = planes.bias[: planes.bias.shape[0] if direct and pulse == 0 and s == 0 and t == 0 else 0]
    if direct:
        for j in range(signal.shape[1]):
            work.weights[0, j] = weight * planes.scale[s, t, j]
    clipped = 0
    for v in range(reads):
        where, source = (number, place.first_read + u32(v)), current
        if circuit.noisy and circuit.supply > 0:
            source = signal
            signal[:] = current
            move_supply(signal, circuit.supply, place.rows, place.start, pulse, where[1], key, work.normals[:rows])
        if direct:
            adc = circuit.step[s], f32(circuit.low), f32(circuit.high), f32(circuit.centre)
            offsets, buffers = (work.extra, pedestal), (work.words, work.table, work.weights)
            given, target = (source, variance, floor), out[place.first + v]
            clipped += add_readings(given, factors, adc, offsets, place, where, key, buffers, bias, target)
            continue
        if circuit.noisy:
            noisy((source, variance, floor, signal), factors, work.extra, place.rows, place.start, where, key)
        else:
            for m in range(rows):
                for j in range(signal.shape[1]):
                    signal[m, j] = current[m, j] * factors[0]
        clipped += convert(signal, planes, circuit, s, t, weight, pedestal, place.start, out[place.first + v])
    return clipped


@kernel()
def read_plane(digits, squares, flat, planes, circuit, key, place, plane, work, out):
    """One plane of one pulse of a chunk: `place.reads` readings, added to `out`; returns the clipped ones.

    The products are the same in all reads; the noise is not. `flat` are the inputs and their squares, flat, as they
    are where `work` has the starts of their rows.
    """
    pulse, s, t = plane
    direct = work.starts.shape[0] > 0
    rows = place.rows_here
    unit, weight = counts_of(circuit, pulse)
    r0, r1 = planes.edges[t], planes.edges[t + 1]
    linear = work.linear.shape[0] > 0
    if direct:
        direct_products(flat[0], flat[1], planes, circuit, s, t, rows, work)
    else:
        plane_products(digits, squares, planes, circuit, s, t, work.current[:rows], work.variance[:rows])
    if linear:
        add_linear(work, rows, planes, (s, t), circuit, unit)
    if circuit.pedestal != 0.0:
        row_sums(digits, r0, r1, f32(circuit.pedestal) * unit, work.pedestal)
    if circuit.noisy and planes.uniform.shape[0] > 0:
        row_squares(digits, r0, r1, circuit.integers, unit * unit * planes.uniform[s, t], work.extra)
    variance_unit = f32(1.0) if linear else unit * unit * planes.variance_unit[s, t]
    factors = unit * planes.mean_unit[s, t], variance_unit, f32(circuit.gain_variance)
    if pulse >= circuit.pulses:
        weight = -weight
    return convert_plane(planes, circuit, key, place, plane, factors, weight, rows, work, out)


@kernel()
def read_joined(codes, planes, circuit, key, place, work, out):
    """All planes of a chunk whose pulses are added up as charge; returns clipped readings."""
    factors = f32(1.0), f32(1.0), f32(circuit.gain_variance)
    clipped = 0
    for phase in range(circuit.phases):
        weight = f32(-1.0) if phase == 1 else f32(1.0)
        for s in range(planes.mean.shape[0]):
            for t in range(planes.edges.shape[0] - 1):
                add_up(codes, planes, circuit, phase, (s, t), work)
                plane = Plane(phase, s, t)
                clipped += convert_plane(planes, circuit, key, place, plane, factors, weight, codes.shape[0], work, out)
    return clipped


@kernel()
def read_chunk(x, squared, geometry, planes, circuit, key, place, work, out):
    """All pulses and planes of a chunk; returns clipped readings. squared: the squares of x where none are gathered."""
    rows = place.rows_here
    codes, flat = work.codes[:rows], (x.reshape(-1), squared.reshape(-1))
    if work.starts.shape[0] > 0:
        corners_of(x, geometry, place.source, work.starts[:rows])
        work.starts[:rows] //= 2 if circuit.integers else 1
    else:
        gather(x, geometry, place.source, place.source + rows, circuit.constant, codes)
    if not in_one_pass(planes, circuit):
        for v in range(place.first, place.first + place.reads):
            for m in range(place.start, place.start + rows):
                for j in range(out.shape[2]):
                    out[v, m, j] = planes.bias[j]
    if circuit.joined > 0:
        return read_joined(codes, planes, circuit, key, place, work, out)
    clipped = 0
    for q in range(circuit.pulses * circuit.phases):
        digits, squares = operands(codes, circuit, q, planes.total.shape[0] > 0, work)
        for s in range(planes.mean.shape[0]):
            for t in range(planes.edges.shape[0] - 1):
                clipped += read_plane(digits, squares, flat, planes, circuit, key, place, Plane(q, s, t), work, out)
    return clipped


@kernel()
def read_chunks(x, squared, held, key, deal, worker, workers, out):
    """Every workers-th chunk from number `worker` on, as `read_matrix`: what one worker does."""
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    reads, rows, _ = out.shape
    shared = x.shape[0] * geometry.out[0] * geometry.out[1] * geometry.out[2] == rows
    chunks = (rows + deal.chunk - 1) // deal.chunk
    jobs = chunks if shared else chunks * reads
    work = make_scratch(x, held, min(rows, deal.chunk))
    clipped = 0
    for job in range(worker, jobs, workers):
        v = 0 if shared else job // chunks
        start = (job - v * chunks) * deal.chunk
        place = Place(
            Rows(deal.first_sample, deal.positions),
            deal.first_read + u32(v),
            v * rows + start,
            start,
            v,
            reads if shared else 1,
            min(rows - start, deal.chunk),
        )
        clipped += read_chunk(x, squared, geometry, planes, circuit, key, place, work, out)
    return clipped


@kernel()
def read_matrix(x, squared, held, key, deal, out):
    """Read the whole matrix into out (reads, rows, outputs) float32; returns the number of clipped ADC readings.

    `held` is what `hold` makes of its geometry, planes and circuit. x (samples, depth, height, width, channels) holds
    input codes, int16 or float32 as the planes (plain inputs without a DAC). Its samples are those of one read, which
    all reads share, or of all reads one after the other. squared are their squares, of the same shape, where `held`
    is direct and cells are noisy; else of no sample. `out` is contiguous.
    """
    # i64 here and below: with the types as they come, numba compiles read_chunks three times
    return read_chunks(x, squared, held, key, deal, i64(0), i64(1), out)


@kernel(parallel=True)
def read_matrix_parallel(x, squared, held, key, deal, workers, out):
    """`read_matrix` by several workers at once: the same bits."""
    clipped = np.zeros(workers, np.int64)
    for worker in prange(workers):
        clipped[worker] = read_chunks(x, squared, held, key, deal, i64(worker), i64(workers), out)
    return clipped.sum()


@kernel()
def read_currents(x, held, start, codes, out):
    """Noiseless currents of the rows from `start` on into out (pulses, slices, row tiles, rows, columns).

    Their input codes go into codes (rows, word lines), of the type of x. `held` as in `read_matrix`.
    """
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    rows = out.shape[3]
    work = make_scratch(x, held, rows)
    gather(x, geometry, start, start + rows, circuit.constant, codes)
    for q in range(out.shape[0]):
        if circuit.joined == 0:
            digits, _ = operands(codes, circuit, q, False, work)
        for s in range(out.shape[1]):
            for t in range(out.shape[2]):
                if circuit.joined > 0:
                    add_up(codes, planes, circuit, q, (s, t), work)
                    factor = f32(1.0)
                else:
                    plane_products(digits, digits[:0], planes, circuit, s, t, work.current[:rows], work.variance)
                    factor = counts_of(circuit, q)[0] * planes.mean_unit[s, t]
                out[q, s, t] = work.current[:rows, : out.shape[4]] * factor
