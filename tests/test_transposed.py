"""Transposed convolutions on tiles: the geometry, its options, batch norm on both sides, reads, cost, noise, files."""

from __future__ import annotations

import itertools
import random
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mho
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.errors import MappingError
from mho.mapping.kinds.leaf import LEAVES
from mho.mapping.kinds.transposed import TransposedConvolution

IDEAL = mho.Hardware.preset("ideal")
KINDS = nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d


def settled(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return net.eval()


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).detach().norm() / want.detach().norm())


def test_any_geometry_is_that_of_torch() -> None:
    rng, tried = random.Random(0), 0
    torch.manual_seed(0)
    while tried < 150:
        d, groups = rng.choice((1, 2, 3)), rng.choice((1, 1, 2))
        kernel, stride, dilation, padding = (
            tuple(rng.choice(choice) for _ in range(d)) for choice in ((1, 2, 3, 5), (1, 2, 3), (1, 1, 2, 4), (0, 1, 5))
        )
        more = tuple(rng.randrange(max(pair)) for pair in zip(stride, dilation, strict=True))
        net = KINDS[d - 1](2 * groups, 3 * groups, kernel, stride, padding, more, groups, True, dilation)
        leaf = TransposedConvolution.of(net)
        x = torch.randn(2, 2 * groups, *(rng.choice((1, 2, 5)) for _ in range(d)))
        sizes = [axis.size(n) for axis, n in zip(leaf.axes, x.shape[2:], strict=True)]
        if min(sizes) < 1:
            continue
        tried += 1
        with torch.no_grad():
            want, w = net(x), leaf.matrices(net.weight)
        arranged = leaf.arrange(x)
        assert w.shape == leaf.matrix_shape
        assert torch.equal(leaf.weight_of(w), net.weight)
        bias = leaf.columns(net.bias.detach()).reshape(-1)
        for got in (leaf.of_arranged(arranged, w, bias), leaf.digital(x, w, bias)):
            assert got.shape == want.shape
            assert torch.allclose(got, want, atol=1e-5), net
        assert leaf.reads(tuple(want.shape[2:])) == prod(leaf.patches.positions(arranged.shape[1:4]))
        assert torch.equal(leaf.channels(leaf.columns(net.bias.detach())), net.bias)


@pytest.mark.parametrize(
    ("net", "size"),
    [
        (nn.ConvTranspose1d(6, 4, 4, stride=3, padding=2, output_padding=1, groups=2), (7,)),
        (nn.ConvTranspose2d(6, 3, (3, 2), stride=(1, 2), dilation=2, output_padding=1, groups=3), (5, 4)),
        (nn.ConvTranspose3d(6, 2, 2, stride=2, bias=False), (3, 2, 4)),
        (nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1), (4, 3)),
        (nn.ConvTranspose2d(6, 2, 1, stride=3), (4, 3)),
    ],
)
def test_a_layer_on_tiles_is_that_of_torch(net: Any, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6, *size)
    chip = mho.map(net.eval(), IDEAL, check=x)
    assert error(chip(x), net(x)) < 1e-5
    assert torch.allclose(chip(x[:1])[0], net(x[0]), atol=1e-5)
    alone = chip.model(x[0])  # without a batch
    assert torch.allclose(alone, net(x[0]), atol=1e-5)
    layer = chip.model
    assert torch.allclose(layer.weight + 0, net.weight, atol=1e-6)
    if net.bias is not None:
        assert torch.allclose(layer.bias + 0, net.bias, atol=1e-6)
    for name in ("in_channels", "kernel_size", "stride", "padding", "output_padding", "transposed", "dilation"):
        assert getattr(layer, name) == getattr(net, name)


