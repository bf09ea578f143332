"""Accuracies and errors on the same samples, and by how much they differ."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtri, stdtrit

from ..voting.answers import Answers
from ..voting.clusters import Estimate, compared, of_counts
from ..voting.intervals import Accuracy
from ..voting.means import MeanResult

Array = np.ndarray[Any, Any]


class Difference(NamedTuple):
    """By how much something is better than something else on the same samples, with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Scores:
    """What the answers to n samples are worth.

    Attributes:
        sums: (n,) right answers to each sample, or the sum of the squared errors of its numbers.
        counts: (n,) answers to each, or numbers.
        classes: whether they are right answers, of which more are better.
    """

    sums: Array
    counts: Array
    classes: bool

    @classmethod
    def of(cls, result: Answers | MeanResult, labels: Any) -> Scores:
        """Of the result of votes.

        Raises:
            ValueError: labels that are missing, of another shape, no classes, or none that counts.
        """
        if isinstance(result, MeanResult):
            found, truth, counted = compared(result.mean, labels, result.mask, None, ignore_index=None)
            if truth.shape != found.shape:
                raise ValueError(f"labels must have shape {tuple(found.shape)}, got {tuple(truth.shape)}")
            worth = (found.double() - truth.double()).square()
        else:
            found, truth, counted = compared(
                result.classes, labels, result.mask, None, classes=result.softmax.shape[-1]
            )
            if truth.shape != found.shape:
                raise ValueError(f"labels must have shape {tuple(found.shape)}, got {tuple(truth.shape)}")
            worth = (found == truth).double()
        sums, counts = (
            part.reshape(len(part), -1).double().sum(dim=1).cpu().numpy()
            for part in (torch.where(counted, worth, 0.0), counted)
        )
        if not counts.any():
            raise ValueError("no answer counts: all labels are to be ignored")
        return cls(sums[counts > 0], counts[counts > 0], not isinstance(result, MeanResult))

    @cached_property
    def mean(self) -> Accuracy | Estimate:
        """The accuracy with Wilson's 95 % interval, or the mean squared error with Student's."""
        if self.classes:
            return of_counts(torch.from_numpy(self.sums), torch.from_numpy(self.counts))
        n, value = len(self.sums), float(self.sums.sum() / self.counts.sum())
        spread = np.sqrt(np.square(self.sums - value * self.counts).sum() * n / max(1, n - 1)) / self.counts.sum()
        half = float(stdtrit(n - 1, 0.975)) * float(spread) if n > 1 else np.inf
        return Estimate(value, max(0.0, value - half), value + half, n)

    def better_than(self, other: Scores, confidence: float = 0.95) -> Difference:
        """By how much the accuracy is higher than another's, or the mean squared error lower, on the same samples.

        The interval is that of means of the samples' differences. Shares of right answers get two samples more, one
        for each side, as Bonett and Price (2012, J. Educ. Behav. Stat. 37:479) do, so that few or no differences show
        no certainty; with one answer a sample it is their interval. Where samples have several answers, variances are
        those of clustered data (Liang and Zeger 1986, Biometrika 73:13).
        """
        gained = self.sums - other.sums if self.classes else other.sums - self.sums
        counts, value = self.counts, float(gained.sum() / self.counts.sum())
        if self.classes:
            usual = counts.mean()
            gained, counts = np.append(gained, [usual, -usual]), np.append(counts, [usual, usual])
        n, tail = len(counts), (1 + confidence) / 2
        if n < 2:
            return Difference(value, -np.inf, np.inf)
        middle = gained.sum() / counts.sum()
        spread = np.sqrt(np.square(gained - middle * counts).sum()) / counts.sum()
        if self.classes:
            half = float(ndtri(tail)) * spread
            low, high = float(middle - half), float(middle + half)
            return Difference(value, max(-1.0, min(low, value)), min(1.0, max(high, value)))
        half = float(stdtrit(n - 1, tail)) * spread * np.sqrt(n / (n - 1))
        return Difference(value, float(middle - half), float(middle + half))
