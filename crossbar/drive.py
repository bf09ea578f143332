"""How the inputs of a layer become codes, and codes what drives the word lines, conversion by conversion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .converters import Dac

Array = np.ndarray[Any, Any]
Law = Literal["digital", "scaled", "repeated"]


@dataclass(frozen=True)
class Drive:
    """How one layer's inputs become codes: `full_code` stands for an input of `limit`; without a DAC full_code is 1.

    Attributes:
        pulses: of one input and phase, each of `digit_bits`.
        rounds, clips: whether codes are whole, and at most `full_code`.
        phases: 2 where negative inputs have pulses of their own; they are taken off digitally.
        timed: whether values are on-times, not voltages.
        accumulate: see `Dac.accumulate`.
    """

    limit: float
    signed: bool
    full_code: int
    pulses: int
    digit_bits: int
    rounds: bool
    clips: bool
    phases: int = field(default=1, repr=False)
    timed: bool = field(default=False, repr=False)
    accumulate: Law = field(default="digital", repr=False)

    @classmethod
    def of(cls, dac: Dac, limit: float | None, signed: bool) -> Drive:
        """The drive for a largest input `limit` (None: unscaled).

        Raises:
            ValueError: a signed input for a DAC of one bit, which has no level but zero.
        """
        phases, timed = dac.phases if signed or limit is None else 1, dac.coding == "time"
        if limit is None:
            return cls(1.0, True, 1, 1, 1, rounds=False, clips=False, phases=phases)
        if dac.bits is None:
            return cls(limit, signed, 1, 1, 1, rounds=False, clips=True, phases=phases, timed=timed)
        magnitude = dac.bits - 1 if signed else dac.bits
        if magnitude == 0:
            raise ValueError("dac.bits must be at least 2 for a layer with signed inputs, got 1")
        digit_bits = min(dac.bits_per_pulse or magnitude, magnitude)
        pulses = -(-magnitude // digit_bits)
        accumulate = dac.accumulate if pulses > 1 else "digital"
        full = 2**magnitude - 1
        return cls(limit, signed, full, pulses, digit_bits, True, True, phases, timed, accumulate)

    @property
    def joined(self) -> bool:
        """Whether the pulses of an input are converted together."""
        return self.accumulate != "digital"

    @property
    def largest_digit(self) -> int:
        """The largest code of one pulse."""
        return self.full_code if self.pulses == 1 else 2**self.digit_bits - 1

    @property
    def conversions(self) -> int:
        """Conversions of one read of a bit line: of all pulses and phases."""
        return self.phases * (1 if self.joined else self.pulses)

    @property
    def reads(self) -> int:
        """Times that the array is read for `t_read`, in all pulses and phases."""
        return self.phases * int(sum(self.repeats))

    @property
    def bipolar(self) -> bool:
        """Whether word lines are driven with both signs at once."""
        return self.signed and self.phases == 1

    @property
    def weights(self) -> list[float]:
        """(pulses,) what the largest digit of each counts, in units of `limit`."""
        return [self.largest_digit * self._scale(q) / self.full_code for q in range(self.pulses)]

    @property
    def shares(self) -> list[float]:
        """(pulses,) what the variance of each comes to in the conversion that it is part of: 1 without others.

        Charge that is scaled has its noise scaled; of repeated pulses each has noise of its own.
        """
        if not self.joined:
            return [1.0] * self.pulses
        return [w**2 / n for w, n in zip(self.weights, self.repeats, strict=True)]

    @property
    def floor(self) -> float:
        """What the variance that each pulse adds to a reading, whatever its voltages, comes to in a conversion."""
        return sum(self.shares) if self.joined else 1.0

    @property
    def chain(self) -> tuple[Any, ...]:
        """What tells it apart beside its codes; empty for amplitudes in one phase, each pulse converted."""
        own = self.phases, self.timed, self.accumulate
        return () if own == (1, False, "digital") else own

    @property
    def repeats(self) -> list[float]:
        """(pulses,) how often each is made."""
        return [self._scale(q) if self.accumulate == "repeated" else 1.0 for q in range(self.pulses)]

    def _scale(self, pulse: int) -> float:
        return 2.0 ** (self.digit_bits * pulse)


def input_codes(x: Array, drive: Drive) -> Array:
    """The input codes of `x` (any shape), float: integers with a DAC, x / limit without."""
    scaled = x / drive.limit * drive.full_code
    if drive.rounds:
        scaled = np.rint(scaled)
    return np.clip(scaled, -drive.full_code if drive.signed else 0, drive.full_code) if drive.clips else scaled


def digits(codes: Array, drive: Drive) -> Array:
    """Pulses (pulses, ...) of input codes, least significant first, signed, in units of v_read or of t_read."""
    if not drive.rounds:
        return codes[None] / drive.full_code
    if drive.pulses == 1:
        return codes[None].astype(np.float64) / drive.full_code
    magnitude = np.abs(codes).astype(np.int64)
    base = 2**drive.digit_bits
    pulses = [(magnitude // base**q) % base for q in range(drive.pulses)]
    return np.sign(codes) * np.stack(pulses) / (base - 1)


def pulses_of(codes: Array, drive: Drive) -> Array:
    """What each pulse drives (phases, pulses, ...), in units of v_read or of t_read, for input codes."""
    own = digits(codes, drive)
    return np.stack([np.maximum(own, 0), np.maximum(-own, 0)]) if drive.phases == 2 else own[None]
