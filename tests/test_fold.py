"""Batch norm: folded behind or before a layer where that is exact, digital with a reason where not; DenseNet."""

from __future__ import annotations

import pytest
import torch
from helpers import hardware, ideal, relative_error
from torch import nn

import mho


def images(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def settled(net: nn.Module) -> nn.Module:
    """The net with statistics and affine parameters of batch norm that matter, in evaluation."""
    torch.manual_seed(1)
    for norm in net.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) and norm.running_mean is not None:
            norm.running_mean.uniform_(-0.3, 0.3)
            norm.running_var.uniform_(0.3, 1)
            if norm.weight is not None:
                norm.weight.data.uniform_(0.8, 1.2)
                norm.bias.data.uniform_(-0.2, 0.5)
    return net.eval()


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


class DenseNet(nn.Module):
    """Huang et al. (CVPR 2017) without bottlenecks: three dense blocks, two transitions, depth 3 n + 4."""

    def __init__(self, depth: int = 40, growth: int = 4, channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        parts: list[nn.Module] = []
        for block in range(3):
            if block:
                parts += [
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.AvgPool2d(2),
                ]
            for _ in range((depth - 4) // 3):
                parts.append(DenseLayer(channels, growth))
                channels += growth
        self.body = nn.Sequential(*parts)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.body(self.stem(x))))
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return settled(DenseNet())


def test_densenet_equals_torch_on_ideal_hardware(dense):
    x = images(3)
    chip = mho.map(dense, ideal())
    with torch.no_grad():
        exact = dense(x)
    assert torch.allclose(chip(x), exact, atol=1e-4 * float(exact.abs().max()))
    assert len(chip.layers) == 40
    first, *rest = [d for d in chip.digital if d.type == "BatchNorm2d"]
    assert first[::2] == ("body.0.norm", "batch norm of stem, which is used elsewhere too")
    assert [d.reason for d in rest] == 38 * ["batch norm that follows no matrix layer"]


def test_densenet_on_noisy_tiles_saves_loads_and_votes(dense, tmp_path):
    x = images(6, seed=2)
    chip = mho.map(dense, hardware(), calibrate=x)
    with torch.no_grad():
        assert 0.001 < relative_error(chip(x), dense(x)) < 1
    chip.save(tmp_path / "chip")
    other = mho.load(tmp_path / "chip")
    assert torch.equal(other.read(x, read=1), chip.read(x, read=1))
    votes = mho.vote(chip, x, 4)
    assert torch.equal(mho.vote(other, x, 4, batch_size=2).counts, votes.counts)
    parts = [chip.read(x[k : k + 2], read=1, first_sample=k) for k in (0, 2, 4)]
    assert torch.allclose(torch.cat(parts), chip.read(x, read=1), atol=1e-5)  # the mean over the picture is torch's
    assert chip.report().table["positions"].iloc[0] == 64


BEFORE = [
    nn.Conv2d(6, 8, 3),
    nn.Conv2d(6, 8, 1, bias=False),
    nn.Conv2d(6, 4, 3, padding="valid", groups=2, stride=2),
    nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect", groups=6),
    nn.Conv2d(6, 8, (3, 2), padding="same", padding_mode="circular", dilation=2),
]


@pytest.mark.parametrize("conv", BEFORE, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_right_before_a_convolution_is_folded(conv, affine):
    net = settled(nn.Sequential(nn.BatchNorm2d(6, affine=affine), conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()))
    chip = mho.map(net, ideal())
    reasons = {d.name: d.reason for d in chip.digital}
    assert reasons == {"0": "folded into 1", "2": "folded into 1", "3": "no weights"}
    x = images(3, 6)
    with torch.no_grad():
        assert torch.allclose(chip(x), net(x), atol=1e-5, rtol=1e-4)


def test_batch_norm_of_the_layer_before_goes_there():
    net = settled(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)))
    chip = mho.map(net, ideal())
    assert chip.digital == (("1", "BatchNorm2d", "folded into 0"),)


class Reads(nn.Module):
    """A batch norm that goes into a convolution and somewhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.conv(y) + y


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding=1)),  # zeros of the border are not shifted
        nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, padding="same")),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3)),
        nn.Sequential(nn.BatchNorm2d(6, track_running_stats=False), nn.Conv2d(6, 8, 3)),
        nn.Sequential(nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 64, 3)),
        Reads(),
    ],
)
@pytest.mark.filterwarnings("ignore:.* belong to no single sample:UserWarning")  # batch statistics
def test_batch_norm_that_can_not_be_folded_exactly_stays_digital(net):
    net, x = settled(net), images(3, 6)
    chip = mho.map(net, ideal())
    assert [d.reason for d in chip.digital if d.type == "BatchNorm2d"] == ["batch norm that follows no matrix layer"]
    with torch.no_grad():
        assert torch.allclose(chip(x), net(x), atol=1e-5, rtol=1e-4)


def test_an_excluded_convolution_keeps_its_batch_norms():
    net, x = settled(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 3))), images(3, 6)
    chip = mho.map(net, ideal(), exclude=["1"])
    reasons = {d.name: d.reason for d in chip.digital}
    assert reasons == {"1": "excluded by name", "0": "batch norm that follows no matrix layer"}
    with torch.no_grad():
        assert torch.allclose(chip(x), net(x), atol=1e-5, rtol=1e-4)
