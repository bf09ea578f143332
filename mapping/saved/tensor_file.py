"""Tensors of a safetensors file, each read into memory of its own or left in the file, which is mapped into memory."""

from __future__ import annotations

import json
import mmap
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError

MOST = 100_000_000  # bytes of a header, as safetensors has it
Array = np.ndarray[Any, Any]
_NAMES = """
    F64=float64 F32=float32 F16=float16 BF16=bfloat16 F8_E4M3=float8_e4m3fn F8_E5M2=float8_e5m2 C64=complex64 BOOL=bool
    I64=int64 I32=int32 I16=int16 I8=int8 U64=uint64 U32=uint32 U16=uint16 U8=uint8
"""
KINDS: dict[str, torch.dtype] = {name: getattr(torch, kind) for name, kind in (n.split("=") for n in _NAMES.split())}


class _Entry(NamedTuple):
    """Type, shape, and first byte of a tensor in its file."""

    kind: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def empty(self) -> bool:
        return not prod(self.shape)


def header_of(path: Path) -> bytes:
    """The first bytes of a safetensors file: their number, then names, types, shapes and places of its tensors."""
    with path.open("rb") as file:
        size = file.read(8)
        return size + file.read(min(MOST, int.from_bytes(size, "little")))


def bytes_of(value: torch.Tensor) -> Array:
    """The numbers of a contiguous tensor as bytes, in the same memory."""
    return value.reshape(-1).view(torch.uint8).numpy() if value.numel() else np.empty(0, np.uint8)


def read_tensors(path: Path, *, mapped: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a file by name.

    Args:
        mapped: leave them in the file. What is written to such a tensor stays in memory (copy on write); what is
            written to the file may be seen in it, and where the file is cut the process ends when that part is read.

    Raises:
        CheckpointError: no such file, or one that ends before its tensors do.
    """
    found: dict[str, torch.Tensor] = {}
    entries = _entries(path)
    with path.open("rb") as file:
        if mapped:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        for name, entry in entries.items():
            if entry.empty:
                found[name] = torch.empty(entry.shape, dtype=entry.kind)
            elif mapped:
                flat = torch.frombuffer(view, dtype=entry.kind, count=prod(entry.shape), offset=entry.start)
                aligned = entry.start % entry.kind.itemsize == 0
                found[name] = (flat if aligned else flat.clone()).reshape(entry.shape)
            else:
                found[name] = torch.empty(entry.shape, dtype=entry.kind)
                file.seek(entry.start)
                if file.readinto(bytes_of(found[name]).data) != found[name].nbytes:
                    raise CheckpointError(f"damaged ({path.name} ends before {name})")
    return found


def _entries(path: Path) -> dict[str, _Entry]:
    """What the header says, once safetensors has found that it and the file are whole and fit each other.

    Raises:
        CheckpointError: they do not, or a type that torch has not.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
    except SafetensorError as error:
        raise CheckpointError(f"damaged ({path.name}: {' '.join(str(error).split())[:300]})") from error
    header = header_of(path)
    places = {name: place for name, place in json.loads(header[8:]).items() if name != "__metadata__"}
    if places.keys() != names:
        raise CheckpointError(f"damaged ({path.name}: its header names a tensor twice)")
    found = {}
    for name, place in places.items():
        kind = KINDS.get(place["dtype"])
        if kind is None:
            raise CheckpointError(f"damaged ({path.name}: {name} is of type {place['dtype']}, which torch has not)")
        entry = _Entry(kind, tuple(place["shape"]), len(header) + place["data_offsets"][0])
        if prod(entry.shape) * kind.itemsize != place["data_offsets"][1] - place["data_offsets"][0]:
            raise CheckpointError(f"damaged ({path.name}: {name} has another size than its shape)")
        found[name] = entry
    return found
