"""Programmed cells as named arrays, for a file, and back.

What comes from a file reaches kernels that trust their arrays. So its layout is worked out here from placement,
hardware and drive alone, and every array must have exactly that shape and type, and values of its kind, before it is
used.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .kernels.panel import PANEL
from .kernels.philox import GROUP
from .kernels.read import Planes
from .programmed import INT32_MAX, Programmed, largest_factors, read_shares
from .row_tile import BINS
from .slow_noise import DOUBLINGS

if TYPE_CHECKING:
    from .matrix import TiledMatrix

Array = np.ndarray[Any, Any]
PARTS = ("row_conductance", "histogram", "slow_std", "slow_shares")  # of `Programmed`, beside its planes
MOST = float(np.finfo(np.float32).max)


class Slot(NamedTuple):
    """What an array must be: shape, type, and the lowest and highest value."""

    shape: tuple[int, ...]
    kind: Any
    low: float = 0.0
    high: float = MOST


def arrays_of(matrix: TiledMatrix) -> list[dict[str, Array]]:
    """The arrays of each group of a programmed matrix, which `restore` takes back."""
    found = []
    for programmed in matrix.programmed:
        arrays = programmed.planes._asdict() | {key: getattr(programmed, key) for key in PARTS}
        if matrix.wire_compensation == "gain":
            arrays["gains"] = programmed.gains
        found.append(arrays)
    return found


def names_of(matrix: TiledMatrix) -> tuple[str, ...]:
    """The names of the arrays of each group."""
    return (*Planes._fields, *PARTS, *(("gains",) if matrix.wire_compensation == "gain" else ()))


def restore(matrix: TiledMatrix, groups: list[Mapping[str, Array]]) -> None:
    """Give a matrix, whose drive is set, the cells that `arrays_of` told of, instead of programming it.

    Raises:
        ValueError: an array that this matrix cannot have on its hardware.
    """
    assert matrix.drive is not None
    found = []
    for g, arrays in enumerate(groups):
        for key, slot in _slots(matrix, arrays).items():
            check(f"{g}.{key}", arrays[key], slot)
        edges, reference = _partition(matrix)
        for key, exact in (("edges", edges), ("reference", reference), ("bias", matrix.bias_of(g))):
            if arrays[key].dtype != exact.dtype or not np.array_equal(arrays[key], exact):
                raise ValueError(f"{g}.{key} does not fit its layer and the tiles of its hardware")
        _check_counts(matrix, arrays["histogram"])
        largest = largest_factors(matrix.placement, matrix.drive)
        for key, factor in zip(("mean", "variance"), largest, strict=True):
            if factor is not None and arrays[key].size:
                _check_sums(f"{g}.{key}", arrays[key], edges, factor)
        planes = Planes(**{key: arrays[key] for key in Planes._fields})
        pedestal = matrix.hardware.cell.g_min / matrix.hardware.cell.g_max
        found.append(
            Programmed(
                planes,
                **{key: arrays[key] for key in PARTS},
                limit=matrix.drive.limit,
                pedestal=pedestal if matrix.placement.tile.encoding == "single" else 0.0,
                gains=arrays.get("gains", np.ones(_outputs(matrix))),
            )
        )
    matrix.adopt(found)


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


def _outputs(matrix: TiledMatrix) -> tuple[int, int, int]:
    return matrix.placement.tile.slices, matrix.placement.row_tiles, matrix.placement.outputs


def _columns(matrix: TiledMatrix) -> int:
    """Outputs, and reference columns behind them."""
    placement = matrix.placement
    return placement.outputs + (placement.column_tiles if placement.tile.reference_columns else 0)


def _slots(matrix: TiledMatrix, arrays: Mapping[str, Array]) -> dict[str, Slot]:
    """What each array of a group must be, but `edges` and `reference`: see `Planes` and `Programmed`.

    `variance` and `uniform` are there or not as the cells of a tile are alike or not, which `arrays` tells.
    """
    assert matrix.drive is not None
    placement, hardware, columns = matrix.placement, matrix.hardware, _columns(matrix)
    slices, row_tiles = placement.tile.slices, placement.row_tiles
    integers = largest_factors(placement, matrix.drive)[0] is not None
    kind = np.int16 if integers else np.float32
    depth = ((placement.rows + 1) // 2, 2 * PANEL) if integers else (placement.rows, PANEL)
    packed, padded = (slices, -(-columns // PANEL), *depth), columns + -columns % GROUP
    spread = arrays["variance"].size > 0
    uniform = arrays["uniform"].size > 0 and not spread
    sources = hardware.cell.read_noise.parts
    lasting = hardware.sensing.read_interval is not None and any(read_shares(hardware, s)[0] < 1 for s in sources)
    parts = len(sources) if lasting else 0
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
    if matrix.wire_compensation == "gain":
        slots["gains"] = Slot(_outputs(matrix), np.float64, -MOST)
    return slots


def _partition(matrix: TiledMatrix) -> tuple[Array, Array]:
    """`edges` and `reference` of `Planes`, which follow from placement and drive."""
    assert matrix.drive is not None
    placement, outputs = matrix.placement, np.arange(matrix.placement.outputs)
    pairs = largest_factors(placement, matrix.drive)[0] is not None
    rows, tile = placement.rows, placement.tile
    edges = np.array([*placement.edges[:-1], rows + rows % 2 if pairs else rows], dtype=np.int64)
    return edges, placement.outputs + outputs // tile.outputs if tile.reference_columns else outputs[:0]


def _check_counts(matrix: TiledMatrix, histogram: Array) -> None:
    """Every cell of a group is counted once."""
    polarities = 2 if matrix.placement.tile.encoding.startswith("differential") else 1
    cells = prod((matrix.placement.tile.slices, polarities, matrix.placement.rows, _columns(matrix)))
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
