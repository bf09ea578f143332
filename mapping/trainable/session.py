"""What the layers of a network that is trained on chips share: the step, its chip, and ranges that follow the data."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import torch

Tensor = torch.Tensor
MOST = 2**20  # values that a percentile is taken of


class Steps:
    """Which chip a step has, and what its layers have seen.

    Called before each forward of the network: a new step has a new chip, whose cells have the random numbers of a seed
    that torch's generator gives. A layer that is called again in a step, or computed again in its backward pass by
    gradient checkpointing, has the same cells.

    Attributes:
        momentum: share of what a step has seen in the ranges of the next: moving averages; 0 keeps those there are.
        through_variance: whether the variance of read noise has gradients.
        calibrating: whether layers take their ranges from what they are given now.
    """

    def __init__(self, momentum: float, through_variance: bool) -> None:
        self.momentum, self.through_variance = momentum, through_variance
        self.calibrating = False
        self._seen: dict[tuple[str, str], tuple[Any, Tensor]] = {}
        self._begin()

    def __call__(self, module: Any, args: Any) -> None:
        for (_, what), (layer, value) in self._seen.items():
            before = getattr(layer, what)
            setattr(layer, what, value if before is None else torch.lerp(before, value, self.momentum))
        self._seen = {}
        self._begin()

    def _begin(self) -> None:
        self.seed = int(torch.randint(2**62, ()))

    def generator(self, name: str, device: torch.device) -> torch.Generator:
        """Of the cells of a layer in this step."""
        said = f"{self.seed}|{name}".encode()
        seed = int.from_bytes(blake2b(said, digest_size=7).digest(), "little")
        return torch.Generator(device).manual_seed(seed)

    def watches(self, layer: Any) -> bool:
        """Whether a layer looks at what it is given."""
        return self.calibrating or (bool(layer.training) and self.momentum > 0)

    def see(self, layer: Any, what: str, value: Tensor) -> None:
        """A range of a layer, as this step would have it: used from the next step on, or now where it calibrates."""
        if self.calibrating:
            before = getattr(layer, what)
            setattr(layer, what, value if before is None else torch.maximum(before, value))
            return
        self._seen[layer.name, what] = layer, value


class Fresh:
    """Normals of a read from torch's generator of the device: see `torch_backend.reading.Draws`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def readings(self, conversion: int, shape: tuple[int, int, int, int, int]) -> Tensor:
        """(reads, row tiles, rows, slices, columns)."""
        return torch.randn(shape, device=self.device)

    def supply(self, conversion: int, reads: int, rows: int) -> Tensor:
        """(reads, 1, rows, 1, 1)."""
        return torch.randn((reads, 1, rows, 1, 1), device=self.device)


def largest(values: Tensor, percentile: float) -> Tensor:
    """The percentile of the magnitudes, () float32; of very many values that of some, spread evenly over them."""
    sizes = values.detach().abs().flatten()
    if percentile == 100:
        return sizes.amax()
    return torch.quantile(sizes[:: max(1, -(-len(sizes) // MOST))], percentile / 100)
