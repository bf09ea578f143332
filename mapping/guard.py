"""Watches over folded batch norms while the chip runs: what a model does with them is only known from a trace.

Between a layer and the batch norm that was folded into it, tensors hold something else than the caller's network has
there. They are marked, and whatever touches a marked tensor but the other end of the fold is an error.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import MappingError

_SHAPES = {
    "__get__": ("shape", "dtype", "device", "ndim", "layout", "is_leaf", "requires_grad", "itemsize", "nbytes"),
    "": ("size", "dim", "numel", "is_contiguous", "is_floating_point", "ndimension", "nelement", "__len__"),
}
_HARMLESS = {getattr(torch.Tensor, name).__get__ for name in _SHAPES["__get__"]} | {
    getattr(torch.Tensor, name) for name in _SHAPES[""]
}


class Between(torch.Tensor):
    """What goes from a layer to its folded batch norm or the other way round; it lets nobody see its values."""

    fold: Fold
    plain: torch.Tensor  # the same without a mark: the very tensor, as the trace knows what it comes from

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function not in _HARMLESS:
            name = getattr(function, "__name__", str(function))
            fold = next(x.fold for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Between))
            raise MappingError(f"{fold.fault} (by {name})")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def unmarked(x: torch.Tensor) -> torch.Tensor:
    """The tensor without its mark, if it has one."""
    return x.plain if isinstance(x, Between) else x


class Fold:
    """The two ends of a fold: `first` gives what `second` takes. One of them is the layer, the other its batch norm."""

    def __init__(self, layer: str, norm: str, dims: int) -> None:
        self.layer, self.norm, self.dims = layer, norm, dims

    @property
    def fault(self) -> str:
        return (
            f"layer {self.layer!r}: batch norm {self.norm!r} is folded into it, and the model uses what goes between "
            f"them in another way than when it was traced; exclude {self.norm!r} to keep it apart"
        )

    def between(self, first: nn.Module, second: nn.Module) -> None:
        """Watch over what goes from one module to the other."""
        first.register_forward_hook(Marks(self))
        second.register_forward_pre_hook(Unmarks(self), with_kwargs=True)


class Marks:
    """Forward hook of the first module."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if (
            output.ndim != self.fold.dims + 2
        ):  # as torch's batch norm wants; of a linear layer it would take another axis
            raise MappingError(
                f"layer {self.fold.layer!r}: batch norm {self.fold.norm!r} is folded into it and takes "
                f"{self.fold.dims + 2} dimensions, got the shape {tuple(output.shape)}; exclude {self.fold.norm!r}"
            )
        marked: Between = output.as_subclass(Between)
        marked.fold, marked.plain = self.fold, output
        return marked


class Unmarks:
    """Forward pre-hook of the second module."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        (x,) = args if len(args) == 1 and not kwargs else (None,)
        if not isinstance(x, Between) or x.fold is not self.fold:
            raise MappingError(self.fold.fault)
        return (unmarked(x),), kwargs
