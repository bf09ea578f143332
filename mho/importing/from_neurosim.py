"""Layers from NeuroSim's table of a network, and hardware from its `Param.cpp`.

A row of `NetWork.csv` is a layer: length, width and channels of its input, length, width and number of its kernels,
whether pooling follows, and the stride (left out in tables before version 1.3: 1). Fully connected layers have inputs
and kernels of 1 x 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ..devices.config import one_line
from .fields import Imported, Row
from .files import text_of
from .neurosim_param import hardware_of

if TYPE_CHECKING:
    import torch

PEER = "neurosim"


class Layer(NamedTuple):
    """A row of the table."""

    length: int
    width: int
    channels: int
    kernel_length: int
    kernel_width: int
    outputs: int
    pooled: int
    stride: int

    @property
    def linear(self) -> bool:
        """Whether it is fully connected."""
        return self.length == self.width == self.kernel_length == self.kernel_width == 1


COLUMNS = Layer._fields
MOST_LAYERS = 10_000
MOST_CELLS = 10**12
LARGEST = 10**6
NOTES = {
    "length": "inputs",
    "width": "inputs",
    "channels": "inputs",
    "kernel_length": "kernels; word lines = kernel_length x kernel_width x channels",
    "kernel_width": "kernels",
    "outputs": "outputs of the layer",
    "pooled": "pooling behind the layer: digital",
    "stride": "of the kernels",
}


def neurosim(
    table: str | PathLike[str] | Sequence[Sequence[float]],
    param: str | PathLike[str] | None = None,
    *,
    synapse_bits: int = 8,
    input_bits: int = 8,
) -> Imported:
    """The layers of NeuroSim's table of a network, and hardware from its parameters, if these are given.

    The layers have a row each: `name`, the columns of the table, `kind` (convolution or linear), `rows` (word lines),
    `padding`, `positions` (products of the matrix for each sample), `macs`, and `input` (the number of the layer whose
    output it takes, 0 for the network's input). NeuroSim counts (length - kernel + 1) / stride positions along a side;
    here they are those of the output, with the padding that the next rows ask for.

    Args:
        table: path of the CSV file, or its rows.
        param: path of `Param.cpp`.
        synapse_bits, input_bits: of weights and inputs, which NeuroSim takes as arguments.

    Raises:
        ValueError: a row that is no layer, or parameters that are impossible.
        OSError: a file cannot be read.
    """
    if isinstance(table, str | PathLike):
        rows = _rows(table)
    elif isinstance(table, Iterable) and all(isinstance(row, Iterable) for row in table):
        rows = [list(row) for row in table]
    else:
        raise ValueError(f"{PEER} table: expected a path, or rows of numbers, got {type(table).__name__}")
    layers = _connected(_layers(rows))
    told = [Row(name, f"{len(layers)} layers", "taken", NOTES[name]) for name in COLUMNS]
    told.append(Row("", None, "assumed", "padding", "from the size of the input of the row behind"))
    told.append(Row("", None, "assumed", "input", "the last output before of that size; sums of branches are left out"))
    if param is None:
        return Imported(PEER, tuple(told), None, layers)
    hardware, more = hardware_of(text_of(param, "neurosim parameters"), synapse_bits, input_bits)
    return Imported(PEER, (*told, *more), hardware, layers)


def network(table: str | PathLike[str] | pd.DataFrame, seed: int = 0) -> torch.nn.Module:
    """A network of the layers of a table, with weights drawn from `seed`: for schedule and cost, not for accuracy.

    It takes (samples, channels, length, width). ReLU and pooling are digital.

    Raises:
        ValueError: see `neurosim`.
    """
    from .neurosim_network import TableNetwork

    layers = table if isinstance(table, pd.DataFrame) else neurosim(table).layers
    assert layers is not None
    return TableNetwork(layers, seed).eval()


def _rows(path: str | PathLike[str]) -> list[list[float]]:
    where, rows = f"{PEER} table {one_line(str(path))}", []
    for number, line in enumerate(text_of(path, f"{PEER} table").split("\n"), 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.replace(";", ",").split(",")]
        while cells and not cells[-1]:
            cells.pop()  # commas at the end, as spreadsheets write them
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError as error:
            raise ValueError(f"{where}: line {number} must be numbers, got {one_line(line)!r}") from error
        if len(rows) > MOST_LAYERS:
            raise ValueError(f"{where}: has more than {MOST_LAYERS} layers")
    return rows


def _layers(rows: list[list[float]]) -> list[Layer]:
    if not rows:
        raise ValueError(f"{PEER} table: has no layers")
    found = []
    for number, row in enumerate(rows, 1):
        if len(row) not in (7, 8):
            raise ValueError(f"{PEER} table: row {number} must have 7 or 8 numbers, got {len(row)}")
        if len(row) != len(rows[0]):
            raise ValueError(f"{PEER} table: row {number} has {len(row)} numbers, row 1 has {len(rows[0])}")
        values = [*row, 1.0][:8]
        for name, value in zip(COLUMNS, values, strict=True):
            low, high = (0, 1) if name == "pooled" else (1, LARGEST)
            good = isinstance(value, Real) and not isinstance(value, bool) and low <= value <= high
            if not good or value != int(value):
                raise ValueError(
                    f"{PEER} table: {name} of row {number} must be a whole number from {low} to {high}, got {value!r}"
                )
        layer = Layer(*map(int, values))
        if layer.kernel_length // 2 > layer.length or layer.kernel_width // 2 > layer.width:
            raise ValueError(f"{PEER} table: the kernel of row {number} is larger than its input")
        if layer.kernel_length * layer.kernel_width * layer.channels * layer.outputs > MOST_CELLS:
            raise ValueError(f"{PEER} table: row {number} has more than {MOST_CELLS:g} weights")
        found.append(layer)
    return found


def _sizes(layer: Layer, *, padded: bool) -> tuple[int, int]:
    sides = []
    for size, kernel in ((layer.length, layer.kernel_length), (layer.width, layer.kernel_width)):
        pad = kernel // 2 if padded else 0
        sides.append((size + 2 * pad - kernel) // layer.stride + 1)
    return sides[0], sides[1]


def _connected(rows: list[Layer]) -> pd.DataFrame:
    """The layers with what they take, and what their outputs are."""
    shapes: list[tuple[int, int, int]] = [(rows[0].length, rows[0].width, rows[0].channels)]
    inputs, paddings, positions = [], [], []
    pooled = [False]
    for number, row in enumerate(rows):
        wanted = (row.length, row.width, row.channels)
        source = next((i for i in range(len(shapes) - 1, -1, -1) if fits(shapes[i], wanted, pooled=pooled[i])), None)
        if source is None:
            raise ValueError(
                f"{PEER} table: row {number + 1} takes {wanted[0]} x {wanted[1]} x {wanted[2]}, which no row before "
                "gives"
            )
        padded = _padded(row, rows[number + 1 :])
        sides = _sizes(row, padded=padded)
        shapes.append((*sides, row.outputs))
        pooled.append(bool(row.pooled))
        inputs.append(source)
        paddings.append("same" if padded and max(row.kernel_length, row.kernel_width) > 1 else "none")
        positions.append(sides[0] * sides[1])
    found = pd.DataFrame(rows)
    found.insert(0, "name", [f"{'fc' if row.linear else 'conv'}{i + 1}" for i, row in enumerate(rows)])
    found["kind"] = ["linear" if row.linear else "convolution" for row in rows]
    found["rows"] = found["kernel_length"] * found["kernel_width"] * found["channels"]
    found["padding"], found["positions"], found["input"] = paddings, positions, inputs
    found["macs"] = found["rows"] * found["outputs"] * found["positions"]
    return found


def _padded(row: Layer, behind: list[Layer]) -> bool:
    """Whether the layer pads its inputs: not if only without it a later row takes exactly what it gives."""
    bare_fits = row.kernel_length <= row.length and row.kernel_width <= row.width
    if not bare_fits or not behind:
        return True
    padded, bare = ((*_sizes(row, padded=p), row.outputs) for p in (True, False))
    nexts = [(r.length, r.width, r.channels) for r in behind]

    def exactly(shape: tuple[int, int, int]) -> bool:
        halved = (shape[0] // 2, shape[1] // 2, shape[2])
        given = {halved} if row.pooled else {shape}
        flat = {(1, 1, a * b * c) for a, b, c in given}
        return bool((given | flat) & set(nexts))

    return exactly(padded) or not exactly(bare)


def fits(given: tuple[int, int, int], wanted: tuple[int, int, int], *, pooled: bool) -> bool:
    """Whether a layer can take an output: as it is, pooled, or flattened."""
    if given == wanted and not pooled:
        return True
    smaller = wanted[2] == given[2] and wanted[0] <= given[0] and wanted[1] <= given[1]
    if pooled and smaller and wanted != given:
        return True
    sizes = [given[:2]] if not pooled else [(given[0] // 2, given[1] // 2)]
    return wanted[:2] == (1, 1) and any(a * b * given[2] == wanted[2] for a, b in sizes)
