"""Votes over repeated noisy inferences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import norm

from ..mapping.chip import Chip

TOGETHER = 24e6  # bytes of the largest layer output of the reads made at once: more would not stay in memory kept


class Accuracy(float):
    """A share of right answers, with the Wilson (1927) score interval `low`, `high` and the number of samples `n`."""

    low: float
    high: float
    n: int

    def __new__(cls, right: int, n: int, confidence: float = 0.95) -> Accuracy:
        self = super().__new__(cls, right / n)
        z = norm.ppf((1 + confidence) / 2)
        p, z2 = right / n, z * z
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = z / (1 + z2 / n) * np.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        self.low, self.high, self.n = max(0.0, float(centre - half)), min(1.0, float(centre + half)), n
        return self

    @classmethod
    def of(cls, classes: torch.Tensor, labels: torch.Tensor, confidence: float = 0.95) -> Accuracy:
        """The share of classes (n,) that are the labels (n,).

        Raises:
            ValueError: labels of another length.
        """
        if labels.shape != classes.shape:
            raise ValueError(f"labels must have shape {tuple(classes.shape)}, got {tuple(labels.shape)}")
        return cls(int((classes == labels).sum()), labels.numel(), confidence)

    def __str__(self) -> str:
        return f"{100 * self:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


@dataclass(frozen=True)
class VoteResult:
    """What K noisy inferences of n samples decided.

    Attributes:
        classes: (n,) int64, the winners. Hard votes: the class with most inferences for it (the mode); a tie goes to
            the tied class with the larger mean softmax, and then to the lower class number. Soft votes: the class with
            the largest mean softmax.
        counts: (n, classes) int64, inferences for each class.
        softmax: (n, classes) float32, mean softmax over the inferences.
        winners: (n, k) int64, the winners after 1, 2, ... k inferences; the last column is `classes`.
        k: number of inferences.
        rule: hard or soft.
        copies: number of chips that the inferences were spread over. Votes on one chip average only its fresh noise;
            its frozen errors are the same in all of them.
    """

    classes: torch.Tensor
    counts: torch.Tensor
    softmax: torch.Tensor
    winners: torch.Tensor
    k: int
    rule: Literal["hard", "soft"]
    copies: int

    @property
    def margin(self) -> torch.Tensor:
        """(n,) float32: lead of the winner over the next class, as a share of the votes (or of the mean softmax)."""
        best = torch.topk(self._scores, 2, dim=1).values
        return best[:, 0] - best[:, 1]

    def topk(self, k: int) -> torch.Tensor:
        """(n, k) int64: the k best classes, best first, by the same rule as `classes`.

        Raises:
            ValueError: k below 1 or above the number of classes.
        """
        classes = self.counts.shape[1]
        if not 1 <= k <= classes:
            raise ValueError(f"k must be 1 to {classes}, the number of classes, got {k}")
        return order(self.counts, self.softmax, self.rule)[:, :k]

    def accuracy_over_votes(self, labels: torch.Tensor, confidence: float = 0.95) -> list[Accuracy]:
        """The accuracy after 1, 2, ... k inferences."""
        return [Accuracy.of(winners, labels, confidence) for winners in self.winners.unbind(dim=1)]

    def accuracy(self, labels: torch.Tensor, confidence: float = 0.95) -> Accuracy:
        """Share of samples whose winner is their label (n,), a float with the Wilson interval `.low`, `.high`.

        Raises:
            ValueError: labels of another length.
        """
        return Accuracy.of(self.classes, labels, confidence)

    @property
    def _scores(self) -> torch.Tensor:
        return self.counts / self.k if self.rule == "hard" else self.softmax


def vote(
    chip: Chip,
    images: torch.Tensor,
    k: int = 20,
    *,
    batch_size: int | None = 250,
    copies: int = 1,
    rule: Literal["hard", "soft"] = "hard",
    first_sample: int = 0,
) -> VoteResult:
    """Classify samples by k noisy inferences each.

    The inferences are reads 0 to k - 1 of the chip and samples are numbered by their place in `images`, so batches do
    not change the result, and calls of the chip before or after do not either.

    Args:
        chip: the mapped network; its output is (samples, classes).
        images: (n, ...) samples.
        k: inferences a sample.
        batch_size: samples worked off together, at most; None takes all at once.
        copies: chips that the inferences are dealt out to in turn: this one and others of its design (`Chip.replica`).
        rule: hard counts one vote an inference, soft averages the softmax.
        first_sample: place of the first of these samples in the whole data set, when they are a part of it.

    Raises:
        ValueError: no samples, k or copies below 1, more copies than inferences, an unknown rule, or a model whose
            output is not (samples, classes) with at least two classes.
    """
    chips, size = prepare(chip, images, k, batch_size, copies, rule)
    starts = range(0, len(images), size)
    parts = [
        _tally(reads_of(chips, images[start : start + size], first_sample + start, range(k)), rule) for start in starts
    ]
    counts, softmax, winners = (torch.cat(part) for part in zip(*parts, strict=True))
    return VoteResult(winners[:, -1], counts, softmax, winners, k, rule, copies)


def prepare(
    chip: Chip, images: torch.Tensor, k: int, batch_size: int | None, copies: int, rule: str
) -> tuple[list[Chip], int]:
    """The chips that vote and the samples of a batch, once the arguments of `vote` are checked."""
    if not len(images):
        raise ValueError("images must hold at least one sample, got none")
    for name, value in (
        ("k", k),
        ("copies", copies),
        ("batch_size", len(images) if batch_size is None else batch_size),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if copies > k:
        raise ValueError(f"copies must be at most k = {k}, got {copies}")
    if rule not in ("hard", "soft"):
        raise ValueError(f"rule must be 'hard' or 'soft', got {rule!r}")
    others = [index for index in range(copies) if index != chip.copy_index][: copies - 1]
    chips = [chip, *(chip.replica(index) for index in others)]
    batches = -(-len(images) // (batch_size or len(images)))
    return chips, -(-len(images) // batches)  # the same size for all but the last


def reads_of(chips: list[Chip], batch: torch.Tensor, start: int, reads: range) -> Iterator[torch.Tensor]:
    """These inferences of a batch in turn, made in groups where one chip makes them all."""
    together = max(1, int(TOGETHER / (chips[0].largest_output * len(batch)))) if len(chips) == 1 else 1
    for first in reads[::together]:
        group = min(together, reads.stop - first)
        logits = chips[first % len(chips)].read(batch, read=first, reads=group, first_sample=start)
        if logits.ndim != 2 or len(logits) != group * len(batch) or logits.shape[1] < 2:
            raise ValueError(
                f"vote needs an output of shape (samples, classes), two classes or more, the model gives "
                f"{tuple(logits.shape)} for {group * len(batch)} samples"
            )
        yield from logits.chunk(group)


def _tally(reads: Iterator[torch.Tensor], rule: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Counts, mean softmax and winners so far of the reads of one batch."""
    counts, total, mean = torch.zeros(0), torch.zeros(0), torch.zeros(0)
    winners: list[torch.Tensor] = []
    for logits in reads:
        if not winners:
            counts = torch.zeros(logits.shape, dtype=torch.int64)
            total = torch.zeros(logits.shape, dtype=torch.float64)
        chosen = logits.argmax(dim=1, keepdim=True)
        counts.scatter_add_(1, chosen, torch.ones_like(chosen))
        total += logits.double().softmax(dim=1)
        mean = (total / (len(winners) + 1)).float()
        winners.append(order(counts, mean, rule)[:, 0])
    return counts, mean, torch.stack(winners, dim=1)


def order(counts: torch.Tensor, softmax: torch.Tensor, rule: str) -> torch.Tensor:
    """(n, classes): class numbers from best to worst."""
    order = torch.argsort(softmax, dim=1, descending=True, stable=True)
    if rule == "soft":
        return order
    by_count = torch.argsort(counts.gather(1, order), dim=1, descending=True, stable=True)
    return order.gather(1, by_count)
