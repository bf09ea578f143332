"""What word lines are driven with: input codes as pulses, in units of the largest digit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from ...crossbar.kernels.read import Circuit
from .cells import Converters
from .straight import positive, through

Tensor = torch.Tensor


class Pulse(NamedTuple):
    """One pulse of some rows.

    Attributes:
        volts: (rows, word lines): what bit lines add up.
        weight: of the pulse, or of a conversion of several.
        share: of its variance in the conversion.
    """

    volts: Tensor
    weight: float
    share: float


def plainly(codes: Tensor, circuit: Circuit) -> tuple[Tensor, Circuit]:
    """Codes (of any shape) in units of the largest, and a circuit that takes them so, where codes are what is driven.

    Before patches are unfolded that is less work than behind.
    """
    if circuit.pulses > 1 or circuit.levels.size or circuit.full_code == 1:
        return codes, circuit
    return codes / circuit.full_code, circuit._replace(full_code=1.0, constant=circuit.constant / circuit.full_code)


def conversions(codes: Tensor, circuit: Circuit, converters: Converters) -> Iterator[tuple[float, list[Pulse]]]:
    """What each conversion counts, and its pulses, of input codes (rows, word lines)."""
    for phase in range(circuit.phases):
        sign = -1.0 if phase else 1.0
        pulses = (_pulse(codes, circuit, converters, phase, q) for q in range(circuit.pulses))
        if circuit.joined:
            yield sign, list(pulses)
        else:
            for pulse in pulses:
                yield sign * pulse.weight, [pulse]


def _pulse(codes: Tensor, circuit: Circuit, converters: Converters, phase: int, q: int) -> Pulse:
    base, digits, largest = 2**circuit.digit_bits, codes, float(circuit.full_code)
    if circuit.pulses > 1:
        digits, largest = _digit(codes, circuit, q), float(base - 1)
    if circuit.phases == 2:
        digits = positive(-digits if phase else digits)
    if converters.levels is not None:
        digits = _driven(digits, *converters.levels)
    times = float(base**q)
    weight = largest * times / circuit.full_code
    share = weight**2 / (times if circuit.joined == 2 else 1.0) if circuit.joined else 1.0
    return Pulse(digits if largest == 1.0 else digits / largest, weight, share)


def _digit(codes: Tensor, circuit: Circuit, q: int) -> Tensor:
    """The signed digit q of codes, exact in float32. All have one slope, so that they add up to that of the code."""
    base = 2.0**circuit.digit_bits
    with torch.no_grad():
        size = codes.detach().abs()
        above = torch.floor(size * base ** -(q + 1))
        digit = torch.floor(size * base**-q).sub_(above, alpha=base).copysign_(codes)
    return through(codes, digit, (base - 1) / (base**circuit.pulses - 1))


def _driven(digits: Tensor, levels: Tensor, slopes: Tensor) -> Tensor:
    """What digits drive, by a table of their magnitudes."""
    with torch.no_grad():
        place = digits.abs().long()
        driven = levels[place].copysign_(digits)
        slope = slopes[place] if digits.requires_grad else 1.0
    return through(digits, driven, slope)
