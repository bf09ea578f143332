"""Plain numpy twins of the solvers of wires: nodal analysis of the whole circuit with one dense matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def admittance(g: Array, sw: Array, sb: Array) -> Array:
    """The circuit of `wires.solve` as one symmetric matrix: currents into all nodes for voltages of all nodes.

    Nodes are those of the word lines (m n), of the bit lines (m n), the drivers (m) and the sense amplifiers (n).
    """
    m, n = g.shape
    nodes = np.arange(2 * m * n + m + n)
    word, bit = nodes[: 2 * m * n].reshape(2, m, n)
    driver, sense = nodes[2 * m * n : 2 * m * n + m], nodes[2 * m * n + m :]
    rows = np.concatenate([driver[:, None], word, driver[:, None]], axis=1)
    columns = np.concatenate([sense[None], bit, sense[None]])
    ends = [(word, bit, g), (rows[:, :-1], rows[:, 1:], sw), (columns[:-1], columns[1:], sb[:, None])]
    y = np.zeros((len(nodes), len(nodes)))
    for first, second, conductance in ends:
        value = np.broadcast_to(conductance, first.shape)
        for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
            np.add.at(y, (a, b), sign * value)
    return y


def solve(g: Array, sw: Array, sb: Array, v: Array, u: Array) -> tuple[Array, Array]:
    """Node voltages (m, n) of word and bit lines, for drivers at v (m,) and sense amplifiers at u (n,)."""
    y, inside = admittance(g, sw, sb), 2 * g.size
    found = np.linalg.solve(y[:inside, :inside], -y[:inside, inside:] @ np.concatenate([v, u]))
    return found[: g.size].reshape(g.shape), found[g.size :].reshape(g.shape)


def effective(g: Array, sw: Array, sb: Array) -> Array:
    """What `dissect.effective` gives: (m, n) siemens from the drivers to the sense amplifiers."""
    y, inside = admittance(g, sw, sb), 2 * g.size
    ends = y[inside:, inside:] - y[inside:, :inside] @ np.linalg.solve(y[:inside, :inside], y[:inside, inside:])
    return -ends[: len(g), len(g) :]