class Sized(nn.Module):
    """Asks for a size, as a U-Net does that has rounded down."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, size: Any = None) -> Any:
        return self.layer(x) if size is None else self.layer(x, output_size=size)


@pytest.mark.parametrize(("stride", "more"), [(3, 0), (3, 1), (3, 2), (2, 1)])
def test_a_call_may_ask_for_a_size(stride: int, more: int) -> None:
    torch.manual_seed(0)
    net, x = Sized(nn.ConvTranspose2d(2, 3, 4, stride, 1, more)).eval(), torch.randn(4, 2, 3, 5)
    chip = mho.map(net, IDEAL, check=x)
    least = [(n - 1) * stride - 2 + 4 for n in (3, 5)]
    for over in itertools.product(range(stride), repeat=2):
        size = [a + b for a, b in zip(least, over, strict=True)]
        assert error(chip(x, size), net(x, size)) < 1e-5
    assert error(chip(x, [4, 3, *size]), net(x, [4, 3, *size])) < 1e-5
    assert torch.allclose(chip.model.layer(x, size), net.layer(x, size), atol=1e-5)
    with pytest.raises(ValueError, match=rf"output_size = .*: {size[1] + 1} must be {least[1]} to {size[1]}"):
        chip(x, [size[0], size[1] + 1])
    with pytest.raises(ValueError, match="output_size must be 2 or 4 numbers, got 3"):
        chip(x, [1, *size])


def test_an_input_that_gives_no_output_is_an_error() -> None:
    chip = mho.map(nn.ConvTranspose1d(2, 3, 2, padding=2), IDEAL, check=torch.rand(3, 2, 6))
    with pytest.raises(MappingError, match="is smaller than the kernel"):
        chip.model(torch.rand(3, 2, 2))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norm_behind_is_folded(norm: Any) -> None:
    torch.manual_seed(0)
    net, x = settled(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2), norm(6))), torch.randn(3, 4, 5, 4)
    chip = mho.map(net, IDEAL, check=x)
    assert "folded into 0" in str(chip.report())
    assert error(chip(x), net(x)) < 1e-5


@pytest.mark.parametrize(
    ("layer", "exact"),
    [
        (nn.ConvTranspose2d(4, 6, 2, 2), True),
        (nn.ConvTranspose2d(4, 6, 2, 3, groups=2, bias=False), True),  # some phases see nothing
        (nn.ConvTranspose2d(4, 6, 3, 1, padding=2), True),  # no output sees beyond the edges
        (nn.ConvTranspose2d(4, 6, 4, 2, padding=1), False),
        (nn.ConvTranspose2d(4, 6, 3, 1, padding=1), False),
        (nn.ConvTranspose2d(4, 6, 2, 2, output_padding=1), False),
    ],
)
def test_batch_norm_in_front_is_folded_where_no_output_sees_beyond_the_input(layer: Any, exact: bool) -> None:
    torch.manual_seed(0)
    net, x = settled(nn.Sequential(nn.BatchNorm2d(4), layer, nn.BatchNorm2d(6))), torch.randn(3, 4, 5, 4)
    chip = mho.map(net, IDEAL, check=False)
    folded = {d.name for d in chip.digital if d.reason == "folded into 1"}
    assert folded == ({"0", "2"} if exact else {"2"})
    assert error(chip(x), net(x)) < 1e-5


class Changeable(nn.Module):
    """Asks for a size where it is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 3, 3, 1, padding=2)

    def forward(self, x: torch.Tensor) -> Any:
        more: dict[str, Any] = {"output_size": [2, 2]} if isinstance(x, torch.Tensor) else {}
        return self.layer(self.norm(x), **more)


def test_a_size_asked_for_behind_a_folded_batch_norm_is_an_error() -> None:
    torch.manual_seed(0)
    net, x = settled(Changeable()), torch.randn(2, 2, 4, 4)
    chip = mho.map(net, IDEAL, check=False)
    assert "folded into layer" in str(chip.report())
    with pytest.raises(MappingError, match="'norm' is folded into it, and the model uses"):
        chip(x)
    assert error(mho.map(net, IDEAL, check=x, exclude="norm")(x), net(x)) < 1e-5


