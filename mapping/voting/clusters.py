"""Means and shares over answers that belong to samples: tokens of a text, pixels of an image.

Answers to one sample are not independent of each other, so intervals are over samples: variances are those of clustered
data (Liang and Zeger 1986, Biometrika 73:13), and a share has Wilson's interval for the number of independent answers
that has the same variance (Korn and Graubard 1998, Survey Methodology 24:193; Dean and Pagano 2015, J. Survey Stat.
Methodol. 3:484).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtri, stdtrit

from .intervals import Accuracy, Array, tensor_of

IGNORED = -100  # the label of answers that do not count, as torch's cross entropy has it


class Estimate(float):
    """A mean over n samples with the ends `low`, `high` of its interval, which is endless for one sample."""

    low: float
    high: float
    n: int

    def __new__(cls, value: float, low: float, high: float, n: int) -> Estimate:
        self = super().__new__(cls, value)
        self.low, self.high, self.n = float(low), float(high), n
        return self

    def __getnewargs__(self) -> tuple[float, float, float, int]:  # type: ignore[override]
        return float(self), self.low, self.high, self.n

    @classmethod
    def of(cls, values: torch.Tensor, counted: torch.Tensor, confidence: float = 0.95) -> Estimate:
        """The mean of values (n, ...) where they are counted (n, ...), with Student's interval over the n samples.

        Raises:
            ValueError: nothing is counted, or a confidence outside 0 to 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be above 0 and below 1, got {confidence}")
        sums, counts = _by_sample(torch.where(counted, values.double(), 0.0), counted)
        n, mean = len(counts), float(sums.sum() / counts.sum())
        half = np.inf
        if n > 1:
            half = float(stdtrit(n - 1, (1 + confidence) / 2)) * _variance(sums, counts) ** 0.5
        return cls(mean, mean - half, mean + half, n)

    def map(self, function: np.ufunc) -> Estimate:
        """An increasing function of the mean and of the ends of its interval."""
        with np.errstate(over="ignore"):
            value, low, high = (float(function(x)) for x in (float(self), self.low, self.high))
        return Estimate(value, low, high, self.n)

    def __str__(self) -> str:
        return f"{float(self):.4g} [{self.low:.4g}, {self.high:.4g}]"


def share(right: torch.Tensor, counted: torch.Tensor, confidence: float = 0.95) -> Accuracy:
    """The share of right answers (n, ...) among those that are counted (n, ...).

    Where each sample has one answer it is Wilson's interval. Where all answers are right, or none, they show no
    variance: then each sample counts as one answer.

    Raises:
        ValueError: nothing is counted, or a confidence outside 0 to 1.
    """
    hits, counts = _by_sample((right & counted).double(), counted)
    return of_counts(hits, counts, confidence)


def of_counts(hits: torch.Tensor, counts: torch.Tensor, confidence: float = 0.95) -> Accuracy:
    """The share of right answers, from the right ones (n,) and all answers (n,) of each sample, one or more."""
    right, answers, n = round(float(hits.sum())), round(float(counts.sum())), len(counts)
    if answers == n:
        return Accuracy(right, answers, confidence)
    p, alike = right / answers, float(n)
    variance = _variance(hits, counts) if n > 1 else 0.0
    if variance and 0 < p < 1 and 0 < confidence < 1:
        few = float(ndtri((1 + confidence) / 2) / stdtrit(n - 1, (1 + confidence) / 2)) ** 2
        alike = min(float(answers), p * (1 - p) / variance) * few
    return Accuracy(right, answers, confidence, n, alike)


def _by_sample(values: torch.Tensor, counted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and numbers (n,) of what is counted of each sample that has any."""
    sums, counts = (x.reshape(len(x), -1).double().sum(dim=1).cpu() for x in (values, counted))
    if not bool(counts.any()):
        raise ValueError("no answer counts: all labels are to be ignored, or the mask leaves none")
    return sums[counts > 0], counts[counts > 0]


def _variance(sums: torch.Tensor, counts: torch.Tensor) -> float:
    """Of the mean of all, the samples being independent."""
    n, mean = len(counts), sums.sum() / counts.sum()
    return float((sums - mean * counts).square().sum() * n / (n - 1) / counts.sum() ** 2)


def compared(
    answers: torch.Tensor,
    labels: Array | None,
    kept: torch.Tensor | None,
    mask: Array | None,
    *,
    classes: int | None = None,
    next_token: bool = False,
    ignore_index: int | None = IGNORED,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers, labels and which of them count, all (n, ...) of one shape.

    Args:
        answers: (n, ...), further dimensions behind those of the labels are left as they are.
        labels: (n, ...).
        kept: which answers there are, if not all.
        mask: which of them count, if not all.
        classes: how many there are, where labels are classes.
        next_token: labels are the tokens of the texts: the answer at each is about the next one.
        ignore_index: label of answers that do not count; None: all do.

    Raises:
        ValueError: no labels, labels or a mask of another shape, or a label that counts and is no class.
    """
    if labels is None:
        raise ValueError("labels are missing: give them, or vote over batches that bring them along")
    found = tensor_of("labels", labels).to(answers.device)
    shape = answers.shape[: found.ndim]
    if found.shape != shape or not found.ndim:
        raise ValueError(f"labels must have shape {tuple(answers.shape)}, got {tuple(found.shape)}")
    counted = torch.ones(shape, dtype=torch.bool, device=answers.device) if kept is None else kept.to(answers.device)
    if mask is not None:
        given = tensor_of("mask", mask).to(answers.device)
        if given.shape != shape:
            raise ValueError(f"mask must have shape {tuple(shape)}, got {tuple(given.shape)}")
        counted = counted & (given != 0)
    if next_token:
        if len(shape) != 2 or shape[1] < 2:
            raise ValueError(f"next_token needs answers for each token (n, tokens), two or more, got {tuple(shape)}")
        answers, found, counted = answers[:, :-1], found[:, 1:], counted[:, :-1] & counted[:, 1:]
    if ignore_index is not None:
        counted = counted & (found != ignore_index)
    odd = counted & ((found < 0) | (found >= (classes or 0)))
    if classes is not None and bool(odd.any()):
        raise ValueError(
            f"labels must be classes 0 to {classes - 1}, got {int(found[odd][0])}; ignore_index or mask leaves some out"
        )
    return answers, found, counted
