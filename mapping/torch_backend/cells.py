"""A matrix on tiles as tensors: what reads multiply inputs by, tile by tile, and what ADCs make of the products."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from ...crossbar.kernels.panel import unpack
from ...crossbar.kernels.read import Circuit, Planes

Tensor = torch.Tensor
Array = np.ndarray[Any, Any]


class Cells(NamedTuple):
    """The cells of a group of a matrix, in row tiles of as many word lines as the largest has; those behind are zero.

    Conductances in units of g_max, variances in its square; float32 tensors on one device, which may have gradients.

    Attributes:
        mean: (tiles, lines, slices * columns): output columns, then reference columns.
        variance: of the conductances in each read; None where there is none.
        linear: the same shape: variance that goes with the first power of inputs, or None.
        uniform: (tiles, 1, slices, 1): variance that all cells of a tile have alike, or None.
        floor: (tiles, 1, slices, columns): variance of the current that no input changes.
        total: the same shape: variance of all cells of a bit line that floats, or None.
        scale: (tiles, 1, slices, outputs): current to weight units.
        bias: (outputs,) digital bias.
        reference: (outputs,) int64: the column whose reading is taken off that of an output, or None.
        lines: (tiles * lines,) int64: the word line of each, one past the last for zeros; None where tiles are equal.
        rows: word lines in all.
    """

    mean: Tensor
    variance: Tensor | None
    linear: Tensor | None
    uniform: Tensor | None
    floor: Tensor
    total: Tensor | None
    scale: Tensor
    bias: Tensor
    reference: Tensor | None
    lines: Tensor | None
    rows: int

    @classmethod
    def of(cls, planes: Planes, device: torch.device) -> Cells:
        """Those of planes, on a device."""
        columns = planes.bias.size if planes.reference.size == 0 else int(planes.reference.max()) + 1
        edges, spans = planes.edges, np.diff(planes.edges)
        most = int(spans.max())

        def tensor(values: Array) -> Tensor:
            return torch.tensor(values, device=device)

        def packed(panels: Array, unit: Array) -> Tensor | None:
            if not panels.size:
                return None
            found = np.zeros((len(spans), most, len(panels), columns), np.float32)
            for s, slice_ in enumerate(panels):
                values = unpack(slice_)[:, :columns]
                for t, (a, b) in enumerate(pairwise(edges)):
                    np.multiply(values[a:b], unit[s, t], out=found[t, : b - a, s])
            return torch.from_numpy(found).to(device).flatten(2)

        def each(values: Array, many: int) -> Tensor:
            return tensor(values[..., :many].swapaxes(0, 1)[:, None].copy())

        mean = packed(planes.mean, planes.mean_unit)
        assert mean is not None
        place = edges[:-1, None] + np.arange(most)
        lines = np.where(np.arange(most) < spans[:, None], place, edges[-1]).reshape(-1)
        return cls(
            mean,
            packed(planes.variance, planes.variance_unit),
            packed(planes.linear, planes.linear_unit),
            tensor(planes.uniform.T[:, None, :, None].copy()) if planes.uniform.size else None,
            each(planes.floor, columns),
            each(planes.total, columns) if planes.total.size else None,
            each(planes.scale, planes.bias.size),
            tensor(planes.bias),
            tensor(planes.reference) if planes.reference.size else None,
            None if (spans == most).all() else tensor(lines),
            int(edges[-1]),
        )

    def tiled(self, x: Tensor) -> Tensor:
        """Values of all word lines (rows, lines) as those of the tiles (tiles, rows, lines)."""
        if self.lines is not None:
            x = torch.nn.functional.pad(x, (0, 1)).index_select(1, self.lines)
        return x.unflatten(1, (len(self.mean), -1)).transpose(0, 1)


class Adcs(NamedTuple):
    """Converters that are not all alike: `Planes` says what the arrays mean; (tiles, 1, slices, columns) each.

    Attributes:
        transitions: (ADCs * places,) float32: those of each, filled up to 2^bits - 1 places by what no level reaches.
        first: int64: the place of the first of the ADC that a column has.
        most: the highest code.
        bits: binary decisions that find a code.
        grown: () 1, whose slope is that of outputs with the logarithm of all ranges, where that is asked for.
    """

    inverse: Tensor
    shift: Tensor
    step: Tensor
    zero: Tensor
    transitions: Tensor
    first: Tensor
    most: int
    bits: int
    grown: Tensor | None = None

    @classmethod
    def of(cls, planes: Planes, columns: int, device: torch.device) -> Adcs:
        """Those of planes that have any."""
        count, most = planes.adc_transitions.shape
        bits = int(most).bit_length()
        places = np.full((count, 2**bits - 1), np.inf, np.float32)
        places[:, :most] = planes.adc_transitions

        def each(values: Array) -> Tensor:
            return torch.tensor(values[..., :columns].swapaxes(0, 1)[:, None].copy(), device=device)

        first = planes.adc_which.astype(np.int64) * places.shape[1]
        return cls(
            each(planes.adc_inverse),
            each(planes.adc_shift),
            each(planes.adc_step),
            each(planes.adc_zero),
            torch.tensor(places.reshape(-1), device=device),
            each(first),
            most,
            bits,
        )


class Converters(NamedTuple):
    """What DACs and ADCs of a circuit have in tables.

    Attributes:
        step: (slices, 1) float32 current of one ADC step, where all are alike; None without them.
        adcs: those that differ, or None.
        levels: (digits,) float32: what each digit drives, and how that changes from digit to digit; None where it
            drives its number.
    """

    step: Tensor | None
    adcs: Adcs | None
    levels: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, planes: Planes, circuit: Circuit, columns: int, device: torch.device) -> Converters:
        """Those of planes and a circuit, on a device."""
        levels = None
        if circuit.levels.size:
            slope = np.gradient(circuit.levels).astype(np.float32)
            levels = torch.tensor(circuit.levels, device=device), torch.tensor(slope, device=device)
        if planes.adc_inverse.size:
            return cls(None, Adcs.of(planes, columns, device), levels)
        step = torch.tensor(circuit.step, device=device)[:, None] if circuit.step.size else None
        return cls(step, None, levels)
