"""Adversarial images in an L_inf cube: FGSM, iterated FGSM (projected gradient), and both against a noisy network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROWS = 16  # batches are filled up to a multiple of this: a shorter one may be summed in another order

Tell = Callable[[int, int], None]


def __getattr__(name: str) -> Any:
    if name == "StraightThrough":
        where = "mho.mapping.straight_through.StraightThrough"
        raise ImportError(f"mho.models.attacks.StraightThrough is {where} since version 0.3")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class Pgd:
    """Settings of iterated FGSM (Kurakin et al. 2016), as projected gradient ascent of Madry et al. (2018).

    The defaults are those of the paper for MNIST (Table 10).

    Attributes:
        epsilon: half the edge of the cube: the largest change of a pixel.
        step: length of a step, for each pixel.
        iterations: steps from each start.
        restarts: starts; the worst outcome for the network is kept.
        random_start: start anywhere in the cube, and not at the image.
        loss: what is driven up: `cross-entropy`, or `margin`, the lead of the best wrong logit over that of the label
            (the objective of Carlini and Wagner 2017 in the cube).
        samples: noisy inferences that the loss and its gradient are the mean of, in each step: expectation over
            transformation (Athalye et al. 2018). 1 suits a network without noise.
    """

    epsilon: float = 0.3
    step: float = 0.05
    iterations: int = 20
    restarts: int = 20
    random_start: bool = True
    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("epsilon", "step"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("iterations", "restarts", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts must be 1 without a random start, got {self.restarts}")
        if self.loss not in ("cross-entropy", "margin"):
            raise ValueError(f"loss must be 'cross-entropy' or 'margin', got {self.loss!r}")


TABLE_10 = {
    "mnist": Pgd(),
    "cifar10": Pgd(epsilon=8 / 256, step=2 / 256, iterations=7, restarts=10),
}


@dataclass(frozen=True)
class Adversary:
    """The attack that a network is trained on: half of each minibatch is moved by it (Madry et al. 2018).

    The iterations grow evenly over the epochs, from a single one, which is fast adversarial training (Wong et al.
    2020), to as many as a strong attack needs: weak attacks suffice early on. A step is at least 1.25 epsilon over the
    iterations, so that it takes few of them from any start to any place in the cube.

    Attributes:
        epsilon: half the edge of the cube.
        step: length of a step, at least.
        first, last: iterations in the first and in the last epoch.
    """

    epsilon: float
    step: float
    first: int
    last: int

    def in_epoch(self, epoch: int, epochs: int) -> Pgd:
        """The attack in this epoch of so many."""
        iterations = self.first + round((self.last - self.first) * epoch / max(1, epochs - 1))
        return Pgd(self.epsilon, max(self.step, 1.25 * self.epsilon / iterations), iterations, restarts=1)


@dataclass(frozen=True)
class Adversarial:
    """What an attack made of n images.

    Attributes:
        images: (n, ...) in [0, 1].
        fooled: (n,) bool: the attacked network gives another class than the label (targeted: gives the target). A noisy
            network gives the class with the largest mean softmax over the samples.
        loss: (n,) that was driven up, at `images`.
    """

    images: torch.Tensor
    fooled: torch.Tensor
    loss: torch.Tensor

    def distance(self, images: torch.Tensor, p: float) -> torch.Tensor:
        """(n,): L_p distance from the images that were attacked; p may be infinite."""
        return torch.linalg.vector_norm((self.images - images).flatten(1), p, dim=1)


def fgsm(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    epsilon: float,
    *,
    targeted: bool = False,
    batch_size: int = 250,
) -> Adversarial:
    """One step of epsilon along the sign of the gradient, from the image itself: Goodfellow et al. (2015), Eq. 2.2.

    Arguments and errors as in `pgd`.

    Example:
        >>> from mho.models.attacks import fgsm
        >>> found = fgsm(net, x, labels, epsilon=0.1)
        >>> bool(found.distance(x, float("inf")).max() <= 0.1001)
        True
    """
    one = Pgd(epsilon, step=epsilon, iterations=1, restarts=1, random_start=False)
    return pgd(model, images, labels, one, targeted=targeted, batch_size=batch_size)


def pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: Pgd = TABLE_10["mnist"],
    *,
    targeted: bool = False,
    seed: int = 0,
    first_sample: int = 0,
    batch_size: int = 250,
    tell: Tell = lambda done, total: None,
) -> Adversarial:
    """Adversarial images within epsilon of `images` (and within [0, 1]), the worst of all restarts.

    Of the restarts, one that fools the network goes before one that does not, and then the larger loss counts. So more
    restarts never make an image harmless. The network is attacked in evaluation mode and stays as it was.

    The starts depend only on the seed, the restart and the place of the image in the data set. So the images are the
    same for any batch size, as far as torch sums the same rows in the same order. A network with its own noise draws it
    from torch's generator, which is seeded for each batch: there the batch size matters.

    Args:
        model: any network with gradients: images (n, ...) to logits (n, classes).
        images: (n, ...) in [0, 1].
        labels: (n,) true classes; targeted, the classes wanted.
        settings: of the attack.
        targeted: drive the loss of the target down instead of the label's up.
        seed: of the starts and of the network's noise.
        first_sample: place of the first of these images in the whole data set, when they are a part of it.
        batch_size: images processed together.
        tell: called after each start of each batch with images and starts done, and their total.

    Raises:
        ValueError: no images, images outside of [0, 1], labels of another length or outside of the classes, or a model
            without gradients (a chip, for one).
    """
    check(images, labels, batch_size)
    parts = []
    done, total = 0, len(images) * settings.restarts
    with attacked(model) as device, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        check_classes(model, images[:1].to(device), labels)
        for start in range(0, len(images), batch_size):
            x, y = (part[start : start + batch_size] for part in (images, labels))
            place = first_sample + start
            batch, target = filled(x).to(device), filled(y).to(device)
            best: tuple[torch.Tensor, ...] | None = None
            for restart in range(settings.restarts):
                torch.manual_seed(hash((seed, restart, place)))
                begin = batch
                if settings.random_start:
                    inside = filled(_uniform(x.shape, seed, restart, place)).to(device)
                    begin = project(batch + settings.epsilon * inside, batch, settings.epsilon)
                end = ascend(model, batch, begin, target, settings, targeted)
                found = _judge(model, end, target, settings, targeted)
                best = found if best is None else _worse(best, found)
                done += len(x)
                tell(done, total)
            assert best is not None
            parts.append([part[: len(x)].cpu() for part in best])
    return Adversarial(*(torch.cat(part) for part in zip(*parts, strict=True)))


def perturbed(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: Pgd) -> torch.Tensor:
    """One start of `pgd` on one batch, where it lies, with starts from torch's generator: for training."""
    with attacked(model):
        start = images
        if settings.random_start:
            inside = torch.rand_like(images) * 2 - 1
            start = project(images + settings.epsilon * inside, images, settings.epsilon)
        return ascend(model, images, start, labels, settings)


