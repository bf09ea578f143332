"""What `mho train` can train: for each network its data and its recipes, ours and the paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from . import data
from .attacks import TABLE_10, Adversary, Pgd
from .cnn import mnist_cnn, mnist_cnn4
from .data import strokes
from .densenet import densenet22, densenet40, densenet100
from .lstm import stroke_lstm
from .resnet import resnet32
from .train import Recipe

Samples = tuple[torch.Tensor, torch.Tensor, str]


@dataclass(frozen=True)
class Network:
    """A network (`build(sigma_train=..., noise=...)`), its data and recipes (noise and seed are for the user to set).

    `load("train")` or `load("test")` gives inputs, labels and where they are from. `additive` is our recipe for
    additive noise where it is another. `adversarial` and `paper_adversarial` are the recipes of adversarial training,
    `attack` what its result has to resist; None where the paper has none. Networks that are not of the paper have no
    recipe `paper`.
    """

    build: Callable[..., nn.Module]
    load: Callable[[str], Samples]
    ours: Recipe
    paper: Recipe | None = None
    additive: Recipe | None = None
    adversarial: Recipe | None = None
    paper_adversarial: Recipe | None = None
    attack: Pgd | None = None


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
DENSENET = Recipe(  # with a moving average 17 epochs ended at 85 % of the test set and a training loss of 0.45
    epochs=60,
    batch_size=256,
    learning_rate=0.2,
    weight_decay=5e-4,
    optimizer="sgd",
    augment="crop-flip",
    average_decay=0.0,
)
DENSENET_22 = replace(DENSENET, epochs=15, batch_size=128, learning_rate=0.1)
DENSENET_40 = replace(
    DENSENET,
    epochs=26,
    batch_size=64,
    learning_rate=0.1,
    schedule="triangle",
    decay_vectors=False,
    sizes="8x16 8x24 10x32",
)
PAPER_DENSENET = replace(  # section 3.2.2; rate, schedule, weight decay and dropout: Huang et al. (2017), 3 and 4.2
    PAPER, epochs=300, learning_rate=0.1, weight_decay=1e-4, optimizer="sgd", schedule="steps", dropout=0.2
)
MNIST_ADDITIVE = Recipe(  # at sigma 1.0 smoothed labels and weight decay, which keep the logits small, cost 0.6 points
    learning_rate=1e-3, weight_decay=0.0, label_smoothing=0.0
)
MNIST_ADVERSARIAL = Recipe(  # with longer steps and fewer of them, the 6-layer CNN resists these and no others
    epochs=6,
    batch_size=64,
    weight_decay=0.0,
    augment="none",
    label_smoothing=0.0,
    adversary=Adversary(epsilon=0.3, step=0.05, first=8, last=10),
)
MNIST_ADVERSARIAL_4 = replace(
    MNIST_ADVERSARIAL, learning_rate=2e-3, adversary=Adversary(epsilon=0.3, step=0.05, first=1, last=4)
)


def _mnist_cnn(build: Callable[..., nn.Module], ours: Recipe, adversarial: Recipe) -> Network:
    attack = TABLE_10["mnist"]
    paper = replace(PAPER, adversary=_as(attack))
    return Network(build, _mnist, ours, PAPER, MNIST_ADDITIVE, adversarial, paper, attack)


def _pictures(build: Callable[..., nn.Module], recipe: Recipe, paper: Recipe | None = None) -> Network:
    """A network for CIFAR-10."""
    attack = TABLE_10["cifar10"]
    ours = replace(recipe, label_smoothing=0.0, adversary=replace(_as(attack), first=1))
    theirs = None if paper is None else replace(paper, adversary=_as(attack))
    return Network(build, _cifar, recipe, paper, adversarial=ours, paper_adversarial=theirs, attack=attack)


def _as(attack: Pgd) -> Adversary:
    """Adversarial training on an attack from the first epoch: section 4, which names the attacks of Table 10 only."""
    return Adversary(attack.epsilon, attack.step, attack.iterations, attack.iterations)


NETWORKS = {
    "mnist-cnn": _mnist_cnn(mnist_cnn, Recipe(), MNIST_ADVERSARIAL),
    "mnist-cnn4": _mnist_cnn(mnist_cnn4, Recipe(learning_rate=1e-3), MNIST_ADVERSARIAL_4),
    "stroke-lstm": Network(
        stroke_lstm,
        _strokes,
        ours=Recipe(epochs=40, learning_rate=4e-3, weight_decay=0.01, augment="wobble", label_smoothing=0.0, clip=1.0),
        paper=PAPER,
    ),
    "densenet22": _pictures(densenet22, DENSENET_22, PAPER_DENSENET),
    "densenet40": _pictures(densenet40, DENSENET_40, PAPER_DENSENET),
    "densenet100": _pictures(densenet100, DENSENET, PAPER_DENSENET),
    "resnet32": _pictures(resnet32, replace(DENSENET_40, epochs=24, sizes="8x16 8x24 8x32")),
}
