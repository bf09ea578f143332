"""A layer's matrix: its weights, and how inputs become the voltages of its word lines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
        """Its tiles."""
        groups, rows, outputs = self.weights.shape
        return Placement.of(self.hardware.tile, rows + self.bias_on_array, outputs, groups)
