"""Programmed cells as named arrays, for a file, and back.

What comes from a file reaches kernels that trust their arrays. So its layout is worked out here from placement,
hardware and drive alone, and every array must have exactly that shape and type, and values of its kind, before it is
used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .backend import Backend
from .cells import Cells
from .design import Design
from .kernels.panel import PANEL
from .kernels.philox import GROUP
from .kernels.read import Planes
from .packed import INT32_MAX, Packed, largest_factors, packed_edges, slow_shares
from .programmed import Programmed
from .ranges import Ranges
from .reader import Seeds
from .row_tile import BINS
from .slow_noise import DOUBLINGS

Array = np.ndarray[Any, Any]
PARTS = ("row_conductance", "histogram", "slow_std", "slow_shares")  # of `Packed`, beside its planes
MOST = float(np.finfo(np.float32).max)


class Slot(NamedTuple):
    """What an array must be: shape, type, and the lowest and highest value."""

    shape: tuple[int, ...]
    kind: Any
    low: float = 0.0
    high: float = MOST


def arrays_of(programmed: Programmed) -> list[dict[str, Array]]:
    """The arrays of each group of a programmed matrix, which `restored` takes back."""
    found = [packed.planes._asdict() | {key: getattr(packed, key) for key in PARTS} for packed in programmed.packed]
    for arrays, gains in zip(found, programmed.ranges.gains, strict=False):
        arrays["gains"] = gains
    return found


def names_of(design: Design) -> tuple[str, ...]:
    """The names of the arrays of each group."""
    return (*Planes._fields, *PARTS, *(("gains",) if design.wire_compensation == "gain" else ()))


def restored(
    design: Design, cells: Cells, seeds: Seeds, backend: Backend, ranges: Ranges, groups: list[Mapping[str, Array]]
) -> Programmed:
    """A matrix with what `arrays_of` told of, instead of programming its cells.

    Raises:
        ValueError: an array that this matrix cannot have on its hardware.
    """
    found = []
    for g, arrays in enumerate(groups):
        for key, slot in _slots(design, arrays).items():
            check(f"{g}.{key}", arrays[key], slot)
        edges = packed_edges(design)
        for key, exact in (("edges", edges), ("reference", _reference(design)), ("bias", design.bias_of(g))):
            if arrays[key].dtype != exact.dtype or not np.array_equal(arrays[key], exact):
                raise ValueError(f"{g}.{key} does not fit its layer and the tiles of its hardware")
        _check_counts(design, arrays["histogram"])
        largest = largest_factors(design.placement, design.drive)
        for key, factor in zip(("mean", "variance"), largest, strict=True):
            if factor is not None and arrays[key].size:
                _check_sums(f"{g}.{key}", arrays[key], edges, factor)
        planes = Planes(**{key: arrays[key] for key in Planes._fields})
        found.append(Packed(planes, **{key: arrays[key] for key in PARTS}))
    gains = tuple(arrays["gains"] for arrays in groups) if design.wire_compensation == "gain" else ()
    return Programmed.assembled(design, cells, seeds, backend, replace(ranges, gains=gains), tuple(found))


def check(name: str, array: Array, slot: Slot) -> None:
    """Raises ValueError if an array is not what its slot says."""
    if array.shape != slot.shape or array.dtype != np.dtype(slot.kind):
        raise ValueError(
            f"{name} of shape {array.shape}, {array.dtype}, does not fit the tiles of its hardware: "
            f"expected {slot.shape}, {np.dtype(slot.kind)}"
        )
    if not array.size:
        return
    low, high = array.min(), array.max()  # NaN where one of them is
    if not (slot.low <= low and high <= slot.high):
        raise ValueError(f"{name} must be from {slot.low:g} to {slot.high:g}, got {low:g} to {high:g}")


def _outputs(design: Design) -> tuple[int, int, int]:
    return design.placement.tile.slices, design.placement.row_tiles, design.placement.outputs


def _columns(design: Design) -> int:
    """Outputs, and reference columns behind them."""
    placement = design.placement
    return placement.outputs + (placement.column_tiles if placement.tile.reference_columns else 0)


def _slots(design: Design, arrays: Mapping[str, Array]) -> dict[str, Slot]:
    """What each array of a group must be, but `edges` and `reference`: see `Planes` and `Packed`.

    `variance` and `uniform` are there or not as the cells of a tile are alike or not, which `arrays` tells.
    """
    placement, hardware, columns = design.placement, design.hardware, _columns(design)
    slices, row_tiles = placement.tile.slices, placement.row_tiles
    integers = largest_factors(placement, design.drive)[0] is not None
    kind = np.int16 if integers else np.float32
    depth = ((placement.rows + 1) // 2, 2 * PANEL) if integers else (placement.rows, PANEL)
    packed, padded = (slices, -(-columns // PANEL), *depth), columns + -columns % GROUP
    spread = arrays["variance"].size > 0
    uniform = arrays["uniform"].size > 0 and not spread
    parts = len(slow_shares(hardware))
    slots = {
        "mean": Slot(packed, kind, -MOST),
        "variance": Slot(packed if spread else (slices, 0, 0, 0), kind),
        "mean_unit": Slot((slices, row_tiles), np.float32),
        "variance_unit": Slot((slices, row_tiles), np.float32),
        "uniform": Slot((slices, row_tiles) if uniform else (0, 0), np.float32),
        "floor": Slot((slices, row_tiles, padded), np.float32),
        "scale": Slot((slices, row_tiles, padded), np.float32, -MOST),
        "row_conductance": Slot((slices, placement.rows), np.float64, -MOST),  # what others drive back comes off it
        "histogram": Slot((BINS,), np.int64, 0, 2.0**53),
        "slow_std": Slot((parts, slices, placement.rows, columns), np.float32),
        "slow_shares": Slot((parts, DOUBLINGS + 2), np.float64, 0.0, 1.0),
    }
    if design.wire_compensation == "gain":
        slots["gains"] = Slot(_outputs(design), np.float64, -MOST)
    return slots


def _reference(design: Design) -> Array:
    """`reference` of `Planes`, which follows from the placement."""
    placement, outputs = design.placement, np.arange(design.placement.outputs)
    return placement.outputs + outputs // placement.tile.outputs if placement.tile.reference_columns else outputs[:0]


def _check_counts(design: Design, histogram: Array) -> None:
    """Every cell of a group is counted once."""
    polarities = 2 if design.placement.tile.encoding.startswith("differential") else 1
    cells = prod((design.placement.tile.slices, polarities, design.placement.rows, _columns(design)))
    if int(histogram.sum()) != cells:
        raise ValueError(f"histogram counts {int(histogram.sum())} cells, its tiles have {cells}")


def _check_sums(name: str, packed: Array, edges: Array, factor: int) -> None:
    """Sums of int16 products of a column of a tile with factors of that size fit into int32, as the kernels trust."""
    for t in range(len(edges) - 1):
        part = packed[:, :, edges[t] // 2 : edges[t + 1] // 2]
        sums = np.abs(part.astype(np.int32)).sum(axis=2, dtype=np.int64)
        most = int(sums.reshape(*sums.shape[:2], PANEL, 2).sum(axis=3).max(initial=0))
        if most * factor > INT32_MAX:
            raise ValueError(f"{name}: a column adds up to {most}, more than its kernel can hold")
