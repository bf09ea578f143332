"""Programming: what conductances a chip's cells really get, once, and what they add to each read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import ndtr

from ..devices.cell import Cell
from .converters import Drive
from .encoding import Encoded
from .hardware import Hardware
from .kernels.fill import fill_normals
from .kernels.panel import PANEL, pack
from .kernels.read import Planes
from .keys import stream_key
from .tile import Plan

Array = np.ndarray[Any, Any]
INT16_MAX, INT32_MAX = 2**15 - 1, 2**31 - 1
LARGEST_CODE = 255  # input codes up to 8 bits are worked off in integers
BINS = 125
HISTOGRAM_TOP = 1.25


@dataclass(frozen=True)
class Programmed:
    """A programmed matrix.

    Attributes:
        planes: what the read kernel works on.
        weights: (rows, outputs) float32, the weights that the conductances stand for.
        row_conductance: (slices, rows) siemens, all cells of a word line together.
        histogram: (BINS,) int64, cells by conductance in equal steps from 0 to HISTOGRAM_TOP g_max; the last holds all
            above.
    """

    planes: Planes
    weights: Array
    row_conductance: Array
    histogram: Array


def settle(targets: Array, cell: Cell, time_s: float, seed: int, layer: str, *place: int) -> Array:
    """Conductances of cells programmed to `targets` (rows, columns) siemens float32, `time_s` seconds later.

    Programming error, then drift, then stuck cells; never negative. The same seed and place give the same cells.
    """

    def normal(purpose: Any) -> Array:
        out = np.empty(targets.shape, dtype=np.float32)
        fill_normals(out, 0, 0, stream_key(seed, purpose, layer, *place))
        return out

    g = targets
    if cell.programming.kind != "none":
        g = np.maximum(g + cell.programming.std(g) * normal("program"), 0)
    if time_s > 0 and cell.drift.kind != "none":
        g = np.maximum(cell.drift.apply(g, time_s, normal("drift")), 0)
    low, high = cell.stuck.at_g_min, cell.stuck.at_g_max
    if low + high > 0:
        u = ndtr(normal("stuck"))
        g = np.where(u < low, cell.g_min, np.where(u >= 1 - high, cell.g_max, g))
    return g.astype(np.float32)


def program(
    encoded: Encoded, plan: Plan, hardware: Hardware, drive: Drive, seed: int, layer: str, *place: int
) -> Programmed:
    """Program one encoded matrix into the tiles of one chip, for inputs of a `drive`.

    Each slice and polarity is a set of cells of its own. Currents come out in units of v_read g_max, so conductances
    are kept in units of g_max and variances of current in (v_read g_max)^2.
    """
    cell, sensing = hardware.cell, hardware.sensing
    slices, polarities, rows, columns = encoded.targets.shape
    unit = cell.g_max
    c0, c2 = sensing.white_cell_coefficients()
    edges = plan.edges
    integers = drive.rounds and drive.full_code <= LARGEST_CODE and plan.tile.rows % 2 == 0
    signed = np.zeros((slices, rows, columns), dtype=np.float32)
    variance = np.zeros((slices, rows, columns), dtype=np.float32)
    floor = np.full((slices, plan.row_tiles, columns), polarities * sensing.amplifier_variance)
    row_conductance = np.zeros((slices, rows))
    histogram = np.zeros(BINS, dtype=np.int64)
    for s in range(slices):
        for polarity in range(polarities):
            g = settle(encoded.targets[s, polarity], cell, hardware.time_s, seed, layer, *place, s, polarity)
            std = cell.read_noise.std(g, v_read=sensing.v_read, time_s=hardware.time_s) / unit
            signed[s] += (1 - 2 * polarity) * (g / unit)
            variance[s] += std * std + c2 / unit**2 * g
            floor[s] += c0 * np.add.reduceat(g.astype(np.float64), edges[:-1], axis=0)
            row_conductance[s] += g.sum(axis=1, dtype=np.float64)
            bins = np.minimum(g * (BINS / (HISTOGRAM_TOP * unit)), BINS - 1).astype(np.int64)
            histogram += np.bincount(bins.reshape(-1), minlength=BINS)
    digit = drive.largest_digit
    halve = halves_squares(digit) and integers
    largest = (digit, (digit**2 + 1) // 2 if halve else digit**2) if integers else (None, None)
    mean, mean_unit = pack_planes(signed, edges, largest[0])
    cell_variance, variance_unit = pack_planes(variance, edges, largest[1])
    planes = Planes(
        mean=mean,
        variance=cell_variance if variance.any() else np.empty((slices, 0, 0, 0), mean.dtype),
        mean_unit=mean_unit,
        variance_unit=2 * variance_unit if halve else variance_unit,
        floor=pad(floor / (sensing.v_read * unit) ** 2),
        scale=encoded.scale * unit,
        edges=np.array([*edges[:-1], rows + rows % 2 if integers else rows], dtype=np.int64),
        reference=encoded.reference,
        bias=np.zeros(plan.outputs, dtype=np.float32),
    )
    weights = stored_weights(signed, planes, edges, encoded.pedestal / unit)
    return Programmed(planes, weights, row_conductance, histogram)


def halves_squares(digit: int) -> bool:
    """Whether integer squares of codes up to `digit` must be halved to fit into int16."""
    return digit**2 > INT16_MAX


def pack_planes(values: Array, edges: list[int], largest: int | None) -> tuple[Array, Array]:
    """Pack (slices, rows, columns) float32 for the kernel, as int16 if `largest`, the largest factor they meet, is
    given.

    Each row tile of each slice gets the finest step for which no value exceeds int16 and no sum of products int32.

    Returns:
        The packed array and the step (slices, row tiles) float32, 1 for float32.
    """
    slices, rows, columns = values.shape
    steps = np.ones((slices, len(edges) - 1), dtype=np.float32)
    if largest is None:
        return np.stack([pack(v) for v in values]), steps
    whole = np.zeros((slices, rows + rows % 2, columns), dtype=np.int16)
    for s in range(slices):
        for t, (a, b) in enumerate(pairwise(edges)):
            tile = np.abs(values[s, a:b])
            peak, total = float(tile.max()), float(tile.sum(axis=0).max())
            if peak > 0:
                steps[s, t] = max(peak / INT16_MAX, total / ((INT32_MAX - INT16_MAX) / largest - (b - a)))
            whole[s, a:b] = np.rint(values[s, a:b] / steps[s, t])
    return np.stack([pack(w) for w in whole]), steps


def stored_weights(signed: Array, planes: Planes, edges: list[int], pedestal: float) -> Array:
    """The weights (rows, outputs) float32 of signed conductances (slices, rows, columns) in units of g_max."""
    outputs = planes.scale.shape[2]
    g = signed[:, :, :outputs] - pedestal
    if planes.reference.size:
        g = g - signed[:, :, planes.reference]
    per_row = np.repeat(planes.scale, np.diff(edges), axis=1)
    return np.asarray((g * per_row).sum(axis=0), dtype=np.float32)


def pad(columns: Array) -> Array:
    """Pad the last axis with zeros to whole panels, as float32."""
    extra = -columns.shape[-1] % PANEL
    return np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, extra)]).astype(np.float32)
