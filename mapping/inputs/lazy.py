"""Modules of torch that take their shapes from their first input (`nn.LazyLinear`)."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import MappingError
from ..prepare import goes_through
from .batches import Batch


def is_lazy(model: nn.Module) -> bool:
    """Whether some parameter or buffer of a model has no shape yet."""
    return any(nn.parameter.is_lazy(value) for value in (*model.parameters(), *model.buffers()))


def materialise(model: nn.Module, batch: Batch, seed: int) -> None:
    """Give lazy modules of a model their shapes, by one pass; their weights are drawn from the seed.

    Raises:
        MappingError: the pass fails, or does not reach one of them.
    """
    mine = batch.apart()
    with torch.random.fork_rng(devices=[]), torch.no_grad(), goes_through(batch):
        torch.manual_seed(seed)
        model(*mine.args, **mine.kwargs)
    for name, module in model.named_modules():
        if any(nn.parameter.is_lazy(v) for v in (*module._parameters.values(), *module._buffers.values())):
            raise MappingError(f"layer {name!r}: it has no shape yet (a lazy module), and the inputs never reach it")
