"""Where the time of a noisy read goes, kernel by kernel, where groups of a matrix are read in one call.

`parts` is what `profile_read.parts` is for matrices of one group: each kernel is called again and again for the first
box and batch of a read, whose data are in the cache already, and its time is taken for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numba
import numpy as np

from mho.crossbar.backends import compiled
from mho.crossbar.kernels import groups
from mho.crossbar.kernels.group_adc import convert_groups
from mho.crossbar.kernels.group_images import Box
from mho.crossbar.kernels.group_layout import lay_out, make_group_scratch
from mho.crossbar.kernels.group_noise import add_group_noise, counters_of, streams_of
from mho.crossbar.kernels.lanes import LANES
from mho.crossbar.kernels.philox import Rows
from mho.crossbar.kernels.products import operands
from mho.crossbar.programmed import Programmed

Array = np.ndarray[Any, Any]
f32, u32 = np.float32, np.uint32
KERNELS = ("gather", "squares", "products", "normals", "ADC, sum")
TIMES = 50


@numba.njit
def repeat(times, what, codes, held, keys, cut, out):  # type: ignore[no-untyped-def]
    """Call one of the KERNELS so many times; returns how many readings it serves in a call."""
    geometry, planes, circuit = held.geometry, held.planes, held.circuit
    box = Box(0, cut.samples, 0, 0, cut.lines, 0, cut.pixels)
    work = make_group_scratch(codes, geometry, planes, circuit, box)
    batch = 0, min(planes.batch, planes.groups)
    columns = batch[1] * planes.pitch
    mine = lay_out(codes, geometry, planes, circuit, box, batch, 0, work)
    digits, squares = operands(mine.codes, circuit, 0, False, mine)
    streams = streams_of(keys, planes.columns, planes.pitch)
    behind = (columns + LANES - 1) // LANES * LANES
    vectors = (columns + LANES - 1) // LANES
    if planes.columns > LANES:
        vectors = batch[1] * ((planes.columns + 4 * LANES - 1) // (4 * LANES))
    work.units[:] = f32(1)
    tables = planes.floor[0, 0, :behind], work.units[0, :behind], work.units[1, :behind]
    for k in range(times):
        if what == 0:
            lay_out(codes, geometry, planes, circuit, box, batch, 0, work)
        elif what == 1:
            operands(mine.codes, circuit, 0, False, mine)
        elif what == 2 and planes.panel_mean.shape[0] == 0:
            groups.lane_products(digits, squares, planes, circuit, batch, 0, 0, f32(1), mine)
        elif what == 2 and planes.steps.place.shape[0] > 0:
            groups.direct_products(digits, squares, planes, circuit, batch, 0, 0, mine)
        elif what == 2:
            groups.panel_products(digits, squares, planes, circuit, batch, 0, 0, f32(1), mine)
        elif what == 3:
            counters_of(Rows(cut.first_sample, cut.positions), 0, (u32(0), u32(k)), mine.counters)
            target, gain = (mine.current, mine.variance, mine.extra), f32(circuit.gain_variance)
            add_group_noise(*target, tables, gain, streams, (0, vectors), 0, mine.counters)
        else:
            convert_groups(mine.current, planes, circuit, batch, (0, 0, 0), f32(1), 0, mine.pedestal, out[0])
    return mine.current.shape[0] * batch[1] * planes.outputs


def parts(
    tiles: Programmed, x: np.ndarray[Any, Any], milliseconds: Callable[..., float], runs: int
) -> dict[str, float]:
    """As `profile_read.parts`, of a matrix whose groups are read in one call; `normals` are apart from the rest.

    Raises:
        ValueError: they are read one after another.
    """
    reader, seen = tiles.reader, []
    of_all = compiled.read_groups

    def watched(*given: Any) -> Any:
        seen[:] = given
        return of_all(*given)

    with mock.patch.object(compiled, "read_groups", watched):
        reader.read(x)
    if not seen:
        raise ValueError("groups of this matrix are read one after another")
    planes, circuit = tiles.packed[0].planes, reader.circuit()
    readings = seen[-1].size * circuit.pulses * circuit.phases * len(planes.mean) * (len(planes.edges) - 1)
    found = {"codes": milliseconds(lambda: reader.input_codes(x), runs)}
    for what, name in enumerate(KERNELS):
        served = repeat(0, what, *seen)
        none, many = (milliseconds(lambda n=n, what=what: repeat(n, what, *seen), runs) for n in (0, TIMES))
        calls = readings if name in KERNELS[2:] else seen[-1].size
        found[name] = max(0.0, many - none) / TIMES * calls / served
    whole = milliseconds(lambda: reader.read(x), runs)
    products, converted = found.pop("products"), found.pop("ADC, sum")
    spent = {**found, "currents": products, "variances": 0.0, "noise, ADC, sum": found["normals"] + converted}
    return {**spent, "other": whole - sum(spent.values()) + spent["normals"], "whole": whole}
