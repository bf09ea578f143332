"""Programmed cells as named arrays, for a file, and back.

What comes from a file reaches kernels that trust their arrays. So its layout is worked out here from placement,
hardware and drive alone, and every array must have exactly that shape and type, and values of its kind, before it is
used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .backend import Backend
from .cells import Cells, Drawn, Given
from .design import Design
from .hardware import Hardware
from .kernels.panel import PANEL
from .kernels.philox import GROUP
from .kernels.read import ALIKE, Planes
from .packed import BESIDE, INT32_MAX, Packed, largest_factors, packed_edges, slow_shares
from .programmed import Programmed
from .ranges import Ranges
from .reader import Seeds
from .row_tile import BINS
from .slow_noise import DOUBLINGS
from .stacked import filled

Array = np.ndarray[Any, Any]
DIGITAL = ("scale",)  # fields of planes that are not the cells': a compensation for drift is in it
PARTS = ("row_conductance", "histogram", "slow_std", "slow_shares")  # of `Packed`, beside its planes
TABLE = "conductances"  # of given cells, (slices, polarities, rows, columns) float32 siemens
CELLS: dict[str, type[Cells]] = {"drawn": Drawn, "given": Given}
MOST = float(np.finfo(np.float32).max)
CHUNK = 2**20  # numbers that are looked at together, so that a check needs little memory beside what it checks


class Slot(NamedTuple):
    """What an array must be: shape, type, and the lowest and highest value."""

    shape: tuple[int, ...]
    kind: Any
    low: float = 0.0
    high: float = MOST


def kind_of(cells: Cells) -> str:
    """The name of what the cells are, by which `restored` makes them again.

    Raises:
        ValueError: cells of a type that a file has no room for.
    """
    found = next((kind for kind, made in CELLS.items() if type(cells) is made), None)
    if found is None:
        raise ValueError(f"cells must be of type Drawn or Given to be kept in a file, got {type(cells).__name__}")
    return found


def arrays_of(programmed: Programmed, *, cells: bool = True) -> list[dict[str, Array]]:
    """The arrays of each group of a programmed matrix, which `restored` takes back; or without those of its `cells`,
    what `redrawn` takes."""
    keys, parts = (planes_of(programmed.design), PARTS) if cells else (DIGITAL, ())
    found = [
        {key: getattr(packed.planes, key) for key in keys} | {key: getattr(packed, key) for key in parts}
        for packed in programmed.packed
    ]
    for arrays, gains in zip(found, programmed.ranges.gains, strict=False):
        arrays["gains"] = gains
    if isinstance(programmed.cells, Given):
        for arrays, table in zip(found, programmed.cells.table, strict=True):
            arrays[TABLE] = table.astype(np.float32, copy=False)  # as cells settle
    return found


def digest_of(programmed: Programmed, *, apart: bool = False) -> str:
    """What tells cells that were drawn again from others: 32 hexadecimal digits, of all that `redrawn` works out.

    Cells are counted over all groups; `apart`: in each of them, as older files have it.
    """
    found, packed = blake2b(programmed.digest(), digest_size=16), programmed.packed
    counted = [p.histogram for p in packed] if apart else [sum(p.histogram for p in packed), *[None] * len(packed)]
    for group, histogram in zip(packed, counted, strict=False):
        for key in PARTS:
            part = histogram if key == "histogram" else getattr(group, key)
            found.update(b"" if part is None else np.ascontiguousarray(part).data)
    return found.hexdigest()


def planes_of(design: Design) -> tuple[str, ...]:
    """The fields of its planes that are kept: those that cells make, where there is something in them."""
    return tuple(key for key in Planes._fields if key not in ALIKE and (design.linear or key not in BESIDE))


def names_of(design: Design, kind: str, *, cells: bool = True) -> tuple[str, ...]:
    """The names of the arrays of each group, for cells of this kind: see `arrays_of`."""
    gains = ("gains",) if design.wire_compensation == "gain" else ()
    if not cells:
        return (*DIGITAL, *gains)
    return (*planes_of(design), *PARTS, *gains, *((TABLE,) if kind == "given" else ()))


def restored(
    design: Design, kind: str, seeds: Seeds, backend: Backend, ranges: Ranges, groups: Sequence[Mapping[str, Array]]
) -> Programmed:
    """A matrix with what `arrays_of` told of, instead of programming its cells, which are of this kind.

    No wires are solved. The arrays are used as they are, and not copied, but for those that have to be filled up.

    Raises:
        ValueError: an array that this matrix cannot have on its hardware.
    """
    found, edges = [], packed_edges(design)
    told = [_filled(g, arrays, _slots(design, arrays)) for g, arrays in enumerate(groups)]
    _check_counts(design, np.stack([arrays["histogram"] for arrays in told]))
    for g, given in enumerate(told):
        exact = {
            "edges": edges,
            "reference": design.placement.references,
            "bias": ranges.before_scales(design, g),
        }
        arrays = exact | given
        for key, follows in exact.items():
            if arrays[key].dtype != follows.dtype or not np.array_equal(arrays[key], follows):
                raise ValueError(f"{g}.{key} does not fit its layer and the tiles of its hardware")
        largest = largest_factors(design)
        for key, factor in zip(("mean", "variance", "linear"), (*largest, largest[0]), strict=True):
            if key in arrays and factor is not None and arrays[key].size:
                _check_sums(f"{g}.{key}", arrays[key], edges, factor)
        mean = arrays["mean"]
        nothing = {
            "linear": np.empty((len(mean), 0, 0, 0), mean.dtype),
            "linear_unit": np.ones_like(arrays["mean_unit"]),
            "total": np.empty((0, 0, 0), np.float32),
        }
        kept = {key: arrays[key] for key in planes_of(design)}
        planes = Planes(**(nothing | kept | ALIKE))
        found.append(Packed(planes, **{key: arrays[key] for key in PARTS}))
    cells = _cells(kind, design.hardware, seeds, told)
    return Programmed.assembled(design, cells, seeds, backend, _with_gains(design, ranges, told), tuple(found))


def redrawn(
    design: Design, seeds: Seeds, backend: Backend, ranges: Ranges, groups: Sequence[Mapping[str, Array]]
) -> Programmed:
    """A matrix whose cells are drawn and programmed again, with what `arrays_of` told of it without its cells.

    Raises:
        ValueError: an array that this matrix cannot have on its hardware, or wires that cannot be solved.
    """
    nothing = {key: np.empty(0) for key in ("variance", "uniform")}
    slots = _slots(design, nothing)
    told = [_filled(g, given, {key: slots[key] for key in given}) for g, given in enumerate(groups)]
    cells = Drawn(design.hardware, *seeds)
    now = Programmed.of(design, cells, seeds, backend, _with_gains(design, ranges, told))
    packed = tuple(
        replace(group, planes=group.planes._replace(**{key: arrays[key] for key in DIGITAL}))
        for group, arrays in zip(now.packed, told, strict=True)
    )
    return Programmed.assembled(design, cells, seeds, backend, now.ranges, packed)


def _with_gains(design: Design, ranges: Ranges, groups: Sequence[Mapping[str, Array]]) -> Ranges:
    gains = tuple(arrays["gains"] for arrays in groups) if design.wire_compensation == "gain" else ()
    return replace(ranges, gains=gains)


def _filled(group: int, arrays: Mapping[str, Array], slots: Mapping[str, Slot]) -> dict[str, Array]:
    """The arrays of a group in their slots, and those that have none.

    Raises:
        ValueError: one does not fit.
    """
    found = dict(arrays)
    for key, slot in slots.items():
        found[key] = filled(arrays[key], slot.shape, slot.kind)
        check(f"{group}.{key}", found[key], slot)
    return found


def _cells(kind: str, hardware: Hardware, seeds: Seeds, groups: Sequence[Mapping[str, Array]]) -> Cells:
    if kind == "given":
        return Given(hardware, tuple(arrays[TABLE] for arrays in groups))
    return Drawn(hardware, *seeds)


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


def _table(design: Design) -> tuple[int, int, int, int]:
    """The shape of all cells of a group: (slices, polarities x devices, rows, columns)."""
    placement = design.placement
    polarities = 2 if placement.tile.paired else 1
    return placement.tile.slices, polarities * design.devices, placement.rows, _columns(design)


def _columns(design: Design) -> int:
    """Outputs, and reference columns behind them."""
    placement = design.placement
    return placement.outputs + (placement.column_tiles if placement.tile.reference_columns else 0)


def _slots(design: Design, arrays: Mapping[str, Array]) -> dict[str, Slot]:
    """What each array of a group must be, but `edges` and `reference`: see `Planes` and `Packed`.

    `variance` and `uniform` are there or not as the cells of a tile are alike or not, which `arrays` tells.
    """
    placement, hardware, columns = design.placement, design.hardware, _columns(design)
    outputs = placement.outputs  # readings of reference columns have no scale
    slices, readings, row_tiles = placement.tile.slices, design.readings, placement.row_tiles
    integers = largest_factors(design)[0] is not None
    kind = np.int16 if integers else np.float32
    depth = ((placement.rows + 1) // 2, 2 * PANEL) if integers else (placement.rows, PANEL)
    packed, padded = (readings, -(-columns // PANEL), *depth), columns + -columns % GROUP
    spread = arrays["variance"].size > 0
    uniform = arrays["uniform"].size > 0 and not spread
    parts = len(slow_shares(hardware))
    slots = {
        "mean": Slot(packed, kind, -MOST),
        "variance": Slot(packed if spread else (readings, 0, 0, 0), kind),
        "mean_unit": Slot((readings, row_tiles), np.float32),
        "variance_unit": Slot((readings, row_tiles), np.float32),
        "uniform": Slot((readings, row_tiles) if uniform else (0, 0), np.float32),
        "floor": Slot((readings, row_tiles, padded), np.float32),
        "scale": Slot((readings, row_tiles, outputs + -outputs % GROUP), np.float32, -MOST),
        "row_conductance": Slot((slices, placement.rows), np.float64, -MOST),  # what others drive back comes off it
        "histogram": Slot((BINS,), np.int64, 0, 2.0**53),
        "slow_std": Slot((parts, readings, placement.rows, columns), np.float32),
        "slow_shares": Slot((parts, DOUBLINGS + 2), np.float64, 0.0, 1.0),
    }
    if design.linear:
        slots["linear"] = Slot(packed, kind, -MOST if design.floats else 0.0)
        slots["linear_unit"] = Slot((readings, row_tiles), np.float32)
        slots["total"] = Slot((readings, row_tiles, padded) if design.floats else (0, 0, 0), np.float32)
    if design.wire_compensation == "gain":
        slots["gains"] = Slot((placement.tile.converted, row_tiles, placement.outputs), np.float64, -MOST)
    if TABLE in arrays:
        slots[TABLE] = Slot(_table(design), np.float32)
    return slots


def _check_counts(design: Design, histograms: Array) -> None:
    """Every cell of the groups (groups, BINS) is counted once."""
    cells = len(histograms) * prod(_table(design))
    if int(histograms.sum()) != cells:
        raise ValueError(f"histogram counts {int(histograms.sum())} cells, its tiles have {cells}")


def _check_sums(name: str, packed: Array, edges: Array, factor: int) -> None:
    """Sums of int16 products of a column of a tile with factors of that size fit into int32, as the kernels trust."""
    pairs = packed.shape[2]
    panels = packed.reshape(-1, pairs, 2 * PANEL)  # of all slices
    at_once = max(1, CHUNK // (pairs * 2 * PANEL))
    for first in range(0, len(panels), at_once):
        part = np.abs(panels[first : first + at_once].astype(np.int32))
        sums = np.add.reduceat(part, edges[:-1] // 2, axis=1, dtype=np.int64)
        most = int(sums.reshape(*sums.shape[:2], PANEL, 2).sum(axis=3).max(initial=0))
        if most * factor > INT32_MAX:
            raise ValueError(f"{name}: a column adds up to {most}, more than its kernel can hold")
