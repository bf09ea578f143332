"""Modules of torch whose weights are packed integers: they stay digital, and hold no `nn.Parameter` to count."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

QUANTIZED = "its weights are packed integers, and tiles take floating point: map the model before it is quantized"


def packed_parameters(module: nn.Module) -> int | None:
    """How many weights and biases a quantized module holds; None for a module that is none."""
    if not type(module).__module__.startswith("torch.ao.nn.") or ".quantized." not in type(module).__module__:
        return None
    found: list[Any] = [getattr(module, name, None) for name in ("weight", "bias", "get_weight", "get_bias")]
    if not callable(found[0]) and not callable(found[2]):
        return None
    values = tree_leaves([read() for read in found if callable(read)])
    return sum(value.numel() for value in values if isinstance(value, torch.Tensor))
