"""Expected errors added up: of the pulses of each conversion, and of what converts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .adc_errors import AdcErrors, OfRowTile, undithered_share
from .each_adc import adc_of_reading
from .expected_reading import Pulse, Reading, SensingErrors
from .placement import Placement
from .programmed import Programmed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Adcs:
    """The ADCs of a group: their `step` and lowest code (slices, row tiles), and what to expect where they differ.

    `which` is that of each reading, see `adc_of_reading`.
    """

    step: Array
    lowest: Array
    which: Array
    errors: AdcErrors | None

    @classmethod
    def of(cls, programmed: Programmed, group: int) -> Adcs:
        design, adc, ranges = programmed.design, programmed.hardware.adc, programmed.ranges
        slices = design.placement.tile.converted
        step, lowest = np.zeros((2, slices, design.placement.row_tiles))
        if adc.bits is None:
            return cls(step, lowest, np.empty(0), None)
        codes = adc.codes(design.signed_codes)
        step += codes.relative_step * ranges.full_scale.reshape(slices, -1)
        lowest += codes.low + codes.centre
        if ranges.middle.size:
            lowest += ranges.middle.reshape(slices, -1) / step
        if not adc.differ:
            return cls(step, lowest, np.empty(0), None)
        return cls(step, lowest, adc_of_reading(design, group), AdcErrors.of(adc))

    def of_row_tile(self, t: int, placement: Placement, rows: int) -> OfRowTile | None:
        """What adds up the errors of the ADCs of a row tile; None where they are alike."""
        if self.errors is None:
            return None
        return OfRowTile(self.errors, self.which[:, t], placement.references, placement.outputs, rows)


@dataclass
class Sums:
    """Expected outputs and variances of a group (rows, outputs), added up reading by reading; see `Errors`.

    `supplied` (conversions, rows, outputs) is what goes with the read voltage.
    """

    mean: Array
    spread: Array
    slow: Array
    undithered: Array
    differ: Array
    supplied: Array
    fresh: dict[str, Array]

    @classmethod
    def of(cls, like: Array, conversions: int, names: Iterable[str]) -> Sums:
        """Zeros."""
        mean, spread, slow, undithered, differ = (np.zeros_like(like) for _ in range(5))
        fresh = {name: np.zeros_like(like) for name in names}
        return cls(mean, spread, slow, undithered, differ, np.zeros((conversions, *like.shape)), fresh)

    def add_pulses(
        self, number: int, pulses: list[Pulse], part: Reading, alone: Array, sensing: SensingErrors
    ) -> Array:
        """The pulses of a conversion: their noise in its reading, `alone` that of the cells' conductances."""
        noise, alone_here = np.zeros_like(part.signed[:1]), len(pulses) == 1
        for pulse in pulses:
            found = [("cells", part.makes(alone, pulse.volts)), *sensing.noise(part, pulse.volts, gain=alone_here)]
            for name, variance in found:
                self.fresh[name] += pulse.share * part.variance(variance)
            noise = noise + pulse.in_reading * np.sum([variance for _, variance in found], axis=0)
            self.supplied[number] += pulse.weight * part.columns(pulse.volts @ part.signed)
        if not alone_here:
            together = np.sum([pulse.weight * (pulse.volts @ part.signed) for pulse in pulses], axis=0)
            for name, variance in sensing.gains(together):
                self.fresh[name] += part.variance(variance)
                noise = noise + variance
        return noise

    def add_adc(
        self,
        pulses: list[Pulse],
        part: Reading,
        noise: Array,
        adcs: Adcs,
        place: tuple[int, int],
        shared: tuple[int, OfRowTile | None],
    ) -> None:
        """The conversion of these pulses, at place = (slice, row tile).

        `shared` are the number of the reading, and what adds up the errors of ADCs that convert several.
        """
        if not adcs.step[place]:
            return
        lsb, w2 = adcs.step[place] * part.one, pulses[0].share / pulses[0].in_reading
        kept = undithered_share(np.sqrt(noise) / lsb)
        self.fresh["ADC"] += w2 * part.variance((1 - kept) * lsb**2 / 12)
        self.undithered += w2 * part.variance(kept * lsb**2 / 12)
        number, whole = shared
        if adcs.errors is not None and whole is not None:
            w = np.sign(pulses[0].weight) * np.sqrt(w2)
            current = sum(p.weight * (p.volts @ part.signed) for p in pulses) / w
            level = current / lsb - adcs.lowest[place]
            self.mean += w * part.columns(adcs.errors.near(adcs.errors.shift, level) * lsb)
            self.differ += w2 * part.variance(adcs.errors.near(adcs.errors.rest, level) * lsb**2)
            whole.add(number, current / lsb, level, w * part.each(lsb))
