"""One read of a matrix of many groups, all of them in one call: the bits of `read.py`, group after group.

Groups have tiles, random numbers and, mostly, few columns of their own. Here a batch of groups is read together: its
columns stand side by side, and each plane is multiplied, made noisy and converted for all of them. Groups of few
columns are multiplied lane by lane (`group_products.py`), others panel by panel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from .compiled import kernel
from .digits import row_squares, row_sums
from .gather import gather
from .group_adc import convert_groups
from .group_noise import add_group_noise, counters_of, streams_of
from .group_products import (
    Box,
    Steps,
    copy_image,
    extent,
    fill_image,
    multiply_alike,
    multiply_lanes,
    offsets_of,
    places_of,
    rows_of,
    squared_lanes,
)
from .lanes import LANES
from .panel import PANEL, multiply_panels
from .philox import Rows
from .products import apart, counts_of, operands
from .read import SUPPLY_PLANE, Geometry

f32, i64, u32 = np.float32, np.int64, np.uint32
Array = np.ndarray[Any, Any]


class Together(NamedTuple):
    """What the planes of all groups are to the kernel: see `read.Planes`, whose units these are.

    The columns of a group (outputs, then references) are `pitch` from those of the one before. Tables are padded behind
    the last column, to whole panels. Products are of lanes or of panels: what belongs to the other form is empty.
    Panels without steps take patches that are gathered.
    """

    groups: int
    outputs: int  # of a group
    columns: int  # outputs and references of a group
    pitch: int
    batch: int  # groups that are read together
    steps: Steps
    own: int  # inputs of a group at each place of the kernel, in steps
    source: Array  # (columns of all groups,) int64: first input channel of each
    mean: Array  # (slices, panels, steps + 1, ...): of lanes, see `multiply_lanes`
    variance: Array  # the same, or no panel
    ones: Array  # the same, 1 where a word line is of the row tile; no panel where no pedestal is taken off
    panel_mean: Array  # (groups, slices, panels, ...): as packed
    panel_variance: Array  # the same, or no panel
    mean_unit: Array  # (slices, row tiles, columns) float32
    variance_unit: Array  # the same
    uniform: Array  # the same, or empty
    floor: Array  # the same
    scale: Array  # the same
    edges: Array  # (row tiles + 1,)
    reference: Array  # (outputs,) int64: which column of the group is taken off each; empty without references
    bias: Array  # (groups outputs,) float32
    constant: bool  # whether a word line behind the patch is driven with a constant
    adc_inverse: Array  # (slices, row tiles, columns) and so on; empty where ADCs are alike
    adc_shift: Array
    adc_step: Array
    adc_zero: Array
    adc_which: Array
    adc_transitions: Array


class Cut(NamedTuple):
    """Into what boxes the outputs are cut, and where they stand among all reads: see `read.Deal`."""

    first_sample: Any  # uint64
    positions: Array
    first_read: Any  # uint32
    samples: int
    lines: int
    pixels: int


class GroupScratch(NamedTuple):
    """What a worker needs for one box and batch, filled anew for each; of the first four flat parts are used."""

    codes: Array  # input codes: an image, or rows of patches of each group
    digits: Array  # the same: what one pulse drives; empty where that is the codes themselves
    squares: Array  # the same: their squares; empty without noise of cells
    firsts: Array  # empty
    starts: Array  # (rows,) int64
    offsets: Array  # (steps,) int64
    counters: Array  # (rows, 4) int64
    current: Array  # (rows, columns) float32
    variance: Array  # the same, or one row of zeros
    signal: Array  # the same as current
    pedestal: Array  # the same, or no row
    extra: Array  # the same, or one row of zeros: variance beside that of the cells
    row: Array  # (rows,) float32
    units: Array  # (2, columns) float32: of mean and variance


@kernel()
def columns_of(planes):
    """Columns of scratch: those of a batch in whole panels, and one panel more, which packed panels may reach into."""
    return ((planes.batch * planes.pitch + PANEL - 1) // PANEL + 1) * PANEL


@kernel()
def make_group_scratch(x, geometry, planes, circuit, box):
    """Scratch for boxes up to the size of this one."""
    rows, columns = box.samples * box.lines * box.pixels, columns_of(planes)
    each = 2 if circuit.integers else 1
    if planes.panel_mean.shape[0] == 0 or planes.steps.place.shape[0] > 0:
        lines, pixels = extent(geometry, box)
        pairs = (geometry.channels + each - 1) // each
        across = columns if planes.panel_mean.shape[0] == 0 else planes.batch
        size = (box.samples * geometry.kernel[0] * lines * pixels * pairs * across + 1) * each
    else:
        size = planes.batch * rows * planes.edges[-1]
    cells = circuit.noisy and (planes.variance.shape[1] > 0 or planes.panel_variance.shape[2] > 0)
    uniform = circuit.noisy and planes.uniform.shape[0] > 0
    return GroupScratch(
        np.empty((1, size), x.dtype),
        np.empty((1 if apart(circuit) else 0, size), x.dtype),
        np.empty((1 if cells else 0, size), x.dtype),
        np.empty((0, 0), x.dtype),
        np.empty(rows, np.int64),
        np.empty(planes.steps.place.shape[0], np.int64),
        np.empty((rows, 4), np.int64),
        np.zeros((rows, columns), np.float32),
        np.zeros((rows if cells else 1, columns), np.float32),
        np.empty((rows, columns), np.float32),
        np.zeros((rows if circuit.pedestal != 0.0 else 0, columns), np.float32),
        np.zeros((rows if uniform else 1, columns), np.float32),
        np.empty(rows, np.float32),
        np.zeros((2, columns), np.float32),
    )


@kernel()
def first_of(values, size):
    """The first numbers of values (1 or 0, more), contiguous."""
    return values.reshape(-1)[: size * values.shape[0]].reshape(values.shape[0], size)


@kernel()
def part_of(work, rows, size):
    """Scratch for a box of so many rows, whose codes have so many numbers."""
    return GroupScratch(
        first_of(work.codes, size),
        first_of(work.digits, size),
        first_of(work.squares, size),
        work.firsts,
        work.starts[:rows],
        work.offsets,
        work.counters[:rows],
        work.current[:rows],
        work.variance[:rows],
        work.signal[:rows],
        work.pedestal[:rows],
        work.extra[:rows],
        work.row[:rows],
        work.units,
    )


@kernel()
def lay_out(x, geometry, planes, circuit, box, batch, start, work):
    """The input codes of a batch = (first group, behind the last) into scratch; returns that of the box."""
    rows = box.samples * box.lines * box.pixels
    first, last = batch
    direct = planes.steps.place.shape[0] > 0
    if not direct:
        lines = planes.edges[-1]
        mine = part_of(work, rows, (last - first) * rows * lines)
        codes = mine.codes[0].reshape((last - first) * rows, lines)
        for g in range(first, last):
            of_group = Geometry(
                geometry.kernel,
                geometry.stride,
                geometry.dilation,
                geometry.out,
                g * geometry.channels,
                geometry.channels,
            )
            patches = codes[(g - first) * rows : (g - first + 1) * rows]
            gather(x, of_group, start, start + rows, circuit.constant, patches)
        return mine
    each = 2 if circuit.integers else 1
    pairs = (geometry.channels + each - 1) // each
    if planes.panel_mean.shape[0] > 0:
        channels = (last - first) * geometry.channels
        size = copy_image(x, geometry, box, first * geometry.channels, channels, work.codes[0])
    else:
        lanes = (planes.pitch * (last - first) + PANEL - 1) // PANEL * PANEL
        source = planes.source[planes.pitch * first : planes.pitch * last]
        size = fill_image(x, geometry, box, source, lanes, work.codes[0])
    mine = part_of(work, rows, size + each)
    mine.codes[0, size:] = 0
    mine.codes[0, size] = circuit.constant
    if planes.panel_mean.shape[0] > 0:
        places_of(geometry, box, planes.steps.place, (last - first) * pairs, mine.offsets)
        rows_of(geometry, box, pairs, last - first, mine.starts)
    else:
        offsets_of(geometry, box, planes.steps.place, pairs, lanes, mine.offsets)
        rows_of(geometry, box, pairs, lanes, mine.starts)
    return mine


@kernel()
def direct_products(digits, squares, planes, circuit, batch, s, t, work):
    """`lane_products` of groups with packed panels, straight from their inputs."""
    each = 2 if circuit.integers else 1
    steps = planes.steps.edges[t], planes.steps.edges[t + 1]
    last = t + 2 == planes.edges.shape[0]
    constant = i64(digits.shape[1] // each - 1) if planes.constant and last else i64(-1)
    starts, offsets = work.starts, work.offsets
    for g in range(batch[0], batch[1]):
        shift, column = (g - batch[0]) * planes.own, (g - batch[0]) * planes.pitch
        mean = planes.panel_mean[g, s]
        multiply_alike(digits[0], starts, offsets, mean, shift, steps, constant, column, work.current)
        if squares.shape[0] > 0:
            variance = planes.panel_variance[g, s]
            multiply_alike(squares[0], starts, offsets, variance, shift, steps, constant, column, work.variance)


@kernel()
def lane_products(digits, squares, planes, circuit, batch, s, t, unit, work):
    """Currents, and what else a plane makes of its inputs, into `work`, of groups whose columns are lanes."""
    columns = planes.pitch * (batch[1] - batch[0])
    panels = slice(planes.pitch * batch[0] // PANEL, (planes.pitch * batch[0] + columns + PANEL - 1) // PANEL)
    lanes = (panels.stop - panels.start) * PANEL
    steps = planes.steps.edges[t], planes.steps.edges[t + 1]
    each = 2 if circuit.integers else 1
    last = t + 2 == planes.edges.shape[0]
    constant = i64(digits.shape[1] // each - 1) if planes.constant and last else i64(-1)
    image, starts, offsets = digits[0], work.starts, work.offsets
    multiply_lanes(image, starts, offsets, planes.mean[s, panels], steps, constant, work.current)
    if squares.shape[0] > 0:
        multiply_lanes(squares[0], starts, offsets, planes.variance[s, panels], steps, constant, work.variance)
    if circuit.pedestal != 0.0:
        multiply_lanes(image, starts, offsets, planes.ones[0, panels], steps, constant, work.pedestal)
        factor = f32(circuit.pedestal) * unit
        for m in range(work.pedestal.shape[0]):
            for j in range(lanes):
                work.pedestal[m, j] *= factor
    if circuit.noisy and planes.uniform.shape[0] > 0:
        first = planes.pitch * batch[0]
        factors = unit * unit * planes.uniform[s, t, first : first + lanes]
        squared_lanes(image, starts, offsets, planes.steps.taken, steps, constant, factors, work.extra[:, :lanes])


@kernel()
def panel_products(digits, squares, planes, circuit, batch, s, t, unit, work):
    """`lane_products` of groups with packed panels, from patches that were gathered."""
    rows, lines, step = work.current.shape[0], planes.edges[-1], 2 if circuit.integers else 1
    r0, r1 = planes.edges[t], planes.edges[t + 1]
    depth = slice(r0 // step, r1 // step)
    count = batch[1] - batch[0]
    driven = digits[0].reshape(count * rows, lines)
    for b in range(count):
        g, column = batch[0] + b, b * planes.pitch
        mine = driven[b * rows : (b + 1) * rows]
        multiply_panels(mine[:, r0:r1], planes.panel_mean[g, s, :, depth], work.current[:, column:])
        if squares.shape[0] > 0:
            squared = squares[0].reshape(count * rows, lines)[b * rows : (b + 1) * rows]
            multiply_panels(squared[:, r0:r1], planes.panel_variance[g, s, :, depth], work.variance[:, column:])
        if circuit.pedestal != 0.0:
            row_sums(mine, r0, r1, f32(circuit.pedestal) * unit, work.row)
            for m in range(rows):
                work.pedestal[m, column : column + planes.pitch] = work.row[m]
        if circuit.noisy and planes.uniform.shape[0] > 0:
            factor = unit * unit * planes.uniform[s, t, g * planes.pitch]
            row_squares(mine, r0, r1, circuit.integers, factor, work.row)
            for m in range(rows):
                work.extra[m, column : column + planes.pitch] = work.row[m]


@kernel()
def move_group_supply(target, supply, planes, batch, streams, counters):
    """Scale each row of each group by 1 + supply times its normal: see `read.move_supply`."""
    first = batch[0] // LANES
    behind = (batch[1] + LANES - 1) // LANES
    columns = (behind - first) * LANES
    drawn = np.zeros((target.shape[0], columns), np.float32)
    nothing, zeros, ones = (
        np.zeros((1, columns), np.float32),
        np.zeros(columns, np.float32),
        np.ones(columns, np.float32),
    )
    tables = ones, zeros, zeros
    add_group_noise(drawn, nothing, nothing, tables, f32(0), streams, (first, behind), first * LANES, counters)
    for m in range(target.shape[0]):
        for g in range(batch[0], batch[1]):
            factor = f32(1.0) + f32(supply) * drawn[m, g - first * LANES]
            column = planes.pitch * (g - batch[0])
            for j in range(column, column + planes.columns):
                target[m, j] *= factor


@kernel()
def read_group_plane(planes, circuit, streams, place, plane, batch, weight, work, out):
    """Noise and conversion of the products in `work`; place = (rows, first row, first read, first of out, how many)."""
    pulse, s, t = plane
    whose, start, first_read, first, reads = place
    number = u32((pulse * planes.mean_unit.shape[0] + s) * (planes.edges.shape[0] - 1) + t)
    columns = (batch[1] - batch[0]) * planes.pitch
    behind = (columns + LANES - 1) // LANES * LANES
    c0 = batch[0] * planes.pitch
    tables = planes.floor[s, t, c0 : c0 + behind], work.units[0, :behind], work.units[1, :behind]
    gain = f32(circuit.gain_variance)
    per_group = (planes.columns + 4 * LANES - 1) // (4 * LANES)
    if planes.columns <= LANES:
        vectors = c0 // LANES, (c0 + columns + LANES - 1) // LANES
    else:
        vectors = batch[0] * per_group, batch[1] * per_group
    clipped = 0
    for v in range(reads):
        target, read = work.current, first_read + u32(v)
        if circuit.noisy:
            if v + 1 < reads:
                target = work.signal
                target[:] = work.current
            if circuit.supply > 0:
                counters_of(whose, start, (SUPPLY_PLANE + u32(pulse), read), work.counters)
                move_group_supply(target, circuit.supply, planes, batch, streams[1], work.counters)
            counters_of(whose, start, (number, read), work.counters)
            add_group_noise(target, work.variance, work.extra, tables, gain, streams[0], vectors, c0, work.counters)
        else:
            target = work.signal
            for m in range(target.shape[0]):
                for j in range(columns):
                    target[m, j] = work.current[m, j] * work.units[0, j]
        clipped += convert_groups(target, planes, circuit, batch, s, t, weight, start, work.pedestal, out[first + v])
    return clipped


@kernel()
def read_box(x, held, streams, box, batch, source, place, work, out):
    """All pulses and planes of a box and a batch of groups; returns clipped readings. `place` as in `read_group_plane`.

    The inputs of its rows start with those of row `source` of all.
    """
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    mine = lay_out(x, geometry, planes, circuit, box, batch, source, work)
    _, start, _, first, reads = place
    c0, outputs = batch[0] * planes.pitch, planes.outputs
    columns = (batch[1] - batch[0]) * planes.pitch
    for v in range(first, first + reads):
        for m in range(start, start + mine.current.shape[0]):
            for j in range(batch[0] * outputs, batch[1] * outputs):
                out[v, m, j] = planes.bias[j]
    clipped = 0
    for q in range(circuit.pulses * circuit.phases):
        digits, squares = operands(mine.codes, circuit, q, False, mine)
        unit, weight = counts_of(circuit, q)
        if q >= circuit.pulses:
            weight = -weight
        for s in range(planes.mean_unit.shape[0]):
            for t in range(planes.edges.shape[0] - 1):
                for j in range(columns):
                    work.units[0, j] = unit * planes.mean_unit[s, t, c0 + j]
                    work.units[1, j] = unit * unit * planes.variance_unit[s, t, c0 + j]
                if planes.panel_mean.shape[0] == 0:
                    lane_products(digits, squares, planes, circuit, batch, s, t, unit, mine)
                elif planes.steps.place.shape[0] > 0:
                    direct_products(digits, squares, planes, circuit, batch, s, t, mine)
                else:
                    panel_products(digits, squares, planes, circuit, batch, s, t, unit, mine)
                clipped += read_group_plane(planes, circuit, streams, place, (q, s, t), batch, weight, mine, out)
    return clipped


@kernel()
def read_boxes(x, held, keys, cut, worker, workers, out):
    """Every workers-th box and batch from number `worker` on: what one worker does of `read_groups`."""
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    reads, rows, _ = out.shape
    depth, height, width = geometry.out
    positions = depth * height * width
    samples = rows // positions if positions > 0 else 0
    shared = x.shape[0] == samples
    along = (samples + cut.samples - 1) // cut.samples
    down, across = (height + cut.lines - 1) // cut.lines, (width + cut.pixels - 1) // cut.pixels
    batches = (planes.groups + planes.batch - 1) // planes.batch
    boxes = along * depth * down * across
    jobs = boxes * batches * (1 if shared else reads)
    work = make_group_scratch(x, geometry, planes, circuit, Box(0, cut.samples, 0, 0, cut.lines, 0, cut.pixels))
    streams = streams_of(keys, planes.columns, planes.pitch), streams_of(keys, 1, 1)
    clipped = 0
    for job in range(worker, jobs, workers):
        b, k = job % batches, job // batches
        batch = b * planes.batch, min((b + 1) * planes.batch, planes.groups)
        v, k = k // boxes, k % boxes
        k, ox = k // across, k % across * cut.pixels
        k, oy = k // down, k % down * cut.lines
        n, oz = k // depth * cut.samples, k % depth
        box = Box(
            n + v * samples,
            min(cut.samples, samples - n),
            oz,
            oy,
            min(cut.lines, height - oy),
            ox,
            min(cut.pixels, width - ox),
        )
        start = ((n * depth + oz) * height + oy) * width + ox
        whose = Rows(cut.first_sample, cut.positions)
        place = whose, start, cut.first_read + u32(v), v, reads if shared else 1
        clipped += read_box(x, held, streams, box, batch, v * rows + start, place, work, out)
    return clipped


@kernel()
def read_groups(x, held, keys, cut, out):
    """Read all groups of a matrix into out (reads, rows, groups outputs) float32; returns the clipped ADC readings.

    `held` is what `hold` makes of the geometry of the first group, its `Together` and circuit; keys (groups, 2 ROUNDS).
    x as in `read.read_matrix`.
    """
    return read_boxes(x, held, keys, cut, i64(0), i64(1), out)


@kernel(parallel=True)
def read_groups_parallel(x, held, keys, cut, workers, out):
    """`read_groups` by several workers at once: the same bits."""
    clipped = np.zeros(workers, np.int64)
    for worker in prange(workers):
        clipped[worker] = read_boxes(x, held, keys, cut, i64(worker), i64(workers), out)
    return clipped.sum()
