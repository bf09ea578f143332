"""Plain numpy twins of the solvers of wires: nodal analysis of the whole circuit with one sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import splu

from ..backend import WireSolver

Array = np.ndarray[Any, Any]


def admittance(g: Array, sw: Array, sb: Array) -> Any:
    """The circuit of `wires.solve` as one symmetric sparse matrix: currents into all nodes for voltages of all nodes.

    Nodes are those of the word lines (m n), of the bit lines (m n), the drivers (m) and the sense amplifiers (n).
    """
    m, n = g.shape
    nodes = np.arange(2 * m * n + m + n)
    word, bit = nodes[: 2 * m * n].reshape(2, m, n)
    driver, sense = nodes[2 * m * n : 2 * m * n + m], nodes[2 * m * n + m :]
    rows = np.concatenate([driver[:, None], word, driver[:, None]], axis=1)
    columns = np.concatenate([sense[None], bit, sense[None]])
    ends = [(word, bit, g), (rows[:, :-1], rows[:, 1:], sw), (columns[:-1], columns[1:], sb[:, None])]
    entries = []
    for first, second, conductance in ends:
        value = np.broadcast_to(conductance, first.shape)
        for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
            entries.append((sign * value.reshape(-1), a.reshape(-1), b.reshape(-1)))
    values, a, b = (np.concatenate(part) for part in zip(*entries, strict=True))
    return coo_array((values, (a, b)), shape=(len(nodes), len(nodes))).tocsc()  # entries of the same place add up


def solve(g: Array, sw: Array, sb: Array, v: Array, u: Array) -> tuple[Array, Array]:
    """Node voltages (m, n) of word and bit lines, for drivers at v (m,) and sense amplifiers at u (n,)."""
    (word,), (bit,) = _solved(g, (sw, sb), v[None], u[None])
    return word, bit


def effective(g: Array, sw: Array, sb: Array) -> Array:
    """What `dissect.effective` gives: (m, n) siemens from the drivers to the sense amplifiers.

    By way of the voltages for 1 V at one sense amplifier after another: the circuit is reciprocal.
    """
    m, n = g.shape
    word, _ = _solved(g, (sw, sb), np.zeros((n, m)), np.eye(n))
    return np.ascontiguousarray((sw[0] * word[:, :, 0] + sw[n] * word[:, :, -1]).T)


class PlainWires(WireSolver):
    """The wires of the plain backend. Solutions are exact up to rounding, whatever the tolerance."""

    def effective(self, g: Array, sw: Array, sb: Array) -> Array:
        return effective(g, sw, sb)

    def node_voltages(
        self, g: Array, wires: tuple[Array, Array], ends: tuple[Array, Array], tolerance: float, *, keep: bool
    ) -> tuple[Array, Array]:
        nodes = _solved(g, wires, *ends)
        return nodes, (g * (nodes[0] - nodes[1])).sum(axis=1)

    def bit_lines(self, g: Array, sb: Array, x: Array, u: Array) -> Array:
        into = g * x[:, None]
        into[0] += sb[0] * u
        into[-1] += sb[-1] * u
        return np.stack([np.linalg.solve(_line(g[:, j], sb), into[:, j]) for j in range(g.shape[1])], axis=1)

    def changes(
        self, g: Array, wires: tuple[Array, Array], currents: tuple[Array, Array], tolerance: float
    ) -> tuple[Array, Array]:
        inside = 2 * g.size
        found = splu(admittance(g, *wires)[:inside, :inside]).solve(np.stack(currents).reshape(-1))
        word, bit = found.reshape(2, *g.shape)
        return word, bit

    def own_voltages(self, g: Array, sw: Array, sb: Array) -> tuple[Array, Array]:
        across = _resistances(g, sw), _resistances(g.T, sb)
        return _across(g, across[1].T, sw), _across(g.T, across[0].T, sb).T


def _solved(g: Array, wires: tuple[Array, Array], v: Array, u: Array) -> Array:
    """Voltages (2, p, m, n) of word and bit lines for drivers at v (p, m) and sense amplifiers at u (p, n)."""
    y, inside = admittance(g, *wires), 2 * g.size
    into = -(y[:inside, inside:] @ np.concatenate([v, u], axis=1).T)
    found = splu(y[:inside, :inside]).solve(into).reshape(2, *g.shape, len(v))
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


def _line(cells: Array, wire: Array) -> Array:
    """(nodes, nodes) admittances of a line whose cells lead to 0 V, its ends there too."""
    return np.diag(cells + wire[:-1] + wire[1:]) - np.diag(wire[1:-1], 1) - np.diag(wire[1:-1], -1)


def _resistances(g: Array, wire: Array) -> Array:
    """(lines, nodes) ohms from a node of a line to 0 V, by way of its wires and all cells but its own."""
    seen = np.stack([np.diag(np.linalg.inv(_line(cells, wire))) for cells in g])
    return seen / (1 - g * seen)


def _across(g: Array, z: Array, wire: Array) -> Array:
    """Voltages across the cells g of lines whose ends are at 1 V, behind each cell a resistance z to 0 V."""
    ends = np.zeros(g.shape[1])
    ends[0] += wire[0]
    ends[-1] += wire[-1]
    voltages = [np.linalg.solve(_line(a / (1 + a * b), wire), ends) for a, b in zip(g, z, strict=True)]
    return np.stack(voltages) / (1 + g * z)