def test_reads_cost_and_shares_are_counted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, padding=1)).eval()
    x = torch.rand(6, 3, 5, 7)
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    report = chip.report()
    row = report.table.set_index("layer").loc["2"]
    assert (row["word_lines"], row["outputs"], row["positions"]) == (4 * 8, 4, 6 * 8)  # blocks: 5 + 1 by 7 + 1
    assert row["bit_lines"] >= 4 * 4
    own = 5 * 7 * (3 * 8 * 9 + 8 * 4 * 16)  # as torch counts them, of each input pixel
    assert report.cover.check.macs // report.cover.check.samples == own
    assert report.cover.check.macs_on_tiles == report.cover.check.macs
    assert report.cover.on_tiles == sum(p.numel() for p in net.parameters())
    before = chip.layers["2"].counts.readings
    chip(x)
    assert (chip.layers["2"].counts.readings - before) % (6 * 6 * 8 * 16) == 0
    (call,) = (call for call in chip.trace if call.layer == "2")
    assert call.positions == 48
    assert call.needs == tuple(min((row + 1) // 2, 4) for row in range(10))
    cost = layer_costs(chip).set_index("layer").loc["2"]
    assert (cost["positions"], cost["operations"]) == (48, 2 * 48 * 8 * 4 * 16)
    plan = mho.schedule(chip, line_buffers=True)
    assert plan.makespan_s < mho.schedule(chip).makespan_s


def test_noise_falls_once_on_each_output() -> None:
    """Eq. (2) of the paper, on a layer whose outputs see one or four taps."""
    torch.manual_seed(0)
    net, one = nn.ConvTranspose1d(2, 3, 4, 2).eval(), torch.randn(1, 2, 3)
    chip = mho.map(net, mho.Hardware.paper(sigma_add=0.3, sigma_mult=0.4))
    n = 40_000
    with torch.no_grad():
        y, exact = chip(one.expand(n, 2, 3)).double(), net(one)[0].double()
    sigma = (0.3**2 + (0.4 * exact) ** 2) ** 0.5
    assert ((y.mean(0) - exact).abs() < 5 * sigma / n**0.5 + 1e-6).all()
    assert ((y.std(0) / sigma - 1).abs() < 5 / (2 * n) ** 0.5).all()
    assert not ((y.std(0) / (1.05 * sigma) - 1).abs() < 5 / (2 * n) ** 0.5).any()  # negative control
    flat = (y - exact).reshape(n, -1) / sigma.reshape(-1)
    correlations = np.corrcoef(flat.T.numpy()) - np.eye(flat.shape[1])
    assert np.abs(correlations).max() < 5 / n**0.5


@pytest.mark.parametrize(
    "changes", [{}, {"dac.equalise": 0.5}, {"dac.scaling": "sample"}, {"tile.rows": 8, "tile.columns": 16}]
)
def test_a_chip_is_saved_with_what_was_set_on_it(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = settled(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(6), nn.ReLU()))
    x = torch.randn(20, 4, 4, 3)
    chip = mho.map(net, mho.Hardware.preset("reram").replace(changes), calibrate=x)
    assert error(chip.read(x, read=0, noisy=False), net(x)) < 0.3
    chips = [chip] if "dac.scaling" in changes else [chip, chip.recalibrate(x)]
    for number, made in enumerate(chips):
        made.save(tmp_path / str(number))
        loaded = mho.load(tmp_path / str(number))
        assert torch.equal(loaded.read(x, read=3), made.read(x, read=3))
    assert loaded.report().cover.parameters == sum(p.numel() for p in net[0].parameters())


PLAIN: dict[str, Any] = TransposedConvolution.of(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2)).describe()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": [3, 2, 1]}, "stride must be 3 numbers like kernel, got 2"),
        ({"groups": 4}, "groups = 4 must divide 4 and 6"),
        ({"kernel": [3, 2**20]}, "kernel = .*: it must be at most 65536"),
        ({"dilation": [2**28, 1]}, "its padding makes more than 67108864 values of one pixel"),
        ({"output_padding": [1]}, "output_padding must be 2 numbers like kernel, got 1"),
        ({"stride": [0, 1]}, "stride.0 = 0"),
    ],
)
def test_a_description_is_made_again_and_a_forged_one_refused(change: dict[str, Any], said: str) -> None:
    assert LEAVES["transposed_convolution"].build(PLAIN).describe() == PLAIN
    with pytest.raises(ValueError, match=said):
        LEAVES["transposed_convolution"].build(PLAIN | change)


def test_attributes_that_are_none_of_its_constructor_keep_it_digital() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 3), nn.Conv2d(2, 2, 1)).eval()
    net[0].padding_mode = "reflect"
    net[1].stride = 1.5, 1.5
    said = {d.name: d.reason for d in mho.map(net, IDEAL).digital}
    assert said["0"] == "its padding_mode is 'reflect', and torch takes 'zeros' alone"
    assert "its attributes are not those of its constructor" in said["1"]


def test_the_u_net_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "mapping.md").read_text(encoding="utf-8")
    example = text.split("## Transposed convolutions")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    report = names["chip"].report()
    assert {d.reason for d in names["chip"].digital} >= {"folded into first.0", "folded into joined.0.0"}
    assert report.cover.on_tiles == report.cover.parameters
