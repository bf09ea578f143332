"""How kernels are compiled: ahead of their first use, kept on disk where a folder for that can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function on arrays and scalars with numba; `options` are those of `numba.njit`.

    The machine code is kept beside the source, or in numba's cache folder for the user (`NUMBA_CACHE_DIR` names
    another). Where none can be written, it is compiled in each process, with one warning. What is kept is used as long
    as no kernel has changed: numba itself looks at the file of the function alone, and not at those that it calls.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            made = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba found no folder
            warnings.warn(
                "no folder for compiled kernels can be written: they are compiled anew in each process, which takes a "
                "while; set NUMBA_CACHE_DIR to a folder that can be",
                RuntimeWarning,
                stacklevel=1,
            )
            return njit(nogil=True, **options)(function)
        if config.DISABLE_JIT:
            return made
        kept = made._cache._cache_file
        folders = {Path(__file__).parent, Path(function.__code__.co_filename).parent}
        kept._source_stamp = (kept._source_stamp, *(sources(folder) for folder in sorted(folders)))
        return made

    return compile_


@cache
def sources(folder: Path) -> str:
    """A digest of the Python files in a folder."""
    found = blake2b(digest_size=16)
    for file in sorted(folder.glob("*.py")):
        text = file.read_bytes()
        found.update(f"{file.name} {len(text)} ".encode() + text)
    return found.hexdigest()
