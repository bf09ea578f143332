"""Program and verify as a process: pulses and reads, cell by cell, until a read is close enough to the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from .arrays import Array, Namespace
from .data import Fitted
from .drift import arrhenius
from .parts import Conditions
from .programming import ProgrammingCost, ProgrammingModel
from .settling import Numbers
from .units import ElectronVolt, Joule, Kelvin, Number, Second, Siemens, Whole

SIMULATED = 1024  # cells of one target that say what to expect
GROUPS = 128  # of as many of them, by conductance, whose means `outcomes` are


class Outcome(NamedTuple):
    """Where cells (any shape) end up: siemens; pulses that they took; and whether their last read was close enough."""

    g: Array
    pulses: Array
    verified: Array


class VerifiedProgramming(ProgrammingModel, Fitted):
    """Each cell is read and given one more pulse, up or down, until a read is within `tolerance` of its target.

    A pulse is made for gain times the error that the read shows, at least `step` and at most `step_max`. It changes
    the conductance by that, times a factor of the device (lognormal of mean 1 and spread `device_spread`, which lasts),
    times 1 + step_spread n, never the other way and never below 0. A read errs by read_std n; each n is a new standard
    normal number. gain 0: all pulses are alike. After `pulses` of them a cell stays as it is. Alibart et al. 2012
    (Nanotechnology 23:075201); steps in proportion to the error: Papandreou et al. 2011 (ISCAS, 329). A noisy read says
    whether a cell is close enough, so that errors reach beyond the tolerance.

    What to expect is found by `SIMULATED` cells of each target, with random numbers that are always the same.

    Attributes:
        start, start_std: siemens, where cells begin: mean and standard deviation.
        activation, t_data: a pulse at temperature T changes exp(activation / k (1 / t_data - 1 / T)) times as much as
            one at t_data; both null: the same at all temperatures. T is the temperature of programming.
        pulse_energy, pulse_time, verify_energy, verify_time: of a pulse, and of a read.
        at_once: cells of a tile that are programmed at the same time, for the time that a tile takes.
    """

    kind: Literal["verify"] = "verify"
    tolerance: Annotated[Siemens, Field(gt=0)]
    step: Annotated[Siemens, Field(gt=0)]
    gain: Annotated[Number, Field(ge=0, le=2)] = 0.0
    step_max: Annotated[Siemens, Field(gt=0)] | None = None
    step_spread: Annotated[Number, Field(ge=0, le=10)] = 0.0
    device_spread: Annotated[Number, Field(ge=0, le=1)] = 0.0
    read_std: Annotated[Siemens, Field(ge=0)] = 0.0
    pulses: Annotated[Whole, Field(ge=1, le=1000)] = 30
    start: Annotated[Siemens, Field(ge=0)] = 0.0
    start_std: Annotated[Siemens, Field(ge=0)] = 0.0
    activation: Annotated[ElectronVolt, Field(ge=0)] | None = None
    t_data: Annotated[Kelvin, Field(gt=0)] | None = None
    pulse_energy: Annotated[Joule, Field(ge=0)] = 0.0
    pulse_time: Annotated[Second, Field(ge=0)] = 0.0
    verify_energy: Annotated[Joule, Field(ge=0)] = 0.0
    verify_time: Annotated[Second, Field(ge=0)] = 0.0
    at_once: Annotated[Whole, Field(ge=1, le=2**32)] = 1
    lasting: ClassVar[int] = 1

    @model_validator(mode="after")
    def _steps(self) -> VerifiedProgramming:
        if self.step_max is not None and self.step_max < self.step:
            raise ValueError(f"step_max must be at least step = {self.step:g} S, or null, got {self.step_max:g} S")
        if (self.activation is None) != (self.t_data is None):
            raise ValueError(
                f"activation and t_data must both be set or both be null, got {self.activation} and {self.t_data}"
            )
        return self

    @property
    def draws(self) -> int:  # type: ignore[override]
        """One of the device, of the start, of the first read, and two for each pulse: its change, the read after it."""
        return 3 + 2 * self.pulses

    def apply(self, g: Array, normals: Sequence[Array], conditions: Conditions, xp: Namespace) -> Array:
        """Where cells end up, in siemens. The gradient to the target is 1, as if the error did not depend on it."""
        if xp is np:
            return self.program(g, normals, conditions).g
        plain = Numbers(lambda i: _numpy(normals[i]), len(normals))
        return _through(g, self.program(_numpy(g), plain, conditions).g, xp)

    def program(self, g: Array, normals: Sequence[Array], conditions: Conditions) -> Outcome:
        """What becomes of cells of targets `g` (siemens, NumPy), in their shape, with pulses counted.

        `normals` are asked for one after another, only as long as a cell takes pulses.
        """
        target = g.reshape(-1)
        number = lambda i: normals[i].reshape(-1)  # noqa: E731
        now = np.full_like(target, self.start)
        if self.start_std:
            now = np.maximum(now + self.start_std * number(1), 0).astype(g.dtype, copy=False)
        scale = np.full_like(target, self.pace(conditions.programmed_at))
        if self.device_spread:
            scale *= np.exp(self.device_spread * number(0) - self.device_spread**2 / 2)
        taken = np.zeros(target.shape, np.int32)
        left = np.arange(target.size)
        for k in range(self.pulses + 1):
            error = target[left] - now[left]
            if self.read_std:
                error -= self.read_std * number(2 + 2 * k)[left]
            off = np.abs(error) > self.tolerance
            left, error = left[off], error[off]
            if not left.size or k == self.pulses:
                break
            change = np.clip(self.gain * np.abs(error), self.step, self.step_max) * scale[left]
            if self.step_spread:
                change *= np.maximum(1 + self.step_spread * number(3 + 2 * k)[left], 0)
            now[left] = np.maximum(now[left] + np.copysign(change, error), 0)
            taken[left] += 1
        verified = np.ones(target.shape, bool)
        verified[left] = False
        return Outcome(*(part.reshape(g.shape) for part in (now, taken, verified)))

    def pace(self, temperature: float) -> float:
        """What a pulse changes at a temperature in kelvins, in units of what it does at `t_data`."""
        if self.activation is None or self.t_data is None:
            return 1.0
        return min(arrhenius(self.activation, self.t_data, temperature), 1e30)  # beyond, what 32 bits do not hold

    def outcomes(self, g: Array, conditions: Conditions, xp: Namespace) -> Iterator[tuple[Array, float]]:
        """As `Settling.outcomes`: simulated cells of each target in order of conductance, means of `GROUPS` of them."""
        targets = _numpy(g)
        cells = _simulated(self, conditions, targets.dtype.str, targets.tobytes()).g
        means = np.sort(cells, axis=0).reshape(GROUPS, -1, cells.shape[1]).mean(axis=1).reshape(GROUPS, *targets.shape)
        for mean in means:
            final = mean.astype(targets.dtype)
            yield final if xp is np else _through(g, final, xp), 1 / GROUPS

    def programming_cost(self, g: Array, conditions: Conditions) -> ProgrammingCost:
        """Mean pulses, energy and time of a cell of each target `g` (siemens, NumPy); one read more than pulses."""
        found = _simulated(self, conditions, g.dtype.str, g.tobytes())
        pulses, failed = found.pulses.mean(axis=0).reshape(g.shape), 1 - found.verified.mean(axis=0).reshape(g.shape)
        energy = pulses * self.pulse_energy + (pulses + 1) * self.verify_energy
        time = pulses * self.pulse_time + (pulses + 1) * self.verify_time
        return ProgrammingCost(pulses, failed, energy, time, self.at_once)


def _through(g: Any, final: Array, xp: Namespace) -> Array:
    """The tensor of `final`, with a gradient of 1 to the tensor g."""
    found: Array = g + (xp.from_numpy(final) - g.detach())
    return found


def _numpy(x: Any) -> Array:
    """A tensor, or an array, as an array."""
    found: Array = x.detach().numpy() if hasattr(x, "detach") else x
    return found


@lru_cache(maxsize=4)
def _simulated(model: VerifiedProgramming, conditions: Conditions, dtype: str, targets: bytes) -> Outcome:
    """`SIMULATED` cells of each target: arrays (SIMULATED, targets)."""
    g = np.frombuffer(targets, dtype)
    cells = np.broadcast_to(g, (SIMULATED, g.size))

    def made(i: int) -> Array:
        return np.random.Generator(np.random.Philox(key=i)).standard_normal(cells.shape, dtype=np.float32)

    return model.program(np.ascontiguousarray(cells), Numbers(made, model.draws), conditions)
