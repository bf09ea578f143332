"""How kernels are compiled: ahead of their first use, kept on disk where a folder for that can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function on arrays and scalars with numba; `options` are those of `numba.njit`.

    The machine code is kept beside the source, or in numba's cache folder for the user (`NUMBA_CACHE_DIR` names
    another). Where none can be written, it is compiled in each process, with one warning.
    """

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba found no folder
            warnings.warn(
                "no folder for compiled kernels can be written: they are compiled anew in each process, which takes a "
                "while; set NUMBA_CACHE_DIR to a folder that can be",
                RuntimeWarning,
                stacklevel=1,
            )
            return njit(nogil=True, **options)(function)

    return compile_
