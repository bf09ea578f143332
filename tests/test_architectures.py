"""Networks in the style of those that people bring equal torch on ideal hardware, with every matrix layer on tiles."""

from __future__ import annotations

import pytest
import torch
from helpers import ideal
from test_fold import settled
from torch import nn
from torch.nn import functional

import mho


class BasicBlock(nn.Module):
    """He et al. (CVPR 2016), with activations as modules that are used twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + skip)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.layers = nn.ModuleList([BasicBlock(6, 6, 1), BasicBlock(6, 8, 2), BasicBlock(8, 8, 1)])
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class ConvNeXtBlock(nn.Module):
    """Liu et al. (CVPR 2022): depthwise convolution, layer norm over channels, two linear layers, a scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(0.3 * torch.ones(channels))

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


class Bert(nn.Module):
    """Devlin et al. (2019), one layer with a mask and a decoder tied to the embedding; its output is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(13, 8), nn.Embedding(6, 8)
        self.query, self.key, self.value, self.dense = (nn.Linear(8, 8) for _ in range(4))
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(3)])
        self.intermediate, self.output = nn.Linear(8, 16), nn.Linear(16, 8)
        self.decoder = nn.Linear(8, 13)
        self.decoder.weight = self.words.weight

    def forward(self, input_ids, attention_mask=None):
        x = self.norms[0](self.words(input_ids) + self.places(torch.arange(input_ids.shape[1])))
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / 2
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, None] == 0, -1e9)
        x = self.norms[1](x + self.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
        x = self.norms[2](x + self.output(functional.gelu(self.intermediate(x))))
        return {"logits": self.decoder(x), "hidden": x}


def tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 13, (4, 6), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": (torch.arange(6) < torch.tensor([[6], [4], [2], [5]])).long()}


NETS = {
    "resnet": (ResNet, {"x": torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))}, 9),
    "convnext": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 2, 2), ConvNeXtBlock(6), ConvNeXtBlock(6)),
        {"input": torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))},
        7,
    ),
    "bert": (Bert, tokens(), 7),
}


@pytest.mark.parametrize(("make", "inputs", "layers"), [*NETS.values()], ids=[*NETS])
def test_networks_equal_torch(make, inputs, layers):
    torch.manual_seed(0)
    net = settled(make())
    with torch.no_grad():
        want = net(**inputs)
    for options in ({"check": inputs}, {"calibrate": inputs}, {}):
        chip = mho.map(net, ideal(), **options)
        assert len(chip.layers) == layers
        got = chip(*inputs.values())
        for a, b in zip(*([x.values() if isinstance(x, dict) else [x] for x in (got, want)]), strict=True):
            assert float((a - b).norm() / b.norm()) < 2e-6
        digital = [d for d in chip.digital if d.type in ("Linear", "Conv2d", "BatchNorm2d")]
        assert all(d.reason.startswith("folded") for d in digital)


class Token(nn.Module):
    """Gives a part of it a view of a parameter, as networks with a class token do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token, self.inner, self.out = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.inner(self.token.expand(len(x), -1, -1)) + x)


def test_a_view_of_a_parameter_as_the_input_of_a_layer() -> None:
    net, x = Token().eval(), torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    chip = mho.map(net, mho.Hardware.preset("ideal"), calibrate=x)
    assert torch.allclose(chip(x), net(x), atol=1e-6)
    assert chip.cover.check.macs_on_tiles == chip.cover.check.macs == 2 * (8 * 8 + 5 * 8 * 3)
