"""What the layers of a network that is trained on chips share: the step, its chip, and ranges that follow the data."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from math import isfinite
from typing import Any

import torch

from ...crossbar.keys import Key, Purpose, stream_key

Tensor = torch.Tensor
MOST = 2**20  # values that a percentile is taken of


class Steps:
    """Which chip a step has, and what its layers have seen.

    Called before each forward of the network: a new step has a new chip, whose cells have the random numbers of a seed
    that torch's generator gives. A layer that is called again in a step, or computed again in its backward pass by
    gradient checkpointing, has the same cells. `end` is called behind each forward.

    Attributes:
        momentum: share of what a step has seen in the ranges of the next: moving averages; 0 keeps those there are.
        through_variance: whether the variance of read noise has gradients.
        ramp: steps of training over which errors and noise grow to their size; 0: they have it from the first.
        clip: weights are clipped at so many of their standard deviations before each step; None: they are not.
        done: steps of training so far.
        weights: those of the network that are clipped, as it has them now.
        clipped: of these, each with the version that it was clipped in, by identity.
        calibrating: whether layers take their ranges from what they are given now.
        surveying: whether layers compute digitally and look at the channels of their inputs.
        samples: of the batch that goes through the network, while it is known, in the calibration.
    """

    samples: int | None

    def __init__(self, momentum: float, through_variance: bool, ramp: int = 0, clip: float | None = None) -> None:
        self.momentum, self.through_variance = momentum, through_variance
        self.ramp, self.clip, self.done = ramp, clip, 0
        self.weights: Callable[[Any], list[Tensor]] = list
        self.clipped: dict[int, tuple[Tensor, int]] = {}
        self.strength = 1.0  # of errors and noise in this step
        self.calibrating = False
        self.surveying, self.samples = False, None
        self._seen: dict[tuple[str, str], tuple[Any, Tensor, Callable[[Tensor], Tensor] | None]] = {}
        self._kept: dict[tuple[str, bool], Any] = {}
        self._inside = False
        self._begin()

    def __call__(self, module: Any, args: Any) -> None:
        self.follow()
        self._begin()
        if module.training:
            self.done += 1
            self._clip(module)
        self.strength = min(1.0, self.done / self.ramp) if module.training and self.ramp else 1.0
        self._kept, self._inside = {}, True

    @torch.no_grad()
    def _clip(self, module: Any) -> None:
        found = [] if self.clip is None else self.weights(module)
        before, self.clipped = self.clipped, {}
        for weight in found:
            known, version = before.get(id(weight), (None, 0))
            if known is not weight or weight._version != version:  # an optimiser has changed it
                most = float(self.clip or 0) * float(weight.std(correction=0))
                weight.clamp_(-most, most)
            self.clipped[id(weight)] = weight, weight._version

    def __getstate__(self) -> dict[str, Any]:
        """Copies of weights have versions of their own."""
        return {**vars(self), "clipped": {}}

    @torch.no_grad()
    def follow(self) -> None:
        """Take what the last step has seen into the ranges."""
        for (_, what), (layer, value, range_of) in self._seen.items():
            before, value = getattr(layer, what), value if range_of is None else range_of(value)
            setattr(layer, what, value if before is None else _averaged(before, value, self.momentum))
        self._seen = {}

    def end(self, module: Any, args: Any, output: Any) -> None:
        """Nothing is kept from here on but by the graph of what was computed."""
        self._kept, self._inside = {}, False

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What a layer has in all its calls in one forward, made at the first."""
        place = name, torch.is_grad_enabled()
        if not self._inside:
            return make()
        if place not in self._kept:
            self._kept[place] = make()
        return self._kept[place]

    def _begin(self) -> None:
        self.seed = int(torch.randint(2**62, ()))

    def generator(self, name: str, device: torch.device) -> torch.Generator:
        """Of the cells of a layer in this step."""
        said = f"{self.seed}|{name}".encode()
        seed = int.from_bytes(blake2b(said, digest_size=7).digest(), "little")
        return torch.Generator(device).manual_seed(seed)

    def key(self, purpose: Purpose, name: str, *place: int, fresh: bool = False) -> Key:
        """Of counted normals of a layer: the same in a step, or fresh ones of torch's generator."""
        return stream_key(int(torch.randint(2**62, ())) if fresh else self.seed, purpose, name, *place)

    def watches(self, layer: Any) -> bool:
        """Whether a layer looks at what it is given."""
        return self.calibrating or (bool(layer.training) and self.momentum > 0)

    def see(self, layer: Any, what: str, value: Tensor, range_of: Callable[[Tensor], Tensor] | None = None) -> None:
        """A range of a layer, as this step would have it: used from the next step on, or now where it calibrates.

        Or of what the range is made of, at the end of a step: its largest values.
        """
        if self.calibrating:
            before = getattr(layer, what)
            setattr(layer, what, value if before is None else torch.maximum(before, value))
            return
        before = self._seen.get((layer.name, what))
        self._seen[layer.name, what] = layer, value if before is None else torch.maximum(before[1], value), range_of


class Fresh:
    """Normals of a read from torch's generator of the device: see `torch_backend.reading.Draws`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def readings(self, conversion: int, shape: tuple[int, int, int, int, int]) -> Tensor:
        """(reads, row tiles, rows, slices, columns)."""
        return torch.randn(shape, device=self.device, dtype=torch.float32)

    def supply(self, conversion: int, reads: int, rows: int) -> Tensor:
        """(reads, 1, rows, 1, 1)."""
        return torch.randn((reads, 1, rows, 1, 1), device=self.device, dtype=torch.float32)


def begun(limit: Tensor) -> Tensor:
    """A limit, or 1 where all that was seen so far is 0: inputs of which any range would do."""
    return torch.where(limit > 0, limit, 1.0)


def _averaged(before: Tensor, value: Tensor, momentum: float) -> Tensor:
    """A moving average, which begins with the first value that is not 0."""
    return torch.where(before == 0, value, torch.lerp(before, value, momentum))


def check_finite(name: str, what: str, *tensors: Tensor | None) -> None:
    """Raises ValueError for the inputs or weights of a layer where they hold NaN or infinity."""
    for values in tensors:
        if values is None or not values.numel():
            continue
        if not all(isfinite(float(edge)) for edge in values.detach().aminmax()):
            raise ValueError(f"layer {name!r}: its {what} are not finite (NaN or infinite)")


def largest(values: Tensor, percentile: float) -> Tensor:
    """The percentile of the magnitudes, () float32; of very many values that of some, spread evenly over them."""
    if percentile == 100:
        return torch.linalg.vector_norm(values.detach(), torch.inf)
    sizes = values.detach().abs().flatten()
    return torch.quantile(_some(sizes), percentile / 100)


def lowest_and_highest(values: Tensor, percentile: float) -> Tensor:
    """What that many percent of the values lie between, as many below as above: (2,) highest, and less the lowest."""
    flat = _some(values.detach().flatten())
    low, high = torch.quantile(flat, flat.new_tensor([(100 - percentile) / 200, (100 + percentile) / 200]))
    return torch.stack([high, -low])


def _some(flat: Tensor) -> Tensor:
    return flat[:: max(1, -(-len(flat) // MOST))]
