"""The residual network for CIFAR-10 of He et al. (2016), with the paper's noise layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from .densenet import Normalise
from .noise import Kind, Noise
from .weights import kind_of, load_named

WIDTHS = (16, 32, 64)  # of the three stages
BLOCKS = 5  # of a stage: 2 layers each, with the first and the last one 32


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm and noise, beside a shortcut without parameters.

    Where the size changes, the shortcut takes every `stride`-th pixel and adds channels of zeros (option A of He et
    al., section 3.3).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, sigma_train: float, noise: Kind) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.noise1 = Noise(noise, sigma_train)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.noise2 = Noise(noise, sigma_train)
        self.relu2 = nn.ReLU()
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.noise1(self.norm1(self.conv1(x))))
        y = self.noise2(self.norm2(self.conv2(y)))
        past = x[:, :, :: self.stride, :: self.stride]
        out: torch.Tensor = self.relu2(y + functional.pad(past, (0, 0, 0, 0, 0, self.more)))
        return out


def resnet32(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """ResNet-32 of He et al. (2016), section 4.2: 31 convolutions and a linear layer, with noise after each.

    Images (n, 3, 32, 32) in [0, 1] give logits (n, 10). It has 464,154 parameters and is not of the paper: the field
    tells what its chips do by it (Joshi et al. 2020).

    Args:
        weights, sigma_train, noise: as of `mnist_cnn`.

    Raises:
        ValueError: no weights of that name (the message lists them), or a noise that is none.

    Example:
        >>> mho.models.resnet32()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    kind: Kind = noise if weights is None else kind_of(weights)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["normalise"] = Normalise()
    layers["conv"] = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
    layers["norm"] = nn.BatchNorm2d(WIDTHS[0])
    layers["noise"] = Noise(kind, sigma_train)
    layers["relu"] = nn.ReLU()
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(1, BLOCKS + 1):
            stride = 2 if width > channels else 1
            layers[f"block{stage}_{block}"] = ResidualBlock(channels, width, stride, sigma_train, kind)
            channels = width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, 10)
    layers["noise_fc"] = Noise(kind, sigma_train)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net if weights is None else load_named(net, "resnet32", weights)
