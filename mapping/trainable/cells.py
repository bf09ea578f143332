"""Weights programmed into fresh cells, as a differentiable function: encoding, errors, drift, and sums of cells.

The arithmetic is that of `mho.crossbar.encoding`, `row_tile` and `packed`, on tensors and on all row tiles at once.
Normals come from a generator of torch, so that cells have the statistics of those of a chip, and no bits in common.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch

from ...crossbar.design import Design
from ...crossbar.encoding import mirror_ratios, slice_weights
from ...crossbar.matrix import Matrix
from ...crossbar.packed import slow_shares
from ...crossbar.tile import Tile
from ...devices.arrays import sqrt
from ...devices.cell import Cell
from ..torch_backend.cells import Cells
from ..torch_backend.straight import positive, through
from .faults import faults_of
from .wired import Solve, behind_wires, reached

Tensor = torch.Tensor


def check(design: Design) -> None:
    """Raises ValueError for what is not differentiated: it says what the setting would have to be."""
    if design.placement.tile.encoding == "single":
        raise ValueError(
            f"layer {design.matrix.name!r}: tile.encoding must not be 'single', which takes no negative weights for "
            "mho.trainable"
        )


def as_expression(design: Design) -> bool:
    """Whether cells depend on others, so that they are made as an expression on CPUs too: see `programming.py`."""
    return design.floats or design.placement.tile.slicing == "residual" or not design.hardware.wires.ideal


def programmed(
    design: Design,
    weights: Tensor,
    bias: Tensor,
    limit: Tensor,
    draw: Any,
    *,
    through_variance: bool,
    strength: float = 1.0,
    known: Tensor | None = None,
    group: int = 0,
    solve: Solve | None = None,
) -> Cells:
    """Fresh cells of a group for weights (word lines, outputs), that of a bias on the array included.

    Args:
        bias: (outputs,) added digitally.
        limit: largest input, (): see `Drive.limit`.
        draw: gives standard normals, of the shape and on the device of a tensor.
        through_variance: whether the variance of the read noise has gradients.
        strength: of errors and noise, 0 to 1.
        known: cells that a map has as stuck: see `faults.faults_of`.
        group: which one, for the moments that wires are solved for.
        solve: gives what it is told to make, or what this was before in the step; None to make it.
    """
    placement, hardware = design.placement, design.hardware
    unit = hardware.cell.g_max
    rows, there = _tiled(weights, placement.edges)

    def only(cells: Tensor) -> Tensor:  # without what stands behind the last line of a tile
        return cells if there is None else there * cells

    maxima = maxima_of(rows, design)
    targets, devices = _settled(rows / maxima[:, None], design, draw, strength, known)
    devices, rest = [only(g) for g in devices], None
    added = _added_up(devices, design, only, through_variance)
    if not hardware.wires.ideal:
        make = partial(reached, sum(devices), targets, design, group)
        added, rest = behind_wires(added, sum(devices), make() if solve is None else solve(make))
        added[0] = (added[0] if design.apart else difference(added[0])) / unit
    mirrors = mirrors_of(design, lambda shape: draw(rows.new_empty(shape)), strength)
    signed, spread, linear, thermal, slow = (
        None if isinstance(x, float) else readings_of(x, design, power, mirrors)
        for x, power in zip(added, (1, 2, 2, 2, 2), strict=True)
    )
    assert signed is not None
    if slow is not None:
        signed = signed + strength * sqrt(slow, torch) * draw(slow)  # type: ignore[arg-type]
    assert spread is not None
    assert thermal is not None
    spread, linear = spread * strength**2, None if linear is None else linear * strength**2
    floor = floor_of(thermal if through_variance else thermal.detach(), design)
    if rest is not None:
        floor = floor + design.drive.floor * readings_of(rest, design, 2, mirrors)
    floor = floor * strength**2
    scale = scale_of(maxima, limit, design)
    total = None
    if design.floats:
        assert linear is not None
        signed, spread, linear, floor, total = _floating(signed, spread, linear, thermal, floor, design, strength)
        should = readings_of(design.devices * only(targets).sum(3), design, 2)
        scale = scale * should[..., : scale.shape[-1]] / unit
    reference = placement.references
    return Cells(
        flat(signed),
        flat(spread),
        None if linear is None else flat(linear),
        None,
        by_tile(floor),
        None if total is None else by_tile(total),
        by_tile(scale),
        bias,
        torch.tensor(reference, device=rows.device) if reference.size else None,
        lines_of(placement.edges, rows.device),
        placement.rows,
    )


def _settled(u: Tensor, design: Design, draw: Any, strength: float, known: Any) -> tuple[Tensor, list[Any]]:
    """Targets and, of each device, conductances (slices, polarities, tiles, lines, columns) for relative weights u."""
    cell, conditions = design.hardware.cell, design.hardware.conditions
    targets: Any = targets_of(u, design)
    faults = faults_of(design, known, lambda which, shape: draw(u.new_empty(shape)))
    numbers = [cache(lambda purpose, i: draw(targets)) for _ in range(design.devices)]  # the same where it asks twice
    if design.placement.tile.slicing == "residual":
        targets = left_over(u, targets, design, numbers, strength)
    found = []
    for drawn in numbers:
        g: Any = cell.settle(targets, drawn, conditions, torch)
        g = g if faults is None else faults.of(g, cell)
        found.append(g if strength == 1 else torch.lerp(targets, g, strength))
    return targets, found


def _added_up(devices: list[Any], design: Design, only: Any, through_variance: bool) -> list[Any]:
    """Of the devices of cells: currents, variances by both powers of inputs, thermal noise, and noise that lasts."""
    sensing, unit = design.hardware.sensing, design.hardware.cell.g_max
    added: list[Any] = [0.0] * 5
    c2 = 0.0 if design.drive.timed else sensing.white_cell_coefficients()[1]
    on_time = sensing.timed_cell_coefficients()[1] / (sensing.v_read * unit) ** 2
    for g in devices:
        added[0] = added[0] + (g if design.apart else difference(g)) / unit
        added[3] = added[3] + (g if through_variance or design.floats else g.detach()).sum(3)
        with torch.set_grad_enabled(torch.is_grad_enabled() and through_variance):
            fresh, lasting = read_noise(g, design)
            own = only(torch.add(fresh, g, alpha=c2 / unit**2))
            added[1] = added[1] + own
            if lasting is not None:
                added[4] = added[4] + only(lasting)
            if design.linear:
                more = on_time * g if design.drive.timed else own
                added[2] = added[2] + (more if design.drive.timed or design.apart else difference(more))
    return added


def read_noise(g: Any, design: Design) -> tuple[Any, Any]:
    """Variances of cells of conductances g (siemens), in units of g_max^2: new in each read, and what reads share.

    A step has one read, so that what lasts over several is a part of its cells. None where reads share nothing.
    """
    hardware, unit = design.hardware, design.hardware.cell.g_max
    noise: Any = hardware.cell.read_noise
    shares = () if hardware.sensing.read_interval is None else slow_shares(hardware)
    if not len(shares):
        std = noise.std(g, hardware.conditions, torch)
        return (std / unit).square(), None
    parts: list[Any] = [part.std(g, hardware.conditions, torch) for part in noise.parts]
    variances = [(std / unit).square() for std in parts]
    fresh = sum(float(share[0]) * own for share, own in zip(shares, variances, strict=True))
    return fresh, sum(float(1 - share[0]) * own for share, own in zip(shares, variances, strict=True))


def placed(weights: Tensor, matrix: Matrix) -> Tensor:
    """Weights (groups, rows, outputs) as they are on tiles: see `Matrix.rows_of`, of all groups of the placement."""
    many, (groups, rows, outputs), taps = matrix.sharing, weights.shape, prod(matrix.patches.kernel)
    if many == 1:
        return weights
    found = weights.new_zeros(groups // many, taps, many, rows // taps, many, outputs)
    for i, own in enumerate(weights.reshape(groups // many, many, taps, -1, outputs).unbind(1)):
        found[:, :, i, :, i] = own
    return found.reshape(groups // many, many * rows, many * outputs)


def difference(cells: Tensor) -> Tensor:
    """(slices, 1, ...) of cells (slices, polarities, ...): the second of a pair taken off."""
    return cells[:, :1] - cells[:, 1:] if cells.shape[1] == 2 else cells


def _tiled(weights: Tensor, edges: list[int]) -> tuple[Tensor, Tensor | None]:
    """Rows (tiles, lines, outputs) of the row tiles, zero behind the last of each, and which are there; None: all."""
    most = max(b - a for a, b in pairwise(edges))
    parts = [torch.nn.functional.pad(weights[a:b], (0, 0, 0, most - (b - a))) for a, b in pairwise(edges)]
    if all(b - a == most for a, b in pairwise(edges)):
        return torch.stack(parts), None
    line = torch.arange(most, device=weights.device)
    there = torch.stack([line < b - a for a, b in pairwise(edges)])[..., None].to(weights.dtype)
    return torch.stack(parts), there


def lines_of(edges: list[int], device: torch.device) -> Tensor | None:
    """See `Cells.lines`."""
    spans = np.diff(edges)
    place = np.arange(spans.max())
    lines = np.where(place < spans[:, None], np.array(edges[:-1])[:, None] + place, edges[-1])
    return None if (spans == spans.max()).all() else torch.tensor(lines.reshape(-1), device=device)


def maxima_of(rows: Tensor, design: Design) -> Tensor:
    """(tiles, outputs): the largest |weight| that shares a scale, 1 where all are zero."""
    maxima = rows.abs().amax(1)
    if design.placement.tile.scale == "tile":
        parts = [
            maxima[:, a:b].amax(1, keepdim=True).expand(-1, b - a) for a, b in pairwise(design.placement.column_edges)
        ]
        maxima = torch.cat(parts, dim=1)
    return torch.where(maxima > 0, maxima, 1.0)


def targets_of(u: Tensor, design: Design) -> Tensor:
    """Siemens (slices, polarities, tiles, lines, columns) for weights u, -1 to 1, and those of reference columns."""
    tile, cell = design.placement.tile, design.hardware.cell
    span = cell.g_max - cell.g_min
    fractions = torch.stack([_slices(half, tile, cell) for half in _halves(u, tile)], dim=1)
    g = cell.g_min + span * fractions
    more = design.placement.column_tiles if tile.reference_columns else 0
    return torch.nn.functional.pad(g, (0, more), value=cell.g_min + span / 2) if more else g


def _halves(u: Tensor, tile: Tile) -> list[Tensor]:
    """What the cell of a weight u, -1 to 1, or each of a pair holds, as a fraction of the range."""
    if tile.encoding in ("differential_two_sided", "offset"):
        return [(1 + u) / 2, (1 - u) / 2][: 2 if tile.paired else 1]
    return [positive(u), positive(-u)]


def left_over(u: Tensor, targets: Tensor, design: Design, numbers: list[Any], strength: float) -> Tensor:
    """Targets of slices that make up for what others left, when these were verified: see `encoding.left_over`.

    Those of reference columns stay.

    Args:
        u: relative weights (tiles, lines, outputs).
        numbers: of each device, the normals of the cells of all slices.
    """
    tile, cell, outputs = design.placement.tile, design.hardware.cell, u.shape[-1]
    fresh, span = design.hardware.when_programmed.conditions, cell.g_max - cell.g_min
    left, found = u, list(targets)
    for s in reversed(range(tile.slices)):
        weight = float(slice_weights(tile, cell.levels)[s])
        wanted = torch.stack([_rounded_to(half, cell) for half in _halves((left / weight).clamp(-1, 1), tile)])
        found[s] = torch.cat([cell.g_min + span * wanted, found[s][..., outputs:]], dim=-1)
        if not s:
            break
        written: list[Any] = [
            cell.settle(found[s], lambda p, i, d=d, s=s: d(p, i)[s], fresh, torch)  # type: ignore[misc]
            for d in numbers
        ]
        g = torch.lerp(found[s], sum(written) / len(written), strength)[..., :outputs]
        left = left - weight * ((g[0] - g[1]) / span if tile.paired else 2 * (g[0] - cell.g_min) / span - 1)
    return torch.stack(found)


def _rounded_to(fraction: Tensor, cell: Cell) -> Tensor:
    return fraction if cell.levels is None else _rounded(fraction, cell.levels - 1)


def _slices(fraction: Tensor, tile: Tile, cell: Cell) -> Tensor:
    """(slices, ...) what each holds of a fraction of the range; levels are rounded to straight through."""
    if cell.levels is None or tile.slicing != "digits":
        held = _rounded_to(fraction, cell)
        return held.expand(tile.slices, *held.shape)
    last = cell.levels - 1
    if tile.slices == 1:
        return _rounded(fraction, last)[None]
    with torch.no_grad():
        whole = (fraction.double() * (float(cell.levels) ** tile.slices - 1)).round().long()
    digits = [(whole // cell.levels**s % cell.levels).to(fraction.dtype) / last for s in range(tile.slices)]
    return torch.stack([through(fraction, digit) for digit in digits])


def _rounded(fraction: Tensor, last: int) -> Tensor:
    with torch.no_grad():
        level = (fraction * last).round() / last
    return through(fraction, level)


def mirrors_of(design: Design, draw: Any, strength: float) -> Tensor | None:
    """(slices, lines of each, tiles, columns) ratios of the mirrors of a fresh chip; None where they do not err.

    Args:
        draw: standard normals of a shape.
    """
    tile, placement = design.placement.tile, design.placement
    if not tile.mirror_mismatch:
        return None
    columns = placement.outputs + (placement.column_tiles if tile.reference_columns else 0)
    normals = draw((tile.slices, 2 if design.apart else 1, placement.row_tiles, columns))
    ratios = torch.tensor(mirror_ratios(tile, design.hardware.cell.levels), dtype=normals.dtype, device=normals.device)
    return ratios.reshape(-1, 1, 1, 1) * (1 + strength * tile.mirror_mismatch * normals).clamp(min=0)


def readings_of(cells: Any, design: Design, power: int, mirrors: Tensor | None = None) -> Tensor:
    """What cells (slices, polarities, tiles, ...) amount to in readings (readings, tiles, ...), joined or not.

    Args:
        mirrors: ratios of those that join slices, as `mirrors_of` has them, or of one tile (slices, lines, columns);
            None where they do not err.
    """
    found = cells if design.apart else cells.sum(1, keepdim=True)
    tile = design.placement.tile
    if mirrors is not None:
        own = mirrors[..., : found.shape[-1]] ** power
        found = (found * (own if own.ndim == found.ndim else own.unsqueeze(-2))).sum(0, keepdim=True)
    elif tile.joined:
        ratios = torch.tensor(mirror_ratios(tile, design.hardware.cell.levels) ** power, dtype=found.dtype)
        found = (found * ratios.to(found.device).reshape(-1, *[1] * (found.ndim - 1))).sum(0, keepdim=True)
    return found.flatten(0, 1)


def floor_of(thermal: Tensor, design: Design) -> Tensor:
    """(readings, tiles, columns): the variance of currents that no input changes."""
    sensing, unit = design.hardware.sensing, design.hardware.cell.g_max
    c0, _ = sensing.timed_cell_coefficients() if design.drive.timed else sensing.white_cell_coefficients()
    white = design.amplifiers * sensing.column_variance + sensing.reading_variance
    return design.drive.floor * (c0 * thermal + white) / (sensing.v_read * unit) ** 2


def scale_of(maxima: Tensor, limit: Tensor, design: Design) -> Tensor:
    """(readings, tiles, outputs): weight units of one current."""
    tile, cell = design.placement.tile, design.hardware.cell
    span = (cell.g_max - cell.g_min) / (2 if tile.encoding == "offset" else 1)
    weights = torch.tensor(slice_weights(tile, cell.levels)[-tile.converted :], dtype=maxima.dtype)
    found = weights.to(maxima.device)[:, None, None] * maxima * (limit * cell.g_max / (tile.devices * span))
    if design.apart:
        found = torch.stack([found, -found], dim=1).flatten(0, 1)
    return found


def _floating(
    signed: Tensor,
    spread: Tensor,
    linear: Tensor,
    thermal: Tensor,
    floor: Tensor,
    design: Design,
    strength: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What cells do to the voltages of bit lines that float: see `packed.Building.floated`."""
    sensing, unit = design.hardware.sensing, design.hardware.cell.g_max
    share = torch.where(thermal > 0, unit / torch.where(thermal > 0, thermal, 1.0), 0.0)
    squared = share.square()
    more = design.drive.floor * sensing.voltage_variance / sensing.v_read**2
    floor = floor * squared + strength**2 * more
    wide = share[:, :, None]
    return signed * wide, spread * wide.square(), linear * wide.square(), floor, spread.sum(2) * squared


def flat(readings: Tensor) -> Tensor:
    """(readings, tiles, lines, columns) as `Cells` have them."""
    return readings.permute(1, 2, 0, 3).flatten(2)


def by_tile(columns: Tensor) -> Tensor:
    """(readings, tiles, columns) as `Cells` have them."""
    return columns.transpose(0, 1)[:, None]
