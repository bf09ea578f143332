"""Which tensors of a model hold rows that were chosen by values, as experts take the tokens that are routed to them.

How many rows such a tensor has of each sample changes from batch to batch, so numbers of rows show nothing: two samples
may happen to have one each. What shows it is how the rows came about.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from .leaves import tensors_in

# functions whose results have as many rows as values say
OF_VALUES = frozenset(("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"))
RANKING = frozenset(("argsort", "sort", "topk", "msort"))
# functions that put rows where an index says, into a tensor whose own rows stay where they are
_PUTTING = """
    __setitem__ index_put index_put_ index_add index_add_ index_copy index_copy_ index_reduce index_reduce_ scatter
    scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ masked_scatter masked_scatter_ index_fill
    index_fill_ masked_fill masked_fill_ put put_ copy_
"""
PUTTING = frozenset(_PUTTING.split())
TAKING = frozenset(("index_select", "gather", "take", "take_along_dim"))
_SHAPES = "size dim stride new_zeros new_ones new_empty new_full zeros_like ones_like empty_like full_like rand_like"
OF_SHAPES = frozenset(_SHAPES.split())


class Rows:
    """Follows the rows of tensors through one pass of a model with so many samples.

    `valued` tells whether a tensor depends on the inputs.
    """

    def __init__(self, valued: Callable[[torch.Tensor], bool], samples: int) -> None:
        self.valued, self.samples = valued, samples
        self._chosen: Any = WeakTensorKeyDictionary()
        self._ranked: Any = WeakTensorKeyDictionary()  # indices that an order or a condition has given
        self._sorted = False  # whether samples were sorted by their lengths before they were packed
        self._numbers: set[int] = set()  # that left tensors, as counts and indices do

    def chosen(self, x: torch.Tensor) -> bool:
        """Whether the rows of x were chosen by values."""
        return x in self._chosen

    def read(self, x: torch.Tensor, output: torch.Tensor) -> None:
        """A layer on tiles has read x, row by row."""
        if self.chosen(x):
            self._chosen[output] = True

    def follow(self, name: str, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor], result: Any) -> None:
        """What a function called `name` makes of the rows of its arguments."""
        if name in ("tolist", "item", "__int__", "__index__"):
            if self.valued(args[0]) and not args[0].is_floating_point():
                self._numbers.update(x for x in tree_leaves(result) if type(x) is int)
            return
        results = tensors_in(result)
        if name == "__setitem__":
            results = [args[0]]
        if not results or name in OF_SHAPES:
            return
        if self._made(name, args, kwargs, given):
            for x in results:
                self._chosen[x] = True
        else:
            for x in results:
                self._chosen.pop(x, None)
        if self._ranks(name, args, kwargs, given):
            for x in results:
                if not x.is_floating_point():
                    self._ranked[x] = True

    def _ranks(self, name: str, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> bool:
        if any(x in self._ranked for x in given):
            return True
        if name in OF_VALUES or (name == "where" and len(args) + len(kwargs) == 1):
            return self.valued(given[0])
        if name not in RANKING or not self.valued(given[0]):
            return False
        x, at = given[0], 2 if name == "topk" else 1
        dim = kwargs.get("dim", args[at] if len(args) > at and type(args[at]) is int else -1)
        return x.ndim < 2 or dim % x.ndim == 0 or not x.is_contiguous()  # transposed: samples are ranked

    def _made(self, name: str, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> bool:
        """Whether the result of a function holds chosen rows."""
        if name in OF_VALUES or (name == "where" and len(args) + len(kwargs) == 1):
            return self.valued(given[0])
        if name == "repeat_interleave" and len(given) > 1:
            return self.valued(given[1]) or self.chosen(given[0])
        if name == "_pack_padded_sequence":
            lengths, self._sorted = given[1], self.chosen(given[0])
            return self.valued(lengths) or bool((lengths != lengths[0]).any())
        if name == "_pad_packed_sequence":
            return self._sorted
        if name in PUTTING:
            return self._put(args, given)
        if name == "__getitem__":
            return self._taken(args[0], args[1])
        if name in TAKING:
            return self._taken_along(name, args, kwargs, given)
        if name in ("split", "split_with_sizes", "narrow") and self._by_numbers(name, args, kwargs):
            return True
        return any(self.chosen(x) for x in given if x.ndim)

    def _put(self, args: Any, given: list[torch.Tensor]) -> bool:
        """Rows that are put where an index says lie there as the target's do."""
        target, others = given[0], given[1:]
        if self.chosen(target):
            return True
        leaves = tree_leaves(args[1:])
        indexed = any(self.valued(x) and not x.is_floating_point() for x in leaves if _is(x))
        indexed |= any(x in self._numbers for x in leaves if type(x) is int)
        return not indexed and any(self.chosen(x) for x in others if x.ndim)

    def _taken(self, x: torch.Tensor, index: Any) -> bool:
        """Of x[index]."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if not (parts and x.ndim):
            return self.chosen(x)
        first = parts[0]
        if isinstance(first, slice):
            cut = {v for v in (first.start, first.stop) if type(v) is int}
            if len(parts) == 1 and self.valued(x) and cut & self._numbers - {0, len(x)}:
                return True
            return self.chosen(x)
        if isinstance(first, list):
            numbers = {v for v in tree_leaves(first) if type(v) is int}
            return self.chosen(x) or bool(self.valued(x) and numbers and numbers <= self._numbers)
        counted = any(_is(part) and not self.valued(part) for part in parts[1:])  # which enumerates the samples
        return self._by(x, first) if _is(first) and not counted else self.chosen(x)

    def _taken_along(self, name: str, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> bool:
        x, index = given[0], given[-1]
        dim = kwargs.get("dim", next((v for v in args[1:] if type(v) is int), None))
        if len(given) < 2 or (name != "take" and dim is not None and dim % max(1, x.ndim)):
            return self.chosen(x)
        return self._by(x, index)

    def _by(self, x: torch.Tensor, index: torch.Tensor) -> bool:
        """Whether rows of x that an index chooses along its first dimension are chosen by values."""
        if self.chosen(index):
            return True
        if not self.valued(index) or not index.ndim:
            return self.chosen(x)
        if index.dtype in (torch.bool, torch.uint8):
            return self.valued(x)
        if self.chosen(x) or not self.valued(x):  # an order is undone, or rows of a table that are those of the index
            return False
        return index in self._ranked or not self._in_order(x, index)

    def _in_order(self, x: torch.Tensor, index: torch.Tensor) -> bool:
        """Whether an index takes as many rows of each sample, sample by sample."""
        many, rest = divmod(len(x), self.samples)
        if rest or not many or index.numel() % self.samples:
            return False
        of = torch.div(index.reshape(-1) % len(x), many, rounding_mode="floor")
        return bool((of.reshape(self.samples, -1) == torch.arange(self.samples, device=of.device)[:, None]).all())

    def _by_numbers(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        dim = kwargs.get("dim", next((v for v in args[2 if name != "narrow" else 1 :] if type(v) is int), 0))
        sizes = [v for v in tree_leaves((args[1:], kwargs)) if type(v) is int]
        lists = name != "split" or any(isinstance(v, (list, tuple)) for v in (*args[1:], *kwargs.values()))
        return lists and dim == 0 and self.valued(args[0]) and bool(set(sizes) & (self._numbers - {0}))


def _is(x: Any) -> bool:
    return isinstance(x, torch.Tensor)
