"""A backend of tensors, from outside of the package: inputs stay in their graph, gradients pass a chip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import hardware
from torch import nn

import mho
from mho.crossbar.backends import BACKENDS
from mho.crossbar.backends.conformance import differences
from mho.mapping.arrays import EXCHANGES, Exchange

DOCS = Path(__file__).parents[1] / "docs" / "kernels.md"
LINEAR = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}


def blocks() -> list[str]:
    text = DOCS.read_text(encoding="utf-8").split("### A backend of tensors")[1].split("\n### ")[0]
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class of the docs, registered as a user would."""
    names: dict[str, Any] = {"__name__": "my_tensors"}
    exec(compile(blocks()[0], "my_tensors.py", "exec"), names)
    monkeypatch.setattr(BACKENDS, "_things", BACKENDS.loaded())
    BACKENDS.add("tensors", names["Tensors"])
    return names["Tensors"]


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def stored(net: nn.Module, chip: mho.Chip) -> nn.Module:
    """The network with the weights that the cells of a chip stand for."""
    for name, layer in chip.layers.items():
        module = net.get_submodule(name)
        module.weight.data = layer.weight.detach().clone()
        module.bias.data = layer.bias.detach().clone()
    return net


class Split(nn.Module):
    """A convolution in groups with padding, a linear layer with samples along the second dimension, and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.inner, self.head = nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).tanh().flatten(2).transpose(0, 1)  # channels, samples, positions
        return self.head(self.inner(y).sigmoid().mean(0))


def gradient(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    along = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return torch.autograd.grad((y * along).sum(), x)[0]


def test_gradients_are_those_of_the_cells(tensors: Any) -> None:
    """Without converters a chip is the network of the weights that its cells stand for."""
    torch.manual_seed(0)
    net, x = Split().eval(), random(8, 2, 5, 5)
    hw = hardware().replace({**LINEAR, "cell.stuck.at_g_min": 0.05})
    chip = mho.map(net, hw, calibrate=x, backend="tensors")
    assert isinstance(chip.backend, tensors)
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, wanted = chip.read(z, read=0, noisy=False), stored(net, chip)(w)
    assert torch.allclose(y, wanted, atol=1e-5)
    assert torch.allclose(gradient(y, z), gradient(wanted, w), atol=1e-6)
    reads = chip.read(z, read=0, reads=3, noisy=False)  # with the same inputs, which are arranged once
    assert torch.equal(reads[8:16], reads[:8])
    thrice, once = (torch.autograd.grad(chip.read(z, read=0, reads=n, noisy=False).sum(), z)[0] for n in (3, 1))
    assert torch.allclose(thrice, 3 * once, atol=1e-6)
    with torch.no_grad():
        assert not chip.read(z, read=0, noisy=False).requires_grad
    usual = mho.map(net, hw, calibrate=x)
    assert not usual.read(z, read=0).requires_grad  # negative control: arrays of numpy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_alone_keeps_graph_and_type(tensors: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net, x, ideal = nn.Sequential(nn.Linear(6, 3)).eval(), random(8, 6), mho.Hardware.preset("ideal")
    z = x.to(dtype).requires_grad_()
    y = mho.map(net, ideal, calibrate=x, backend="tensors").layers["0"](z)
    wanted = net(x)
    assert y.dtype == dtype
    assert torch.allclose(y.float(), wanted, atol=0.02 if dtype == torch.bfloat16 else 1e-5)
    along = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    slope = along @ net[0].weight
    assert torch.allclose(gradient(y, z).float(), slope, atol=0.02 if dtype == torch.bfloat16 else 1e-5)
    usual = mho.map(net, ideal, calibrate=x).layers["0"](z)
    assert usual.dtype == dtype
    assert not usual.requires_grad  # negative control


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gradients_pass_recurrent_layers(tensors: Any, kind: Any) -> None:
    torch.manual_seed(0)
    net, x = kind(5, 8, batch_first=True).eval(), random(6, 4, 5)
    chip = mho.map(net, mho.Hardware.preset("ideal"), calibrate=x, backend="tensors")
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = gradient(chip.read(z, read=0, noisy=False)[0], z), gradient(net(w)[0], w)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_converters_round_straight_through_and_cut_gradients(tensors: Any) -> None:
    net, x = nn.Sequential(nn.Linear(20, 6)).eval(), random(12, 20)
    hw = mho.Hardware.preset("reram").replace({"dac.range": 0.5, "cell.programming": {"kind": "none"}})
    chip = mho.map(net, hw, calibrate=x, backend="tensors")
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = gradient(chip.read(z, read=0, noisy=False), z), gradient(stored(net, chip)(w), w)
    inside = x < 0.5
    assert not found[~inside].any()
    assert torch.allclose(found[inside], wanted[inside], atol=1e-4)


def test_readings_are_those_of_the_kernels(tensors: Any) -> None:
    assert differences(tensors(), ["normals", "codes", "reads"]) == []
    torch.manual_seed(0)
    net, x = Split().eval(), random(8, 2, 5, 5)
    a, b = (mho.map(net, hardware(), calibrate=x, backend=name) for name in ("tensors", "numba"))
    assert torch.allclose(a.read(x, read=0, noisy=False), b.read(x, read=0, noisy=False), atol=1e-5)
    assert [layer.counts for layer in a.layers.values()] == [layer.counts for layer in b.layers.values()]
    with pytest.raises(ValueError, match="layer 'conv': inputs must be finite, got 1 NaN or infinite of 784"):
        a.read(torch.where(x == x.max(), torch.nan, x), read=0)


def test_the_example_of_the_docs_runs_outside_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, use = blocks()
    (tmp_path / "my_tensors.py").write_text(module, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(BACKENDS, "_things", BACKENDS.loaded())
    exec(use, {})
    monkeypatch.delitem(sys.modules, "my_tensors")


class Doubled(Exchange):
    """Arrays of another kind: numpy's, of twice the inputs."""

    def given(self, x: torch.Tensor) -> Any:
        return 2 * x.detach().numpy()

    def returned(self, y: Any, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(y)


def test_a_kind_of_arrays_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EXCHANGES, "_things", EXCHANGES.loaded())
    EXCHANGES.add("doubled", Doubled())
    mine = type("Mine", (BACKENDS["numpy"],), {"kind": "doubled"})()
    net, x = nn.Sequential(nn.Linear(5, 3, bias=False)), random(8, 5)
    hw = hardware().replace(LINEAR)
    usual = mho.map(net, hw, calibrate=x).read(x, read=0, noisy=False)
    found = mho.map(net, hw, calibrate=x, backend=mine, check=False).read(x, read=0, noisy=False)
    assert torch.allclose(found, 2 * usual, atol=1e-5)
    with pytest.raises(TypeError, match=r"^arrays 'x' must be an object of a class derived from Exchange, got 3$"):
        EXCHANGES.add("x", 3)
    other = type("Other", (BACKENDS["numpy"],), {"kind": "jax"})()
    with pytest.raises(
        ValueError, match=r"^kind of arrays of a backend must be one of numpy, torch, doubled, got 'jax'$"
    ):
        mho.map(net, hw, calibrate=x, backend=other)
