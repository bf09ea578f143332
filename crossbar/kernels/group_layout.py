"""What groups that are read together are to the kernels, and the scratch into which their inputs are laid out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .compiled import kernel
from .gather import gather
from .group_images import copy_image, extent, fill_image, offsets_of, places_of, rows_of
from .group_products import Steps, block_of
from .panel import PANEL
from .products import apart
from .read import Geometry

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
    mean: Array  # (slices, blocks, steps + 1, ...): of lanes, see `multiply_lanes`
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
    counters: Array  # (rows, 4) int32
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
def lanes_of(groups, columns):
    """Lanes of an image of so many groups: those of whole blocks."""
    block = block_of(columns)
    return (groups + block - 1) // block * block


@kernel()
def make_group_scratch(x, geometry, planes, circuit, box):
    """Scratch for boxes up to the size of this one."""
    rows, columns = box.samples * box.lines * box.pixels, columns_of(planes)
    each = 2 if circuit.integers else 1
    if planes.panel_mean.shape[0] == 0 or planes.steps.place.shape[0] > 0:
        lines, pixels = extent(geometry, box)
        pairs = (geometry.channels + each - 1) // each
        across = lanes_of(planes.batch, planes.pitch) if planes.panel_mean.shape[0] == 0 else planes.batch
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
        np.empty((rows, 4), np.int32),
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
        lanes = lanes_of(last - first, planes.pitch)
        size = fill_image(x, geometry, box, batch, lanes, work.codes[0])
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
