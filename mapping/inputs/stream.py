"""Calibration inputs of any number: all are looked at as they come, and some of them, spread over all, are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ...crossbar.magnitudes import Magnitudes
from ..arrays import as_numpy
from ..inference import Inference, OnTiles
from .batches import ENOUGH, Batch, batches_in, joined

Ranges = dict[str, Magnitudes]


@dataclass(frozen=True)
class Stream:
    """The batches that calibration inputs stand for.

    Attributes:
        first: the first of them, up to 1,024 samples.
        whole: gives all of them, where there are more; None where these are all, or where nobody knows whether there is
            an end, as of a generator. The first time it goes on behind the first ones, so that inputs are asked for
            once; each further time it begins anew.
        kept: the numbers of those, spread evenly, that make about 1,024 samples.
    """

    first: list[Batch]
    whole: Callable[[], Iterator[Batch]] | None = None
    kept: frozenset[int] = frozenset()

    @classmethod
    def of(cls, inputs: Any, model: nn.Module, said: str) -> Stream:
        """Inputs in the forms of `mho.mapping.inputs.batches.batches_in`.

        Raises:
            MappingError: see there.
        """
        found: list[Batch] = []
        coming = (batch for batch, _ in batches_in(inputs, model, said))
        for batch in coming:
            found.append(batch)
            if sum(batch.samples for batch in found) >= ENOUGH:
                break
        first = joined(found) if len(found) > 1 else found
        count = _length(inputs)
        if count <= len(found):
            return cls(first)
        many = max(1, min(count, ENOUGH // max(batch.samples for batch in found)))
        kept = frozenset(np.linspace(0, count - 1, many).astype(int).tolist())
        begun = [chain(found, coming)]

        def whole() -> Iterator[Batch]:
            yield from begun.pop() if begun else (batch for batch, _ in batches_in(inputs, model, said))

        return cls(first, whole, kept)

    def batches(self) -> Iterator[Batch]:
        """All of them."""
        return iter(self.first) if self.whole is None else self.whole()


def _length(inputs: Any) -> int:
    """How many batches an iterable has; 0 for what is one batch itself, or has no length."""
    if isinstance(inputs, (torch.Tensor, np.ndarray, tuple, Mapping, Batch)) or not isinstance(inputs, Sized):
        return 0
    try:
        return len(inputs)
    except TypeError:  # a DataLoader of a data set without a length
        return 0


@dataclass
class Sizes(Inference):
    """Computes digitally, and keeps how large the inputs of each layer are, over all its calls, in `found`.

    Attributes:
        splits: of layers whose inputs are two side by side, how long the first one is; they are kept apart.
        reached: layers that had inputs other than 0.
    """

    splits: Mapping[str, int] = field(default_factory=dict)
    found: dict[str, tuple[Magnitudes, Magnitudes]] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)

    def _output(self, layer: OnTiles, x: torch.Tensor, call: int) -> torch.Tensor:
        values, at = as_numpy(layer.arranged(x).values), self.splits.get(layer.name)
        one, two = self.found.setdefault(layer.name, (Magnitudes(), Magnitudes()))
        one.add(values[..., :at])
        if at is not None:
            two.add(values[..., at:])
        if values.any():
            self.reached.add(layer.name)
        return layer.digital(x)

    def ranges(self, gains: Mapping[str, float]) -> Ranges:
        """Of all inputs of each layer, where the first of two side by side is multiplied by a gain."""
        return {name: one.with_scaled(gains.get(name, 1.0), two) for name, (one, two) in self.found.items()}
