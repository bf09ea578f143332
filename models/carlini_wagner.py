"""The nearest adversarial images in L2: the optimisation of Carlini and Wagner (2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .attacks import Adversarial, Tell, attacked, check, check_classes, filled, margins

INSIDE = 0.999999  # of [-1, 1], so that the arctanh of black and white is finite


@dataclass(frozen=True)
class CarliniWagner:
    """Settings of the attack: section VI of Carlini and Wagner (2017).

    Attributes:
        constant: first weight of the classification against the distance; it is then searched for each image, times
            10 until the image fools the network, and by halving the interval from there.
        searches: weights tried.
        iterations: steps of Adam for each weight.
        rate: learning rate of Adam.
        confidence: lead of the wrong logit that counts as success.
    """

    constant: float = 1e-3
    searches: int = 9
    iterations: int = 1000
    rate: float = 0.01
    confidence: float = 0.0

    def __post_init__(self) -> None:
        for name in ("constant", "rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("searches", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence must be at least 0 and finite, got {self.confidence}")


def carlini_wagner(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    settings: CarliniWagner = CarliniWagner(),
    *,
    targeted: bool = False,
    batch_size: int = 250,
    tell: Tell = lambda done, total: None,
) -> Adversarial:
    """The nearest images in L2, in [0, 1], that a network without noise takes for another class.

    Minimises |x - image|^2 + c max(confidence - margin, 0) over w, x = (1 + tanh w) / 2, where the margin is the lead
    of the best wrong logit (targeted: of the target). There is nothing random in it. Where nothing fools the network,
    `images` has the image itself; `loss` is the margin.

    Args and errors as in `attacks.pgd`; tell is called after each weight of each batch.
    """
    check(images, labels, batch_size)
    parts = []
    done, total = 0, len(images) * settings.searches
    with attacked(model) as device:
        check_classes(model, images[:1].to(device), labels)
        for start in range(0, len(images), batch_size):
            x, y = (part[start : start + batch_size] for part in (images, labels))
            search = _Search(model, filled(x).to(device), filled(y).to(device), settings, targeted)
            for _ in range(settings.searches):
                search.once()
                done += len(x)
                tell(done, total)
            parts.append([part[: len(x)].cpu() for part in (search.best, search.distance.isfinite(), search.margin)])
    return Adversarial(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Search:
    """The nearest adversarial images of one batch so far, and the weights c between which to look on."""

    def __init__(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, settings: CarliniWagner, targeted: bool
    ) -> None:
        self.model, self.images, self.labels, self.settings, self.targeted = model, images, labels, settings, targeted
        self.best = images.clone()
        self.margin = self._margins(images).detach()
        self.distance = torch.full_like(self.margin, torch.inf)
        self.c = torch.full_like(self.margin, settings.constant)
        self.low, self.high = torch.zeros_like(self.c), torch.full_like(self.c, torch.inf)

    def once(self) -> None:
        """One descent with the present weights, and the next weights."""
        base = torch.atanh((2 * self.images - 1) * INSIDE)
        change = torch.zeros_like(base, requires_grad=True)
        adam = torch.optim.Adam([change], lr=self.settings.rate)
        found = torch.zeros_like(self.c, dtype=torch.bool)
        for _ in range(self.settings.iterations):
            x = (torch.tanh(base + change) / INSIDE + 1) / 2
            margin = self._margins(x)
            squared = (x - self.images).square().flatten(1).sum(1)
            loss = squared + self.c * (self.settings.confidence - margin).clamp(min=0)
            (change.grad,) = torch.autograd.grad(loss.sum(), change)
            adam.step()
            with torch.no_grad():
                found |= self._keep(x.clamp(0, 1), margin, squared)
        self.high = torch.where(found, self.c, self.high)
        self.low = torch.where(found, self.low, self.c)
        self.c = torch.where(self.high.isinf(), 10 * self.c, (self.low + self.high) / 2)

    def _keep(self, x: torch.Tensor, margin: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        """Remember what fools the network and is nearer than what did so far; says which images fool it now."""
        fooled = (margin > 0) & (margin >= self.settings.confidence)
        nearer = fooled & (squared < self.distance)
        self.best = torch.where(nearer.reshape(-1, *[1] * (x.ndim - 1)), x, self.best)
        self.margin = torch.where(nearer, margin, self.margin)
        self.distance = torch.where(nearer, squared, self.distance)
        return fooled

    def _margins(self, x: torch.Tensor) -> torch.Tensor:
        lead = margins(self.model(x), self.labels)
        return -lead if self.targeted else lead
