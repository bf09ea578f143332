"""Counter-based random numbers in torch: the words of `mho.crossbar.kernels.philox`, on any device.

Words are int64 of which the low 32 bits count: products of 32 by 32 bits fit, and wrap around without harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import NamedTuple

import torch

from ...crossbar.kernels.lanes import LANES
from ...crossbar.kernels.philox import BESIDE_PLANE, MULTIPLIERS, PLANE_BITS, WORD
from ...crossbar.kernels.read import SUPPLY_PLANE

Tensor = torch.Tensor


def words(counter: Sequence[Tensor], key: Sequence[int]) -> list[Tensor]:
    """The four words of Philox4x32-10 of counters, int64, whose high halves mean nothing.

    Args:
        counter: its four words, int64 below 2^32 of shapes that broadcast.
        key: see `crossbar.kernels.philox.round_keys`.
    """
    c0, c1, c2, c3 = counter
    for k0, k1 in zip(key[::2], key[1::2], strict=True):
        p0, p1 = ((c & WORD).mul_(m) for c, m in zip((c0, c2), MULTIPLIERS, strict=True))
        c0, c1, c2, c3 = _mixed(p1, c1, k0), p1, _mixed(p0, c3, k1), p0
    return [c0, c1, c2, c3]


def _mixed(product: Tensor, other: Tensor, key: int) -> Tensor:
    """The high word of a product, xor the other word, xor the key."""
    high = product >> 32
    if other.numel() < high.numel():  # parts of the first rounds are the same for many counters
        other = other ^ key
    else:
        high.bitwise_xor_(key)
    return high.bitwise_xor_(other) if torch.broadcast_shapes(high.shape, other.shape) == high.shape else high ^ other


def box_muller(radius: Tensor, angle: Tensor, first: Tensor, second: Tensor) -> None:
    """Two float32 normals of two words, into the tensors given."""
    u = ((radius >> 1) & (WORD >> 1)).float().mul_(2.0**-31).add_(2.0**-32)
    size = u.log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
    size.mul_((angle & 1).float().mul_(-2.0).add_(1.0))  # the angle is within a half circle, the sign fills the other
    turned = angle.to(torch.int32).float().mul_(pi * 2.0**-32)
    torch.mul(size, turned.cos(), out=first)
    torch.mul(size, turned.sin_(), out=second)


def of_words(found: Sequence[Tensor], columns: int) -> Tensor:
    """Normals (..., columns) float32 of words (..., blocks) of whole groups: see `kernels.philox.add_noise`."""
    grouped = [w.unflatten(-1, (-1, LANES)) for w in found]
    shape = *grouped[0].shape[:-1], len(grouped), LANES
    out = torch.empty(shape, dtype=torch.float32, device=grouped[0].device)
    for k in (0, 2):
        box_muller(grouped[k], grouped[k + 1], out[..., k, :], out[..., k + 1, :])
    return out.flatten(-3)[..., :columns]


class Counted(NamedTuple):
    """The normals of some rows in reads that follow one another: those that all backends draw.

    Attributes:
        key: of the stream, see `words`.
        samples, positions: (rows,) int64, whose the rows are.
        read: number of the first read.
    """

    key: Sequence[int]
    samples: Tensor
    positions: Tensor
    read: int

    @classmethod
    def of(cls, key: Sequence[int], sample: int, positions: Tensor, rows: tuple[int, int], read: int) -> Counted:
        """Those of rows start..stop, of which the samples from this one on have so many positions each."""
        row = torch.arange(*rows, device=positions.device)
        many = len(positions)
        if many == 1:
            return cls(key, row + sample, positions.expand(len(row)), read)
        return cls(key, row // many + sample, positions[row % many], read)

    def readings(self, conversion: int, shape: tuple[int, int, int, int, int]) -> Tensor:
        """(reads, row tiles, rows, slices, columns) of one conversion."""
        reads, tiles, _, slices, columns = shape
        device = self.samples.device
        tile, part = (torch.arange(n, device=device) for n in (tiles, slices))
        plane = (conversion * slices + part) * tiles + tile[:, None]
        return self._normals(reads, plane[:, None], columns)

    def supply(self, conversion: int, reads: int, rows: int) -> Tensor:
        """(reads, 1, rows, 1, 1) of the read voltage."""
        plane = torch.full((1, 1, 1), int(SUPPLY_PLANE) + conversion, device=self.samples.device)
        return self._normals(reads, plane, 1)

    def outputs(self, columns: int) -> Tensor:
        """(rows, columns) of output-referred noise."""
        return self._normals(1, torch.zeros((1, 1, 1), dtype=torch.int64, device=self.samples.device), columns)[
            0, 0, :, 0
        ]

    def _normals(self, reads: int, plane: Tensor, columns: int) -> Tensor:
        """(reads, tiles, rows, slices, columns) for planes (tiles, 1, slices)."""
        device, beside = self.samples.device, self.positions[:, None]
        blocks = torch.arange(LANES * -(-columns // (4 * LANES)), device=device)
        high = beside[..., None] >> BESIDE_PLANE
        low = (beside & ((1 << BESIDE_PLANE) - 1)) << PLANE_BITS
        number = torch.arange(self.read, self.read + reads, device=device).reshape(-1, 1, 1, 1, 1)
        counter = blocks + (high << 16), self.samples[:, None, None], (plane + low)[..., None], number
        return of_words(words(counter, self.key), columns)
