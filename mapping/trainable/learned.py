"""Ranges of converters that are trained: LSQ's gradients, and how they pass the compiled read.

Esser et al. 2020 (Learned step size quantization, ICLR): rounding is straight through, so a step s that reads v as code
c has the slope c - v / s, and c where v / s is beyond the highest code. It is multiplied by 1 / sqrt(N c_max) for N
values that have one step. Without rounding it is that of a clipping range (PACT, Choi et al. 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..torch_backend.convert import rises
from .numbers import Adc

Tensor = torch.Tensor
LEARNED = "log_limit", "log_full_scale"  # parameters of a layer


def grown(start: Tensor, log: Tensor, values: int, largest: float) -> Tensor:
    """`start` times exp(log), whose slopes are multiplied by 1 / sqrt(values largest).

    The logarithm is trained so that a range stays positive, and a step of an optimiser changes it by a share of itself,
    whatever its unit. It starts at 0, so weight decay pulls to the calibration.
    """
    held = log.detach()
    return start * torch.exp(held + (log - held) * (values * largest) ** -0.5)


def tied(scale: Tensor, limit: Tensor) -> Tensor:
    """A scale that was computed with the value of a limit which it is proportional to, with its slope."""
    return scale * (limit / limit.detach()) if limit.requires_grad else scale


def step_slopes(codes: Tensor, current: Tensor, inverse: Tensor, adc: Adc) -> Tensor:
    """What readings (rows, columns) of codes rise by with their step, from the currents and 1 / step of each column."""
    low, high, centre = map(float, adc.limits)
    return rises(codes.float().clamp_(low, high), torch.sub(current * inverse, centre), (low, high, centre))


class _OnArray(torch.autograd.Function):
    """A bias as it is on the array. Nothing is saved by torch: see `programming._Cells`."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, limit: Tensor) -> Tensor:
        ctx.bias, ctx.limit = bias.detach(), limit.detach()
        return ctx.bias * float(1 / ctx.limit)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, Tensor]:
        return slopes / ctx.limit, -(slopes * ctx.bias).sum() / ctx.limit.square()


def on_array(bias: Tensor, limit: Tensor) -> Tensor:
    """A bias as weights of a word line that is driven as far as can be, with inputs up to a limit."""
    if limit.requires_grad:
        found: Tensor = _OnArray.apply(bias, limit)
        return found
    return bias * float(1 / limit)
