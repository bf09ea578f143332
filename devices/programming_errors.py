"""Programming errors that are no unbiased Gaussians: biased and skewed, of measured quantiles, device to device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy.special import ndtri

from .arrays import Array, Namespace, at_least, interp_table
from .data import Fitted
from .parts import Conditions
from .programming import Programming, ProgrammingModel
from .settling import Kinked, normal_nodes
from .units import Kelvin, Number, Siemens

Coefficients = Annotated[tuple[Siemens, ...], Field(min_length=1, max_length=20)]
Spread = Annotated[Number, Field(ge=0, le=1)]
Rows = Field(min_length=1, max_length=1000)
NO_SKEW = 1e-6


class SkewedProgrammingError(Kinked, ProgrammingModel, Fitted):
    """A cell ends up at g + bias(g) + std(g) z: z has mean 0, variance 1 and this skewness.

    bias and std = max(., 0) are polynomials, sum_k c_k (g / g_ref)^k, in siemens, the constant term first. z is a
    lognormal number, shifted and scaled (mirrored for a negative skewness):

        z = (exp(s n - s^2 / 2) - 1) / sqrt(w - 1),   w = exp(s^2),   skewness = (w + 2) sqrt(w - 1),

    n standard normal; a normal number itself without skewness (Johnson, Kotz and Balakrishnan 1994, Continuous
    Univariate Distributions 1, chapter 14). Conductances below 0 are taken as 0.

    Attributes:
        per_kelvin: what std grows by, relative, for each kelvin that cells are programmed above `t_data`.
    """

    kind: Literal["skewed"] = "skewed"
    g_ref: Annotated[Siemens, Field(gt=0)]
    bias: Coefficients = (0.0,)
    coefficients: Coefficients
    skewness: Annotated[Number, Field(ge=-10, le=10)] = 0.0
    per_kelvin: Annotated[Number, Field(ge=-1, le=1)] = 0.0
    t_data: Annotated[Kelvin, Field(gt=0)] = 300.0

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances in siemens, which may come out below 0."""
        x = g / self.g_ref
        heat = max(1 + self.per_kelvin * (conditions.programmed_at - self.t_data), 0.0)
        spread = at_least(_polynomial(self.coefficients, x, xp), 0, xp) * heat
        return g + _polynomial(self.bias, x, xp) + spread * self._standard(normals[0], xp)

    def _standard(self, n: Array, xp: Namespace) -> Array:
        """z for standard normal n."""
        size = abs(self.skewness)
        if size < NO_SKEW:
            return n
        root = (1 + size**2 / 2 + size * math.sqrt(1 + size**2 / 4)) ** (1 / 3)
        s2 = math.log(max(root + 1 / root - 1, 1 + 1e-15))
        sign, s = math.copysign(1.0, self.skewness), math.sqrt(s2)
        return sign * xp.expm1(sign * s * n - s2 / 2) / math.sqrt(math.expm1(s2))


class QuantileProgrammingError(Kinked, ProgrammingModel, Fitted):
    """Measured quantiles: of cells of target g, `probabilities[j]` have an error of at most `errors[i][j]`.

    `conductances`, the targets that were measured, and `errors` (final conductance less target) are in units of g_ref.
    A cell takes the quantile of its normal number n, that of the probability ndtr(n). Between the quantiles errors are
    linear in ndtri(probability), which never makes one fall as the probability rises, and beyond the first and the last
    they go on so, as a normal distribution does. Between conductances the errors of one probability are linear, beyond
    them constant. Conductances below 0 are taken as 0.
    """

    kind: Literal["quantiles"] = "quantiles"
    g_ref: Annotated[Siemens, Field(gt=0)]
    conductances: Annotated[tuple[Annotated[Number, Field(ge=0, le=1000)], ...], Rows]
    probabilities: Annotated[
        tuple[Annotated[Number, Field(ge=1e-9, le=1 - 1e-9)], ...], Field(min_length=2, max_length=1000)
    ]
    errors: Annotated[tuple[Annotated[tuple[Annotated[Number, Field(ge=-1000, le=1000)], ...], Rows], ...], Rows]

    @model_validator(mode="after")
    def _a_table(self) -> QuantileProgrammingError:
        for name, axis in (("conductances", self.conductances), ("probabilities", self.probabilities)):
            if any(b <= a for a, b in pairwise(axis)):
                raise ValueError(f"{name} must increase, got {axis}")
        shape, lengths = (len(self.conductances), len(self.probabilities)), [len(row) for row in self.errors]
        if lengths != [shape[1]] * shape[0]:
            raise ValueError(f"errors must have {shape[0]} rows of {shape[1]}, got rows of {lengths}")
        for x, row in zip(self.conductances, self.errors, strict=True):
            if any(b < a for a, b in pairwise(row)):
                raise ValueError(f"errors must not fall as probabilities rise, got {row} for conductance {x:g}")
        return self

    @cached_property
    def _scores(self) -> list[float]:
        """The probabilities as standard normal numbers."""
        return [float(n) for n in ndtri(np.array(self.probabilities))]

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances in siemens, which may come out below 0."""
        axes = self.conductances, self._scores
        return g + self.g_ref * interp_table(g / self.g_ref, normals[0], axes, self.errors, xp)


class DeviceToDevice(ProgrammingModel):
    """Each cell has factors of its own, which last, beside the error that is new each time that it is programmed.

    A cell of target g ends up at r g + e (error of g), with the error of the part `error` and lognormal factors of mean
    1: r = exp(range_spread n_1 - range_spread^2 / 2), and e likewise with `error_spread`. n_1 and n_2 belong to the
    cell: it has the same when it is programmed again (other `cycles`), and another chip has others.
    """

    kind: Literal["device_to_device"] = "device_to_device"
    range_spread: Spread = 0.0
    error_spread: Spread = 0.0
    error: Programming
    lasting: ClassVar[int] = 2
    nodes: ClassVar[int] = 5

    @model_validator(mode="after")
    def _of_an_open_loop(self) -> DeviceToDevice:
        if self.error.kind == "verify":
            raise ValueError("error must not be of kind 'verify', which corrects such factors: set its device_spread")
        if self.error.lasting:
            raise ValueError(f"error must be of a kind without factors that last, got {self.error.kind!r}")
        return self

    @property
    def draws(self) -> int:  # type: ignore[override]
        """Two that last, and those of the error."""
        return self.lasting + self.error.draws

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances in siemens, which may come out below 0."""
        own = [normals[i] for i in range(self.lasting, self.draws)]
        settled = self.error.apply(g, own, conditions, xp)
        return self._with_factors(g, settled, normals[0], normals[1], xp)

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`: those of the error, which is cut off at 0, with five of each factor."""
        spreads = [spread > 0 for spread in (self.range_spread, self.error_spread)]
        for settled, weight in self.error.outcomes(g, conditions, xp):
            for normals, part in normal_nodes(self.nodes, sum(spreads)):
                numbers = iter(normals)
                range_n, error_n = (xp.full_like(g, next(numbers) if there else 0) for there in spreads)
                yield at_least(self._with_factors(g, settled, range_n, error_n, xp), 0, xp), weight * part

    def _with_factors(self, g: Array, settled: Array, range_n: Array, error_n: Array, xp: Namespace) -> Array:
        r, e = self.range_spread, self.error_spread
        return g * xp.exp(r * range_n - r**2 / 2) + (settled - g) * xp.exp(e * error_n - e**2 / 2)


def _polynomial(coefficients: Sequence[float], x: Array, xp: Namespace) -> Array:
    total = xp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total
