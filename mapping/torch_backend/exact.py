"""Products in whole float32, whatever the program around has allowed torch to do with them.

Codes of a DAC are small whole numbers, but conductances are not: TensorFloat-32 or bfloat16 would keep 10 or 7 bits of
them, and the noise of a read would be that of the arithmetic.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

WHOLE = ("ieee", "none")  # none: as is by default


class exact:  # named as the contexts of torch
    """Products of float32 within it are those of float32, on this device. Outside, all is as it was."""

    def __init__(self, device: torch.device) -> None:
        kind = device.type
        known = kind == "cpu" or torch.amp.is_autocast_available(kind)
        self._off = torch.autocast(kind, enabled=False) if known and torch.is_autocast_enabled(kind) else None

    def __enter__(self) -> None:
        if self._off is not None:
            self._off.__enter__()
        _PRECISION.__enter__()

    def __exit__(self, *error: Any) -> None:
        _PRECISION.__exit__()
        if self._off is not None:
            self._off.__exit__(*error)


def _get() -> dict[str, Any]:
    """What is allowed of products, by where it is said, where it is less than whole float32."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch 2.9 on: not to be mixed with the older way
        found: dict[str, Any] = {}
        for name in ("cuda", "mkldnn"):
            said = getattr(torch.backends, name).matmul.fp32_precision
            if said not in WHOLE:
                found[name] = said
        return found
    said = torch.get_float32_matmul_precision()
    return {} if said == "highest" else {"all": said}


def _set(wanted: dict[str, Any]) -> None:
    for name, said in wanted.items():
        if name == "all":
            torch.set_float32_matmul_precision(said)
        else:
            getattr(torch.backends, name).matmul.fp32_precision = said


class _Precision:
    """The setting is the process's, so that the last thread that reads sets it back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = _get()
            if self._before:
                _set(dict.fromkeys(self._before, "highest" if "all" in self._before else "ieee"))

    def __exit__(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set(self._before)


_PRECISION = _Precision()
