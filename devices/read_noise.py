"""Read noise of a cell: how much its conductance differs from one read to the next.

`ReadNoiseModel` says what a kind must have. Successive reads of a cell share what has not changed between them: the
independent sources of a noise, its `parts`, each have a correlation.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from .arrays import Array, Namespace, at_least, sqrt
from .data import Fitted
from .memory import Memory, Spectrum, Telegraph, White, averaged
from .parts import Conditions, Part, check_part, kinds_of
from .registry import Registry
from .string import NandString
from .units import Ampere, Number, Second, Siemens, Volt

Relative = Annotated[Number, Field(ge=0, le=1000)]


class ReadNoiseModel(Part):
    """How much conductances differ from one read to the next."""

    registry: ClassVar[Registry[Any]] = Registry("read noise", "mho.read_noise", check_part)

    @abstractmethod
    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation of one read, in siemens, for conductances `g` (siemens), in their shape and dtype.

        Noise that was measured as a current is divided by `conditions.v_read`.

        Args:
            g: siemens, at least 0, of any shape, float32 or float64.
            conditions: of the read; it begins `time_s` seconds after programming ended.
            xp: the namespace of `g`, see `arrays.py`.
        """

    if TYPE_CHECKING:  # a field of `sum`

        @property
        def parts(self) -> tuple[ReadNoiseSource, ...]:
            """Its independent sources, whose variances add up."""


class ReadNoiseSource(ReadNoiseModel):
    """One source of read noise: what others add derives from this."""

    @property
    def parts(self) -> tuple[ReadNoiseSource, ...]:
        """The source alone."""
        return (self,)

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """Of two reads that begin `lag_s` seconds apart, see `memory.Correlated`; by default 1 at lag 0, else 0."""
        return White().correlation(lag_s, conditions)


class Measured(ReadNoiseSource, Fitted):
    """A source whose strength was measured, and whose memory is known apart from it (white: none)."""

    memory: Memory = White()

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """That of the `memory`."""
        return self.memory.correlation(lag_s, conditions)


class NoReadNoise(ReadNoiseSource):
    """Cells read the same every time."""

    kind: Literal["none"] = "none"

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Zeros of the shape of `g`."""
        return xp.zeros_like(g)


class RelativeReadNoise(Measured):
    """std = fraction g: 1/f and random-telegraph noise in proportion to the current."""

    kind: Literal["relative"] = "relative"
    fraction: Relative

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        return self.fraction * g


class ConstantReadNoise(Measured):
    """The same std for every cell, whatever its state: noise of the access path, or a bound where only one is known."""

    kind: Literal["constant"] = "constant"
    std_g: Annotated[Siemens, Field(ge=0)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        return xp.full_like(g, self.std_g)


class PcmReadNoise(ReadNoiseSource, Fitted):
    """1/f noise of phase-change cells: std = g Q sqrt(ln((t + t_read) / (2 t_read))).

    Q = min(coefficient x^-exponent, maximum) with x = g / g_ref; t = t_0 + time_s is the time since the last pulse that
    programmed, so that a cell just verified has the noise of t_0. The logarithm is the spectrum Q^2 G^2 / f integrated
    over all frequencies seen since then by pulses of length t_read. Joshi et al. 2020 (Nat. Commun. 11:2473) and
    Nandakumar et al. 2019 (ICECS), in the fit that IBM's aihwkit publishes, for reads of 250 ns. Most of the variance
    lies below the rate of reads, so reads soon after one another share it.
    """

    kind: Literal["pcm"] = "pcm"
    g_ref: Annotated[Siemens, Field(gt=0)]
    coefficient: Relative
    exponent: Annotated[Number, Field(ge=0, lt=1)]
    maximum: Relative
    t_0: Annotated[Second, Field(gt=0)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens; 0 where `g` is 0."""
        x = at_least(g / self.g_ref, xp.finfo(g.dtype).tiny, xp)
        q = xp.clip(self.coefficient * x**-self.exponent, None, self.maximum)
        return g * q * math.sqrt(Spectrum(t_0=self.t_0).span(conditions))

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """That of 1/f noise."""
        return Spectrum(t_0=self.t_0).correlation(lag_s, conditions)


