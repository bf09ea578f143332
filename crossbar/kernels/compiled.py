"""How kernels are compiled: ahead of their first use, kept on disk where a folder for that can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import config, njit
from numba.core.caching import IndexDataCacheFile

WITHOUT_DOORS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that compiles a function on arrays and scalars with numba; `options` are those of `numba.njit`.

    The machine code is kept beside the source, or in numba's cache folder for the user (`NUMBA_CACHE_DIR` names
    another). Where none can be written, it is compiled in each process, with one warning. What is kept is used as long
    as no kernel has changed: numba itself looks at the file of the function alone, and not at those that it calls.

    What other kernels call is compiled apart from what Python calls: the code that takes arguments out of Python is
    often longer than a kernel, and LLVM would work on it again in each kernel that calls this one.
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
        if not config.DISABLE_JIT:
            called = njit(cache=True, nogil=True, **options, **WITHOUT_DOORS)(function)
            made.get_call_template, made.get_overload = called.get_call_template, called.get_overload  # by kernels
            name_after_sources({"": made._cache, "-called": called._cache}, Path(function.__code__.co_filename).parent)
        return made

    return compile_


def name_after_sources(kept: Mapping[str, Any], folder: Path) -> None:
    """Have the machine code of a kernel of this folder kept under the digest of all kernels; what was before them goes.

    An index of other sources would not even load where it names a class that is gone. `kept` are the forms of the
    kernel by what is put behind the digest.
    """
    file = kept[""]._cache_file
    place, name = Path(file._cache_path), file._index_name.removesuffix(".nbi")
    new = "-".join([name, *(sources(each) for each in sorted({Path(__file__).parent, folder}))])
    if not any((place / f"{new}{form}.nbi").exists() for form in kept):
        for old in place.glob(f"{name}*.nb[ic]"):
            old.unlink(missing_ok=True)
    for form, its in kept.items():
        its._cache_file = IndexDataCacheFile(file._cache_path, new + form, file._source_stamp)


@cache
def sources(folder: Path) -> str:
    """A digest of the Python files in a folder."""
    found = blake2b(digest_size=8)
    for file in sorted(folder.glob("*.py")):
        text = file.read_bytes()
        found.update(f"{file.name} {len(text)} ".encode() + text)
    return found.hexdigest()
