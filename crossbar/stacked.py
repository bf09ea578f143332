"""Arrays of the groups of a matrix as they stand in a file: those of many groups together, without what is known.

A depthwise convolution has a group for each channel, of a few cells each. Names, padding and counts would take more
room than its cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
FOLLOWS = ("edges", "reference", "bias")  # from placement and ranges: left out where there are many groups
SUMMED = ("histogram",)  # asked for of all groups together alone: their sum, which the first has when it is read
ALL = "all"  # in the place of the number of a group: one array of all of them
WIDTHS = (np.uint8, np.uint16, np.uint32)


def stacked(groups: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of all groups by names that `apart` takes.

    Of one group they are the same arrays. Of several, those of a name are one array with the groups along its first
    dimension, where all have one shape: whole numbers in as few bytes as they take, and without the zeros that fill up
    the last dimension in all groups where these are half of it or more. Counts are added up over the groups.
    """
    if len(groups) == 1:
        return {f"0.{key}": array for key, array in groups[0].items()}
    found: dict[str, Array] = {}
    for key in (key for key in groups[0] if key not in FOLLOWS):
        arrays = [group[key] for group in groups]
        if key in SUMMED:
            found[f"{ALL}.{key}"] = _narrow(np.sum(arrays, axis=0))
        elif len({(array.shape, array.dtype) for array in arrays}) == 1:
            found[f"{ALL}.{key}"] = _together(arrays)
        else:
            found |= {f"{g}.{key}": array for g, array in enumerate(arrays)}
    return found


def _together(arrays: list[Array]) -> Array:
    first = arrays[0]
    width = first.shape[-1] if first.ndim else 0
    used = max((_used(array) for array in arrays), default=0) if width else 0
    return _narrow(np.stack([array[..., :used] for array in arrays] if 2 * used <= width else arrays))


def _narrow(made: Array) -> Array:
    if made.dtype != np.int64 or not made.size or made.min() < 0:
        return made
    return made.astype(next((kind for kind in WIDTHS if made.max() <= np.iinfo(kind).max), np.int64))


def _used(array: Array) -> int:
    """Up to which column there is something, 1 at least; -0.0 is not nothing."""
    bits = np.ascontiguousarray(array).view(f"u{array.itemsize}").reshape(-1, array.shape[-1])
    there = np.flatnonzero(np.any(bits != 0, axis=0))
    return int(there[-1]) + 1 if there.size else 1


def apart(arrays: Mapping[str, Array], names: Sequence[str], groups: int) -> tuple[list[dict[str, Array]], set[str]]:
    """The arrays of each group from those of `stacked`, and the names there that were used.

    Raises:
        KeyError: an array that is missing.
        ValueError: one of another number of groups.
    """
    found: list[dict[str, Array]] = [{} for _ in range(groups)]
    used = set()
    for key in names:
        together = arrays.get(f"{ALL}.{key}")
        if together is not None and key in SUMMED and together.ndim == 1:
            together = np.stack([together, *(np.zeros_like(together) for _ in range(groups - 1))])
        if together is not None and together.shape[:1] != (groups,):
            raise ValueError(f"{ALL}.{key} must be an array for each of {groups} groups, got shape {together.shape}")
        for g, group in enumerate(found):
            name = f"{g}.{key}"
            if name in arrays:
                group[key] = arrays[name]
            elif together is not None:
                name = f"{ALL}.{key}"
                group[key] = together[g]
            elif key in FOLLOWS and groups > 1:
                continue
            else:
                raise KeyError(name)
            used.add(name)
    return found, used


def filled(array: Array, shape: tuple[int, ...], kind: Any) -> Array:
    """An array of a group as it was before `stacked` took zeros and bytes off; others stay as they are."""
    if array.dtype.kind == "u" and np.dtype(kind) == np.int64:
        array = array.astype(np.int64)
    if array.dtype == np.dtype(kind) and array.ndim == len(shape) and array.ndim and array.shape != shape:
        missing = shape[-1] - array.shape[-1]
        if array.shape[:-1] == shape[:-1] and missing >= shape[-1] // 2:
            return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)])
    return array
