"""95 % intervals of accuracies that were measured with few samples on few chips."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from mho.mapping.voting.votes import Accuracy


def half_of_mean(values: pd.Series) -> float:
    """Half of Student's interval of the mean; 0 for one value, which says nothing of its spread."""
    n = len(values)
    return float(student.ppf(0.975, n - 1) * values.std() / np.sqrt(n)) if n > 1 else 0.0


def of_chips(shares: pd.Series, samples: int) -> tuple[float, float]:
    """Ends of the interval of the mean of shares of right answers, each of a chip and the same samples.

    It takes both into account: Wilson's interval of the samples and Student's of the chips, as independent.
    """
    mean, spread = float(shares.mean()), half_of_mean(shares)
    one = Accuracy(round(mean * samples), samples)
    low = mean - float(np.hypot(max(0.0, mean - one.low), spread))
    high = mean + float(np.hypot(max(0.0, one.high - mean), spread))
    return max(0.0, low), min(1.0, high)
