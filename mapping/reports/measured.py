"""What a few inputs show of a chip: what its converters take and give, and what each layer is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from ...crossbar.backend import Job
from ...crossbar.programmed import Programmed
from ..inference import Read, Survey
from ..inputs.batches import Batch
from ..layers import TileLayer
from ..mapped import MappedNetwork

Array = np.ndarray[Any, Any]
BINS = 128
ROWS = 256  # rows of a layer whose readings are counted
VALUES = 2_000_000  # of them, at most


@dataclass(frozen=True)
class Counted:
    """Values in bins of one width.

    Attributes:
        edges: (bins + 1,).
        counts: (bins,).
        low, high: what is clipped lies outside; None where nothing is.
        clipped: share of all values.
    """

    edges: Array
    counts: Array
    low: float | None
    high: float | None
    clipped: float


@dataclass(frozen=True)
class Measured:
    """Of one layer.

    Attributes:
        inputs: in the layer's own units; None where the inputs never reach it.
        readings: what the ADCs see without noise, in steps of their codes; None without an ADC.
        error: RMS error of its outputs in one noisy read, relative to their RMS.
    """

    inputs: Counted | None
    readings: Counted | None
    error: float


def measure(chip: MappedNetwork, batches: Sequence[Batch]) -> dict[str, Measured]:
    """What these inputs show of each layer, by name."""
    survey = Survey({name: [] for name in chip.layers})
    before = {name: layer.counter.counts for name, layer in chip.layers.items()}
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in chip.layers}

    def compare(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        exact = layer.digital(inputs[0]).double()
        sums[layer.name][0] += float((output.double() - exact).square().sum())
        sums[layer.name][1] += float(exact.square().sum())

    for number, batch in enumerate(batches):
        own = batch.apart()
        survey.calls.clear()
        chip.run(own.args, survey, own.kwargs)
        hooks = [layer.register_forward_hook(compare, prepend=True) for layer in chip.layers.values()]
        try:
            own = batch.apart()
            chip.run(own.args, Read(number), own.kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    for name, layer in chip.layers.items():
        layer.counter.counts = before[name]
    return {
        name: Measured(
            _inputs(layer, survey.inputs[name]),
            _readings(layer.tiles, _driven(layer, survey, name)),
            (sums[name][0] / sums[name][1]) ** 0.5 if sums[name][1] else float("nan"),
        )
        for name, layer in chip.layers.items()
    }


def _driven(layer: TileLayer, survey: Survey, name: str) -> list[Array]:
    """What the DACs take: inputs divided by their scales, where reads have some."""
    pairs: Mapping[int, Any] = dict(enumerate(zip(survey.inputs[name], survey.orders.get(name, []), strict=True)))
    return [layer.scaled(torch.from_numpy(x), order).values.numpy() for x, order in pairs.values()]


def _inputs(layer: TileLayer, calls: Sequence[Array]) -> Counted | None:
    if not calls:
        return None
    x = np.concatenate([call.reshape(-1) for call in calls])
    drive = layer.tiles.design.drive
    bounded = drive.clips and layer.hardware.dac.scaling == "layer"
    low, high = (-drive.limit if drive.signed else 0.0, drive.limit) if bounded else (None, None)
    return _counted(x, low, high)


def _readings(tiles: Programmed, calls: Sequence[Array]) -> Counted | None:
    """What the converters of the first group see, of some rows."""
    reader, ranges, design = tiles.reader, tiles.ranges, tiles.design
    circuit = reader.circuit(noisy=False)
    if not circuit.step.size or not calls:
        return None
    codes, _ = reader.input_codes(np.ascontiguousarray(calls[0]))
    rows = codes.shape[0] * prod(design.matrix.patches.positions(codes.shape[1:4]))
    job = Job(codes, reader.geometry(codes.shape, 0), reader.prepared[0], circuit)
    each = circuit.conversions * design.readings * design.placement.row_tiles * design.placement.outputs
    many = max(1, min(rows, ROWS, VALUES // max(1, each)))
    found = [
        tiles.backend.to_numpy(tiles.backend.currents(job, int(start), 1)[0])
        for start in np.unique(np.linspace(0, rows - 1, many).astype(int))
    ]
    currents = np.concatenate(found, axis=3).astype(np.float64)  # (conversions, slices, row tiles, rows, columns)
    step, middle = (
        np.repeat(values.reshape(len(values), -1), 2 if design.apart else 1, axis=0)[None, ..., None, None]
        for values in (ranges.full_scale, ranges.middle if ranges.middle.size else np.zeros_like(ranges.full_scale))
    )
    levels = (currents - middle) / (step * tiles.hardware.adc.codes(design.signed_codes).relative_step)
    return _counted((levels - circuit.centre).reshape(-1), float(circuit.low), float(circuit.high), rounding=0.5)


def _counted(values: Array, low: float | None, high: float | None, rounding: float = 0.0) -> Counted:
    """`rounding` is what values may be outside and still round to what is inside."""
    values = values[np.isfinite(values)].astype(np.float64)
    ends = [float(values.min()), float(values.max())] if values.size else [0.0, 0.0]
    outside = 0
    if low is not None and high is not None:
        ends = [min(ends[0], low), max(ends[1], high)]
        outside = int(((values < low - rounding) | (values > high + rounding)).sum())
    if ends[0] == ends[1]:
        ends = [ends[0] - 0.5, ends[1] + 0.5]
    counts, edges = np.histogram(values, BINS, range=(ends[0], ends[1]))
    return Counted(edges, counts, low, high, outside / values.size if values.size else float("nan"))
