"""Inputs of which the first is not the batch: masks, positions, states, memories, numbers; by place or by name."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import mho
from mho.mapping.inputs.batches import first_batch

RERAM = mho.Hardware.preset("reram")
NOISY = mho.Hardware.paper(sigma_mult=0.2)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.m, self.head, self.places = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), nn.Embedding(16, 4)


class Positions(Base):
    def forward(self, positions, x):
        return self.head(self.l(x + self.places(positions))).mean(1)


class Masked(Base):
    def forward(self, mask, x):
        return self.head(mask @ self.l(x)).mean(1)


class Scaled(Base):
    def forward(self, factor, x):
        return self.head(self.l(x * factor)).mean(1)


class Memory(Base):
    def forward(self, memory, x):
        kept = self.m(memory)
        return self.head(self.l(x) @ kept.t() @ kept).mean(1)


class State(Base):
    def forward(self, state, x):
        return {"y": self.head(self.l(x) + state.sum(0)[:, None]).mean(1), "factor": 2.0}["y"]


CASES = [
    (Positions, torch.arange(5)[None]),
    (Positions, torch.arange(5)),
    (Masked, torch.ones(5, 5).tril()),
    (Scaled, torch.tensor(2.0)),
    (Scaled, torch.tensor([2.0])),
    (Memory, torch.rand(3, 4)),
    (Memory, torch.rand(5, 4)),
    (Memory, torch.rand(4, 4)),
    (State, torch.rand(2, 8, 4)),
]


@pytest.mark.parametrize("mapped", ["inputs", "named", "unchecked", "loaded"])
@pytest.mark.parametrize(("make", "first"), CASES, ids=[f"{c[0].__name__}{k}" for k, c in enumerate(CASES)])
def test_the_batch_is_found_wherever_it_stands(make, first, mapped, tmp_path):
    torch.manual_seed(1)
    net, x = make().eval(), torch.rand(8, 5, 4)
    first_name, name = inspect.signature(net.forward).parameters
    if mapped == "unchecked":
        chip = mho.map(net, NOISY)
    else:
        chip = mho.map(net, RERAM, calibrate={first_name: first, name: x} if mapped == "named" else (first, x))
    if mapped == "loaded":
        chip.save(tmp_path / "chip")
        chip = mho.load(tmp_path / "chip", model=net)

    def read(start: int, end: int, **more: int) -> torch.Tensor:
        given = first[:, start:end] if make is State else first
        if mapped == "named":
            named = {first_name: given, name: x[start:end]}
            return chip.read(read=0, first_sample=start, named=named, **more)
        return chip.read(given, x[start:end], read=0, first_sample=start, **more)

    if mapped == "loaded":
        several = read(0, 8, reads=2) if make is not State else None
    whole = read(0, 8)
    parts = torch.cat([read(0, 3), read(3, 4), read(4, 8)])
    assert torch.equal(parts, whole)
    later = torch.cat([read(0, 4), chip.read(*(first if make is not State else first[:, 4:],), x[4:], read=0)])
    assert mapped == "named" or not torch.equal(later, whole)  # negative control
    if mapped == "loaded" and several is not None:
        assert torch.equal(several[:8], whole)


@pytest.mark.parametrize(
    ("shapes", "which"),
    [
        ([(8, 4)], 0),
        ([()], None),
        ([(), (8, 4)], 1),
        ([(5,), (8, 5, 4)], 1),
        ([(5, 5), (8, 5)], 1),
        ([(1, 5), (8, 5)], 1),
        ([(1, 1, 5, 5), (8, 5)], 1),
        ([(1, 5), (5, 5)], 0),  # one text and its mask
        ([(1, 5, 4), (5, 5)], 0),
        ([(1, 5, 4), (2, 1, 4)], 0),  # one sample and a state
        ([(8, 5, 4), (2, 8, 4), (2, 8, 4)], 0),
        ([(8, 5), (5, 5)], 0),
        ([(4, 8, 4), (3,)], 0),
        ([(8,), (8, 3)], 0),
    ],
)
def test_shapes_tell_what_is_no_batch(shapes, which):
    assert first_batch([torch.zeros(shape) for shape in shapes]) == which
