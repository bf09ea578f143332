"""Noise of cells that outlives a read, in torch: the conductances that the read of a number meets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ...crossbar.kernels.lanes import LANES
from ...crossbar.kernels.philox import GROUP
from ...crossbar.kernels.slow_noise import FRACTION, NEVER
from ...crossbar.packed import INT16_MAX, INT32_MAX, Packed
from .cells import Cells
from .philox import of_words, words

Tensor = torch.Tensor
STEP = int(FRACTION) - 2**64  # the same 64 bits, signed


class Slow(NamedTuple):
    """What successive reads share of the noise of the cells of a group, on one device.

    Attributes:
        std: (parts, tiles, lines, slices, columns) float32, in units of g_max.
        amplitudes: of each part, by components: see `kernels.slow_noise.fluctuation`.
        lines: (tiles * lines,) int64 word line of each.
        spans: (tiles, 1) word lines of each tile.
        largest: code that integer planes meet, None for float planes.
    """

    std: Tensor
    amplitudes: list[list[float]]
    lines: Tensor
    spans: Tensor
    largest: int | None

    @classmethod
    def of(cls, packed: Packed, largest: int | None, device: torch.device) -> Slow:
        """Of packed cells, on a device."""
        edges = np.array([*packed.planes.edges[:-1], packed.slow_std.shape[2]])
        spans = np.diff(edges)
        most = int(np.diff(packed.planes.edges).max())
        place = edges[:-1, None] + np.arange(most)
        inside = np.arange(most) < spans[:, None]
        line = np.where(inside, place, 0)
        std = np.where(inside[..., None], packed.slow_std[:, :, line], 0)  # (parts, slices, tiles, lines, columns)
        return cls(
            torch.tensor(std.transpose(0, 2, 3, 1, 4).copy(), device=device),
            np.sqrt(packed.slow_shares).astype(np.float32).tolist(),
            torch.tensor(line.reshape(-1), device=device),
            torch.tensor(spans[:, None].astype(np.float32), device=device),
            largest,
        )

    def at(self, cells: Cells, read: int, key: Sequence[int], most: int) -> Cells:
        """Cells as the read of a number meets them, of which no more than so many normals are made together."""
        mean = cells.mean.unflatten(-1, self.std.shape[-2:]).clone()
        parts, _, _, slices, _ = self.std.shape
        for p in range(parts):
            for s in range(slices):
                drawn = self._fluctuation(self.amplitudes[p], read, p * slices + s, key, most)
                mean[..., s, :] += self.std[p, ..., s, :] * drawn
        return cells._replace(mean=self._as_packed(mean).flatten(-2))

    def _fluctuation(self, amplitudes: list[float], read: int, plane: int, key: Sequence[int], most: int) -> Tensor:
        """(tiles, lines, columns): the sum of amplitude times normal over the components behind the first."""
        _, tiles, lines, _, columns = self.std.shape
        total = torch.zeros((tiles * lines, columns), device=self.lines.device)
        blocks = torch.arange(LANES * -(-columns // GROUP), device=total.device)
        for part in torch.arange(len(total), device=total.device).split(max(1, most // columns)):
            row = self.lines[part][:, None]
            for m, amplitude in enumerate(amplitudes[1:], 1):
                if not amplitude:
                    continue
                offset = ((row * STEP) >> (64 - m)) & ((1 << m) - 1)  # renewals are spread over the word lines
                renewed = torch.zeros_like(row) if m == len(amplitudes) - 1 else (offset + read) >> m
                number = torch.full_like(row, plane * NEVER + m)
                drawn = of_words(words((blocks, row, number, renewed), key), columns)
                total[part] += amplitude * drawn
        return total.reshape(tiles, lines, columns)

    def _as_packed(self, mean: Tensor) -> Tensor:
        """Conductances (tiles, lines, slices, columns) in the steps of integer planes: see `packed.pack_tile`."""
        if self.largest is None:
            return mean
        size = mean.abs()
        peak, sums = size.amax((1, 3)), size.sum(1).amax(-1)
        step = torch.maximum(peak / INT16_MAX, sums / ((INT32_MAX - INT16_MAX) / self.largest - self.spans))
        step = torch.where(peak > 0, step, 1)[:, None, :, None]
        return (mean / step).round() * step
