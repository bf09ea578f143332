"""Parameters that a model multiplies by itself, as in `F.linear(x, self.weight)`: tensors that hold no values.

An `Operand` stands where the parameter did. What only moves its values gives another `Operand`; a product with it is
the work of a layer, which its `source` calls; all else is told to the source, which may refuse. So a call that nobody
thought of cannot read the weights past the tiles: they are not there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from .product import Part, product
from .view import View

# attributes and functions that say nothing of the values
_METADATA = """
    shape dtype device ndim layout is_leaf requires_grad itemsize nbytes names grad grad_fn is_meta is_cuda is_cpu
    is_sparse is_quantized is_nested is_mkldnn is_mps is_xla is_xpu _is_param _version output_nr retains_grad
    size dim numel nelement ndimension is_floating_point is_complex is_contiguous element_size get_device __len__ stride
    is_inference is_signed is_pinned is_shared _is_view has_names is_conj is_neg
"""
METADATA = frozenset(_METADATA.split())
# functions that move values and change none
_MOVES = """
    T mT t transpose permute movedim moveaxis swapaxes swapdims reshape view flatten unflatten ravel squeeze unsqueeze
    select narrow __getitem__ chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind expand expand_as
    broadcast_to view_as reshape_as index_select flip
"""
MOVES = frozenset(_MOVES.split())
TURNS = frozenset(["mT", "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims"])
SAME = frozenset(["contiguous", "clone", "detach", "alias", "data", "cpu", "cuda", "requires_grad_", "pin_memory"])
CASTS = frozenset(["to", "type", "float", "half", "bfloat16", "double", "type_as"])
AS_LIKE = frozenset(["to", "type_as", "new_zeros", "new_ones", "new_empty", "new_full"])


class Source(Protocol):
    """What an operand is a part of."""

    name: str

    def call(self, part: Part, x: torch.Tensor, bias: Any) -> torch.Tensor:
        """What the layer of this part gives for an input, with a bias (a tensor, an operand, or None)."""

    def values(self, view: View, used: str) -> torch.Tensor:
        """The values of a view, for a function of this name."""


class Operand(torch.Tensor):
    """A parameter, or what was made of it by moving values.

    Attributes:
        source: whose it is.
        piece: its elements. With `pick`, that of all that may be picked along the first dimension.
        pick: (picked,) whole numbers, those along the first dimension that were picked, as experts are for tokens.
    """

    _is_param = True
    source: Source
    piece: View
    pick: torch.Tensor | None

    @staticmethod
    def __new__(cls, source: Source, view: View, dtype: torch.dtype, pick: torch.Tensor | None = None) -> Operand:
        shape = view.shape if pick is None else (*pick.shape, *view.shape[1:])
        made: Operand = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.source, made.piece, made.pick = source, view, pick
        return made

    def __init__(self, *_: Any) -> None:
        pass

    def __deepcopy__(self, known: dict[int, Any]) -> Operand:
        if id(self) not in known:
            known[id(self)] = Operand(copy.deepcopy(self.source, known), self.piece, self.dtype, self.pick)
        made: Operand = known[id(self)]
        return made

    def __reduce_ex__(self, proto: Any) -> tuple[Any, ...]:
        return Operand, (self.source, self.piece, self.dtype, self.pick)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Operand({self.source.name}, {tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(function, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What comes past `__torch_function__`, as of C++ code."""
        return function(*_plain(str(function), args), **_plain(str(function), kwargs or {}))


def operands(*given: Any) -> list[Operand]:
    return [x for x in tree_leaves(given) if isinstance(x, Operand)]


def call(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What a function of torch gives that has operands among its arguments."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__", "__delete__"):
        name = function.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined]
    first = args[0] if args else None
    if name in METADATA:
        with torch._C.DisableTorchFunction():  # of modes too, as of the one that is recording
            return function(*args, **kwargs)
    if isinstance(first, Operand) and len(operands(args, kwargs)) == 1:
        if name in SAME:
            return first
        if name == "__iter__":
            return iter(first.unbind(0))
        if name in MOVES and (moved := _moved(function, name, first, args[1:], kwargs)) is not None:
            return moved
        if name in CASTS:
            like = function(torch.empty(0, dtype=first.dtype), *args[1:], **kwargs)
            if not isinstance(like, torch.Tensor):
                return like
            if like.is_floating_point():
                return Operand(first.source, first.piece, like.dtype, first.pick)
    if name in AS_LIKE and not (name in CASTS and isinstance(first, Operand)):
        return function(*_empty(args), **_empty(kwargs))
    done = product(name, args, kwargs)
    return function(*_plain(name, args), **_plain(name, kwargs)) if done is None else done


def _plain(name: str, given: Any) -> Any:
    def values(x: Operand) -> torch.Tensor:
        found = x.source.values(x.piece, name).to(x.dtype)
        return found if x.pick is None else found[x.pick]

    return tree_map_only(Operand, values, given)


def _empty(given: Any) -> Any:
    return tree_map_only(Operand, lambda x: torch.empty(0, dtype=x.dtype), given)


def _moved(function: Any, name: str, x: Operand, args: Any, kwargs: Any) -> Any:
    """What a function that moves values makes of an operand; None where that is no regular part of it."""
    if any(isinstance(arg, torch.dtype) for arg in (*args, *kwargs.values())) or (
        x.pick is not None and name not in TURNS
    ):
        return None
    index = args[0] if name == "__getitem__" else None
    if isinstance(index, torch.Tensor) and index.ndim:
        return _chosen(x, index)
    try:
        found = x.piece.moved(function, args, kwargs)
    except (RuntimeError, IndexError, TypeError, ValueError):  # let torch say what is wrong
        return None
    if x.pick is not None:
        kept = found.shape[0] == x.piece.shape[0] and found.places.is_meta
        kept = kept and found.places.stride(0) == x.piece.places.stride(0)
        return Operand(x.source, found, x.dtype, x.pick) if kept else None
    wrap = lambda view: Operand(x.source, view, x.dtype)  # noqa: E731
    return type(found)(wrap(view) for view in found) if isinstance(found, (tuple, list)) else wrap(found)


def _chosen(x: Operand, index: torch.Tensor) -> Operand | None:
    """What numbers choose along the first dimension."""
    if index.dtype not in (torch.int32, torch.int64) or index.ndim > 1 or x.ndim < 2 or not x.piece.places.is_meta:
        return None
    return Operand(x.source, x.piece, x.dtype, index.detach())
