"""ADCs that are not all alike: the ranges and the errors of each, as kernels take them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .backend import Backend
from .design import Design
from .kernels.philox import GROUP
from .kernels.read import ALIKE
from .keys import stream_key
from .ranges import Ranges

Array = np.ndarray[Any, Any]


def each_adc(design: Design, ranges: Ranges, group: int, seeds: tuple[int, int], backend: Backend) -> dict[str, Array]:
    """The `adc_` fields of the planes of a group, for ADCs drawn from seeds = (of the chip, which copy).

    Empty where all ADCs of a slice are the same and ideal.
    """
    adc = design.hardware.adc
    if adc.bits is None or not ranges.full_scale.size or not (adc.differ or ranges.each):
        return ALIKE
    codes, which = adc.codes(design.signed_codes), adc_of_reading(design, group)
    count = int(which.max()) + 1
    offsets, gains, transitions = drawn(design, group, count, seeds, backend)
    shape = design.readings, design.placement.row_tiles, which.shape[2]
    step = np.broadcast_to((codes.relative_step * _by_reading(design, ranges.full_scale))[..., None], shape)
    middle = np.zeros(shape)
    if ranges.middle.size:
        middle += _by_reading(design, ranges.middle)[..., None]
    inverse = gains[which] / step
    shift = offsets[which] - middle / step - codes.centre - codes.low  # the input's middle is taken off before
    zero = (codes.low + codes.centre) * step + middle
    own = step
    if adc.calibrated:
        own = step / gains[which]
        zero = (codes.low + codes.centre - offsets[which]) * own + middle / gains[which]
    found = inverse, shift, own, zero
    names = "adc_inverse", "adc_shift", "adc_step", "adc_zero"
    fields = {name: _padded(values.astype(np.float32)) for name, values in zip(names, found, strict=True)}
    if len(transitions) == 1:
        which = np.zeros_like(which)
    return fields | {"adc_which": _padded(which.astype(np.int32)), "adc_transitions": transitions.astype(np.float32)}


def drawn(
    design: Design, group: int, count: int, seeds: tuple[int, int], backend: Backend
) -> tuple[Array, Array, Array]:
    """Offsets (count,) in LSB, gains (count,), and levels (count or 1, codes - 1) of so many ADCs."""
    adc, (seed, copy) = design.hardware.adc, seeds
    own = design.hardware.seeds.program
    assert adc.bits is not None
    codes = adc.codes(design.signed_codes)
    last = int(codes.high - codes.low)
    kind = adc.kind
    draws = 0 if kind is None else kind.draws(adc.bits)
    key = stream_key(seed if own is None else own, "adc", design.matrix.name, group, copy)
    normals = backend.normals((count, 2 + draws), (0, 0), key).astype(np.float64)
    offsets, gains = adc.offset * normals[:, 0], np.maximum(1 + adc.gain * normals[:, 1], 1e-3)
    if kind is None:
        return offsets, gains, (np.arange(1, last + 1) - 0.5)[None]
    each = normals[:, 2:] if draws else normals[:1, 2:]
    return offsets, gains, kind.transitions(adc.bits, each)[:, :last]


def adc_of_reading(design: Design, group: int) -> Array:
    """(readings, row tiles, columns) int64: which ADC converts each, counted through the tiles of a group.

    A tile's ADCs share its bit lines in runs of neighbours; all slices and both of a pair are neighbours.
    """
    placement, readings = design.placement, design.readings
    edges, outputs = placement.column_edges, placement.outputs
    columns = outputs + (placement.column_tiles if placement.tile.reference_columns else 0)
    adcs = design.hardware.cost.adcs_per_tile
    place, tile = np.zeros((readings, columns), np.int64), np.zeros(columns, np.int64)
    for c, (first, last) in enumerate(pairwise(edges)):
        mine = [*range(first, last), *([outputs + c] if columns > outputs else [])]
        share = -(-len(mine) * readings // adcs)  # readings of an ADC
        numbers = np.arange(len(mine) * readings).reshape(len(mine), readings).T
        place[:, mine], tile[mine] = numbers // share, c
    one = int(place.max()) + 1
    row = np.arange(placement.row_tiles)[None, :, None] * placement.column_tiles
    return place[:, None] + one * (row + tile[None, None])


def _by_reading(design: Design, values: Array) -> Array:
    """(readings, row tiles) of values (slices,) or (slices, row tiles)."""
    whole = np.broadcast_to(values.reshape(len(values), -1), (len(values), design.placement.row_tiles))
    return np.repeat(whole, 2, axis=0) if design.apart else whole


def _padded(values: Array) -> Array:
    """Whole groups of columns; those behind the last are like it."""
    extra = -values.shape[2] % GROUP
    return np.ascontiguousarray(np.pad(values, [(0, 0), (0, 0), (0, extra)], mode="edge"))
