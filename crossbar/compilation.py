"""When kernels are compiled, which they are once, and kept: who wants to know of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numba.core import event

PACKAGE = __name__.partition(".")[0] + "."


def while_compiling(begin: Callable[[], Callable[[], None] | None]) -> None:
    """Have `begin` called when a kernel begins to be compiled, and what it returns at the end; of those of Mho."""
    event.register("numba:compile", _Listener(begin))


class _Listener(event.Listener):  # type: ignore[misc]
    def __init__(self, begin: Callable[[], Callable[[], None] | None]) -> None:
        self.begin = begin
        self.here = threading.local()  # of a thread: how deep in kernels that call each other, and what ends it

    def on_start(self, event: Any) -> None:
        """A kernel, or one that it calls."""
        depth = self.here.depth = getattr(self.here, "depth", 0) + 1
        if depth == 1:
            ours = event.data["dispatcher"].py_func.__module__.startswith(PACKAGE)
            self.here.end = self.begin() if ours else None

    def on_end(self, event: Any) -> None:
        """Its end, also where it failed."""
        self.here.depth -= 1
        if not self.here.depth and self.here.end is not None:
            self.here.end()
