"""What counts do to cells: reads since they were programmed, and program cycles before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .arrays import Array, Namespace, at_least, ndtr
from .data import Fitted
from .drift import DriftModel
from .parts import Conditions
from .units import Number, Second, Siemens, Volt

Spread = Annotated[Number, Field(ge=0, le=3)]
Power = Annotated[Number, Field(gt=0, le=10)]
Cycles = Annotated[Number, Field(gt=0)]


class ReadDisturb(DriftModel, Fitted):
    """Reads pull conductances toward one end: g + (toward - g) (1 - exp(-d^shape)), d = f reads t_read a / tau.

    A read of t_read seconds at the voltage V ages a cell a = exp((V - v_ref) / v_0) times as fast as one at v_ref,
    where it takes `tau` seconds of reading in all until 1 - 1/e of the way is gone; f = exp(spread n) is each cell's
    own. A stretched exponential with voltage acceleration, as is used for disturbed and stressed memory cells: nearly a
    power of the number of reads at first (NAND: Cai et al. 2015, DSN, 438; ReRAM, with saturation: Shim et al. 2020,
    IRPS). Reads count with the full v_read of `sensing`: a bound, where inputs are mostly smaller.

    Attributes:
        toward: siemens that disturbed cells end at.
    """

    kind: Literal["read_disturb"] = "read_disturb"
    tau: Annotated[Second, Field(gt=0)]
    v_ref: Annotated[Volt, Field(gt=0)]
    v_0: Annotated[Volt, Field(gt=0)]
    shape: Power = 1.0
    toward: Annotated[Siemens, Field(ge=0)]
    spread: Spread = 0.0

    def active(self, conditions: Conditions) -> bool:
        """Once a cell was read."""
        return conditions.reads > 0

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances after `conditions.reads` reads."""
        stress = conditions.reads * conditions.t_read / self.tau
        faster = math.exp(min((conditions.v_read - self.v_ref) / self.v_0, 80.0))
        dose = min((stress * faster) ** self.shape, 1e30)  # beyond, all is gone
        gone = -xp.expm1(-dose * xp.exp(self.spread * self.shape * normals[0]))
        return g + (self.toward - g) * gone


class Wear(DriftModel, Fitted):
    """Program cycles narrow the range: g + (toward - g) (1 - exp(-f loss (cycles / n_ref)^exponent)).

    f = exp(spread n) is each cell's own. A power of the cycles, as charge trapping narrows the window of flash cells
    (Mielke et al. 2004, IEEE Trans. Device Mater. Reliab. 4, 335).

    Attributes:
        loss: of the distance to `toward` (siemens), after `n_ref` cycles, where it is small.
    """

    kind: Literal["wear"] = "wear"
    loss: Annotated[Number, Field(ge=0, le=1)]
    exponent: Power
    n_ref: Cycles
    toward: Annotated[Siemens, Field(ge=0)]
    spread: Spread = 0.0

    def active(self, conditions: Conditions) -> bool:
        """Of cells that were programmed before."""
        return conditions.cycles > 0

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances of cells that were programmed `conditions.cycles` times before."""
        mean = min(self.loss * min(conditions.cycles / self.n_ref, 1e30) ** self.exponent, 1e30)
        return g - (self.toward - g) * xp.expm1(-mean * xp.exp(self.spread * normals[0]))


class Failure(DriftModel):
    """Cells fail after a number of program cycles with a Weibull distribution, and are then at one end for good.

    The probability to have failed after N cycles is 1 - exp(-(N / life)^shape) (Weibull 1951, J. Appl. Mech. 18, 293).
    A cell that has failed has failed at all later counts.

    Attributes:
        life: cycles after which 1 - 1/e of the cells have failed.
        stuck_low: share of the failed cells that are at `low`; the others are at `high` (siemens).
    """

    kind: Literal["failure"] = "failure"
    nodes: ClassVar[int] = 1
    life: Cycles
    shape: Power
    low: Annotated[Siemens, Field(ge=0)]
    high: Annotated[Siemens, Field(ge=0)]
    stuck_low: Annotated[Number, Field(ge=0, le=1)] = 0.5

    def active(self, conditions: Conditions) -> bool:
        """Of cells that were programmed before."""
        return conditions.cycles > 0

    def failed(self, cycles: float) -> float:
        """The probability to have failed after so many cycles."""
        return -math.expm1(-min(min(cycles / self.life, 1e30) ** self.shape, 700.0))

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Conductances of cells that were programmed `conditions.cycles` times before."""
        failed, u = self.failed(conditions.cycles), ndtr(normals[0], xp)
        low, high = failed * self.stuck_low, failed * (1 - self.stuck_low)
        return xp.where(u < low, self.low, xp.where(u >= 1 - high, self.high, g))

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`: those that work, and those at either end."""
        failed = self.failed(conditions.cycles)
        yield at_least(g, 0, xp), 1 - failed
        yield xp.full_like(g, self.low), failed * self.stuck_low
        yield xp.full_like(g, self.high), failed * (1 - self.stuck_low)
