"""Modules that get their shapes at their first call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import mho
from mho.mapping.errors import MappingError

IDEAL = mho.Hardware.preset("ideal")


LAZY: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)), (4,)),
    (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyConvTranspose2d(3, 2, 2)), (2, 5, 5)),
    (lambda: nn.Sequential(nn.LazyConv1d(4, 3), nn.LazyConvTranspose1d(3, 2, 2), nn.LazyInstanceNorm1d()), (2, 5)),
]


@pytest.mark.parametrize(("make", "size"), LAZY)
def test_lazy_modules_are_what_they_become(make: Any, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net, x = make(), torch.randn(6, *size)
    with pytest.raises(MappingError, match=r"layer '0': weight has no shape yet .* run the model once .* calibrate="):
        mho.map(net, IDEAL)
    state = torch.get_rng_state()
    first, second = (mho.map(net, IDEAL, seed=seed, **{name: x}) for seed, name in ((3, "calibrate"), (3, "check")))
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.parameter.is_lazy(net[0].weight), "the caller's model has changed"
    assert torch.equal(first(x), second(x))
    other = mho.map(net, IDEAL, seed=4, check=x)
    assert not torch.allclose(other(x), first(x))
    net.eval()(x)
    chip = mho.map(net, IDEAL, calibrate=x)
    assert torch.allclose(chip(x), net(x), rtol=1e-4, atol=1e-5)
    assert {d.type for d in chip.digital if d.reason.startswith("folded")} <= {"BatchNorm1d", "BatchNorm2d"}
    assert len(chip.layers) == 2


def test_a_lazy_module_that_inputs_never_reach_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(3), nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    with pytest.raises(MappingError, match=r"layer 'unused': it has no shape yet .* the inputs never reach it"):
        mho.map(Two(), IDEAL, check=torch.randn(2, 3))
    with pytest.raises(MappingError, match=r"calibrate: inputs of shape .* do not go through the model"):
        mho.map(nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 2)), IDEAL, calibrate=torch.randn(2, 3))
