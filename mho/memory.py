"""The memory that a chip or a layer takes."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import torch


def array_bytes(thing: Any) -> int:
    """Bytes of the numpy arrays that an object holds, in attributes and containers; shared memory counts once."""
    seen: set[int] = set()
    arrays: dict[int, int] = {}
    waiting = [thing]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            arrays[item.__array_interface__["data"][0]] = item.nbytes
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):  # named tuples too
            waiting += item
        elif not isinstance(item, type | types.ModuleType | types.FunctionType | torch.Tensor):
            waiting += vars(item).values() if hasattr(item, "__dict__") else ()
            if dataclasses.is_dataclass(item):  # one with slots has no __dict__
                waiting += [getattr(item, field.name) for field in dataclasses.fields(item)]
    return sum(arrays.values())