def ascend(
    model: nn.Module,
    images: torch.Tensor,
    start: torch.Tensor,
    labels: torch.Tensor,
    settings: Pgd,
    targeted: bool = False,
) -> torch.Tensor:
    """Iterated steps from `start` along the sign of the gradient, kept in the cube around `images`."""
    x = start
    for _ in range(settings.iterations):
        x = x.detach().requires_grad_()
        loss = _losses(model, x, labels, settings, targeted)[0].sum()
        if not loss.requires_grad:
            raise ValueError(
                f"model: {type(model).__name__} has no gradient with respect to its input, which the attack needs; "
                "a chip is attacked through its network (`mho.mapping.straight_through.StraightThrough`)"
            )
        (gradient,) = torch.autograd.grad(loss, x)
        x = project(x.detach() + settings.step * gradient.sign(), images, settings.epsilon)
    return x


def project(x: torch.Tensor, images: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The nearest point to x in the cube of half edge epsilon around the images, and in [0, 1]."""
    return torch.maximum(torch.minimum(x, images + epsilon), images - epsilon).clamp(0, 1)


@contextmanager
def attacked(model: nn.Module) -> Iterator[torch.device]:
    """The model in evaluation mode and with fixed parameters; afterwards it is as it was. Gives its device."""
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    finally:
        for module, training in modes:
            module.training = training
        for parameter in learning:
            parameter.requires_grad_()


def check(images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> None:
    """Refuse what no attack can work on."""
    if not len(images):
        raise ValueError("images must hold at least one image, got none")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"images must lie in [0, 1], got {float(images.min()):g} to {float(images.max()):g}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def check_classes(model: nn.Module, image: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse labels that are none of the classes that the model gives an image (1, ...)."""
    with torch.no_grad():
        classes = model(image).shape[1]
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise ValueError(f"labels must be classes 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def filled(batch: torch.Tensor) -> torch.Tensor:
    """The batch with its first row repeated behind it, up to a multiple of `ROWS`."""
    return torch.cat([batch, batch[:1].expand(-len(batch) % ROWS, *batch.shape[1:])])


def margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,): lead of the best other logit over that of the label; logits (n, classes)."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own


def _losses(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, settings: Pgd, targeted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is driven up (n,), and the softmax (n, classes): means over the samples."""
    samples = settings.samples
    logits: torch.Tensor = model(x if samples == 1 else x.repeat(samples, *[1] * (x.ndim - 1)))
    wanted = labels.repeat(samples)
    if settings.loss == "margin":
        loss = margins(logits, wanted)
    else:
        loss = functional.cross_entropy(logits, wanted, reduction="none")
    loss = loss.reshape(samples, -1).mean(0)
    return (-loss if targeted else loss), logits.detach().softmax(1).reshape(samples, len(x), -1).mean(0)


@torch.no_grad()
def _judge(
    model: nn.Module, x: torch.Tensor, labels: torch.Tensor, settings: Pgd, targeted: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The images, whether they fool the network, and the loss there."""
    loss, softmax = _losses(model, x, labels, settings, targeted)
    return x, (softmax.argmax(1) == labels) == targeted, loss


def _worse(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """For each image the outcome that is worse for the network; the first where they are equal."""
    (_, fooled, loss), (_, fooled2, loss2) = first, second
    worse = (fooled2 & ~fooled) | ((fooled2 == fooled) & (loss2 > loss))
    return tuple(torch.where(worse.reshape(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(first, second, strict=True))


def _uniform(shape: torch.Size, seed: int, restart: int, place: int) -> torch.Tensor:
    """Numbers even in [-1, 1] for each image of a batch: a stream for each place in the data set and restart."""
    key = np.array([seed % 2**64, 0], dtype=np.uint64)
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, place + row, restart])).random(
            shape[1:], dtype=np.float32
        )
        for row in range(shape[0])
    ]
    return torch.from_numpy(np.stack(rows)) * 2 - 1
