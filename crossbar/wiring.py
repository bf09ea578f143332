"""The wires of tiles: which cells share lines, and what of their conductance and noise reaches the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .backend import WireSolver
from .encoding import Encoding
from .lines import Lines, Wires
from .wires import Network

Array = np.ndarray[Any, Any]
LEAST = 1e-6  # ohms that stand for 0 where noise is concerned
MEAN_TOLERANCE = 1e-6  # of the voltages at the mean input, relative


class Moments(NamedTuple):
    """Mean and mean square of the voltages of word lines, (rows,) in units of v_read, over pulses and inputs."""

    mean: Array
    square: Array

    @classmethod
    def of(cls, volts: Array) -> Moments:
        """Of voltages (..., rows)."""
        flat = volts.reshape(-1, volts.shape[-1]).astype(np.float64)
        return cls(flat.mean(axis=0), np.square(flat).mean(axis=0))

    @classmethod
    def uniform(cls, rows: int, signed: bool) -> Moments:
        """Of inputs spread evenly over their range."""
        return cls(np.full(rows, 0.0 if signed else 0.5), np.full(rows, 1 / 3))

    def take(self, rows: Any) -> Moments:
        """Of some of the word lines."""
        return Moments(self.mean[rows], self.square[rows])


class Reach(NamedTuple):
    """What the cells (slices, polarities, rows, columns) of a tile amount to at its outputs.

    Attributes:
        conductance: (slices, polarities, rows, columns) effective, in siemens.
        noise: the same shape: what a variance of a cell's conductance becomes as one that the cell's input acts on.
        rest: the same shape: what it becomes as a variance of the current, in units of v_read^2, whatever the input.
        thermal: (slices, columns) siemens whose thermal noise reaches the sense amplifiers.
        supplied: (slices, rows) siemens: currents of the drivers at their mean square voltages.
        thermal_each: (slices, polarities, columns): `thermal` of each cell of a pair.
    """

    conductance: Array
    noise: Array
    rest: Array
    thermal: Array
    supplied: Array
    thermal_each: Array


@dataclass(frozen=True)
class Layout:
    """Where the cells (slices, polarities, rows, columns) of a tile are in its array of word and bit lines.

    Attributes:
        shape: of the axes in their `order`, those of the word lines first.
        order: of the axes of the cells.
        lines: how many axes make up the word lines.
        places: word lines and columns in the order of their places.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    lines: int
    places: tuple[Array, Array]

    @classmethod
    def of(cls, g: Array, wires: Wires, places: tuple[Array, Array] | None = None) -> Layout:
        """The layout of cells g; without `places`, in the given order."""
        word, bit = wires.axes(g.shape[1])
        order = (*word, *bit)
        natural = np.arange(g.shape[2]), np.arange(g.shape[3])
        return cls(tuple(g.shape[axis] for axis in order), order, len(word), places or natural)

    def arrange(self, g: Array) -> Array:
        """(word lines, bit lines) float64."""
        rows, columns = self.places
        cells = g[..., rows[:, None], columns].transpose(self.order)
        return np.ascontiguousarray(cells.reshape(prod(self.shape[: self.lines]), -1), dtype=np.float64)

    def restore(self, values: Array) -> Array:
        """From (word lines, bit lines) back to (slices, polarities, rows, columns)."""
        rows, columns = (np.argsort(place) for place in self.places)
        return values.reshape(self.shape).transpose(np.argsort(self.order))[..., rows[:, None], columns]

    def word_lines(self, moments: Moments) -> tuple[Array, Array]:
        """Mean and mean square of the voltage of each word line."""
        mean, square = moments.take(self.places[0])
        if self.lines == 1:
            return mean, square
        return np.stack([mean, -mean], axis=1).reshape(-1), np.repeat(square, 2)


def effective_cells(
    g: Array, wires: Wires, places: tuple[Array, Array] | None = None, solver: WireSolver | None = None
) -> Array:
    """Effective conductances of the cells (slices, polarities, rows, columns) of a tile, in the same shape."""
    layout = Layout.of(g, wires, places)
    return layout.restore(Network(layout.arrange(g), wires, solver).effective)


