"""What inputs of a layer drive word lines with on a CPU, there and back.

Where inputs become codes of one pulse each, as with most DACs, both ways are one pass over the data. Others are
functions of torch with gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ...crossbar.drive import Drive
from ..torch_backend.drive import Pulse
from .numbers import driven, driven_back

Tensor = torch.Tensor
Pulses = list[tuple[float, list[Pulse]]]  # of each conversion, and what this counts


class Driven(NamedTuple):
    """Pulses of inputs (samples, ...), as (samples, depth, height, width, channels).

    Attributes:
        arrange: inputs to these dimensions, as a function of torch.
        pulses: what those drive, as a function of torch.
        scale: () codes of an input of 1, where `codes` can do with one pass; else None.
        codes: (lowest, highest).
    """

    arrange: Callable[[Tensor], Tensor]
    pulses: Callable[[Tensor], Pulses]
    scale: Tensor | None
    codes: tuple[int, int]

    @classmethod
    def of(cls, drive: Drive, limit: Tensor, plain: bool, arrange: Any, pulses: Any) -> Driven:
        """Of a DAC; plain: whether a code drives what it is, in one pulse."""
        once = plain and drive.rounds and drive.clips
        low = -drive.full_code if drive.signed else 0
        return cls(arrange, pulses, drive.full_code / limit if once else None, (low, drive.full_code))

    def there(self, x: Tensor) -> Pulses:
        """Of inputs, without a graph."""
        given = self.arrange(x.float())
        return self.pulses(given) if self.scale is None else self._whole(given)

    def back(self, x: Tensor) -> tuple[Pulses, Callable[[list[Tensor]], Tensor]]:
        """The same, and a function: the slopes of the inputs from those of the pulses."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            given = self.arrange(leaf.float())
            if self.scale is None:
                pulses = self.pulses(given)
                volts = [pulse.volts for _, parts in pulses for pulse in parts]
                return pulses, lambda to: torch.autograd.grad(volts, leaf, to)[0]
        scale, values = self.scale, given.detach()

        def through(to: list[Tensor]) -> Tensor:
            driven_back(values, scale, self.codes, to[0])
            (found,) = torch.autograd.grad(given, leaf, to[0])
            return found

        return self._whole(values), through

    def _whole(self, given: Tensor) -> Pulses:
        assert self.scale is not None
        return [(1.0, [Pulse(driven(given, self.scale, self.codes), 1.0, 1.0)])]