class FlickerReadNoise(Spectrum, ReadNoiseSource, Fitted):
    """1/f noise after Hooge: std = g sqrt(k_f ln(f_h / f_l)), f_h = 1 / (2 t_read), f_l as `Spectrum` has it.

    k_f = f S_I / I^2 (Hooge 1969, Phys. Lett. A 29:139: alpha over the number of carriers), the same for all cells.
    """

    kind: Literal["flicker"] = "flicker"
    k_f: Relative

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        return math.sqrt(self.k_f * self.span(conditions)) * g


class TelegraphReadNoise(ReadNoiseSource, Fitted):
    """A trap in each cell, full or empty, takes `amplitude` of its conductance: std = amplitude g sqrt(p (1 - p)).

    The empty trap waits `capture` seconds on average to be filled, the full one `emission` seconds to be emptied: it is
    full the part p = emission / (capture + emission) of the time, and forgets within tau, 1 / tau = 1 / capture +
    1 / emission (Machlup 1954, J. Appl. Phys. 25:341). A read averages over t_read, which takes the factor
    `memory.averaged` of t_read / tau from the variance. Over the cells of a column the sum is taken as Gaussian.
    """

    kind: Literal["telegraph"] = "telegraph"
    amplitude: Annotated[Number, Field(ge=0, le=1)]
    capture: Annotated[Second, Field(gt=0)]
    emission: Annotated[Second, Field(gt=0)]

    @property
    def tau(self) -> float:
        """Relaxation time in seconds."""
        return self.capture * self.emission / (self.capture + self.emission)

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        p = self.emission / (self.capture + self.emission)
        return self.amplitude * math.sqrt(p * (1 - p) * averaged(conditions.t_read / self.tau)) * g

    def correlation(self, lag_s: Array, conditions: Conditions) -> Array:
        """exp(-lag / tau)."""
        return Telegraph(tau=self.tau).correlation(lag_s, conditions)


class SaturatingReadNoise(Measured):
    """std of the current = i_max (1 - exp(-I / i_0)) at I = g v_read, with i_max and i_0 in amperes.

    Charge-trap cells (Agrawal et al. 2022, IEDM 21.7, Fig. 11b). It becomes a conductance noise here: a cell driven at
    part of v_read has that part of the current noise.
    """

    kind: Literal["saturating"] = "saturating"
    i_max: Annotated[Ampere, Field(ge=0)]
    i_0: Annotated[Ampere, Field(gt=0)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens for `g` >= 0."""
        v_read = conditions.v_read
        return -(self.i_max / v_read) * xp.expm1(-g * (v_read / self.i_0))


class StringReadNoise(Measured):
    """Threshold noise of a transistor, alone or in a NAND string: std = sigma_vt |dg / dV_T|, see `NandString`.

    sigma_g / g is (R_cell / R_string) sigma_vt / V above threshold, with the overdrive V of the cell, and
    sigma_vt / (n phi_T) below. The voltage of the bit line changes neither.
    """

    kind: Literal["string"] = "string"
    sigma_vt: Annotated[Volt, Field(ge=0)]
    string: NandString

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        return self.sigma_vt * self.string.sensitivity(g, conditions.temperature, xp)


ReadNoisePart = Annotated[ReadNoiseSource, kinds_of(ReadNoiseSource), SerializeAsAny()]


class SumReadNoise(ReadNoiseModel):
    """Independent sources: variances add. How reads correlate depends on the cell, so ask each of the `parts`."""

    kind: Literal["sum"] = "sum"
    parts: Annotated[tuple[ReadNoisePart, ...], Field(min_length=1, max_length=20)]

    def std(self, g: Array, conditions: Conditions, xp: Namespace) -> Array:
        """Standard deviation in siemens."""
        total = xp.zeros_like(g)
        for part in self.parts:
            total = total + part.std(g, conditions, xp) ** 2
        return sqrt(total, xp)


ReadNoise = Annotated[ReadNoiseModel, kinds_of(ReadNoiseModel), SerializeAsAny()]
