"""Rounding and clipping with gradients: straight through where values are in range, none where they are clipped."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor | float) -> Tensor:
        if isinstance(slope, Tensor):
            ctx.save_for_backward(slope)
        ctx.slope = None if isinstance(slope, Tensor) else slope
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient * (ctx.saved_tensors[0] if ctx.slope is None else ctx.slope), None, None


def through(x: Tensor, value: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """`value`, which was computed from x without a graph and is nobody else's, with the gradient of x times `slope`.

    The slope may be a tensor of the shape of x: where values are in range, say.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return value
    found: Tensor = _Through.apply(x, value, slope)
    return found


def positive(x: Tensor) -> Tensor:
    """The larger of x and 0, with half of the gradient at 0: the other half is that of the negative part."""
    return (x + x.abs()) / 2 if torch.is_grad_enabled() and x.requires_grad else x.clamp(min=0)
