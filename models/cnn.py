"""The CNNs for MNIST of Qin and Vucinic: that of Table 1, and the 4-layer one of Madry et al."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .noise import Kind, Noise
from .weights import kind_of, load_named


def mnist_cnn(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """Four 3 x 3 convolutions (32, 32, 64, 64 channels) and two fully connected layers (256, 10), noise after each.

    Pictures (n, 1, 28, 28) in [0, 1] give logits (n, 10). Batch norm follows all matrix layers but the last; for
    additive noise it has no trainable gain and shift, which keeps the power of the signals (section 3.1 of the paper).

    Args:
        weights: name of committed weights, `sigma-S` (multiplicative) or `add-sigma-S` (additive) for the sigma they
            were trained with, `adv-` before it where that was adversarial; or a file of `mho train`; None for random
            ones.
        sigma_train: standard deviation of the noise in training. In inference it is 0 (`set_inference_noise` sets it).
        noise: its kind, `mult` or `add`. Committed weights bring their own.

    Raises:
        ValueError: no weights of that name (the message lists them), or a noise that is none.

    Example:
        >>> mho.models.mnist_cnn(weights="sigma-0.5")(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    kind: Kind = noise if weights is None else kind_of(weights)
    affine = kind == "mult"
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def after(index: int, norm: nn.Module) -> None:
        layers[f"norm{index}"] = norm
        layers[f"noise{index}"] = Noise(kind, sigma_train)
        layers[f"relu{index}"] = nn.ReLU()

    for index, (inputs, outputs) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)], start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, 3)
        after(index, nn.BatchNorm2d(outputs, affine=affine))
        if index % 2 == 0:
            layers[f"pool{index // 2}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(1024, 256)
    after(5, nn.BatchNorm1d(256, affine=affine))
    layers["fc2"] = nn.Linear(256, 10)
    layers["noise6"] = Noise(kind, sigma_train)
    net = nn.Sequential(layers)
    return net if weights is None else load_named(net, "mnist_cnn", weights)


def mnist_cnn4(weights: str | None = None, *, sigma_train: float = 0.0, noise: Kind = "mult") -> nn.Sequential:
    """The 4-layer CNN of Madry et al. (2018) for MNIST: two 5 x 5 convolutions (32, 64) and two layers (1024, 10).

    Pictures (n, 1, 28, 28) in [0, 1] give logits (n, 10). There is no batch norm; noise follows each matrix layer.

    Args:
        weights, sigma_train, noise: as of `mnist_cnn`.

    Raises:
        ValueError: no weights of that name (the message lists them), or a noise that is none.
    """
    kind: Kind = noise if weights is None else kind_of(weights)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs) in enumerate([(1, 32), (32, 64)], start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, 5, padding=2)
        layers[f"noise{index}"] = Noise(kind, sigma_train)
        layers[f"relu{index}"] = nn.ReLU()
        layers[f"pool{index}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc1"] = nn.Linear(3136, 1024)
    layers["noise3"] = Noise(kind, sigma_train)
    layers["relu3"] = nn.ReLU()
    layers["fc2"] = nn.Linear(1024, 10)
    layers["noise4"] = Noise(kind, sigma_train)
    net = nn.Sequential(layers)
    return net if weights is None else load_named(net, "mnist_cnn4", weights)
