"""How long a fluctuation of a cell lasts: the correlation of its noise between two reads.

`MemoryModel` says what a kind must have.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator
from scipy.special import exp1

from .arrays import Array
from .config import Config
from .parts import Conditions, Part, check_part, kinds_of
from .registry import Registry
from .units import Hertz, Second

# a 1/f process of log-uniform relaxation times from this fraction of t_read up has, between reads far apart, the
# covariance of boxcar averages
SHORTEST = math.exp(np.euler_gamma - 1.5)


class Correlated(Protocol):
    """A memory, or a source of read noise."""

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """The correlation coefficient of the conductance of a cell as two reads see it, in the shape of `lag_s`.

        Each read is an average over `conditions.t_read` seconds, the first is `conditions.time_s` seconds after
        programming ended, and they begin `lag_s` seconds apart (0, or at least t_read). It is 1 at lag 0, never rises
        with the lag, falls ever less (it is convex), and is never negative. NumPy arrays only.
        """


class MemoryModel(Part):
    """How long a fluctuation of a cell lasts."""

    registry: ClassVar[Registry[Any]] = Registry("memory", "mho.memory", check_part)

    @abstractmethod
    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """See `Correlated`."""


class White(MemoryModel):
    """Each read is independent of all others."""

    kind: Literal["white"] = "white"

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """1 at lag 0, else 0."""
        return (np.asarray(lag_s) == 0).astype(float)


class Spectrum(Config):
    """A spectrum S(f) = c / f from f_l to f_h = 1 / (2 t_read), of variance c ln(f_h / f_l).

    f_l is `f_low`, or, where that is None, one over the time from the last pulse that programmed, `t_0` seconds before
    time 0, to the end of the read: no slower motion has been seen. One of the two is given.
    """

    t_0: Annotated[Second, Field(gt=0)] | None = None
    f_low: Annotated[Hertz, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Spectrum:
        if (self.t_0 is None) == (self.f_low is None):
            raise ValueError(f"one of t_0 and f_low must be set, the other null, got {self.t_0} and {self.f_low}")
        return self

    def span(self, conditions: Conditions) -> float:
        """ln(f_h / f_l), at least 0."""
        t_read, time_s = conditions.t_read, conditions.time_s
        slowest = 1 / self.f_low if self.t_0 is None else self.t_0 + time_s + t_read  # type: ignore[operator]
        return max(math.log(slowest / (2 * t_read)), 0.0)

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """[E1(lag / s) - E1(lag / r)] / ln(s / r), in the shape of `lag_s`.

        1/f noise as a sum of exponentials whose relaxation times are log-uniform from r to s (Bernamont 1937, Ann.
        Phys. 7:71; McWhorter 1957): E1 is the exponential integral. ln(s / r) = ln(f_h / f_l), so the variance is that
        of the spectrum, and r = t_read exp(gamma - 3/2) = 0.40 t_read, so that reads far apart covary as averages over
        t_read of 1/f noise do: c (ln(f_h / f_l) - ln(lag / t_read) - 3/2) for t_read << lag << s.
        """
        lag = np.asarray(lag_s, dtype=float)
        span = self.span(conditions)
        if span == 0:
            return (lag == 0).astype(float)
        shortest = SHORTEST * conditions.t_read
        x = np.maximum(lag, shortest * 1e-9) / shortest  # E1 is infinite at 0, the difference is not
        if span < 1e-6:  # the difference has no digits left; its derivative has
            return np.where(lag > 0, np.exp(-x), 1.0)
        return np.where(lag > 0, (exp1(x * math.exp(-span)) - exp1(x)) / span, 1.0)


class OneOverF(Spectrum, MemoryModel):
    """The correlation of 1/f noise, for a variance that was measured."""

    kind: Literal["one_over_f"] = "one_over_f"


class Telegraph(MemoryModel):
    """A trap that fills and empties with the relaxation time `tau`: 1 / tau is the sum of both rates.

    Reads correlate as its level does, exp(-lag / tau) (Machlup 1954, J. Appl. Phys. 25:341). Averages over t_read, back
    to back, share more where t_read is near tau: at most a third more variance of their mean, at t_read = 2 tau.
    """

    kind: Literal["telegraph"] = "telegraph"
    tau: Annotated[Second, Field(gt=0)]

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """exp(-lag / tau), in the shape of `lag_s`."""
        return np.exp(-np.asarray(lag_s, dtype=float) / self.tau)


def averaged(x: float) -> float:
    """Variance left of an exponentially correlated process by an average over x relaxation times.

    2 (x - 1 + e^-x) / x^2: 1 for short averages, 2 / x for long ones.
    """
    return 1 - x / 3 + x**2 / 12 if x < 1e-4 else 2 * (x + math.expm1(-x)) / x**2


Memory = Annotated[MemoryModel, kinds_of(MemoryModel), SerializeAsAny()]


def left_of_mean(source: Correlated, reads: int, interval: float | None, conditions: Conditions) -> float:
    """Variance of the mean of `reads` reads, `interval` seconds from start to start, over the variance of one.

    [K + 2 sum_k (K - k) correlation(k interval)] / K^2; 1 / K where `interval` is None, for reads far apart. `source`
    is a memory or a source of read noise. In one series `conditions.time_s` stays that of the first read.
    """
    if interval is None:
        return 1 / reads
    k = np.arange(reads)
    weights = np.where(k > 0, 2.0, 1.0) * (reads - k)
    return float(weights @ source.correlation(k * interval, conditions) / reads**2)
