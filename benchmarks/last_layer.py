"""What multiplicative noise on the outputs of the last layer costs: one inference with logits w_j (1 + sigma z_j), z_j
independent standard normals, is right where that of the right class is the largest.

A wrong logit w beside the right one a: the difference is normal with mean a - w and variance sigma^2 (a^2 + w^2), so
the right one is larger with probability Phi((a - w) / (sigma sqrt(a^2 + w^2))). The right answer must beat all wrong
ones, so each pair is an upper limit:

* a > 0 and all wrong logits 0, which stay 0: right where 1 + sigma z > 0, with probability Phi(1 / sigma) exactly;
* a > 0 and a wrong logit w >= 0, or a <= 0: at most Phi(1 / sigma), as (a - w)^2 <= a^2 + w^2 where a w >= 0, and the
  pair is right less often than not where a <= 0 < w;
* any logits: at most Phi(sqrt(2) / sigma), as (a - w)^2 <= 2 (a^2 + w^2), reached by two classes with w = -a.

So Phi(1 / sigma) is too low only where the right logit is positive and all wrong ones negative. Nine wrong ones that
are all -b, small: right with Phi((1 - M / a) / sigma), M the largest of their reads, on average b (1.485 sigma - 1),
1.485 being the mean of the largest of nine normals. So it is too low below sigma = 0.673, and too high above.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

Array = np.ndarray[Any, Any]
GRID = np.linspace(-6, 6, 301)  # of the noise of the right logit
SMALLEST = 1e-9  # of a wrong logit over the largest: 0 would divide by itself


def bound(sigma: float) -> float:
    """Phi(1 / sigma): the share of right inferences where all wrong logits are 0."""
    return float(norm.cdf(1 / sigma))


def ceiling(sigma: float) -> float:
    """Phi(sqrt(2) / sigma): no logits are right more often."""
    return float(norm.cdf(np.sqrt(2) / sigma))


def right(logits: Array, labels: Array, sigma: float) -> Array:
    """(n,) probability that one inference of each sample is right.

    Args:
        logits: (n, classes), without noise.
        labels: (n,) the right classes.
        sigma: of the noise, relative to each logit.

    The integral over the noise of the right logit is a sum over 301 points, exact to about 0.02.
    """
    each = np.arange(len(labels))
    own = logits[each, labels].astype(float)
    own = own + sigma * np.abs(own) * GRID[:, None]  # (points, n)
    found = np.repeat(norm.pdf(GRID)[:, None] * (GRID[1] - GRID[0]), len(labels), axis=1)
    least = SMALLEST * np.abs(logits).max(axis=1)
    for column in range(logits.shape[1]):
        other = logits[:, column].astype(float)
        beaten = norm.cdf((own - other) / (sigma * np.maximum(np.abs(other), least)))
        found *= np.where(labels == column, 1.0, beaten)
    return np.asarray(found.sum(axis=0))


def below_bound(logits: Array, labels: Array) -> float:
    """The share of samples that `bound` limits: the right logit is not positive, or a wrong one is not negative."""
    own = logits[np.arange(len(labels)), labels]
    others = np.where(np.arange(logits.shape[1]) == labels[:, None], -np.inf, logits).max(axis=1)
    return float(((own <= 0) | (others >= 0)).mean())


def best_shift(logits: Array, labels: Array, sigma: float) -> float:
    """The number which, added to all logits, makes most inferences right; without noise it changes no answer."""
    scale = float(np.abs(logits).max())
    shifts = np.linspace(-scale, scale, 17)
    start = int(np.argmax([right(logits + shift, labels, sigma).mean() for shift in shifts]))
    around = shifts[max(start - 1, 0)], shifts[min(start + 1, 16)]
    wrong = minimize_scalar(lambda shift: -right(logits + shift, labels, sigma).mean(), bounds=around, method="bounded")
    return float(wrong.x)
