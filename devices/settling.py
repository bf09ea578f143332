"""What settles the conductance of a cell once and for all: programming, and drift."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from .arrays import Array, Namespace, at_least
from .parts import Conditions, Part


class Settling(Part):
    """Takes conductances to other conductances, with a few standard normal numbers for each cell.

    Any distribution of cells can be written so: errors with a bias, skewed ones, cells that differ among themselves.

    Attributes:
        draws: normal numbers that one cell takes.
        lasting: how many of them, the first ones, belong to the cell itself: they stay when it is programmed again.
        nodes: for each of them, of the Gauss-Hermite rule that `outcomes` are averaged by.
    """

    draws: ClassVar[int] = 1
    lasting: ClassVar[int] = 0
    nodes: ClassVar[int] = 31

    @abstractmethod
    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances in siemens, in the shape and dtype of `g`. Below 0 is taken as 0.

        Args:
            g: siemens, of any shape, float32 or float64.
            normals: `draws` arrays of the shape and dtype of `g`, independent and standard normal: one draw describes a
                cell for all times and conditions.
            xp: the namespace of the arrays, see `arrays.py`. Gradients flow from the result to `g`.
        """

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """Conductances that cells end up with, never below 0, and their weights, which sum to 1.

        Gauss-Hermite quadrature: the weighted mean of a function of them is what to expect of it.
        """
        for normals, weight in normal_nodes(self.nodes, self.draws):
            settled = self.apply(g, [xp.full_like(g, n) for n in normals], conditions, xp)
            yield at_least(settled, 0, xp), weight

    def moments(self, g: Array, conditions: Conditions, xp: Namespace) -> tuple[Array, Array]:
        """Mean (siemens) and variance (S^2) of what cells end up with, in the shape and dtype of `g`.

        From `outcomes`, where a kind has no closed form.
        """
        found = list(self.outcomes(g, conditions, xp))
        none: Array = xp.zeros_like(g)
        mean = sum((weight * settled for settled, weight in found), none)
        return mean, sum((weight * xp.square(settled - mean) for settled, weight in found), none)


class Numbers(Sequence[Array]):
    """Normal numbers that are made when they are asked for: a process may need fewer than it can.

    Args:
        made: gives those of an index from 0 on.
        size: how many there are.
    """

    def __init__(self, made: Callable[[int], Array], size: int) -> None:
        self.made, self.size = made, size

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(self.size))]
        if not -self.size <= i < self.size:
            raise IndexError(f"number {i} of {self.size}")
        return self.made(i % self.size)

    def __len__(self) -> int:
        return self.size


class Kinked(Settling):
    """With one normal number, and kinks in what it makes of it: `outcomes` at 97 numbers that are evenly spaced.

    The trapezoidal rule is exact to rounding where a function of a normal number is smooth, and within 0.2 % of its
    standard deviation where it has a kink, as what is cut off at 0 has.
    """

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`."""
        places = np.linspace(-6, 6, 97)
        weights = np.exp(-np.square(places) / 2)
        for n, weight in zip(places.tolist(), (weights / weights.sum()).tolist(), strict=True):
            yield at_least(self.apply(g, [xp.full_like(g, n)], conditions, xp), 0, xp), weight


def normal_nodes(count: int, draws: int) -> Iterator[tuple[tuple[float, ...], float]]:
    """Nodes and weights of the mean over so many independent standard normal numbers, `count` nodes for each."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    pairs = list(zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True))
    for chosen in product(pairs, repeat=draws):
        yield tuple(node for node, _ in chosen), prod(weight for _, weight in chosen)
