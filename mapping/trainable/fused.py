"""One read of a layer on a CPU as one function: products, noise and converters, some samples at a time.

For the way back it keeps the input as the layer was given it, the codes of the ADCs, and the cells. The arithmetic is
that of `mapping/torch_backend/reading.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ...crossbar.kernels.read import SUPPLY_PLANE, Circuit
from ...crossbar.keys import Key
from ..torch_backend.cells import Cells
from ..torch_backend.drive import Pulse
from ..torch_backend.exact import exact
from .learned import step_slopes
from .numbers import REFERENCES, Adc, back_through, count_up, noisy_codes, normals
from .products import Product

Tensor = torch.Tensor
Pulses = list[tuple[float, list[Pulse]]]  # of each conversion, and what this counts
CHUNK = 1 << 20  # readings that are made together


class Read(NamedTuple):
    """What a read of a layer is, beside its cells and inputs.

    Attributes:
        drive: pulses of inputs (samples, ...), (samples, depth, height, width, channels), as a function of torch.
        constants: the same of a word line that is always driven as far as can be: (1, 1) each; none without one.
        products: of each group and row tile.
        step: (tiles, readings) float32 current of an ADC step; None without ADCs.
        key: of the normals.
        sampled: one of so many rows has its noiseless currents looked at; 0: none.
        rises: of each group (rows, outputs), to be added to: what outputs rise by with the step; none if not asked for.
    """

    drive: Callable[[Tensor], Pulses]
    constants: Pulses
    products: list[list[Product]]
    circuit: Circuit
    adc: Adc
    step: Tensor | None
    key: Key
    sampled: int
    rises: list[Tensor]


class Chunk(NamedTuple):
    """Samples from first to last, and rows of the outputs."""

    number: int
    samples: slice
    rows: slice


def read(x: Tensor, positions: int, what: Read, chips: list[Cells]) -> tuple[Tensor, list[Tensor]]:
    """(rows, groups x outputs) of inputs (samples, ...), and currents (tiles, rows, readings, columns) of some rows.

    Args:
        positions: of a sample.
        chips: the cells of each group.
    """
    seen: list[Tensor] = []
    tensors = [part for cells in chips for part in (cells.mean, cells.scale, cells.bias)]
    bare = [cells._replace(mean=None, scale=None, bias=None) for cells in chips]  # type: ignore[arg-type]
    y: Tensor = _Read.apply(x, positions, what, bare, seen, torch.is_grad_enabled(), *tensors)
    return y, seen


def _chunks(x: Tensor, positions: int, readings: int) -> Iterator[Chunk]:
    each = max(1, CHUNK // max(1, positions * readings))
    for number, first in enumerate(range(0, len(x), each)):
        last = min(len(x), first + each)
        yield Chunk(number, slice(first, last), slice(first * positions, last * positions))


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, positions: int, what: Read, bare: Any, seen: Any, graph: bool, *tensors: Tensor
    ) -> Tensor:
        chips = [
            cells._replace(mean=mean.detach(), scale=scale.detach(), bias=bias.detach())
            for cells, mean, scale, bias in zip(bare, tensors[::3], tensors[1::3], tensors[2::3], strict=True)
        ]
        one = chips[0]
        tiles, readings, columns = one.scale.shape[0], one.floor.shape[2], one.floor.shape[3]
        rows = len(x) * positions
        out = [cells.bias.repeat(rows, 1) for cells in chips]
        counts = what.circuit.conversions
        keep = graph and any(part.requires_grad for part in (x, *tensors))
        kept = [what.adc.empty(counts, tiles, rows, readings, columns) for _ in chips] if keep else None
        with torch.no_grad(), exact(x.device):
            for chunk in _chunks(x, positions, tiles * readings * columns):
                pulses = what.drive(x[chunk.samples].detach())
                for g, cells in enumerate(chips):
                    codes = None if kept is None else kept[g][:, :, chunk.rows]
                    found = _Forth(what, cells, g, chunk, len(chips))
                    found.add(pulses, codes, out[g][chunk.rows], seen)
        ctx.save_for_backward(x, *tensors, *(kept or ()))
        ctx.positions, ctx.what, ctx.floor = positions, what, one.floor.shape
        ctx.reference = [REFERENCES if c.reference is None else c.reference.numpy() for c in chips]
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Any, ...]:
        what, groups = ctx.what, len(ctx.what.products)
        x, *rest = ctx.saved_tensors
        tensors, kept = rest[: 3 * groups], rest[3 * groups :]
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        found = [torch.zeros_like(part) for part in tensors]
        tiles, readings, columns = ctx.floor[0], ctx.floor[2], ctx.floor[3]
        slopes = slopes.float().contiguous()
        with exact(x.device):
            for chunk in _chunks(x, ctx.positions, tiles * readings * columns):
                given = x[chunk.samples].detach()
                with torch.set_grad_enabled(of_x is not None):
                    given = given.requires_grad_() if of_x is not None else given
                    pulses = what.drive(given)
                volts = [pulse.volts for _, parts in pulses for pulse in parts]
                to = [torch.zeros(v.shape) for v in volts] if of_x is not None else None
                for g, (own, reference) in enumerate(
                    zip(slopes[chunk.rows].chunk(groups, dim=1), ctx.reference, strict=True)
                ):
                    mean, scale, _ = (part.detach() for part in tensors[3 * g : 3 * g + 3])
                    back = _Back(what, mean, scale, reference, g, chunk, groups)
                    back.add(pulses, kept[g][:, :, chunk.rows], own.contiguous(), to, found[3 * g : 3 * g + 2])
                if of_x is not None:
                    (of_x[chunk.samples],) = torch.autograd.grad(volts, given, to)
        for g, own in enumerate(slopes.chunk(groups, dim=1)):
            found[3 * g + 2] = own.sum(0)
        return of_x, None, None, None, None, None, *found


class _Part:
    """A group in a chunk: what its way there and back have in common."""

    def __init__(self, what: Read, scale: Tensor, g: int, chunk: Chunk, groups: int) -> None:
        self.what, self.scale, self.g, self.chunk = what, scale[:, 0], g, chunk  # (tiles, readings, outputs)
        self.products, self.read = what.products[g], chunk.number * groups + g
        step = what.step
        self.of_codes = self.scale if step is None else self.scale * step[:, :, None]

    def supply(self, conversion: int, rows: int) -> Tensor | None:
        """(rows, 1) what currents are multiplied by."""
        if not self.what.circuit.supply > 0:
            return None
        drawn = normals(self.what.key, int(SUPPLY_PLANE) + conversion, self.read, rows)
        return (1 + self.what.circuit.supply * drawn)[:, None]

    def constants(self, conversion: int, pulse: int) -> float | None:
        """What drives the word line behind the inputs, if there is one."""
        found = self.what.constants
        return float(found[conversion][1][pulse].volts) if found else None

    def lines(self, t: int, weights: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights (lines, ...) of a tile that read inputs, and those that a constant is driven into."""
        first, last = self.products[t].lines
        many = max(0, last - first)
        last_tile = bool(self.what.constants) and t == len(self.products) - 1
        return weights[t, :many], weights[t, many] if last_tile else None


