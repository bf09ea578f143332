"""Kernels of training on tensors of a CPU: normals that are counted, and what is done to each reading.

Normals depend on a key and on their place, so the same seed gives the same on any number of threads.
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import numpy as np
import torch

from ...crossbar.kernels import training
from ...crossbar.kernels.philox import ALONE, GROUP, Rows, round_keys
from ...crossbar.keys import Key
from ...crossbar.threads import available, pool_of

Tensor = torch.Tensor
WORTH_THREADS = 1 << 17  # numbers; below, starting other threads takes longer than they save
NONE = np.empty((0, 0), np.int16)
REFERENCES = np.empty(0, np.int64)


def call(name: str, size: int, *arguments: Any) -> None:
    """A kernel, on as many threads as torch has where that is worth it."""
    threads = available(torch.get_num_threads()) if size >= WORTH_THREADS else 1
    if threads == 1:
        getattr(training, name)(*arguments)
        return
    with pool_of(threads):
        getattr(training, f"{name}_parallel")(*arguments)


def normals(key: Key, plane: int, read: int, *shape: int) -> Tensor:
    """Standard normals float32 of a shape; a key has one stream for each plane and read."""
    out = torch.empty(shape, dtype=torch.float32)
    call("fill", out.numel(), out.view(-1).numpy(), (np.uint32(plane), np.uint32(read)), key)
    return out


def seeded_normals(seed: int, count: int) -> Tensor:
    """Standard normals float32 (count,), of a seed from 0 to 2^64 - 1."""
    return normals(round_keys(seed), 0, 0, count)


def driven(values: Tensor, scale: np.float32, codes: tuple[np.float32, np.float32]) -> Tensor:
    """What values drive, of the same shape: codes, `scale` for a value of 1, clipped to (lowest, highest), as shares
    of the highest.
    """
    given = values.contiguous()
    out = torch.empty_like(given)
    call("driven", out.numel(), given.view(-1).numpy(), scale, codes, out.view(-1).numpy())
    return out


def driven_back(values: Tensor, scale: np.float32, codes: tuple[np.float32, np.float32], slopes: Tensor) -> None:
    """Slopes of what is driven (contiguous) to those of the values, in place."""
    given = values.contiguous().view(-1).numpy()
    call("driven_back", given.size, given, scale, codes, slopes.view(-1).numpy())


class Counted:
    """Normals of the shapes of tensors, one stream after another."""

    def __init__(self, key: Key) -> None:
        self.key, self.drawn = key, 0

    def __call__(self, like: Tensor) -> Tensor:
        self.drawn += 1
        return normals(self.key, self.drawn, 0, *like.shape)


class Adc(NamedTuple):
    """What ADCs of a layer do, in codes; without them a code is a current.

    Attributes:
        limits: (low, high, centre) float32.
        whole: whether codes fit into int16.
        rounds: whether there are ADCs.
    """

    limits: tuple[np.float32, np.float32, np.float32]
    whole: bool
    rounds: bool

    @classmethod
    def of(cls, low: float, high: float, centre: float, rounds: bool) -> Adc:
        """Of the lowest and highest code, and the middle of their steps."""
        if not rounds:
            low, high, centre = -np.inf, np.inf, 0.0
        whole = rounds and max(-low, high) < 2**15 - 1
        return cls((np.float32(low), np.float32(high), np.float32(centre)), whole, rounds)

    def empty(self, *shape: int) -> Tensor:
        """Where codes go."""
        return torch.empty(shape, dtype=torch.int16 if self.whole else torch.float32)


class Columns(NamedTuple):
    """What the columns of a tile have beside their currents, for as many rows as are whole groups of normals together.

    Attributes:
        floor: (1, joined * width) the variance that no input changes.
        inverse: (joined * width,) codes for a unit of current.
    """

    width: int
    joined: int
    floor: np.ndarray[Any, Any]
    inverse: np.ndarray[Any, Any]

    @classmethod
    def of(cls, floor: Tensor, inverse: Tensor) -> Columns:
        """Of both, (columns,)."""
        width = len(floor)
        joined = GROUP // gcd(width, GROUP)
        return cls(width, joined, floor.repeat(joined).numpy()[None], inverse.repeat(joined).numpy())


def noisy_codes(
    current: Tensor,
    variance: Tensor | None,
    columns: Columns,
    gain: float,
    adc: Adc,
    place: tuple[Key, int, int],
    codes: Tensor,
) -> None:
    """Add noise to currents (rows, columns), in place, and write what ADCs make of them to codes of the same shape.

    Args:
        variance: of the same shape, or none; beside it there are that of each column, and gain times squared currents.
        place: (key, plane, read) of the normals.
    """
    key, plane, read = place
    count, (width, joined, floor, inverse) = len(current), columns
    wide, whole = width * joined, count // joined
    where, parts = (np.uint32(plane), np.uint32(read)), [(0, whole * joined)]
    if whole * joined < count:
        parts.append((whole * joined, count))
    for first, last in parts:
        given, own, out = current[first:last], None if variance is None else variance[first:last], codes[first:last]
        padded = last - first < joined
        if padded:  # the last rows, which are no whole groups
            given = torch.nn.functional.pad(given, (0, 0, 0, joined - (last - first)))
            own = None if own is None else torch.nn.functional.pad(own, (0, 0, 0, joined - (last - first)))
            out = adc.empty(joined, width)
        arrays = given.view(-1, wide).numpy(), np.zeros((1, wide), np.float32)
        if own is not None:
            arrays = arrays[0], own.view(-1, wide).numpy()
        into = out.view(-1, wide).numpy() if adc.whole else NONE
        rows = Rows(np.uint64(first // joined), ALONE)
        numbers = np.float32(gain), floor, inverse, adc.limits, rows, where, key
        call("noisy_codes", given.numel(), arrays, *numbers, into)
        if not adc.whole:
            low, high, centre = map(float, adc.limits)
            level = given * torch.from_numpy(inverse[:width]) - centre
            out.copy_(level.round().clamp(low - 1, high + 1) if adc.rounds else given)
        if padded:
            codes[first:last] = out[: last - first]


def count_up(codes: Tensor, adc: Adc, scale: Tensor, reference: np.ndarray[Any, Any], out: Tensor) -> None:
    """Add what codes (rows, readings, columns) count, by a scale (readings, outputs), to out (rows, outputs)."""
    arguments = codes.numpy(), adc.limits, scale.numpy(), reference, out.numpy()
    call("count_up", codes.numel(), *arguments)


def back_through(
    codes: Tensor, adc: Adc, scale: Tensor, reference: np.ndarray[Any, Any], slopes: Tensor
) -> tuple[Tensor, Tensor]:
    """Slopes (rows, readings, columns) of currents, and (readings, outputs) of the scale of codes, undoing `count_up`.

    `scale` (readings, outputs) is that of currents, slopes (rows, outputs) are those of outputs.
    """
    back, sums = torch.empty(codes.shape, dtype=torch.float32), np.zeros((training.PIECES, *scale.shape))
    arguments = codes.numpy(), adc.limits, scale.numpy(), reference, slopes.numpy()
    call("back_through", codes.numel(), *arguments, back.numpy(), sums)
    return back, torch.from_numpy(sums.sum(0).astype(np.float32))
