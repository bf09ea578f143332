"""A layer's matrix: its weights, and how inputs become the voltages of its word lines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from .hardware import Hardware
from .patches import PLAIN, Patches
from .placement import Placement

Array = np.ndarray[Any, Any]
COLUMNS = 2**18  # columns of a group, counted from 0, are below; see docs/random-numbers.md


@dataclass(frozen=True)
class Matrix:
    """The matrix of one layer, before anything is known of its inputs.

    Attributes:
        name: of the layer; its random numbers are keyed with it.
        weights: (groups, rows, outputs) float32. Group g reads the g-th part of the channels.
        bias: (groups, outputs) float32, or None.
        hardware: of this layer.
        patches: what a row of the matrix takes of the inputs.

    Raises:
        ValueError: more outputs than have random numbers, or a tile too narrow for one.
    """

    name: str
    weights: Array
    bias: Array | None
    hardware: Hardware
    patches: Patches = PLAIN

    def __post_init__(self) -> None:
        placement = self.placement
        if placement.outputs + placement.column_tiles > COLUMNS:
            raise ValueError(
                f"layer {self.name!r}: outputs of a group must be below {COLUMNS}, got {placement.outputs}"
            )

    @property
    def bias_on_array(self) -> bool:
        """Whether the bias is one more word line, driven by a constant input."""
        return self.bias is not None and self.hardware.tile.bias == "array"

    @cached_property
    def placement(self) -> Placement:
        """Its tiles. What it calls a group are those groups of the matrix that are on tiles together."""
        (groups, rows, outputs), many = self.weights.shape, self.sharing
        return Placement.of(self.hardware.tile, many * rows + self.bias_on_array, many * outputs, groups // many)

    @cached_property
    def sharing(self) -> int:
        """How many groups share a tile where `tile.groups` is 'diagonal': as many as fit and divide their number."""
        (groups, rows, outputs), tile = self.weights.shape, self.hardware.tile
        if tile.groups == "apart":
            return 1
        most = min((tile.rows - self.bias_on_array) // rows, tile.outputs // outputs)
        return max((n for n in range(1, most + 1) if groups % n == 0), default=1)

    @property
    def fillers(self) -> int:
        """Zeros that its tiles hold off the diagonals of groups that share them."""
        return self.weights.size * (self.sharing - 1)

    def rows_of(self, group: int) -> Array:
        """(rows, outputs) float32 weights of a group of the placement, without a bias.

        Groups that share tiles stand along the diagonal, zeros beside them. Word lines are in the order of a patch of
        all their channels: (kd, kh, kw, channel).
        """
        many = self.sharing
        if many == 1:
            return self.weights[group]
        _, rows, outputs = self.weights.shape
        taps = prod(self.patches.kernel)
        found = np.zeros((taps, many, rows // taps, many, outputs), np.float32)
        for i, weights in enumerate(self.weights[many * group : many * (group + 1)]):
            found[:, i, :, i] = weights.reshape(taps, -1, outputs)
        return found.reshape(many * rows, many * outputs)

    def bias_of(self, group: int) -> Array:
        """(outputs,) float32 of a group of the placement; zeros where there is no bias."""
        if self.bias is None:
            return np.zeros(self.placement.outputs, np.float32)
        return self.bias.reshape(self.placement.groups, -1)[group]

    def diagonal(self, placed: Array) -> Array:
        """What its own groups are, (groups, rows, outputs), of what those of the placement are, as `rows_of` has it."""
        many = self.sharing
        if many == 1:
            return placed
        groups, rows, outputs = self.weights.shape
        taps = prod(self.patches.kernel)
        parts = placed.reshape(-1, taps, many, rows // taps, many, outputs)
        return np.stack([parts[:, :, i, :, i] for i in range(many)], axis=1).reshape(groups, rows, outputs)

    def for_rows(self) -> Matrix:
        """The same tiles, for inputs that are the rows of each group of the placement, one group after the other."""
        placed = np.stack([self.rows_of(g) for g in range(self.placement.groups)])
        bias = None if self.bias is None else self.bias.reshape(len(placed), -1)
        hardware = self.hardware if self.sharing == 1 else self.hardware.replace({"tile.groups": "apart"})
        return replace(self, weights=placed, bias=bias, hardware=hardware, patches=PLAIN)