class _Forth(_Part):
    def __init__(self, what: Read, cells: Cells, g: int, chunk: Chunk, groups: int) -> None:
        super().__init__(what, cells.scale, g, chunk, groups)
        self.cells = cells
        self.reference = REFERENCES if cells.reference is None else cells.reference.numpy()

    def add(self, pulses: Pulses, codes: Tensor | None, out: Tensor, seen: list[Tensor]) -> None:
        """Readings of all conversions, to outputs (rows, outputs)."""
        what, cells = self.what, self.cells
        for c, (weight, parts) in enumerate(pulses):
            supply, looked = self.supply(c, len(out)), []
            for t in range(len(self.products)):
                current, variance = self._tile(c, parts, t)
                if what.sampled:
                    first = -self.chunk.rows.start % what.sampled
                    looked.append(current[first :: what.sampled].clone())
                if supply is not None:
                    current *= supply
                into = what.adc.empty(*current.shape) if codes is None else codes[c, t].flatten(1)
                step = torch.ones(cells.floor.shape[2]) if what.step is None else what.step[t]
                columns = cells.floor[t, 0].flatten(), step.reciprocal().repeat_interleave(cells.floor.shape[3])
                place = what.key, c * len(self.products) + t, self.read
                noisy_codes(current, variance, columns, what.circuit.gain_variance, what.adc, place, into)
                count_up(
                    into.unflatten(1, cells.floor.shape[2:]), what.adc, self.of_codes[t] * weight, self.reference, out
                )
                if what.rises:
                    rises = step_slopes(into, current, columns[1], what.adc).unflatten(1, cells.floor.shape[2:])
                    risen = what.rises[self.g][self.chunk.rows]
                    count_up(rises, Adc.of(0, 0, 0, rounds=False), self.scale[t] * weight, self.reference, risen)
            if looked:
                seen.append(torch.stack(looked).unflatten(-1, cells.floor.shape[2:]))

    def _tile(self, c: int, parts: list[Pulse], t: int) -> tuple[Tensor, Tensor | None]:
        """Currents and their variances (rows, columns) of a conversion, without what no input changes."""
        cells, circuit, product = self.cells, self.what.circuit, self.products[t]
        current: Any = None
        variance: Any = None
        for p, pulse in enumerate(parts):
            driven = self.constants(c, p)

            def multiplied(volts: Tensor, weights: Tensor, power: int, driven: float | None = driven) -> Tensor:
                lines, last = self.lines(t, weights)
                y = product.forth(volts, lines)
                return y if driven is None or last is None else y.add_(last, alpha=driven**power)

            weight = pulse.weight if circuit.joined else 1.0
            own = multiplied(pulse.volts, cells.mean, 1)
            own_variance = self._variance(pulse.volts, own, t, multiplied)
            if weight != 1.0:
                own = own * weight
            current = own if current is None else current.add_(own)
            if own_variance is not None:
                own_variance = own_variance if pulse.share == 1.0 else own_variance.mul_(pulse.share)
                variance = own_variance if variance is None else variance.add_(own_variance)
        return current, variance

    def _variance(self, volts: Tensor, own: Tensor, t: int, multiplied: Callable[..., Tensor]) -> Tensor | None:
        """What the noise of cells adds in a pulse."""
        cells = self.cells
        squares = None if cells.variance is None else multiplied(volts.square(), cells.variance, 2)
        if cells.linear is None:
            return squares
        if cells.total is None:
            firsts = multiplied(volts.abs(), cells.linear, 1)
            return firsts if squares is None else squares.add_(firsts)
        firsts = multiplied(volts, cells.linear, 1)
        found = own * (own * cells.total[t, 0].flatten() - 2 * firsts)
        return (found if squares is None else found.add_(squares)).clamp_(min=0)


