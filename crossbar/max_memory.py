"""How much memory a process may take, and arrays that are kept in a file where that is not enough.

Such an array is mapped into memory: reading and writing it is the same, and gives the same numbers. Its pages are
handed back to the system once it was used, which keeps them as long as it has nothing better to do with the memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
VARIABLE = "MHO_MAX_MEMORY"
SMALLEST = 1 << 20  # bytes of an array that is worth a file
ROOM = 8  # one part in so many of the limit is left for what a layer takes while it is programmed or read
UNITS = {"": 1, "b": 1, **{f"{k}{b}": n for b in ("", "b") for k, n in zip("kmgt", (1e3, 1e6, 1e9, 1e12), strict=True)}}
UNITS |= {f"{k}ib": 2 ** (10 * n) for n, k in enumerate("kmgt", 1)}
IN_MEMORY = {"tmpfs", "ramfs", "ramdisk"}
MADV_PAGEOUT = 21
Size = int | float | str


class limits:
    """Limits of this process, from this call on; in a `with` statement until its end.

    Args:
        max_memory: as bytes, or as text such as "12 GB", "500 MB" or "8 GiB"; None for no limit. What chips keep (cells
            and weights) is then put into a file, in the folder of `tempfile.gettempdir()`, as soon as the process would
            have more than 7/8 of it. The numbers are the same, mapping and reads slower. Pages of files do not count.
            Without any call it is that of the environment variable MHO_MAX_MEMORY.

    Raises:
        ValueError: no size, or less than the process has already; a system that does not tell how much that is.

    Example:
        >>> with mho.limits(max_memory="2 GB"):
        ...     chip = mho.map(net, hardware, calibrate=x)
    """

    def __init__(self, *, max_memory: Size | None) -> None:
        global _limit
        wanted = None if max_memory is None else _checked(max_memory, "max_memory")
        self._before, _limit = _limit, wanted

    def __enter__(self) -> limits:
        return self

    def __exit__(self, *_: object) -> None:
        global _limit
        _limit = self._before


def size_of(given: Any, said: str = "max_memory") -> int:
    """Bytes, of a number of them or of text with a unit.

    Raises:
        ValueError: it is neither.
    """
    found = None
    if isinstance(given, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", given)):
        factor = UNITS.get(match[2].lower())
        found = None if factor is None else float(match[1]) * factor
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        found = float(given)
    if found is None or not 1 <= found < 2**62:
        raise ValueError(f"{said} must be a size such as '12 GB' or a number of bytes, got {given!r}")
    return int(found)


def held() -> int | None:
    """Bytes of memory that this process has, without pages of files; None where the system does not tell."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    except OSError:
        return None
    return (int(resident) - int(shared)) * mmap.PAGESIZE


def _checked(given: Any, said: str) -> int:
    wanted, there = size_of(given, said), held()
    if there is None:
        raise ValueError(f"{said} needs a system that tells how much memory a process has (/proc/self/statm), as Linux")
    if wanted <= there:
        raise ValueError(f"{said} must be more than the {there / 1e6:.0f} MB that the process has, got {given!r}")
    return wanted


class _Unasked:
    """No call has set a limit: the variable says it."""


_limit: int | type[_Unasked] | None = _Unasked


def limit() -> int | None:
    """Bytes that this process may have; None for any number.

    Raises:
        ValueError: see `limits`.
    """
    global _limit
    if _limit is _Unasked:
        given = os.environ.get(VARIABLE)
        _limit = _checked(given, VARIABLE) if given else None
    assert not isinstance(_limit, type)
    return _limit


def zeros(shape: tuple[int, ...], kind: Any) -> Array:
    """An array of zeros for a chip to keep: in memory, or in a file where memory does not reach.

    Raises:
        OSError: the file system has no room for it.
        ValueError: see `limits`.
    """
    size = prod(shape) * np.dtype(kind).itemsize
    if size < SMALLEST or (most := limit()) is None or (held() or 0) + size <= most - most // ROOM:
        return np.zeros(shape, kind)
    return np.frombuffer(_mapped(size), kind).reshape(shape)


class _InFile(mmap.mmap):
    """Memory of a file that is shared with it."""


def _mapped(size: int) -> _InFile:
    folder = tempfile.gettempdir()
    if _kind_of_files(folder) in IN_MEMORY:
        raise ValueError(f"max_memory: {folder} is a folder in memory; name another by the variable TMPDIR")
    with tempfile.TemporaryFile(prefix="mho-") as file:  # it has no name, and goes with the last array in it
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise OSError(
                error.errno,
                f"max_memory: {folder} has no room for {size / 1e9:.3g} GB more ({error.strerror}); name "
                "another folder by the variable TMPDIR",
            ) from error
        return _InFile(file.fileno(), size)


def _kind_of_files(folder: str) -> str:
    """The kind of file system that a folder is on."""
    found = ("", "")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind = line.split(" ")[:3]
        place = place.replace("\\040", " ")
        if Path(place) in (Path(folder).resolve(), *Path(folder).resolve().parents) and len(place) >= len(found[0]):
            found = place, kind
    return found[1]


def released(*arrays: Array) -> None:
    """Hand back the memory of arrays that are in files; their next use finds them there."""
    for array in arrays:
        if (mapping := _mapping_of(array)) is not None:
            mapping.madvise(mmap.MADV_DONTNEED)  # it is shared with the file, which keeps what was written


def in_file(array: Array) -> bool:
    """Whether an array of `zeros` is in a file."""
    return _mapping_of(array) is not None


def _mapping_of(array: Array) -> _InFile | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, _InFile) else None


def trim() -> None:
    """Give memory that was freed back to the system, where the allocator of the C library does so when asked."""
    trimmed = getattr(_LIBRARY, "malloc_trim", None)
    if trimmed is not None:
        trimmed(0)


def pages_out(addresses: Iterable[tuple[int, int]]) -> None:
    """Hand back the pages of memory (address, bytes) that is mapped from files, where there is a limit.

    Nothing is lost: the next use reads them again.
    """
    if limit() is None or _LIBRARY is None:
        return
    files = list(_file_mappings())
    for start, size in addresses:
        for low, high in files:
            a, b = max(start, low) // mmap.PAGESIZE * mmap.PAGESIZE, min(start + size, high)
            if a < b:
                _LIBRARY.madvise(ctypes.c_void_p(a), ctypes.c_size_t(b - a), MADV_PAGEOUT)


def _file_mappings() -> Iterator[tuple[int, int]]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        ends, rights, _, _, node, *_ = line.split(None, 5)
        if node != "0" and "x" not in rights:
            low, high = (int(end, 16) for end in ends.split("-"))
            yield low, high


_LIBRARY = ctypes.CDLL(None) if os.name == "posix" else None
