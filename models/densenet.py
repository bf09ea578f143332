"""The DenseNets for CIFAR-10 of Qin and Vucinic: Huang et al. (2017), without bottleneck and compression."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from .dense_block import dense_block, fits
from .noise import Kind, Noise
from .weights import kind_of, load_named

FIRST = 16  # channels before the first block
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of red, green, blue in the training set


class Normalise(nn.Module):
    """Images (n, 3, h, w) in [0, 1] to mean 0 and deviation 1 over CIFAR-10's training set."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).reshape(3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal: torch.Tensor = (x - self.mean) / self.deviation
        return normal


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 3 x 3 convolution and its noise: `growth` channels more beside those that came in.

    Attributes:
        dropout: probability in training that an output of the convolution is 0 (Huang et al. 2017 have 0.2 where they
            train without augmentation).
    """

    def __init__(self, channels: int, growth: int, sigma_train: float, noise: Kind) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
        self.noise = Noise(noise, sigma_train)
        self.dropout = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = self.conv(self.relu(self.norm(x)))
        if self.dropout and self.training:
            new = functional.dropout(new, self.dropout)
        return torch.cat([x, self.noise(new)], 1)


class DenseBlock(nn.Sequential):
    """Dense layers, which in training on a CPU are computed as one function where that can be."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = [layer for layer in self if isinstance(layer, DenseLayer)]
        if self.training and len(layers) == len(self) and fits(x, layers):
            return dense_block(x, layers)
        out: torch.Tensor = super().forward(x)
        return out


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set the `dropout` of all dense layers of a model.

    Raises:
        ValueError: a rate that is none, or a model without dense layers.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {rate}")
    layers = [module for module in model.modules() if isinstance(module, DenseLayer)]
    if rate and not layers:
        raise ValueError(f"dropout must be 0 but for DenseNets, got {rate}")
    for layer in layers:
        layer.dropout = rate


def densenet22(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """The `densenet` of depth 22 and growth 12: not of the paper, a small one that a CPU trains in an hour."""
    return densenet(weights, depth=22, sigma_train=sigma_train, noise=noise)


def densenet40(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """The `densenet` of depth 40 and growth 12: section 3.2.2 of the paper."""
    return densenet(weights, depth=40, sigma_train=sigma_train, noise=noise)


def densenet100(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """The `densenet` of depth 100 and growth 12: section 4 of the paper."""
    return densenet(weights, depth=100, sigma_train=sigma_train, noise=noise)


def densenet(
    weights: str | None = None,
    *,
    depth: int,
    growth: int = 12,
    sigma_train: float = 0.0,
    noise: Kind = "mult",
) -> nn.Sequential:
    """A DenseNet of three dense blocks, with noise after each convolution and after the last layer.

    Images (n, 3, 32, 32) in [0, 1] give logits (n, 10). Batch norm comes before the convolutions, and its gain and
    shift are trained whatever the noise (section 3.1 of the paper). So additive noise is not held against signals of
    a fixed power here: the convolutions may grow, since a batch norm follows that undoes it.

    Args:
        weights: name of committed weights, `sigma-S` (multiplicative) or `add-sigma-S` (additive) for the sigma they
            were trained with, or a file of `mho train`; None for random ones.
        depth: layers with weights: 4 and a multiple of 3.
        growth: channels that a layer adds.
        sigma_train: standard deviation of the noise in training. In inference it is 0 (`set_inference_noise` sets it).
        noise: its kind, `mult` or `add`. Committed weights bring their own.

    Raises:
        ValueError: no weights of that name (the message lists them), a noise that is none, or a depth that
            does not come out even.
    """
    per_block, rest = divmod(depth - 4, 3)
    if rest or per_block < 1:
        raise ValueError(f"depth must be 4 and a multiple of 3, from 7, got {depth}")
    if growth < 1:
        raise ValueError(f"growth must be at least 1, got {growth}")
    if weights is not None:
        noise = kind_of(weights)
    channels = FIRST
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["normalise"] = Normalise()
    layers["conv"] = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    layers["noise"] = Noise(noise, sigma_train)
    for block in (1, 2, 3):
        if block > 1:
            layers[f"norm{block - 1}"] = nn.BatchNorm2d(channels)
            layers[f"relu{block - 1}"] = nn.ReLU()
            layers[f"transition{block - 1}"] = nn.Conv2d(channels, channels, 1, bias=False)
            layers[f"noise{block - 1}"] = Noise(noise, sigma_train)
            layers[f"pool{block - 1}"] = nn.AvgPool2d(2)
        dense = [DenseLayer(channels + i * growth, growth, sigma_train, noise) for i in range(per_block)]
        layers[f"block{block}"] = DenseBlock(*dense)
        channels += per_block * growth
    layers["norm3"] = nn.BatchNorm2d(channels)
    layers["relu3"] = nn.ReLU()
    layers["pool3"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, 10)
    layers["noise3"] = Noise(noise, sigma_train)
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net if weights is None else load_named(net, f"densenet{depth}", weights)
