"""What inputs of a layer drive word lines with on a CPU, there and back.

Where inputs become codes of one pulse each, as with most DACs, both ways are one pass over the data. Others are
functions of torch with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from ...crossbar.design import Design
from ...crossbar.drive import Drive
from ..torch_backend.drive import Pulse
from ..torch_backend.rows import gather, with_constant
from ..torch_backend.straight import through
from .numbers import driven, driven_back

Tensor = torch.Tensor
Pulses = list[tuple[float, list[Pulse]]]  # of each conversion, and what this counts


def codes_of(values: Tensor, design: Design, limit: Tensor, *, lsq: bool) -> Tensor:
    """Codes that word lines are driven with for inputs, with gradients straight through rounding.

    None where a code is clipped or, as LSQ has it, where the value is before it is rounded.
    """
    drive = design.drive
    low, high = -drive.full_code if drive.signed else 0, drive.full_code
    scaled = values * (drive.full_code / limit)
    if not scaled.requires_grad:
        code = scaled.round_() if drive.rounds else scaled
        codes = code.clamp_(low, high) if drive.clips else code
        return design.bent(codes, torch) if design.curved and not drive.rounds else codes  # type: ignore[return-value, arg-type]
    with torch.no_grad():
        code = scaled.round() if drive.rounds else scaled
        inside = code.clamp(low, high) if drive.clips else code
        kept = (scaled >= low) & (scaled <= high) if lsq else code == inside
    codes = through(scaled, inside, kept)
    return design.bent(codes, torch) if design.curved and not drive.rounds else codes  # type: ignore[return-value, arg-type]


def rows_of(codes: Tensor, design: Design, constant: float) -> Iterator[Tensor]:
    """Codes (rows, word lines) of each group, of those of arranged inputs."""
    placement = design.placement
    for g in range(placement.groups):
        geometry = design.matrix.patches.geometry(tuple(codes.shape), g, placement.groups)
        given = gather(codes, geometry, 0, len(codes) * int(np.prod(geometry.out)))
        yield with_constant(given, placement.rows, constant)


class Driven(NamedTuple):
    """Pulses of inputs (samples, ...), as (samples, depth, height, width, channels).

    Attributes:
        arrange: inputs to these dimensions, as a function of torch.
        pulses: what those drive, as a function of torch.
        once: (codes of an input of 1, (lowest, highest code)), float32, where one pass does; else None.
    """

    arrange: Callable[[Tensor], Tensor]
    pulses: Callable[[Tensor], Pulses]
    once: tuple[np.float32, tuple[np.float32, np.float32]] | None

    @classmethod
    def of(cls, drive: Drive, limit: Tensor, plain: bool, arrange: Any, pulses: Any) -> Driven:
        """Of a DAC; plain: whether a code drives what it is, in one pulse."""
        if not (plain and drive.rounds and drive.clips):
            return cls(arrange, pulses, None)
        high = np.float32(drive.full_code)
        return cls(arrange, pulses, (np.float32(drive.full_code / limit), (-high if drive.signed else 0 * high, high)))

    def there(self, x: Tensor) -> Pulses:
        """Of inputs, without a graph."""
        given = self.arrange(x.float())
        return self.pulses(given) if self.once is None else self._whole(given)

    def back(self, x: Tensor) -> tuple[Pulses, Callable[[list[Tensor]], Tensor]]:
        """The same, and a function: the slopes of the inputs from those of the pulses, which it may change."""
        once = self.once
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            given = self.arrange(leaf.float())
            if once is None:
                pulses = self.pulses(given)
                volts = [pulse.volts for _, parts in pulses for pulse in parts]
                return pulses, lambda to: torch.autograd.grad(volts, leaf, to)[0]
        values = given.detach()

        def through(to: list[Tensor]) -> Tensor:
            driven_back(values, *once, to[0])
            same = values.data_ptr() == x.data_ptr() and values.numel() == x.numel()
            if same and values.is_contiguous() and x.is_contiguous():
                return to[0].view(x.shape)
            return torch.autograd.grad(given, leaf, to[0])[0]

        return self._whole(values), through

    def _whole(self, given: Tensor) -> Pulses:
        assert self.once is not None
        return [(1.0, [Pulse(driven(given, *self.once), 1.0, 1.0)])]
