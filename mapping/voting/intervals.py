"""Accuracies and their confidence intervals: of samples (Wilson), of chips (Student), of differences (Newcombe)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import ndtri, stdtrit

Array = torch.Tensor | np.ndarray[Any, Any] | Sequence[int]
Values = pd.Series | np.ndarray[Any, Any]


class Accuracy(float):
    """A share of right answers, with the Wilson (1927) score interval `low`, `high` and the number of samples `n`.

    Where samples have several `answers` each (tokens, pixels), `alike` is the number of independent answers that tell
    as much, and the interval is that of so many: see `mho.mapping.voting.clusters`.

    Raises:
        ValueError: no samples, more right answers than samples, or a confidence outside 0 to 1.
    """

    low: float
    high: float
    n: int
    answers: int
    _made_of: tuple[int, int, float, int | None, float | None]

    def __new__(
        cls, right: int, n: int, confidence: float = 0.95, samples: int | None = None, alike: float | None = None
    ) -> Accuracy:
        if not 0 <= right <= n or n < 1:
            raise ValueError(f"an accuracy needs 0 to n right answers of n >= 1 samples, got {right} of {n}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be above 0 and below 1, got {confidence}")
        self = super().__new__(cls, right / n)
        z = ndtri((1 + confidence) / 2)
        p, z2, m = right / n, z * z, n if alike is None else alike
        centre = (p + z2 / (2 * m)) / (1 + z2 / m)
        half = z / (1 + z2 / m) * np.sqrt(p * (1 - p) / m + z2 / (4 * m * m))
        self.low, self.high = float(np.clip(centre - half, 0, p)), float(np.clip(centre + half, p, 1))
        self.n, self.answers = n if samples is None else samples, n
        self._made_of = right, n, confidence, samples, alike
        return self

    def __getnewargs__(self) -> tuple[int, int, float, int | None, float | None]:  # type: ignore[override]  # of float
        return self._made_of

    @classmethod
    def of(cls, classes: torch.Tensor, labels: Array, confidence: float = 0.95) -> Accuracy:
        """The share of classes (n,) that are the labels (n,).

        Raises:
            ValueError: labels of another length.
        """
        labels = tensor_of("labels", labels).to(classes.device)
        if labels.shape != classes.shape:
            raise ValueError(f"labels must have shape {tuple(classes.shape)}, got {tuple(labels.shape)}")
        return cls(int((classes == labels).sum()), labels.numel(), confidence)

    def __str__(self) -> str:
        return f"{100 * self:.2f} % [{100 * self.low:.2f}, {100 * self.high:.2f}]"


def tensor_of(name: str, values: Any) -> torch.Tensor:
    """Values as a tensor; doubles of NumPy and Python become torch's default floats.

    Raises:
        ValueError: what is no array of numbers.
    """
    if isinstance(values, torch.Tensor):
        return values
    try:
        found = torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a tensor or an array of numbers, got {type(values).__name__}") from error
    return found.to(torch.get_default_dtype()) if found.dtype == torch.float64 else found


def half_of_mean(values: Values) -> float:
    """Half of Student's 95 % interval of the mean; 0 for one value, which says nothing of its spread."""
    n = len(values)
    return float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def of_mean(values: Values) -> tuple[float, float, float]:
    """Mean of independent values and the ends of its 95 % interval, by Student's t; endless for one value."""
    mean = float(values.mean())
    half = half_of_mean(values) if len(values) > 1 else math.inf
    return mean, mean - half, mean + half


def of_chips(shares: pd.Series, samples: int) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of shares of right answers, each of a chip and the same samples.

    It takes both into account: Wilson's interval of the samples and Student's of the chips, as independent.
    """
    mean, spread = float(shares.mean()), half_of_mean(shares)
    one = Accuracy(round(mean * samples), samples)
    low = mean - float(np.hypot(max(0.0, mean - one.low), spread))
    high = mean + float(np.hypot(max(0.0, one.high - mean), spread))
    return max(0.0, low), min(1.0, high)


def difference(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> tuple[float, float, float]:
    """By how much another point is more accurate than one, with the ends of a 95 % interval.

    It is made of the intervals of the two (Newcombe 1998, Statistics in Medicine 17:873, method 10) as if they were
    measured on different images; where the images are the same, it is too wide rather than too narrow.
    """
    step = other["accuracy"] - one["accuracy"]
    down = math.hypot(other["accuracy"] - other["low"], one["high"] - one["accuracy"])
    up = math.hypot(other["high"] - other["accuracy"], one["accuracy"] - one["low"])
    return step, step - down, step + up
