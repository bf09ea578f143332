"""Means of repeated noisy inferences of a model that gives numbers: what stands in place of votes in a regression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .answers import Result, Tensors, together
from .asked import Election, Given
from .clusters import Estimate, compared
from .intervals import Array


@dataclass(frozen=True, eq=False)
class MeanResult(Result):
    """Means and spread of what K noisy inferences of n samples gave.

    Attributes:
        mean: (n, ...) float32, over all inferences.
        std: (n, ...) float32, standard deviation of one inference around that, unbiased in its square; NaN with one
            inference, which shows no spread.
        means: (n, ..., k) float32, after 1, 2, ... k inferences; the last is `mean`.
        k: number of inferences.
        copies: number of chips that they were distributed over; the spread is then that of chips too.
        labels: (n, ...) targets that came with the inputs; None without targets.
        mask: (n, ...) bool, which numbers belong to tokens that are not padding; None: all do.
    """

    mean: torch.Tensor
    std: torch.Tensor
    means: torch.Tensor
    k: int
    copies: int
    labels: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def __str__(self) -> str:
        return self._told(self.mean, "means", "rmse")

    @property
    def standard_error(self) -> torch.Tensor:
        """(n, ...) float32, of the mean, of which inferences they happened to be."""
        return self.std / self.k**0.5

    def rmse(self, targets: Array | None = None, confidence: float = 0.95, *, mask: Array | None = None) -> Estimate:
        """Root mean square error of the means, a float with the interval `.low`, `.high` over samples.

        The interval is Student's of the mean square, of which the root is taken.

        Args:
            targets: (n, ...), as `mean`; None: those that came with the inputs.
            confidence: of the interval.
            mask: (n, ...), which numbers count.

        Raises:
            ValueError: no targets, targets or a mask of another shape, or nothing that counts.

        Example:
            >>> mho.vote(chip, x, k=5, rule="mean").rmse(net(x).detach()) < 0.1
            True
        """
        return self.rmse_of(self.mean, targets, confidence, mask)

    def rmse_over_votes(
        self, targets: Array | None = None, confidence: float = 0.95, *, mask: Array | None = None
    ) -> list[Estimate]:
        """The root mean square error after 1, 2, ... k inferences: see `rmse`."""
        return [self.rmse_of(mean, targets, confidence, mask) for mean in self.means.unbind(dim=-1)]

    def mae(self, targets: Array | None = None, confidence: float = 0.95, *, mask: Array | None = None) -> Estimate:
        """Mean absolute error of the means, with Student's interval over samples: arguments and errors as of `rmse`.

        Example:
            >>> mho.vote(chip, x, k=5, rule="mean").mae(net(x).detach()) < 0.1
            True
        """
        errors, counted = self._errors(self.mean, targets, mask)
        return Estimate.of(errors.abs(), counted, confidence)

    def rmse_of(self, mean: torch.Tensor, targets: Array | None, confidence: float, mask: Array | None) -> Estimate:
        """That of other means (n, ...)."""
        errors, counted = self._errors(mean, targets, mask)
        square = Estimate.of(errors.square(), counted, confidence)
        return Estimate(float(square), max(0.0, square.low), square.high, square.n).map(np.sqrt)

    def _errors(
        self, mean: torch.Tensor, targets: Array | None, mask: Array | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        given = self.labels if targets is None else targets
        found, truth, counted = compared(mean, given, self.mask, mask, ignore_index=None)
        if truth.shape != found.shape:
            raise ValueError(f"targets must have shape {tuple(mean.shape)}, got {tuple(truth.shape)}")
        return found.double() - truth.double(), counted


def averaged(reads: Iterator[torch.Tensor]) -> Tensors:
    """Mean, standard deviation and means so far of the reads of one batch (Welford 1962)."""
    means: list[torch.Tensor] = []
    mean, squares = torch.zeros(0), torch.zeros(0)
    for output in reads:
        x = output.detach().to("cpu", torch.float64)
        if not means:
            mean, squares = torch.zeros_like(x), torch.zeros_like(x)
        step = x - mean
        mean = mean + step / (len(means) + 1)
        squares = squares + step * (x - mean)
        means.append(mean.float())
    k = len(means)
    std = (squares / (k - 1)).sqrt() if k > 1 else torch.full_like(squares, torch.nan)
    return mean.float(), std.float(), torch.stack(means, dim=-1)


def mean_of(parts: list[tuple[Given, Tensors]], asked: Election) -> MeanResult:
    """The result of all batches.

    Raises:
        ValueError: NaN among what the model gave.
    """
    (mean, std, means), labels, mask = together(parts, (0, 0, 1), (0.0, 0.0, 0.0))
    there = torch.isnan(mean) if mask is None else torch.isnan(mean) & mask
    if bool(there.any()):
        raise ValueError("vote needs an output of numbers, the model gives NaN for some samples")
    return MeanResult(mean, std, means, asked.k, asked.copies, labels, mask)
