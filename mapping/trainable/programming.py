"""Weights programmed into fresh cells on a CPU, some lines at a time: what their gradients need is kept, and no more.

Each cell depends on its own target alone, so that the way back is a product with a slope. The arithmetic is that of
`cells.py`, which has the same as one differentiable expression.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from ...crossbar.design import Design
from ...crossbar.kernels.training import PIECES, back_to_weights, largest
from ...crossbar.keys import Key
from ...crossbar.packed import slow_shares
from ...devices.programming import GaussianProgrammingModel
from ..torch_backend.cells import Cells
from .cells import by_tile, difference, floor_of, lines_of, mirrors_of, read_noise, readings_of, scale_of, targets_of
from .faults import Faults, faults_of
from .numbers import call, normals

Tensor = torch.Tensor
PART = 1 << 15  # weights that are programmed together
PURPOSES = "program", "device", "drift", "stuck"
SLOW = len(PURPOSES) * 256 * 16  # plane of the normals of noise that lasts, behind those of all devices
UNSEEN = partial(saved_tensors_hooks, lambda x: x, lambda x: x)  # gradient checkpointing counts what is saved


class Curves(NamedTuple):
    """Polynomials of a conductance in units of g_max, constants first, as `kernels.training.program_pairs` has them.

    Attributes:
        spans: lowest conductance, and range.
        std: of the programming error.
        own: variance of a cell in each read.
    """

    spans: tuple[np.float32, ...]
    std: tuple[np.float32, ...]
    own: tuple[np.float32, ...]


def curves_of(design: Design) -> Curves | None:
    """Curves for pairs of cells that err by a Gaussian number and have no other errors; None for others."""
    hardware, tile = design.hardware, design.placement.tile
    cell, programming = hardware.cell, hardware.cell.programming
    gaussian = getattr(type(programming), "apply", None) is GaussianProgrammingModel.apply and programming.draws == 1
    pairs = tile.encoding == "differential" and tile.slices == design.devices == 1 and cell.levels is None
    if not gaussian or not pairs or design.apart or design.linear or tile.scale != "column":
        return None
    stuck = cell.stuck.any or cell.stuck.alive < 1 or cell.stuck.map is not None
    if cell.drift.active(hardware.conditions) or stuck or programming.lasting or len(slow_shares(hardware)):
        return None
    low = cell.g_min / cell.g_max
    targets = torch.linspace(low, 1, 513, dtype=torch.float64)
    std: Any = programming.std(targets * cell.g_max, hardware.conditions, torch)  # type: ignore[arg-type]
    reads = torch.linspace(0, 2, 513, dtype=torch.float64)
    found = _polynomial(targets, std / cell.g_max, 5), _polynomial(reads, _noise(reads, design)[0], 2)
    if found[0] is None or found[1] is None:
        return None
    return Curves((np.float32(low), np.float32(1 - low)), *found)  # type: ignore[arg-type]


def _polynomial(x: Tensor, y: Tensor, degree: int) -> tuple[np.float32, ...] | None:
    """The polynomial that values follow, if they follow one to a ten-thousandth of the largest."""
    if not bool(torch.isfinite(y).all()):
        return None
    found = np.polynomial.Polynomial.fit(x.numpy(), y.numpy(), degree).convert().coef
    found = np.pad(found, (0, degree + 1 - len(found))).astype(np.float32)
    off = np.abs(np.polynomial.polynomial.polyval(x.numpy(), found.astype(float)) - y.numpy()).max()
    return tuple(found) if off <= 1e-4 * float(y.abs().max()) else None


def _noise(g: Any, design: Design) -> tuple[Any, Any]:
    """Variances of cells for conductances in units of g_max, in its square: new in each read, and what reads share."""
    unit = design.hardware.cell.g_max
    c2 = 0.0 if design.drive.timed else design.hardware.sensing.white_cell_coefficients()[1]
    fresh, lasting = read_noise(g * unit, design)
    return fresh + c2 / unit * g, lasting


class Programmed(NamedTuple):
    """Cells of a group: as `Cells` have them, and what gradients need.

    Attributes:
        maxima: (tiles, outputs): see `cells.maxima_of`.
        places: (tiles, outputs) int32: the line of each tile that has the largest weight of a column.
        thermal: (readings, tiles, columns): conductances on each bit line.
        slope: (tiles, lines, readings, outputs) of `mean` with the relative weight; None where none is asked for.
    """

    mean: Tensor
    maxima: Tensor
    places: Tensor
    variance: Tensor
    linear: Tensor | None
    thermal: Tensor
    slope: Tensor | None


class Part(NamedTuple):
    """Some lines of a row tile, to be filled: (lines, readings, columns), thermal (readings, columns).

    Attributes:
        faults: of its cells.
        mirrors: (slices, lines of each, columns): see `cells.mirrors_of`.
    """

    mean: Tensor
    maxima: Tensor
    variance: Tensor
    linear: Tensor | None
    slope: Tensor | None
    thermal: Tensor
    faults: Faults | None
    mirrors: Tensor | None


class Maker:
    """Programs the weights of one group in one step: see `of`. `known` are cells that a map has as stuck."""

    def __init__(
        self, design: Design, curves: Curves | None, key: Key, slopes: bool, strength: float, known: Tensor | None
    ) -> None:
        self.design, self.curves, self.key, self.slopes, self.strength = design, curves, key, slopes, strength
        self.faults = faults_of(design, known, lambda which, shape: normals(key, SLOW + 1 + which, 0, *shape))
        self.mirrors = mirrors_of(design, lambda shape: normals(key, SLOW + 3, 0, *shape), strength)
        self.edges, self.parts = design.placement.edges, 0

    def of(self, weights: Tensor) -> Programmed:
        """Cells of weights (lines, outputs)."""
        design, tiles, outputs = self.design, len(self.edges) - 1, weights.shape[1]
        columns = outputs + (design.placement.column_tiles if design.placement.tile.reference_columns else 0)
        most = max(b - a for a, b in pairwise(self.edges))
        even = all(b - a == most for a, b in pairwise(self.edges))
        made = partial(torch.empty if even else torch.zeros, dtype=torch.float32)
        shape = tiles, most, design.readings, columns
        mean, variance = made(shape), made(shape)
        linear = made(shape) if design.linear else None
        slope = made((*shape[:3], outputs)) if self.slopes else None
        thermal = torch.zeros((design.readings, tiles, columns), dtype=torch.float32)
        maxima = torch.empty((tiles, outputs), dtype=torch.float32)
        places = torch.empty((tiles, outputs), dtype=torch.int32)
        for t, (a, b) in enumerate(pairwise(self.edges)):
            rows = weights[a:b]
            largest(rows.numpy(), maxima[t].numpy(), places[t].numpy())
            self._share(maxima[t])
            each = max(1, PART // outputs) if self.curves is None else b - a
            for first in range(0, b - a, each):
                place = slice(first, min(b - a, first + each))
                curved, sloped = (None if whole is None else whole[t, place] for whole in (linear, slope))
                faults = None if self.faults is None else self.faults.part(t, place)
                mirrors = None if self.mirrors is None else self.mirrors[:, :, t]
                own = mean[t, place], maxima[t], variance[t, place], curved, sloped, thermal[:, t]
                part = Part(*own, faults, mirrors)
                if self.curves is None:
                    self._cells(rows[place] / maxima[t], part)
                else:
                    self._pairs(rows[place], part)
                self.parts += 1
        flat_linear = None if linear is None else linear.flatten(2)
        return Programmed(mean.flatten(2), maxima, places, variance.flatten(2), flat_linear, thermal, slope)

    def _share(self, maxima: Tensor) -> None:
        """Maxima (outputs,) of those that share a scale: see `cells.maxima_of`; in place."""
        if self.design.placement.tile.scale == "tile":
            for a, b in pairwise(self.design.placement.column_edges):
                maxima[a:b] = maxima[a:b].amax()
        maxima.masked_fill_(maxima == 0, 1.0)

    def _pairs(self, weights: Tensor, part: Part) -> None:
        assert self.curves is not None
        sums = np.empty((PIECES, weights.shape[1]), np.float32)
        slope = torch.empty_like(part.mean) if part.slope is None else part.slope
        made = tuple(whole[:, 0].numpy() for whole in (part.mean, slope, part.variance))
        curves, less = self.curves, np.float32(self.strength)
        curves = curves._replace(std=tuple(less * c for c in curves.std), own=tuple(less**2 * c for c in curves.own))
        given = weights.numpy(), part.maxima.reciprocal().numpy(), curves, self.parts, self.key
        call("program_pairs", 4 * weights.numel(), *given, made, sums)
        part.thermal[0] += torch.from_numpy(sums.sum(0)) * self.design.hardware.cell.g_max

    def _cells(self, u: Tensor, part: Part) -> None:
        """Any cells: their models are functions of torch, of the targets of some lines."""
        design, sensing, unit = self.design, self.design.hardware.sensing, self.design.hardware.cell.g_max
        targets = targets_of(u, design)
        on_time = sensing.timed_cell_coefficients()[1] / (sensing.v_read * unit) ** 2
        sums: list[Any] = [0.0] * 6
        for device in range(design.devices):
            g, rising = self._settled(targets, device, part.faults)
            if self.strength < 1:
                g = torch.lerp(targets, g, self.strength)
                rising = None if rising is None else torch.lerp(torch.ones_like(rising), rising, self.strength)
            own, lasting = _noise(g / unit, design)
            own = own * self.strength**2
            first = on_time * self.strength**2 * g if design.drive.timed else own
            added = (g if design.apart else difference(g)) / unit, own, first, g.sum(2), rising, lasting
            sums = [total if more is None else total + more for total, more in zip(sums, added, strict=True)]
        signed, spread, first, thermal, slopes, slow = sums
        part.mean.copy_(readings_of(signed, design, 1, part.mirrors).movedim(0, 1))
        if isinstance(slow, Tensor):
            std = readings_of(slow, design, 2, part.mirrors).movedim(0, 1).sqrt()
            part.mean.add_(std * normals(self.key, SLOW, self.parts, *std.shape), alpha=self.strength)
        part.variance.copy_(readings_of(spread, design, 2, part.mirrors).movedim(0, 1))
        if part.linear is not None:
            part.linear.copy_(readings_of(first, design, 2, part.mirrors).movedim(0, 1))
        part.thermal.add_(readings_of(thermal, design, 2, part.mirrors))
        if part.slope is not None:
            part.slope.copy_(readings_of(self._with_weights(slopes, u), design, 1, part.mirrors).movedim(0, 1))

    def _settled(self, targets: Tensor, device: int, faults: Faults | None) -> tuple[Tensor, Tensor | None]:
        """Conductances of cells of these targets, and their slopes with these."""
        cell, conditions = self.design.hardware.cell, self.design.hardware.conditions
        drawn: dict[tuple[str, int], Any] = {}

        def draw(purpose: str, i: int) -> Any:
            if (purpose, i) not in drawn:
                plane = (device * len(PURPOSES) + PURPOSES.index(purpose)) * 256 + i
                drawn[purpose, i] = normals(self.key, plane, self.parts, *targets.shape)
            return drawn[purpose, i]

        if not self.slopes:
            settled: Any = cell.settle(targets, draw, conditions, torch)  # type: ignore[arg-type]
            return settled if faults is None else faults.of(settled, cell), None
        with torch.enable_grad(), UNSEEN():
            leaf = targets.detach().requires_grad_()
            g: Any = cell.settle(leaf, draw, conditions, torch)  # type: ignore[arg-type]
            g = g if faults is None else faults.of(g, cell)
            (slope,) = torch.autograd.grad(g.sum(), leaf, allow_unused=True) if g.requires_grad else (None,)
        return g.detach(), torch.zeros_like(targets) if slope is None else slope

    def _with_weights(self, slopes: Tensor, u: Tensor) -> Tensor:
        """Slopes of signed conductances with relative weights, of those of cells with their targets."""
        cell, tile = self.design.hardware.cell, self.design.placement.tile
        slopes = slopes[..., : u.shape[1]] * ((cell.g_max - cell.g_min) / cell.g_max)
        if tile.encoding in ("differential_two_sided", "offset"):
            halves = [torch.full_like(u, 0.5), torch.full_like(u, -0.5)]
        else:
            halves = [(1 + torch.sign(u)) / 2, -(1 - torch.sign(u)) / 2]
        slopes = slopes * torch.stack(halves[: slopes.shape[1]])
        return slopes if self.design.apart else difference(slopes)


class _Cells(torch.autograd.Function):
    """(mean, scale) of weights; the rest of what is programmed is kept in the maker's box.

    Nothing is saved by torch, so that a layer that is computed again in gradient checkpointing may find its cells made.
    """

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, maker: Maker, factor: Tensor, box: list[Programmed]
    ) -> tuple[Tensor, Tensor]:
        rows = weights.detach().contiguous()
        made = maker.of(rows)
        box.append(made._replace(slope=None))
        none = rows.new_empty(0)  # products keep what they need of the cells
        ctx.made, ctx.design, ctx.factor = made._replace(mean=none, variance=none, linear=None), maker.design, factor
        ctx.rows, ctx.weights, ctx.version = rows, weights.detach(), weights._version
        return made.mean, by_tile(factor * made.maxima)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_scale: Tensor) -> tuple[Tensor, None, None, None]:
        made, placement, found = ctx.made, ctx.design.placement, torch.empty_like(ctx.rows)
        if ctx.weights._version != ctx.version:
            raise RuntimeError("mho.trainable: weights were changed between the forward and the backward pass")
        readings, outputs = made.slope.shape[2:]
        given = of_mean.contiguous().unflatten(2, (readings, -1))
        of_maxima = (of_scale[:, 0].transpose(0, 1) * ctx.factor).sum(0)
        columns = torch.arange(outputs)
        for t, (a, b) in enumerate(pairwise(placement.edges)):
            part, rows, inverse = found[a:b], ctx.rows[a:b], made.maxima[t].reciprocal()
            sums = np.zeros(outputs)
            for r in range(readings):
                own = part if r == 0 else torch.empty_like(part)
                slopes = given[t, : b - a, r].numpy(), made.slope[t, : b - a, r].numpy()
                back_to_weights(*slopes, rows.numpy(), inverse.numpy(), own.numpy(), sums)
                if r:
                    part += own
            more = of_maxima[t] - torch.from_numpy(sums).float() * inverse
            place = made.places[t].long()
            if placement.tile.scale == "tile":
                for first, last in pairwise(placement.column_edges):
                    most = int(rows[place[first:last], columns[first:last]].abs().argmax()) + first
                    whole = more[first:last].sum()
                    more[first:last] = 0
                    more[most] = whole
            part[place, columns] += torch.sign(rows[place, columns]) * more  # nothing where all are zero, scaled by 1
        return found, None, None, None


def programmed_in_parts(
    design: Design,
    curves: Curves | None,
    weights: Tensor,
    bias: Tensor,
    limit: Tensor,
    key: Key,
    strength: float = 1.0,
    known: Tensor | None = None,
) -> Cells:
    """As `cells.programmed`, with normals of a key, on a CPU; the variance of the read noise has no gradient."""
    box: list[Programmed] = []
    slopes = torch.is_grad_enabled() and weights.requires_grad
    maker = Maker(design, curves, key, slopes, strength, known)
    placement = design.placement
    with torch.no_grad():  # (readings, tiles, outputs): scales for weights of 1
        factor = scale_of(torch.ones(placement.row_tiles, placement.outputs, dtype=torch.float32), limit, design)
    if slopes:
        mean, scale = _Cells.apply(weights, maker, factor, box)
    else:
        box.append(maker.of(weights.detach().contiguous()))
        mean, scale = box[0].mean, by_tile(factor * box[0].maxima)
    made = box[0]
    reference = placement.references
    return Cells(
        mean,
        made.variance,
        made.linear,
        None,
        by_tile(floor_of(made.thermal, design) * strength**2),
        None,
        scale,
        bias,
        torch.from_numpy(reference) if reference.size else None,
        lines_of(placement.edges, weights.device),
        placement.rows,
    )