def placed(targets: Array, wires: Wires, moments: Moments, references: int) -> tuple[Array, Array]:
    """The word lines and the columns in the order of their places in a tile.

    The cells shall have the conductances `targets` (slices, polarities, rows, columns); the last columns of them, so
    many, are `references`, which stay where they are.
    """
    rows, columns = np.arange(targets.shape[2]), np.arange(targets.shape[3])
    if wires.order == "natural":
        return rows, columns
    current = targets.sum(axis=(0, 1)) * np.sqrt(moments.square)[:, None]
    outputs = len(columns) - references
    by_size = np.argsort(-current.sum(axis=0)[:outputs], kind="stable")
    return np.argsort(current.sum(axis=1), kind="stable"), np.concatenate([by_size, columns[outputs:]])


def reach(
    g: Array,
    wires: Wires,
    moments: Moments,
    places: tuple[Array, Array] | None = None,
    solver: WireSolver | None = None,
) -> Reach:
    """The wires of one tile with cells g (slices, polarities, rows, columns) in siemens, solved.

    `places` are the word lines and the columns in their order on the tile, see `placed`; None for the given order.
    `solver` is that of the default backend, unless another is given.

    Conductances are exact. Noise is to first order: a change of a cell's conductance by d changes the current of its
    bit line by d a u, where u is the voltage across the cell, and a the voltage across it for 1 V at the sense
    amplifier and 0 V at the drivers (the adjoint solution; Tellegen's theorem). Bit lines of other cells get the rest,
    which is neglected. u is taken as its value at the mean input plus what the cell's own input adds.
    """
    layout = Layout.of(g, wires, places)
    mean, square = layout.word_lines(moments)
    cells = layout.arrange(g)
    network = Network(cells, wires, solver)
    word, bit = network.solve(mean, tolerance=MEAN_TOLERANCE)
    own, adjoint = _own_voltages(network, wires)

    mean, square = mean[:, None], square[:, None]
    at_mean = word - bit
    offset = at_mean - own * mean  # what the other inputs add, at their mean
    power = np.square(offset) + 2 * own * offset * mean + np.square(own) * square
    driven = square > 0
    share = np.square(own) + np.divide(2 * own * offset * mean, square, where=driven, out=np.zeros_like(own))
    share = np.maximum(share, 0)
    supplied = np.divide(mean * at_mean - mean**2 * own, square, where=driven, out=np.zeros_like(own)) + own
    carried = np.square(adjoint)
    return Reach(
        layout.restore(network.effective),
        layout.restore(carried * share),
        layout.restore(carried * np.maximum(power - share * square, 0)),
        layout.restore(cells * adjoint).sum(axis=(1, 2)),
        layout.restore(cells * supplied).sum(axis=(1, 3)),
        layout.restore(cells * adjoint).sum(axis=2),
    )


def reach_row_tile(g: Array, targets: Array, encoding: Encoding, wires: Wires, moments: Moments) -> Reach:
    """`reach` of all column tiles of a row tile, one beside the other; `targets` are the plain ones."""
    if wires.ideal:
        each = g.sum(axis=2)
        return Reach(g, np.ones_like(g), np.zeros_like(g), g.sum(axis=(1, 2)), g.sum(axis=(1, 3)), each)
    found = []
    for columns in encoding.column_tiles:
        places = placed(targets[..., columns], wires, moments, encoding.placement.tile.reference_columns > 0)
        found.append(reach(g[..., columns], wires, moments, places))
    back = np.argsort(np.concatenate(encoding.column_tiles))
    wide = {
        name: np.concatenate([getattr(part, name) for part in found], axis=-1)[..., back]
        for name in Reach._fields
        if name != "supplied"
    }
    return Reach(**wide, supplied=np.sum([part.supplied for part in found], axis=0))


def _own_voltages(network: Network, wires: Wires) -> tuple[Array, Array]:
    """See `WireSolver.own_voltages`."""
    least = {name: max(getattr(wires, name), LEAST) for name in ("r_word_line", "r_bit_line")}
    lines = Lines(**{**wires.model_dump(exclude={"pairs", "order"}), **least})
    rows, columns = network.g.shape
    return network.solver.own_voltages(network.g, lines.word_line(columns), lines.bit_line(rows))
