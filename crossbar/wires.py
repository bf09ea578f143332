"""Wires with resistance: what reaches the cells and the sense amplifiers of an array, exactly.

Word line i is driven with V_i at its left end, bit line j is held at 0 V by the sense amplifier at its bottom. Cell
(i, j) connects node j of the word line to node i of the bit line. Neighbouring nodes of a line are one segment of wire
apart, as are the first node of a word line from its driver and the last node of a bit line from its sense amplifier;
the other ends are open, or driven and sensed in the same way. The circuit is linear, so the currents are G_eff^T V with
effective conductances G_eff that do not depend on V.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..devices.nonlinearity import Linear
from ..devices.parts import Conditions
from .backend import WireSolver
from .backends import DEFAULT, backend_of
from .lines import Lines

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-12  # of a solution by iterations, relative
MANY = 16  # inputs from which on forming G_eff is less work than solving for each
NEWTON_STEPS = 50
NEWTON_TOLERANCE = 1e-6  # of a step
NEWTON_CLOSE = 1e-11  # a step that is so small, relative to the inputs, is the last
COMPILED = backend_of(DEFAULT)
STEEP = 1000.0  # loss r mean(g) n^2 / 2 along a line from which on small currents need G_eff


class Law(Protocol):
    """How the current of a cell follows its voltage: see `mho.devices.nonlinearity`."""

    def current(self, v: Array, conditions: Conditions, xp: Any) -> Array: ...
    def slope(self, v: Array, conditions: Conditions, xp: Any) -> Array: ...


class Solution(NamedTuple):
    """Currents in amperes, (n,) or (n, p), and node voltages in volts, (m, n) or (m, n, p)."""

    currents: Array
    word_line: Array
    bit_line: Array


def read(
    g: Array,
    v: Array,
    *,
    r_word_line: float,
    r_bit_line: float,
    voltages: bool = False,
    law: Law | None = None,
    v_read: float = 0.2,
    temperature: float = 300.0,
    backend: str | WireSolver = DEFAULT,
    **ends: Any,
) -> Array | Solution:
    """Currents into the sense amplifiers. Their relative error is below 1e-9 for wires up to 100 ohm and 512 lines.

    Args:
        g: (m, n) conductances of the cells in siemens, 0 where there is none.
        v: (m,) voltages of the drivers, or (m, p) for p inputs.
        r_word_line, r_bit_line, ends: the circuit, as the fields of `Lines`.
        voltages: whether to return a `Solution` with all node voltages, which are exact relative to the largest.
        law: how the current of a cell follows its voltage, as the `nonlinearity` of a cell; None for Ohm's law. Lines
            then need resistance.
        v_read: volts at which the cells have the conductances g.
        temperature: of the cells, in kelvins, for laws that know it.
        backend: what solves it, by name or itself: see `mho.crossbar.backends`.

    Returns:
        (n,) amperes, or (n, p).

    Raises:
        ValueError: shapes that do not fit, conductances that are negative or not finite, impossible resistances, or a
            circuit that has no solution in double precision.

    Example:
        >>> from mho.crossbar.wires import read
        >>> read([[1e-5, 2e-5], [3e-5, 4e-5]], [0.2, 0.2], r_word_line=0.0, r_bit_line=0.0)  # amperes
        array([8.0e-06, 1.2e-05])
    """
    network = Network(g, Lines.cached(r_word_line=r_word_line, r_bit_line=r_bit_line, **ends), _solver(backend))
    v = np.asarray(v, dtype=np.float64)
    rows = network.g.shape[0]
    if v.ndim not in (1, 2) or len(v) != rows:
        raise ValueError(f"v must have shape ({rows},) or ({rows}, p), got {v.shape}")
    if not np.isfinite(v).all():
        raise ValueError("v must be finite, got NaN or infinity")
    inputs = np.ascontiguousarray(v.reshape(rows, -1).T)
    if law is None or isinstance(law, Linear):
        if not voltages and (len(inputs) >= MANY or not network.iterative):
            return network.effective.T @ v
        word, bit, currents = network.solve_all(inputs, keep=voltages)
    else:
        conditions = Conditions(v_read=v_read, t_read=math.inf, temperature=temperature)
        nodes = [network.solve_nonlinear(x, law, conditions) for x in inputs]
        word, bit = (np.stack(part) for part in zip(*nodes, strict=True))
        currents = (network.g * law.current(word - bit, conditions, np)).sum(axis=1)
    if not voltages:
        return currents.T.reshape(-1, *v.shape[1:])
    word, bit = (np.moveaxis(part, 0, -1).reshape(*network.g.shape, *v.shape[1:]) for part in (word, bit))
    return Solution(currents.T.reshape(-1, *v.shape[1:]), word, bit)


def effective_conductance(
    g: Array, *, r_word_line: float, r_bit_line: float, backend: str | WireSolver = DEFAULT, **ends: Any
) -> Array:
    """G_eff (m, n) in siemens: currents for voltages v are ``G_eff.T @ v``. Arguments and errors as in `read`.

    Each entry is exact to about 1e-11 of itself, however small it is.

    Example:
        >>> from mho.crossbar.wires import effective_conductance
        >>> bool((effective_conductance([[1e-5, 2e-5]], r_word_line=1.0, r_bit_line=1.0) < [1e-5, 2e-5]).all())
        True
    """
    return Network(g, Lines(r_word_line=r_word_line, r_bit_line=r_bit_line, **ends), _solver(backend)).effective


def noise_variance(
    g: Array,
    variance: Array,
    v: Array,
    *,
    r_word_line: float,
    r_bit_line: float,
    backend: str | WireSolver = DEFAULT,
    **ends: Any,
) -> Array:
    """Variances (n,) of the currents, in A^2, that independent noise of the cells makes for voltages v (m,).

    To first order in the noise, whose `variance` (m, n) is in S^2: var I_k = sum_ij variance_ij u_ij^2 a_ij^2 with the
    voltage u across a cell and the voltage a that it has for 1 V at sense amplifier k and all drivers at 0 V
    (Director and Rohrer 1969, IEEE Trans. Circuit Theory 16:318). Other arguments and errors as in `read`.
    """
    network = Network(g, Lines(r_word_line=r_word_line, r_bit_line=r_bit_line, **ends), _solver(backend))
    word, bit = network.solve(np.asarray(v, dtype=np.float64))
    strength = variance * np.square(word - bit)
    found = []
    for sense in np.eye(network.g.shape[1]):
        word, bit = network.solve(np.zeros(len(g)), sense)
        found.append((strength * np.square(word - bit)).sum())
    return np.array(found)


class Network:
    """An array of cells g (m, n) between lines; `solver` is that of the default backend, unless another is given.

    Raises:
        ValueError: conductances that are no matrix, negative or not finite.
    """

    def __init__(self, g: Array, lines: Lines, solver: WireSolver | None = None) -> None:
        self.g, self.lines, self.solver = np.ascontiguousarray(g, dtype=np.float64), lines, solver or COMPILED
        if self.g.ndim != 2 or not self.g.size:
            raise ValueError(f"g must be a matrix (word lines, bit lines), got shape {self.g.shape}")
        self.total = float(self.g.sum())
        if not (self.g.min() >= 0 and self.total < np.inf):  # neither holds for NaN
            raise ValueError("g must be finite and not negative, in siemens")

    @property
    def iterative(self) -> bool:
        """Whether iterations give all currents to full precision."""
        (m, n), lines = self.g.shape, self.lines
        resistive = lines.r_word_line > 0 and lines.r_bit_line > 0
        return resistive and self.total * max(lines.r_word_line * n / m, lines.r_bit_line * m / n) / 2 < STEEP

    @cached_property
    def effective(self) -> Array:
        """G_eff (m, n) in siemens."""
        lines, (m, n) = self.lines, self.g.shape
        with np.errstate(all="ignore"):
            if lines.r_word_line and lines.r_bit_line:
                found = self.solver.effective(self.g, lines.word_line(n), lines.bit_line(m))
            elif lines.r_word_line:
                found = self._swapped.effective[::-1, ::-1].T
            else:
                found = self.g * self._bit_lines(np.zeros(m), np.ones(n))
                if lines.r_driver:
                    found = self._driven * np.linalg.solve(self._loaded, found)
        _check(found)
        return found

    def solve(self, v: Array, u: Array | None = None, tolerance: float = TOLERANCE) -> tuple[Array, Array]:
        """Node voltages (m, n) of word and bit lines, with drivers at v (m,) and sense amplifiers at u (n,), or 0."""
        word, bit, _ = self.solve_all(v[None], None if u is None else u[None], tolerance)
        return word[0], bit[0]

    def solve_all(
        self, v: Array, u: Array | None = None, tolerance: float = TOLERANCE, *, keep: bool = True
    ) -> tuple[Array, Array, Array]:
        """Node voltages (p, m, n) of word and bit lines, and currents (p, n) of the cells of each bit line.

        For drivers at v (p, m) and sense amplifiers at u (p, n), or 0. Without `keep` there are no voltages to use.
        """
        lines, (m, n) = self.lines, self.g.shape
        u = np.zeros((len(v), n)) if u is None else u
        if lines.r_word_line and lines.r_bit_line:
            wires = lines.word_line(n), lines.bit_line(m)
            nodes, currents = self.solver.node_voltages(self.g, wires, (v, u), tolerance, keep=keep)
        else:
            with np.errstate(all="ignore"):
                nodes = np.stack([self._solve_ideal(*ends) for ends in zip(v, u, strict=True)], axis=1)
            currents = (self.g * (nodes[0] - nodes[1])).sum(axis=1)
        _check(currents)
        return nodes[0], nodes[1], currents

    def _solve_ideal(self, v: Array, u: Array) -> tuple[Array, Array]:
        """`solve` where word lines, bit lines or both have no resistance."""
        lines, (m, n) = self.lines, self.g.shape
        if lines.r_word_line:
            bit, word = (nodes[::-1, ::-1].T for nodes in self._swapped._solve_ideal(u[::-1], v[::-1]))
            return word, bit
        x = v
        if lines.r_driver:
            pushed = (self.g * self._bit_lines(np.zeros(m), u)).sum(axis=1)
            x = np.linalg.solve(self._loaded, self._driven * v + pushed)
        return np.repeat(x[:, None], n, axis=1), self._bit_lines(x, u)

    def solve_nonlinear(self, v: Array, law: Law, conditions: Conditions) -> tuple[Array, Array]:
        """As `solve`, for cells of this law, by Newton's method: each step is a linear circuit.

        Raises:
            ValueError: lines without resistance, or no convergence.
        """
        lines, (m, n) = self.lines, self.g.shape
        if not (lines.r_word_line and lines.r_bit_line):
            raise ValueError("law: cells that are not linear need r_word_line and r_bit_line above 0")
        sw, sb = lines.word_line(n), lines.bit_line(m)
        word, bit = self.solve(v)
        size = np.abs(v).max()

        def left_over(word: Array, bit: Array) -> tuple[Array, Array]:
            """Currents into the nodes that nothing takes."""
            cells = self.g * law.current(word - bit, conditions, np)
            along = np.diff(word, axis=1, prepend=v[:, None], append=v[:, None]) * sw
            down = np.diff(bit, axis=0, prepend=0, append=0) * sb[:, None]
            return np.diff(along, axis=1) - cells, np.diff(down, axis=0) + cells

        wrong = left_over(word, bit)
        for _ in range(NEWTON_STEPS):
            slopes = self.g * law.slope(word - bit, conditions, np)
            step = self.solver.changes(slopes, (sw, sb), wrong, NEWTON_TOLERANCE)
            before, part = sum(float(np.square(w).sum()) for w in wrong), 1.0
            while True:
                new = word + part * step[0], bit + part * step[1]
                wrong = left_over(*new)
                if part < 1e-3 or sum(float(np.square(w).sum()) for w in wrong) <= before:
                    break
                part /= 2
            word, bit = new
            if max(np.abs(s).max() for s in step) <= NEWTON_CLOSE * size:
                _check(word, bit)
                return word, bit
        raise ValueError(f"law: no solution after {NEWTON_STEPS} steps of Newton's method")

    @property
    def _swapped(self) -> Network:
        """Word lines as bit lines; both in reverse order, as drivers are at the left and sense amplifiers below."""
        return Network(self.g.T[::-1, ::-1], self.lines.swapped, self.solver)

    # from here on, word lines have no resistance

    @property
    def _driven(self) -> float:
        """Siemens from the drivers of a word line to its cells."""
        return (2 if self.lines.drivers == "both" else 1) / self.lines.r_driver

    @cached_property
    def _loaded(self) -> Array:
        """(m, m): the current into each word line as a function of their voltages, sense amplifiers at 0 V."""
        through = np.stack([self.g * self._bit_lines(x, np.zeros(self.g.shape[1])) for x in np.eye(len(self.g))])
        return np.diag(self._driven + self.g.sum(axis=1)) - through.sum(axis=2)

    def _bit_lines(self, x: Array, u: Array) -> Array:
        """Node voltages (m, n) of the bit lines for word lines at x (m,) and sense amplifiers at u (n,)."""
        lines = self.lines
        if lines.r_bit_line:
            return self.solver.bit_lines(self.g, lines.bit_line(len(x)), x, u)
        if lines.r_sense:
            sensed = (2 if lines.sense == "both" else 1) / lines.r_sense
            u = (sensed * u + x @ self.g) / (sensed + self.g.sum(axis=0))
        return np.repeat(u[None], len(x), axis=0)


def _solver(backend: str | WireSolver) -> WireSolver:
    return backend if isinstance(backend, WireSolver) else backend_of(backend)


def _check(*found: Array) -> None:
    if not all(np.isfinite(values).all() for values in found):
        raise ValueError("wires: the circuit is singular in double precision; its resistances are out of range")
