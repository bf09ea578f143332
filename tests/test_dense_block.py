"""The dense block as one function: the layers one by one are what it is compared with."""

from __future__ import annotations

import copy

import numba
import numpy as np
import pytest
import torch
from torch import nn

from mho.models.dense_block import dense_block, fits
from mho.models.densenet import DenseBlock, DenseLayer, densenet, set_dropout
from mho.models.kernels import dense
from mho.models.noise import ChipNoise, Noise

GROWTH, FIRST, DEPTH = 5, 7, 4


class Times(nn.Module):
    """Multiplies by given factors (n h w, c)."""

    def __init__(self, factors: np.ndarray) -> None:
        super().__init__()
        self.factors = torch.from_numpy(factors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        factors = self.factors if len(self.factors) else torch.ones(n * h * w, c)
        return x * factors.reshape(n, h, w, c).permute(0, 3, 1, 2).to(x.dtype)


def block(sigma: float = 0.0, kind: str = "mult") -> DenseBlock:
    torch.manual_seed(1)
    layers = [DenseLayer(FIRST + i * GROWTH, GROWTH, sigma, kind) for i in range(DEPTH)]
    for layer in layers:
        nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
        nn.init.uniform_(layer.norm.bias, -0.5, 0.5)
    return DenseBlock(*layers).train()


def one_by_one(net: DenseBlock, count: int, key: int) -> nn.Sequential:
    """The same layers in float64, each computed by torch, with the noise that the function draws for a key."""
    plain = copy.deepcopy(nn.Sequential(*net)).double()
    for i, layer in enumerate(plain):
        layer.noise = Times(dense.noise_factors(layer.noise.sigma_train, i, key, (count, GROWTH), layer.dropout))
        layer.dropout = 0.0
    return plain


def learnt(net: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, running statistics and all gradients of a loss."""
    x = x.clone().requires_grad_()
    y = net(x)
    (y * weight.to(y.dtype)).sum().backward()
    grads = {f"grad {name}": p.grad for name, p in net.named_parameters()}
    return {"y": y.detach(), "grad x": x.grad, **grads, **dict(net.named_buffers())}


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(("sigma", "dropout"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.2), (0.6, 0.2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["first", "last"])
def test_outputs_statistics_and_gradients_are_those_of_the_layers(sigma, dropout, layout):
    n, size = 6, 10
    torch.manual_seed(2)
    x = 2 + 3 * torch.randn(n, FIRST, size, size)
    weight = torch.randn(n, FIRST + DEPTH * GROWTH, size, size)
    net = block(sigma)
    set_dropout(net, dropout)
    torch.manual_seed(3)
    key = int(torch.randint(2**63 - 1, ()))
    plain = learnt(one_by_one(net, n * size * size, key), x.double(), weight)
    torch.manual_seed(3)
    found = learnt(net, x.contiguous(memory_format=layout), weight)
    assert found.keys() == plain.keys()
    assert all(distance(found[name], plain[name]) < 1e-5 for name in plain), "farther than rounding"
    torch.manual_seed(4)
    other = learnt(copy.deepcopy(net), x, weight)
    assert (distance(other["grad x"], plain["grad x"]) > 0.01) == (sigma + dropout > 0)  # another seed, other noise


def test_bfloat16_is_that_of_torch():
    """What is stored is rounded as torch rounds, and the block under autocast is near the one in float32."""
    values = torch.randn(4000) * torch.logspace(-30, 30, 4000)
    x = values.bfloat16().view(torch.uint16).numpy().reshape(-1, 4)
    out = np.empty_like(x)
    scale, shift = np.array([1, 1.7, -1, 3], np.float32), np.array([0, 0.3, 0, -1], np.float32)
    dense.scale_and_clip(x, scale, shift, out)
    wide = torch.from_numpy(x).view(torch.bfloat16).float() * torch.from_numpy(scale) + torch.from_numpy(shift)
    rounded = torch.from_numpy(out).view(torch.bfloat16)
    ulp = 2.0**-8 * wide.clamp(min=0)
    assert torch.equal(rounded[:, 0], wide.clamp(min=0).bfloat16()[:, 0])
    assert bool(((rounded.float() - wide.clamp(min=0)).abs() <= ulp).all())

    torch.manual_seed(2)
    x = torch.randn(6, FIRST, 10, 10)
    weight = torch.randn(6, FIRST + DEPTH * GROWTH, 10, 10)
    exact = learnt(block(), x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        ours, torchs = learnt(block(), x, weight), learnt(nn.Sequential(*block()), x.bfloat16(), weight)
    assert ours["y"].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for name, value in ours.items() if name.startswith("grad"))
    for name in ("y", "grad x", *(name for name in exact if name.startswith("grad") and "weight" in name)):
        assert distance(ours[name], exact[name]) < 1.2 * distance(torchs[name], exact[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_threads_of_the_kernels(dtype):
    torch.manual_seed(2)
    x = torch.randn(3, FIRST, 9, 9).to(dtype)
    seen = []
    before = numba.get_num_threads()
    for count in (1, 2):
        numba.set_num_threads(count)
        torch.manual_seed(5)
        seen.append(learnt(block(0.5).to(dtype) if dtype == torch.float32 else block(0.5), x, torch.ones(())))
    numba.set_num_threads(before)
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])


def test_noise_is_normal_and_new_for_each_layer_and_key():
    z = [dense.noise_factors(0.5, layer, key, (40_000, 12)) for layer, key in ((0, 7), (1, 7), (0, 8), (0, 7))]
    assert np.array_equal(z[0], z[3])
    for factors in z[:3]:
        assert abs(factors.mean() - 1) < 5 * 0.5 / factors.size**0.5
        assert abs(factors.std() - 0.5) < 5 * 0.5 / (2 * factors.size) ** 0.5
    for other in z[1:3]:
        assert abs(np.corrcoef(z[0].ravel(), other.ravel())[0, 1]) < 5 / z[0].size ** 0.5


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    factors = dense.noise_factors(0.0, 3, 7, (40_000, 12), 0.2)
    assert set(np.unique(factors)) == {0.0, np.float32(1.25)}
    assert abs((factors == 0).mean() - 0.2) < 5 * (0.2 * 0.8 / factors.size) ** 0.5
    net, x = block(), torch.randn(2, FIRST, 8, 8)
    plain = net.eval()(x)
    set_dropout(net, 0.5)
    assert torch.equal(net(x), plain)  # none in evaluation
    layer = net[0].train()
    assert 0.3 < float((layer(x)[:, FIRST:] == 0).float().mean()) < 0.7


def test_other_noise_and_inference_take_the_layers_one_by_one(monkeypatch):
    calls = []
    monkeypatch.setattr("mho.models.densenet.dense_block", lambda x, layers: calls.append(x) or dense_block(x, layers))
    x = torch.randn(2, FIRST, 8, 8)
    for net in (block(0.3), block(0.0, "add")):
        net(x)
        assert calls.pop() is x
    chip = block()
    chip[1].noise = ChipNoise(0.1, 0.1)
    swapped = block()
    swapped[0] = nn.Conv2d(FIRST, FIRST + GROWTH, 3, padding=1)
    for net in (block(0.3).eval(), block(0.3, "add"), chip, swapped):
        net(x)
    assert calls == []
    assert not fits(x.double(), list(block()))
    assert isinstance(block()[0].noise, Noise)


def test_a_densenet_learns_as_with_the_layers_one_by_one():
    torch.manual_seed(0)
    net = densenet(depth=7, growth=4).train()
    plain = copy.deepcopy(net)
    for name in ("block1", "block2", "block3"):
        setattr(plain, name, nn.Sequential(*getattr(plain, name)))
    x, y = torch.rand(8, 3, 16, 16), torch.arange(8)
    losses = []
    for model in (net, plain):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        losses.append([])
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
    assert all(
        torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-3)
        for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True)
    )
