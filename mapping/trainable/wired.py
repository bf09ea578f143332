"""Cells of a layer that is trained behind wires with resistance: what of them reaches the outputs.

Wires are solved for the conductances of each step, as for a chip. Gradients take what a cell loses on its way as fixed:
a change of a cell is as much smaller at the output as its conductance is, and moves no other cell's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ...crossbar.design import Design
from ...crossbar.kernels.read import Circuit
from ...crossbar.wiring import Moments, reach_row_tile
from ..torch_backend.cells import Converters
from ..torch_backend.drive import conversions

Tensor = torch.Tensor
Reached = tuple[Tensor, Tensor, Tensor, Tensor]


def reached(g: Tensor, targets: Tensor, design: Design, group: int) -> Reached:
    """Of cells (slices, polarities, tiles, lines, columns) of a group in siemens, with their `targets`.

    Returns:
        In that shape what share of a conductance arrives, what its variance becomes as one that its input acts on, and
        as one of the current in units of v_read^2; and siemens (slices, polarities, tiles, columns) of thermal noise.
    """
    cells, aims = (values.detach().cpu().numpy() for values in (g, targets))
    share, noise, rest = np.ones(cells.shape), np.zeros(cells.shape), np.zeros(cells.shape)
    thermal = np.zeros((*cells.shape[:3], cells.shape[4]))
    moments, encoding = design.moments_of(group), design.encodings[group]
    for t, (a, b) in enumerate(pairwise(design.placement.edges)):
        place = (slice(None), slice(None), t, slice(0, b - a))
        mine, part = cells[place], Moments(moments.mean[a:b], moments.square[a:b])
        found = reach_row_tile(mine, aims[place], encoding, design.hardware.wires, part)
        share[place] = np.divide(found.conductance, mine, out=np.ones(mine.shape), where=mine > 0)
        noise[place], rest[place], thermal[:, :, t] = found.noise, found.rest, found.thermal_each
    own = [torch.from_numpy(values.astype(np.float32)).to(g.device) for values in (share, noise, rest, thermal)]
    return own[0], own[1], own[2], own[3]


def behind_wires(added: list[Any], cells: Tensor, found: Reached) -> tuple[list[Any], Tensor]:
    """What `cells._added_up` gave, as it arrives, with `cells`, siemens of all devices together, in place of currents.

    Returns:
        That, and variances of currents that no input changes (slices, polarities, tiles, columns), in units of
        (v_read g_max)^2.
    """
    share, noise, rest, thermal = found
    _, own, linear, _, slow = added
    floor = sum((part * rest).sum(3) for part in (own, linear, slow) if not isinstance(part, float))
    own, linear, slow = (part if isinstance(part, float) else part * noise for part in (own, linear, slow))
    assert isinstance(floor, Tensor)
    return [cells * share, own, linear, thermal, slow], floor


class Seen:
    """Moments of the voltages of the word lines of groups over what is driven in a calibration."""

    def __init__(self) -> None:
        self.sums: Any = 0.0
        self.count = 0

    def add(self, rows: list[Tensor], circuit: Circuit) -> Any:
        """Add input codes (rows, word lines) of each group: (2, groups, rows) moments so far."""
        alone = circuit._replace(phases=1, joined=0)
        found = []
        for codes in rows:
            volts = torch.stack(
                [pulse.volts for _, (pulse,) in conversions(codes, alone, Converters(None, None, None))]
            )
            found.append(torch.stack([volts.mean((0, 1)), volts.square().mean((0, 1))]))
        self.sums = self.sums + len(rows[0]) * torch.stack(found, dim=1).double().cpu().numpy()
        self.count += len(rows[0])
        return self.sums / self.count


Solve = Callable[[Callable[[], Reached]], Reached]
