"""Which elements of a parameter a tensor made of it holds: transposed, sliced and reshaped, and nothing else.

Torch's own functions work that out, on a tensor without values that has the strides, or, where they copy, on the
numbers of the elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._pytree import tree_any

Dims = tuple[tuple[int, int], ...]  # (size, stride) of dimensions that follow one another as one


class NoLayout(ValueError):
    """The elements lie in no regular order."""


@dataclass(frozen=True)
class Layout:
    """Where the elements of an array lie in the flat parameter: an offset, and the strides along each axis."""

    offset: int
    axes: tuple[Dims, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(size for size, _ in axis) for axis in self.axes)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """The array, from all the elements of the parameter; it may share their memory."""
        dims = [dim for axis in self.axes for dim in axis]
        sizes, strides = ([dim[k] for dim in dims] for k in range(2))
        return flat.as_strided(sizes, strides, flat.storage_offset() + self.offset).reshape(self.shape)

    def fits(self, size: int) -> bool:
        """Whether it takes no more elements than a parameter of this size has, and those it has."""
        dims = [dim for axis in self.axes for dim in axis]
        last = self.offset + sum((many - 1) * stride for many, stride in dims)
        return (
            min(self.offset, *(stride for _, stride in dims), 0) >= 0 and last < size and 0 < prod(self.shape) <= size
        )

    def plain(self) -> list[Any]:
        return [self.offset, [[list(dim) for dim in axis] for axis in self.axes]]

    @classmethod
    def build(cls, plain: Any) -> Layout:
        """The layout of plain data; they are numbers, or it fails in some way."""
        offset, axes = plain
        numbers = [offset, *(number for axis in axes for dim in axis for number in dim)]
        if not all(type(number) is int and -(2**62) < number < 2**62 for number in numbers):
            raise ValueError(f"a layout has whole numbers, got {plain!r:.100}")
        return cls(offset, tuple(tuple((size, stride) for size, stride in axis) for axis in axes))


@dataclass(frozen=True)
class View:
    """A tensor made of a parameter's elements; `places` has their strides and no values, or their numbers."""

    places: torch.Tensor

    @classmethod
    def whole(cls, shape: Sequence[int]) -> View:
        return cls(torch.empty(*shape, device="meta", dtype=torch.long))

    @property
    def shape(self) -> torch.Size:
        return self.places.shape

    def moved(self, function: Callable[..., Any], args: Any = (), kwargs: Any = None) -> Any:
        """What a function of torch that moves values makes of it: a view, or several."""
        kwargs = kwargs or {}
        if self.places.is_meta and not tree_any(lambda x: isinstance(x, torch.Tensor) and x.ndim > 0, (args, kwargs)):
            found = function(self.places, *args, **kwargs)
            if all(self._shares(x) for x in (found if isinstance(found, (tuple, list)) else [found])):
                return _views(found)
        return _views(function(self._numbers(), *args, **kwargs))

    def _shares(self, other: torch.Tensor) -> bool:
        one, two = (x.untyped_storage()._cdata for x in (self.places, other))
        return bool(one == two)

    def _numbers(self) -> torch.Tensor:
        x = self.places
        if not x.is_meta:
            return x
        every = torch.arange(x.untyped_storage().nbytes() // x.element_size())
        return every.as_strided(x.size(), x.stride(), x.storage_offset())

    def layout(self, *axes: int) -> Layout:
        """Its layout, of so many dimensions in each axis.

        Raises:
            NoLayout: it has none.
        """
        assert sum(axes) == self.places.ndim
        if self.places.is_meta:
            dims = [*zip(self.places.size(), self.places.stride(), strict=True)]
            starts = [sum(axes[:k]) for k in range(len(axes))]
            parts = [_joined(dims[start : start + many]) for start, many in zip(starts, axes, strict=True)]
            return Layout(int(self.places.storage_offset()), tuple(parts))
        return _found(self.places, axes)

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Its values, from all the elements of the parameter."""
        x = self.places
        if x.is_meta:
            return flat.as_strided(x.size(), x.stride(), flat.storage_offset() + x.storage_offset())
        return flat[x]

    def is_repeated(self, dim: int) -> bool:
        """Whether all along a dimension is the same."""
        return self.shape[dim] == 1 or (self.places.is_meta and self.places.stride(dim) == 0)


def _views(found: Any) -> Any:
    return type(found)(View(x) for x in found) if type(found) in (tuple, list) else View(found)


def _joined(dims: Sequence[tuple[int, int]]) -> Dims:
    """Dimensions with those that are one made one."""
    found: list[tuple[int, int]] = []
    for size, stride in dims:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def _found(numbers: torch.Tensor, axes: tuple[int, ...]) -> Layout:
    shape = [prod(numbers.shape[sum(axes[:k]) : sum(axes[: k + 1])]) for k in range(len(axes))]
    grid = numbers.reshape(shape)
    if not grid.numel():
        raise NoLayout("it is empty")
    offset = int(grid.reshape(-1)[0])
    parts = []
    for k in range(len(axes)):
        along = grid.movedim(k, 0).reshape(shape[k], -1)[:, 0] - offset
        parts.append(_factors(along))
    made = Layout(offset, tuple(parts))
    every = torch.arange(int(grid.max()) + 1)
    if min(offset, int(grid.min())) < 0 or not torch.equal(_taken(made, every), grid):
        raise NoLayout("its elements lie in no regular order")
    return made


def _taken(layout: Layout, every: torch.Tensor) -> torch.Tensor:
    try:
        return layout.of(every)
    except RuntimeError:  # beyond the last
        return every[:0]


def _factors(along: torch.Tensor) -> Dims:
    """(size, stride) of the digits that numbers, the first of them 0, are counted by."""
    found, block = list[tuple[int, int]](), 1
    while block < len(along):
        stride = int(along[block])
        heads = along[::block]
        same = heads == torch.arange(len(heads)) * stride
        run = len(heads) if bool(same.all()) else int((~same).nonzero()[0])
        while (len(along) // block) % run:
            run -= 1
        if run == 1 or stride < 0:
            raise NoLayout("its elements lie in no regular order")
        found.insert(0, (run, stride))
        block *= run
    return _joined(found)
