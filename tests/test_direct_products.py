"""Products that take inputs where they are: the bits of gathered rows, and taken wherever they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import mho
from mho.crossbar.backends import compiled

RERAM = mho.Hardware.preset("reram").replace({"tile.rows": 64})
FLOATS = RERAM.replace({"dac.bits": 12})
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(6, 20, 3), (3, 6, 9, 11)),
    "padded": (lambda: nn.Conv2d(4, 33, 5, padding=2), (2, 4, 9, 11)),
    "strides": (lambda: nn.Conv2d(8, 16, 3, stride=(2, 1), padding=1), (3, 8, 12, 9)),
    "dilation": (lambda: nn.Conv2d(4, 10, 3, dilation=(2, 3), padding=3), (2, 4, 10, 12)),
    "1x1": (lambda: nn.Conv2d(10, 64, 1), (2, 10, 7, 8)),
    "1d": (lambda: nn.Conv1d(6, 8, 5, padding=2), (4, 6, 40)),
    "3d": (lambda: nn.Conv3d(2, 5, (2, 3, 2), padding=1), (2, 2, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (2, 4, 7, 8)),
    "linear": (lambda: nn.Linear(130, 40), (100, 130)),
    "tokens": (lambda: nn.Linear(16, 24), (5, 30, 16)),
}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether products took inputs where they are, for each geometry that was asked about."""
    found: list[bool] = []
    of_planes = compiled._direct
    monkeypatch.setattr(compiled, "_direct", lambda *given: found.append(of_planes(*given)) or found[-1])
    return found


def outputs(net: nn.Module, hardware: mho.Hardware, x: torch.Tensor) -> list[torch.Tensor]:
    """Reads of a new chip: one, several with the same inputs, a part of them, and one without noise."""
    chip = mho.map(net.eval(), hardware, calibrate=x, seed=5)
    reads: list[dict[str, Any]] = [{"read": 3}, {"read": 4, "reads": 3}, {"read": 3, "noisy": False}]
    return [chip.read(x, **how) for how in reads] + [chip.read(x[1:], read=3, first_sample=1)]


@pytest.mark.parametrize("hardware", [RERAM, FLOATS], ids=["integers", "floats"])
@pytest.mark.parametrize("name", NETS)
def test_the_bits_are_those_of_gathered_rows(
    name: str, hardware: mho.Hardware, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = NETS[name]
    torch.manual_seed(1)
    net, x = make(), torch.randn(shape)
    found = outputs(net, hardware, x)
    assert taken
    assert all(taken) is any(size > 1 for size in getattr(net, "kernel_size", ()))
    monkeypatch.setattr(compiled, "_direct", lambda *given: False)
    for one, other in zip(found, outputs(net, hardware, x), strict=True):
        assert torch.equal(one, other)


def test_on_several_threads(taken: list[bool]) -> None:
    torch.manual_seed(1)
    net, x = nn.Conv2d(32, 64, 3, padding=1), torch.rand(4, 32, 24, 24)
    chip, threads = mho.map(net.eval(), RERAM, calibrate=x[:1], seed=5), torch.get_num_threads()
    try:
        found = []
        for many in (1, 2):
            torch.set_num_threads(many)
            found.append(chip.read(x, read=2))
    finally:
        torch.set_num_threads(threads)
    assert all(taken)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("net", "changes", "shape"),
    [
        (nn.Conv2d(3, 8, 3), {}, (2, 3, 9, 9)),  # the two of a pair of word lines are no neighbours
        (nn.Conv2d(4, 8, 3), {"dac.bits_per_pulse": 1}, (2, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3), {"tile.bias": "array"}, (2, 4, 9, 9)),
    ],
    ids=["odd", "pulses", "bias"],
)
def test_where_they_cannot_rows_are_gathered(
    net: nn.Module, changes: dict[str, Any], shape: tuple[int, ...], taken: list[bool]
) -> None:
    x = torch.rand(shape)
    chip = mho.map(net.eval(), RERAM.replace(changes), calibrate=x, seed=0)
    exact = mho.map(net.eval(), mho.Hardware.paper(sigma_add=0.0), calibrate=x, seed=0)
    assert (chip(x) - exact(x)).abs().mean() < 0.1
    assert not taken[0]