class _Back(_Part):
    def __init__(
        self, what: Read, mean: Tensor, scale: Tensor, reference: Any, g: int, chunk: Chunk, groups: int
    ) -> None:
        super().__init__(what, scale, g, chunk, groups)
        self.mean, self.reference = mean, reference

    def add(self, pulses: Pulses, codes: Tensor, slopes: Tensor, to: list[Tensor] | None, found: list[Tensor]) -> None:
        """Slopes (rows, outputs) of outputs, to those of the voltages, if these are asked for, of means and scales."""
        what, (of_mean, of_scale), place = self.what, found, 0
        for c, (weight, parts) in enumerate(pulses):
            supply = self.supply(c, len(slopes))
            for t, product in enumerate(self.products):
                back, sums = back_through(codes[c, t], what.adc, self.scale[t] * weight, self.reference, slopes)
                of_scale[t, 0] += weight * (sums if what.step is None else sums * what.step[t][:, None])
                flat = back.flatten(1)
                if supply is not None:
                    flat *= supply
                lines, _ = self.lines(t, self.mean)
                into, last = self.lines(t, of_mean)
                for p, pulse in enumerate(parts):
                    own = flat * pulse.weight if what.circuit.joined and pulse.weight != 1.0 else flat
                    into += product.back(pulse.volts.detach(), lines, own, None if to is None else to[place + p])
                    driven = self.constants(c, p)
                    if last is not None and driven is not None:
                        last.add_(own.sum(0), alpha=driven)
            place += len(parts)


def products_of(patches: Any, channels: int, groups: int, edges: list[int]) -> list[list[Product]]:
    """Of each group and row tile; word lines behind the inputs are left out."""
    each = channels // groups
    inputs = prod(patches.kernel) * each
    spans = [(a, min(b, inputs)) for a, b in pairwise(edges)]
    return [[Product(patches, (g * each, (g + 1) * each), span) for span in spans] for g in range(groups)]
