"""Wires, solved by compiled kernels: dissection for effective conductances, conjugate gradients for voltages."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..backend import WireSolver
from ..kernels.dissect import effective
from ..kernels.wires import (
    correct,
    factor_bit_lines,
    factor_word_lines,
    own_voltages,
    resistances,
    solve_bit_lines,
    solve_inputs,
)

Array = np.ndarray[Any, Any]
_rooms = threading.local()


class CompiledWires(WireSolver):
    """The wires of the backend of compiled kernels."""

    def effective(self, g: Array, sw: Array, sb: Array) -> Array:
        found: Array = effective(g, sw, sb)
        return found

    def node_voltages(
        self, g: Array, wires: tuple[Array, Array], ends: tuple[Array, Array], tolerance: float, *, keep: bool
    ) -> tuple[Array, Array]:
        inputs, room, most = len(ends[0]), _scratch(*g.shape), _most(g)
        currents = np.empty((inputs, g.shape[1]))
        nodes = np.empty((2, inputs, *g.shape)) if keep else room[6:, None]
        if solve_inputs(g, *wires, *ends, tolerance, most, room, nodes, currents) < 0:
            raise ValueError(f"wires: no solution after {most} iterations; their resistances are out of range")
        return nodes, currents

    def bit_lines(self, g: Array, sb: Array, x: Array, u: Array) -> Array:
        bit, pivots = np.empty_like(g), np.empty_like(g)
        factor_bit_lines(g, sb, pivots)
        solve_bit_lines(g, np.repeat(x[:, None], g.shape[1], axis=1), pivots, sb, u, bit)
        return bit

    def changes(
        self, g: Array, wires: tuple[Array, Array], currents: tuple[Array, Array], tolerance: float
    ) -> tuple[Array, Array]:
        of_words, of_bits, word, bit, *work = (np.empty_like(g) for _ in range(8))
        factor_word_lines(g, wires[0], of_words)
        factor_bit_lines(g, wires[1], of_bits)
        correct(g, wires, (of_words, of_bits), currents, tolerance, _most(g), (word, bit), tuple(work))
        return word, bit

    def own_voltages(self, g: Array, sw: Array, sb: Array) -> tuple[Array, Array]:
        turned = np.ascontiguousarray(g.T)
        across = np.empty_like(g), np.empty_like(turned)
        resistances(g, sw, across[0])
        resistances(turned, sb, across[1])
        own, adjoint = np.empty_like(g), np.empty_like(turned)
        own_voltages(g, np.ascontiguousarray(across[1].T), sw, own)
        own_voltages(turned, np.ascontiguousarray(across[0].T), sb, adjoint)
        return own, adjoint.T


def _most(g: Array) -> int:
    """Iterations at most."""
    return 1000 + 10 * sum(g.shape)


def _scratch(m: int, n: int) -> Array:
    """(8, m, n) of room, the same for each circuit of this size that a thread solves: new memory takes time."""
    kept: Array | None = getattr(_rooms, "room", None)
    if kept is None or kept.shape[1:] != (m, n):
        kept = _rooms.room = np.empty((8, m, n))
    return kept
