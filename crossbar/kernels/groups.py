"""One read of a matrix of many groups, all of them in one call: the bits of `read.py`, group after group.

Groups have tiles, random numbers and, mostly, few columns of their own. Here a batch of groups is read together: its
columns stand side by side, and each plane is multiplied, made noisy and converted for all of them. Groups of few
columns are multiplied lane by lane (`group_products.py`), others panel by panel.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel
from .digits import row_squares, row_sums
from .group_adc import convert_groups
from .group_images import Box
from .group_layout import lanes_of, lay_out, make_group_scratch
from .group_noise import add_group_noise, counters_of, streams_of
from .group_products import block_of, multiply_alike, multiply_lanes, squared_lanes
from .lanes import LANES
from .panel import multiply_panels
from .philox import Rows
from .products import counts_of, operands
from .read import SUPPLY_PLANE

f32, i64, u32 = np.float32, np.int64, np.uint32


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
    lanes = lanes_of(batch[1] - batch[0], planes.pitch)
    first, each_block = planes.pitch * batch[0], block_of(planes.pitch)
    blocks = slice(batch[0] // each_block, (batch[0] + lanes) // each_block)
    columns = planes.pitch * lanes
    steps = planes.steps.edges[t], planes.steps.edges[t + 1]
    each = 2 if circuit.integers else 1
    last = t + 2 == planes.edges.shape[0]
    constant = i64(digits.shape[1] // each - 1) if planes.constant and last else i64(-1)
    image, starts, offsets = digits[0], work.starts, work.offsets
    multiply_lanes(image, starts, offsets, planes.mean[s, blocks], steps, constant, work.current)
    if squares.shape[0] > 0:
        multiply_lanes(squares[0], starts, offsets, planes.variance[s, blocks], steps, constant, work.variance)
    if circuit.pedestal != 0.0:
        multiply_lanes(image, starts, offsets, planes.ones[0, blocks], steps, constant, work.pedestal)
        factor = f32(circuit.pedestal) * unit
        for m in range(work.pedestal.shape[0]):
            for j in range(columns):
                work.pedestal[m, j] *= factor
    if circuit.noisy and planes.uniform.shape[0] > 0:
        factors = unit * unit * planes.uniform[s, t, first : first + columns]
        squared_lanes(image, starts, offsets, planes.steps.taken, steps, constant, factors, lanes, work.extra)


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


@kernel(inline="always")
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
        clipped += convert_groups(target, planes, circuit, batch, plane, weight, start, work.pedestal, out[first + v])
    return clipped


@kernel(inline="always")
def read_box(x, held, streams, box, batch, source, place, work, out):
    """All pulses and planes of a box and a batch of groups; returns clipped readings. `place` as in `read_group_plane`.

    The inputs of its rows start with those of row `source` of all.
    """
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    mine = lay_out(x, geometry, planes, circuit, box, batch, source, work)
    c0, columns = batch[0] * planes.pitch, (batch[1] - batch[0]) * planes.pitch
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
