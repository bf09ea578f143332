"""What to expect of slices that make up for what others leave: over trials of the cells of one weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .design import Design
from .encoding import left_over, slice_weights, stands_for
from .hardware import Hardware

Array = np.ndarray[Any, Any]
TRIALS = 4096  # of the cells of a weight
PURPOSES = ("program", "device", "drift", "stuck")  # of random numbers
GRID = 65  # weights that expectations are interpolated between


@dataclass(frozen=True)
class LeftOver:
    """Expectations of the cells of a weight u, -1 to 1, tabulated at `u` (weights,).

    The cells of a weight are not independent: the errors of some are made up for by others. Their variance is that of
    what they stand for together, and counted as that of the last slice; the others have none.

    Attributes:
        tables: mean in siemens, variance, and variances of each part of the read noise, each (slices, polarities,
            weights), of one device.
    """

    u: Array
    tables: list[Array]

    def put(self, u: Array, tables: tuple[Array, ...]) -> None:
        """Fill tables (slices, polarities, rows, columns) for weights (rows, outputs); reference columns stay."""
        for table, values in zip(tables, self.tables, strict=True):
            for place in np.ndindex(table.shape[:2]):
                table[place][:, : u.shape[1]] = np.interp(u, self.u, values[place])

    @classmethod
    def of(cls, design: Design, hardware: Hardware) -> LeftOver | None:
        """Of cells as old as the hardware says, programmed in trials; None where no slice makes up for others."""
        tile, cell, now, devices = design.placement.tile, hardware.cell, hardware.conditions, design.devices
        if tile.slicing != "residual":
            return None
        fresh, u, shape = hardware.when_programmed.conditions, np.linspace(-1, 1, GRID), (TRIALS, GRID)

        def settled(place: tuple[int, int, int], targets: Array, when: Any) -> Array:
            def draw(purpose: str, which: int) -> Array:
                number = PURPOSES.index(purpose)
                rng = np.random.default_rng([*place, number, which])  # the same for all weights
                return np.broadcast_to(rng.standard_normal((TRIALS, 1)), shape)

            return cell.settle(targets, draw, when, np)

        def written(s: int, targets: Array) -> Array:
            pair = [
                np.mean([settled((s, p, d), g, fresh) for d in range(devices)], axis=0) for p, g in enumerate(targets)
            ]
            return np.stack(pair)

        targets = left_over(np.broadcast_to(u, shape), tile, cell, written)
        slices, polarities = targets.shape[:2]
        tables = [np.zeros((slices, polarities, GRID)) for _ in range(2 + len(cell.read_noise.parts))]
        whole = np.zeros(shape)
        for s, weight in enumerate(slice_weights(tile, cell.levels)):
            mean = np.zeros((polarities, *shape))
            for p, d in np.ndindex(polarities, devices):
                g = settled((s, p, d), targets[s, p], now)
                mean[p] += g / devices
                for table, part in zip(tables[2:], cell.read_noise.parts, strict=True):
                    table[s, p] += np.square(part.std(g, now, np)).mean(axis=0) / devices
            tables[0][s] = mean.mean(axis=1)
            whole += weight * stands_for(mean, tile, cell)
        span = (cell.g_max - cell.g_min) / (1 if tile.paired else 2)
        tables[1][-1, 0] = devices * whole.var(axis=0) * span**2
        return cls(u, tables)
