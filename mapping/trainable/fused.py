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
from .driving import Driven, Pulses
from .learned import step_slopes
from .numbers import REFERENCES, Adc, Columns, back_through, count_up, noisy_codes, normals
from .products import Product

Tensor = torch.Tensor
CHUNK = 1 << 20  # readings that are made together


class Tile(NamedTuple):
    """A row tile of a group in one forward of the network, as reads take it: parts of its cells, in one dimension less.

    Attributes:
        mean, variance, linear: (lines, readings * columns) of the lines that read inputs, and (readings * columns,) of
            the one that a constant is driven into, or None; see `Cells`.
        total: (readings * columns,) or None.
        columns: see `noisy_codes`.
        of_codes, of_currents: (readings, outputs) what a code, and a current, count.
    """

    product: Product
    mean: tuple[Tensor, Tensor | None]
    variance: tuple[Tensor, Tensor | None] | None
    linear: tuple[Tensor, Tensor | None] | None
    total: Tensor | None
    columns: Columns
    of_codes: Tensor
    of_currents: Tensor


class Group(NamedTuple):
    """A group of a layer: its tiles, and the reference column of each output."""

    tiles: list[Tile]
    reference: Any


class Read(NamedTuple):
    """What the reads of a layer in one forward of the network have in common, beside its cells.

    Attributes:
        drive: pulses of inputs.
        constants: the same of a word line that is always driven as far as can be: (1, 1) each; none without one.
        step: (tiles, readings) float32 current of an ADC step; None without ADCs.
        whole: whether of the noiseless currents that are looked at only the largest of each column is wanted.
    """

    drive: Driven
    constants: Pulses
    circuit: Circuit
    adc: Adc
    step: Tensor | None
    whole: bool
    groups: list[Group]

    def of(self, chips: list[Cells], products: list[list[Product]]) -> Read:
        """With the cells of each group."""
        groups = []
        for cells, own in zip(chips, products, strict=True):
            tiles = [self._tile(cells, product, t, t == len(own) - 1) for t, product in enumerate(own)]
            groups.append(Group(tiles, REFERENCES if cells.reference is None else cells.reference.numpy()))
        return self._replace(groups=groups)

    def _tile(self, cells: Cells, product: Product, t: int, last: bool) -> Tile:
        many, driven = max(0, product.lines[1] - product.lines[0]), last and bool(self.constants)

        def parts(whole: Tensor) -> tuple[Tensor, Tensor | None]:
            own = whole.detach()[t]
            return own[:many], own[many] if driven else None

        scale, step = cells.scale.detach()[t, 0], None if self.step is None else self.step[t]
        floor, readings = cells.floor.detach()[t, 0].flatten(), cells.floor.shape[2]
        inverse = torch.ones(readings, dtype=torch.float32) if step is None else step.reciprocal()
        return Tile(
            product,
            parts(cells.mean),
            None if cells.variance is None else parts(cells.variance),
            None if cells.linear is None else parts(cells.linear),
            None if cells.total is None else cells.total.detach()[t, 0].flatten(),
            Columns.of(floor, inverse.repeat_interleave(len(floor) // readings)),
            scale if step is None else scale * step[:, None],
            scale,
        )


class Look(NamedTuple):
    """What is one read's own.

    Attributes:
        positions: of a sample.
        key: of the normals.
        sampled: one of so many rows has its noiseless currents looked at; 0: none.
        seen: where those go, (tiles, rows, readings, columns) each.
        graph: whether there will be a way back.
    """

    positions: int
    key: Key
    sampled: int
    seen: list[Tensor]
    rises: list[Tensor]
    graph: bool


class Chunk(NamedTuple):
    """Samples from first to last, and rows of the outputs."""

    number: int
    samples: slice
    rows: slice


def read(x: Tensor, what: Read, chips: list[Cells], look: Look) -> Tensor:
    """(rows, groups x outputs) of inputs (samples, ...)."""
    y: Tensor = _Read.apply(x, what, look, *(part for cells in chips for part in (cells.mean, cells.scale, cells.bias)))
    return y


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, what: Read, look: Look, *tensors: Tensor) -> Tensor:
        tiles, readings = len(what.groups[0].tiles), len(what.groups[0].tiles[0].of_codes)
        columns = what.groups[0].tiles[0].columns.width // readings
        rows = len(x) * look.positions
        out = [bias.detach().repeat(rows, 1) for bias in tensors[2::3]]  # copies, of one row too
        keep = look.graph and any(part.requires_grad for part in (x, *tensors))
        size = what.circuit.conversions, tiles, rows, readings, columns
        kept = [what.adc.empty(*size) for _ in out] if keep else None
        for chunk in _chunks(x, look.positions, tiles * readings * columns):
            pulses = what.drive.there(x[chunk.samples].detach())
            for g, group in enumerate(what.groups):
                codes = None if kept is None else kept[g][:, :, chunk.rows]
                _Forth(what, look, g, chunk).add(group, pulses, codes, out[g][chunk.rows])
        ctx.save_for_backward(x, *tensors, *(kept or ()))
        ctx.what, ctx.look, ctx.many = what, look, tiles * readings * columns
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Any, ...]:
        what, look, groups = ctx.what, ctx.look, len(ctx.what.groups)
        x, *rest = ctx.saved_tensors
        tensors, kept = rest[: 3 * groups], rest[3 * groups :]
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        slopes = slopes.float().contiguous()
        each = [slopes] if groups == 1 else [own.contiguous() for own in slopes.chunk(groups, dim=1)]
        found = [torch.zeros_like(part) if i % 3 < 2 else each[i // 3].sum(0) for i, part in enumerate(tensors)]
        with exact(x.device):
            for chunk in _chunks(x, look.positions, ctx.many):
                given, to = x[chunk.samples].detach(), None
                if of_x is None:
                    pulses = what.drive.there(given)
                else:
                    pulses, through = what.drive.back(given)
                    to = [torch.zeros(pulse.volts.shape, dtype=torch.float32) for _, parts in pulses for pulse in parts]
                for g, group in enumerate(what.groups):
                    codes, own = kept[g][:, :, chunk.rows], each[g][chunk.rows]
                    _Back(what, look, g, chunk).add(group, pulses, codes, own, to, found[3 * g : 3 * g + 2])
                if of_x is not None and to is not None:
                    of_x[chunk.samples] = through(to)
        return of_x, None, None, *found


def _chunks(x: Tensor, positions: int, readings: int) -> Iterator[Chunk]:
    each = max(1, CHUNK // max(1, positions * readings))
    for number, first in enumerate(range(0, len(x), each)):
        last = min(len(x), first + each)
        yield Chunk(number, slice(first, last), slice(first * positions, last * positions))


class _Part:
    """A group in a chunk: what its way there and back have in common."""

    def __init__(self, what: Read, look: Look, g: int, chunk: Chunk) -> None:
        self.what, self.look, self.chunk, self.g = what, look, chunk, g
        self.read = chunk.number * len(what.groups) + g

    def supply(self, conversion: int, rows: int) -> Tensor | None:
        """(rows, 1) what currents are multiplied by."""
        if not self.what.circuit.supply > 0:
            return None
        drawn = normals(self.look.key, int(SUPPLY_PLANE) + conversion, self.read, rows)
        return (1 + self.what.circuit.supply * drawn)[:, None]

    def constant(self, conversion: int, pulse: int) -> float:
        """What drives the word line behind the inputs, where there is one."""
        found = self.what.constants
        return float(found[conversion][1][pulse].volts) if found else 0.0


class _Forth(_Part):
    def add(self, group: Group, pulses: Pulses, codes: Tensor | None, out: Tensor) -> None:
        """Readings of all conversions, to outputs (rows, outputs)."""
        what, look = self.what, self.look
        for c, (weight, parts) in enumerate(pulses):
            supply, looked = self.supply(c, len(out)), []
            for t, tile in enumerate(group.tiles):
                shape = len(tile.of_codes), -1
                current, variance = self._tile(c, parts, tile)
                if look.sampled:
                    some = current[-self.chunk.rows.start % look.sampled :: look.sampled]
                    looked.append(some.abs().amax(0, keepdim=True) if what.whole and len(some) else some.clone())
                if supply is not None:
                    current *= supply
                into = what.adc.empty(*current.shape) if codes is None else codes[c, t].view(current.shape)
                place = look.key, c * len(group.tiles) + t, self.read
                noisy_codes(current, variance, tile.columns, what.circuit.gain_variance, what.adc, place, into)
                of_codes = tile.of_codes if weight == 1.0 else tile.of_codes * weight
                count_up(into.unflatten(1, shape), what.adc, of_codes, group.reference, out)
                if look.rises:
                    inverse = torch.from_numpy(tile.columns.inverse[: tile.columns.width])
                    rises = step_slopes(into, current, inverse, what.adc).unflatten(1, shape)
                    risen = look.rises[self.g][self.chunk.rows]
                    count_up(rises, Adc.of(0, 0, 0, rounds=False), tile.of_currents * weight, group.reference, risen)
            if looked:
                look.seen.append(torch.stack(looked).unflatten(-1, shape))

    def _tile(self, c: int, parts: list[Pulse], tile: Tile) -> tuple[Tensor, Tensor | None]:
        """Currents and their variances (rows, columns) of a conversion, without what no input changes."""
        current: Any = None
        variance: Any = None
        for p, pulse in enumerate(parts):
            driven = self.constant(c, p)

            def multiplied(
                volts: Tensor, weights: tuple[Tensor, Tensor | None], power: int, driven: float = driven
            ) -> Tensor:
                lines, last = weights
                y = tile.product.forth(volts, lines)
                return y if last is None else y.add_(last, alpha=driven**power)

            weight = pulse.weight if self.what.circuit.joined else 1.0
            own = multiplied(pulse.volts, tile.mean, 1)
            own_variance = self._variance(pulse.volts, own, tile, multiplied)
            if weight != 1.0:
                own = own * weight
            current = own if current is None else current.add_(own)
            if own_variance is not None:
                own_variance = own_variance if pulse.share == 1.0 else own_variance.mul_(pulse.share)
                variance = own_variance if variance is None else variance.add_(own_variance)
        return current, variance

    def _variance(self, volts: Tensor, own: Tensor, tile: Tile, multiplied: Callable[..., Tensor]) -> Tensor | None:
        """What the noise of cells adds in a pulse."""
        squares = None if tile.variance is None else multiplied(volts.square(), tile.variance, 2)
        if tile.linear is None:
            return squares
        if tile.total is None:
            firsts = multiplied(volts.abs(), tile.linear, 1)
            return firsts if squares is None else squares.add_(firsts)
        firsts = multiplied(volts, tile.linear, 1)
        found = own * (own * tile.total - 2 * firsts)
        return (found if squares is None else found.add_(squares)).clamp_(min=0)


class _Back(_Part):
    def add(
        self,
        group: Group,
        pulses: Pulses,
        codes: Tensor,
        slopes: Tensor,
        to: list[Tensor] | None,
        found: list[Tensor],
    ) -> None:
        """Slopes (rows, outputs) of outputs, to those of the voltages, if these are asked for, of means and scales."""
        what, (of_mean, of_scale), place = self.what, found, 0
        for c, (weight, parts) in enumerate(pulses):
            supply = self.supply(c, len(slopes))
            for t, tile in enumerate(group.tiles):
                of_currents = tile.of_currents if weight == 1.0 else tile.of_currents * weight
                back, sums = back_through(codes[c, t], what.adc, of_currents, group.reference, slopes)
                of_scale[t, 0] += weight * (sums if what.step is None else sums * what.step[t][:, None])
                flat = back.flatten(1)
                if supply is not None:
                    flat *= supply
                lines, last = tile.mean
                into = of_mean[t]
                for p, pulse in enumerate(parts):
                    own = flat * pulse.weight if what.circuit.joined and pulse.weight != 1.0 else flat
                    asked = None if to is None else to[place + p]
                    tile.product.back(pulse.volts.detach(), lines, own, asked, into[: len(lines)])
                    if last is not None:
                        into[len(lines)].add_(own.sum(0), alpha=self.constant(c, p))
            place += len(parts)


def products_of(patches: Any, channels: int, groups: int, edges: list[int]) -> list[list[Product]]:
    """Of each group and row tile; word lines behind the inputs are left out."""
    each = channels // groups
    inputs = prod(patches.kernel) * each
    spans = [(a, min(b, inputs)) for a, b in pairwise(edges)]
    return [[Product(patches, (g * each, (g + 1) * each), span) for span in spans] for g in range(groups)]
