"""Mixtures of experts, whose weights are parts of one parameter: each expert is a matrix of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import hardware, ideal
from torch import nn
from torch.nn import functional

import mho


def p(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def x() -> torch.Tensor:
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))


class Routed(nn.Module):
    """Each token goes to the best two of four experts, in one of the ways in which models do it."""

    def __init__(self, how: str, experts: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.how, self.n = how, experts
        self.gate, self.up, self.up_bias, self.down = p(experts, 8), p(experts, 16, 8), p(experts, 16), p(experts, 8, 8)

    def forward(self, x):
        h = x.reshape(-1, 8)
        top, chosen = functional.linear(h, self.gate).softmax(-1).topk(2, -1)
        return getattr(self, self.how)(h, top, chosen).view_as(x)

    @staticmethod
    def act(y):
        a, b = y.chunk(2, -1)
        return a.sigmoid() * b

    def loop(self, h, top, chosen):
        out, mask = torch.zeros_like(h), functional.one_hot(chosen, self.n).permute(2, 1, 0)
        for (expert,) in mask.sum((-1, -2)).gt(0).nonzero():
            at, token = torch.where(mask[expert])
            y = self.act(functional.linear(h[token], self.up[expert], self.up_bias[expert]))
            out.index_add_(0, token, functional.linear(y, self.down[expert]) * top[token, at, None])
        return out

    def picked(self, h, top, chosen):
        ids = chosen.reshape(-1)
        y = torch.bmm(self.up[ids], h.repeat_interleave(2, 0).unsqueeze(-1)).squeeze(-1) + self.up_bias[ids]
        y = torch.bmm(self.act(y).unsqueeze(1), self.down[ids].transpose(1, 2)).squeeze(1)
        return (y * top.reshape(-1, 1)).view(len(h), 2, -1).sum(1)

    def grouped(self, h, top, chosen):
        ids = chosen.reshape(-1)
        order = ids.argsort(stable=True)
        ends = torch.histc(ids.float(), self.n, 0, self.n - 1).cumsum(0).int()
        y = functional.grouped_mm(h.repeat_interleave(2, 0)[order], self.up.transpose(-2, -1), offs=ends)
        y = functional.grouped_mm(self.act(y + self.up_bias[ids[order]]), self.down.transpose(-2, -1), offs=ends)
        return (y * top.reshape(-1, 1)[order])[order.argsort()].view(len(h), 2, -1).sum(1)

    def dense(self, h, top, chosen):
        y = self.act(torch.bmm(h.expand(self.n, -1, -1), self.up.transpose(1, 2)) + self.up_bias[:, None])
        share = torch.zeros(len(h), self.n).scatter(1, chosen, top)
        return torch.einsum("etd,te->td", torch.einsum("etf,edf->etd", y, self.down), share)


@pytest.mark.parametrize("how", ["loop", "picked", "grouped", "dense"])
@pytest.mark.filterwarnings("ignore:layer .* the model chooses its rows by their values")
def test_experts(tmp_path: Path, how: str) -> None:
    net, given = Routed(how).eval(), x()
    chip = mho.map(net, ideal(), check=given)
    with torch.no_grad():
        assert torch.allclose(chip(given), net(given), atol=1e-5)
    each = [f"{name}_layers.{k}" for name in ("up", "down") for k in range(4)]
    assert set(chip.layers) == {"gate_layers.0", *each}
    bias = 0 if how == "loop" else 64  # elsewhere it is added apart
    assert chip.cover.digital.get("", 0) == bias
    assert chip.cover.on_tiles == sum(value.numel() for value in net.parameters()) - bias
    noisy = mho.map(net, hardware(), calibrate=given)
    reads = sum(call.positions for call in noisy.trace if call.layer.startswith("up_layers"))
    assert reads == 4 * 6 if how == "dense" else 12 <= reads <= 12 + 4  # of a sample, rounded up for each expert
    noisy.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", model=net).read(given, read=0), noisy.read(given, read=0))
    if how == "dense":
        parts = noisy.read(given[:1], read=0), noisy.read(given[1:], read=0, first_sample=1)
        assert torch.equal(noisy.read(given, read=0), torch.cat(parts))


@pytest.mark.filterwarnings("ignore:layer .* the model chooses its rows by their values")
def test_experts_that_no_input_reaches() -> None:
    net = Routed("loop", experts=6).eval()
    some = x()[:1, :1]  # two experts
    exact = mho.map(net, ideal(), check=some)
    assert len([name for name in exact.layers if name.startswith("up")]) == 6
    with torch.no_grad():
        assert torch.allclose(exact(x()), net(x()), atol=1e-5)
    chip = mho.map(net, hardware(), calibrate=some)
    assert len([name for name in chip.layers if name.startswith("up")]) == 2
    left = [d for d in chip.digital if d.name.startswith("up_layers.")]
    assert {d.reason for d in left} == {"the calibration inputs never reach it"}
    assert len(left) == 4
    assert sum(chip.cover.digital[d.name] for d in left) == 4 * (16 * 8 + 16)
    assert chip(x()).isfinite().all()  # they work, digitally
