"""Programming error: how far from its target a cell ends up after write and verify.

`ProgrammingModel` says what a kind must have; one whose error is Gaussian derives from `GaussianProgrammingModel`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, SerializeAsAny
from scipy.constants import elementary_charge

from .arrays import Array, Namespace, at_least, ndtr, sqrt
from .data import Fitted
from .parts import Conditions, check_part, kinds_of
from .registry import Registry
from .settling import Settling
from .string import NandString
from .units import Farad, Siemens, Volt


class ProgrammingCost(NamedTuple):
    """What it takes to program a cell of each target: means, in the shape of the targets.

    Attributes:
        pulses: that change the conductance.
        failed: probability that the last read of the cell was not close enough to its target.
        energy_j: joules; 0 where no energies are given.
        time_s: seconds, of the cell alone.
        at_once: cells of a tile that are programmed at the same time.
    """

    pulses: Array
    failed: Array
    energy_j: Array
    time_s: Array
    at_once: int


class ProgrammingModel(Settling):
    """What programming makes of target conductances: `apply` is called with them, and with `conditions` at time 0."""

    registry: ClassVar[Registry[Any]] = Registry("programming error", "mho.programming", check_part)

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens for target conductances `g` (siemens), in their shape and dtype."""
        return sqrt(self.moments(g, conditions, xp)[1], xp)

    def programming_cost(self, g: Array, conditions: Conditions) -> ProgrammingCost | None:
        """What programming cells of targets `g` (siemens, NumPy) takes; None: an error alone, which tells nothing."""
        return None


class NoProgrammingError(ProgrammingModel):
    """Cells take exactly the conductance they are given."""

    kind: Literal["none"] = "none"
    draws: ClassVar[int] = 0

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """`g` itself."""
        return g


class GaussianProgrammingModel(ProgrammingModel):
    """A Gaussian error around the target, cut off at 0."""

    @abstractmethod
    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens for target conductances `g` (siemens), in their shape and dtype.

        It is that before errors below 0 are cut off.
        """

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """The target plus std times a normal number."""
        error = normals[0] * self.std(g, conditions, xp)
        error += g
        return error

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`; only the target where no cell errs."""
        if bool((self.std(g, conditions, xp) != 0).any()):
            yield from super().outcomes(g, conditions, xp)
        else:
            yield at_least(g, 0, xp), 1.0

    def moments(self, g: Array, conditions: Conditions, xp: Namespace) -> tuple[Array, Array]:
        """In closed form: for a = g / std the mean is a P + p, the mean square (a^2 + 1) P + a p, in units of std.

        p and P are the density and the distribution of a normal number at a.
        """
        std = self.std(g, conditions, xp)
        unit = xp.where(std > 0, std, 1)
        a = xp.clip(g / unit, None, 1e3)  # beyond, nothing is cut off
        raised = xp.exp(-xp.square(a) / 2) / math.sqrt(2 * math.pi) - a * ndtr(-a, xp)  # by what is cut off
        return g + std * raised, xp.square(std) * (ndtr(a, xp) - raised * (a + raised))


class PolynomialProgrammingError(GaussianProgrammingModel, Fitted):
    """std(g) = max(sum_k c_k (g / g_ref)^k, 0): coefficients c_k and g_ref in siemens, the constant term first.

    A fit to measured arrays: ReRAM of Wan et al. 2022 (Nature 608:504, Extended Data Fig. 3) and of Milo et al. 2021
    (IRPS, Fig. 4), PCM of Joshi et al. 2020 (Nat. Commun. 11:2473, Fig. 3b).
    """

    kind: Literal["polynomial"] = "polynomial"
    coefficients: Annotated[tuple[Siemens, ...], Field(min_length=1, max_length=20)]
    g_ref: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        x = g / self.g_ref
        *rest, last = self.coefficients
        total: Any = last
        if not rest:
            return at_least(xp.full_like(x, total), 0, xp)
        for coefficient in rest[::-1]:
            total = total * x
            total += coefficient
        return at_least(total, 0, xp)


class SaturatingProgrammingError(GaussianProgrammingModel, Fitted):
    """std(g) = s_max (1 - exp(-g / g_0)), with s_max and g_0 in siemens.

    Charge-trap cells: the error vanishes with the current and levels off (Agrawal et al. 2022, IEDM 21.7, Fig. 10a).
    """

    kind: Literal["saturating"] = "saturating"
    s_max: Annotated[Siemens, Field(ge=0)]
    g_0: Annotated[Siemens, Field(gt=0)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens for `g` >= 0."""
        return -self.s_max * xp.expm1(-g / self.g_0)


class IncrementalProgrammingError(GaussianProgrammingModel, Fitted):
    """Pulses that raise the threshold voltage by `v_step` each, until it passes the level of the cell.

    The last pulse overshoots by anything up to a step, V_step / sqrt(12) (Suh et al. 1995, IEEE J. Solid-State Circuits
    30:1149), and injects V_step C_pp / q electrons, of which sqrt(q V_step / C_pp) volts are chance: C_pp = `c_pp` is
    the capacitance between control gate and charge; None: not counted (Monzio Compagnoni et al. 2008, IEEE Trans.
    Electron Devices 55:2695). The error is both in quadrature, times |dg / dV_T|: a bound, as verifying takes back half
    of the variance of Poisson electrons. The mean overshoot is taken to be allowed for.
    """

    kind: Literal["incremental"] = "incremental"
    v_step: Annotated[Volt, Field(gt=0)]
    c_pp: Annotated[Farad, Field(gt=0)] | None = None
    string: NandString

    @property
    def sigma_vt(self) -> float:
        """Standard deviation of the threshold voltage in volts."""
        injection = 0.0 if self.c_pp is None else elementary_charge * self.v_step / self.c_pp
        return math.sqrt(self.v_step**2 / 12 + injection)

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        return self.sigma_vt * self.string.sensitivity(g, conditions.temperature, xp)


Programming = Annotated[ProgrammingModel, kinds_of(ProgrammingModel), SerializeAsAny()]
