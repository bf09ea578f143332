"""What `mho train` can train: for each network its data and the two recipes, ours and the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from . import data
from .cnn import mnist_cnn
from .data import strokes
from .densenet import densenet40
from .lstm import stroke_lstm
from .train import Recipe

Samples = tuple[torch.Tensor, torch.Tensor, str]


@dataclass(frozen=True)
class Network:
    """A network (`build(sigma_train=..., noise=...)`), its data and recipes (noise and seed are for the user to set).

    `load("train")` or `load("test")` gives inputs, labels and where they are from.
    """

    build: Callable[..., nn.Module]
    load: Callable[[str], Samples]
    ours: Recipe
    paper: Recipe


def _mnist(split: str) -> Samples:
    return *data.mnist(split), "MNIST"


def _cifar(split: str) -> Samples:
    return *data.cifar10(split), "CIFAR-10"


def _strokes(split: str) -> Samples:
    found = strokes.load(split)
    return found.sequences, found.labels, f"MNIST strokes, {found.source}"


PAPER = Recipe(  # sections 3.2.1 and 3.2.3
    epochs=100,
    batch_size=32,
    learning_rate=1e-4,
    weight_decay=0.0,
    schedule="fixed",
    augment="none",
    label_smoothing=0.0,
    average_decay=0.0,
)
NETWORKS = {
    "mnist-cnn": Network(mnist_cnn, _mnist, ours=Recipe(), paper=PAPER),
    "stroke-lstm": Network(
        stroke_lstm,
        _strokes,
        ours=Recipe(epochs=40, learning_rate=4e-3, weight_decay=0.01, augment="wobble", label_smoothing=0.0, clip=1.0),
        paper=PAPER,
    ),
    "densenet40": Network(
        densenet40,
        _cifar,
        ours=Recipe(
            epochs=60,
            learning_rate=0.2,
            weight_decay=5e-4,
            optimizer="sgd",
            augment="crop-flip",
            label_smoothing=0.05,
        ),
        paper=replace(  # section 3.2.2; rate, schedule and weight decay are those of Huang et al. (2017), section 4.2
            PAPER, epochs=300, learning_rate=0.1, weight_decay=1e-4, optimizer="sgd", schedule="steps"
        ),
    ),
}
