"""What a layer on tiles takes as its input, whether it is on a chip or trained through one."""

from __future__ import annotations

from typing import Any

import torch
from torch._C._functorch import is_functorch_wrapped_tensor

from .errors import MappingError
from .kinds.leaf import Leaf


def check_values(name: str, x: Any) -> None:
    """Raises MappingError for what has no values that the tiles of the layer of this name could read."""
    if not isinstance(x, torch.Tensor):
        raise MappingError(f"layer {name!r} takes a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise MappingError(
            f"layer {name!r} takes floating-point inputs, got {x.dtype}: convert them, as with x.float()"
        )
    if x.layout != torch.strided or x.is_meta or is_functorch_wrapped_tensor(x):
        what = "on the meta device" if x.is_meta else f"of layout {x.layout}"
        what = "inside of vmap or another transform of torch.func" if is_functorch_wrapped_tensor(x) else what
        raise MappingError(f"layer {name!r} takes dense tensors with values, got one {what}")


def check_shape(name: str, spec: Leaf, shape: tuple[int, ...]) -> None:
    """Raises MappingError for an input of other dimensions than a layer takes."""
    dims = spec.dims
    if len(shape) <= dims or shape[-1 - dims] != spec.in_features or (dims and len(shape) > dims + 2):
        raise MappingError(
            f"layer {name!r} takes {spec.in_features} {'channels' if dims else 'features'} "
            f"in dimension {-1 - dims}, got an input of shape {shape}"
        )


def check_size(name: str, spec: Leaf, whole: tuple[int, ...]) -> None:
    """Raises MappingError for an arranged input, with its padding, that no kernel fits into."""
    if spec.dims and min(spec.patches.positions(whole[1:4])) < 1:
        raise MappingError(f"layer {name!r}: input of shape {whole} is smaller than the kernel {spec.patches.kernel}")
