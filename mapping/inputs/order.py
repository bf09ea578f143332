"""The order of a layer's rows: by sample, as random numbers are keyed, or as the model has them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import NamedTuple

import torch

from .padding import Padding


class SampleAxis(NamedTuple):
    """Where the samples lie among the leading dimensions of a layer's input.

    Along `axis` index = sample * others + other; where samples are `inner`, it is other * samples + sample.
    """

    axis: int = 0
    inner: bool = False


FIRST = SampleAxis()


@dataclass(frozen=True)
class Order:
    """How the `leading` dimensions of a layer's input hold the samples, so many; 0 where its rows belong to none.

    Where samples are padded in front, `padding` says how many steps there are and how many each has before its first
    token. Steps are then turned, so that the first token is step 0 and the padding comes last.
    """

    leading: tuple[int, ...]
    place: SampleAxis = FIRST
    samples: int = 0
    padding: Padding | None = None

    @cached_property
    def _split(self) -> tuple[int, ...]:
        """The leading dimensions with the one that holds the samples as two."""
        axis, inner = self.place
        many = self.leading[axis] // self.samples
        pair = (many, self.samples) if inner else (self.samples, many)
        return (*self.leading[:axis], *pair, *self.leading[axis + 1 :])

    @cached_property
    def _at(self) -> int:
        """Which of the split dimensions is that of the samples."""
        return self.place.axis + self.place.inner

    @cached_property
    def others(self) -> tuple[int, ...]:
        """The leading dimensions that tell apart the positions of one sample."""
        if not self.samples:
            return self.leading
        split, axis = self._split, self.place.axis
        left = [size for k, size in enumerate(split) if k != self._at]
        if split[2 * axis + 1 - self._at] == 1:  # nothing was beside the samples
            del left[axis]
        return tuple(left)

    @cached_property
    def _turns(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Which row stands where after the steps were turned, and the other way; None where none are turned."""
        if self.padding is None or not self.samples or self.others.count(self.padding.steps) != 1:
            return None  # of two dimensions as long as the steps none is known to be them
        axis = 1 + self.others.index(self.padding.steps)
        ahead = torch.tensor(self.padding.ahead).repeat(self.samples // len(self.padding.ahead))
        shape = (self.samples, *self.others)
        steps = torch.arange(self.padding.steps).reshape(-1, *(1,) * (len(shape) - axis - 1))
        turned = (steps + ahead.reshape(-1, *(1,) * (len(shape) - 1))) % self.padding.steps
        rows = torch.arange(prod(shape)).reshape(shape).gather(axis, turned.expand(shape)).reshape(-1)
        return rows, rows.argsort()

    def arranged(self, x: torch.Tensor) -> torch.Tensor:
        """x (all leading dimensions as one, ...) by sample, in this shape."""
        rest = x.shape[1:]
        if self._at:
            x = x.reshape(*self._split, *rest).movedim(self._at, 0).reshape(-1, *rest)
        return x if self._turns is None else x[self._turns[0].to(x.device)]

    def restored(self, y: torch.Tensor) -> torch.Tensor:
        """y (all leading dimensions as one, ...), arranged by sample, in the order of the model."""
        if self._turns is not None:
            y = y[self._turns[1].to(y.device)]
        if not self.samples or not self._at:
            return y
        split, rest = self._split, y.shape[1:]
        turned = (self.samples, *(size for k, size in enumerate(split) if k != self._at))
        assert prod(turned) == len(y)
        return y.reshape(*turned, *rest).movedim(0, self._at).reshape(-1, *rest)


@lru_cache(maxsize=1024)
def order_of(leading: tuple[int, ...], place: SampleAxis, samples: int) -> Order:
    """The order, kept: reads of small layers have it made anew often."""
    return Order(leading, place, samples)


@lru_cache(maxsize=4)
def padded_order_of(leading: tuple[int, ...], place: SampleAxis, samples: int, padding: Padding) -> Order:
    """The order of samples that are padded in front, kept for the layers of one inference."""
    return Order(leading, place, samples, padding)
