"""How far something is that takes a while: a line on the terminal, from two seconds on, where nobody else is told."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..crossbar.compilation import while_compiling

Tell = Callable[[int, int], None]
AFTER = 2.0  # seconds before anything is said
EVERY = 0.2  # seconds from one line to the next
ERASE = "\r\x1b[K"
_TOLD: ContextVar[bool] = ContextVar("told", default=False)  # whether somebody says how far the whole is


@contextmanager
def part_of_a_whole() -> Iterator[None]:
    """What takes a while in here is part of something whose progress is told: it says nothing by itself."""
    token = _TOLD.set(True)
    try:
        yield
    finally:
        _TOLD.reset(token)


@contextmanager
def told(what: str, asked: Tell | None = None) -> Iterator[Tell]:
    """A function to tell how many steps are done, and how many there are: the one that was asked for.

    Without one, steps are shown on standard error where that is a terminal: a line that says `what` they are, from two
    seconds on, and that is gone in the end. Elsewhere, and within something that is told itself, nothing is said.
    """
    silent = _TOLD.get() or not sys.stderr.isatty()
    with part_of_a_whole():
        if asked is not None or silent:
            yield asked or (lambda done, total: None)
            return
        line = _Line(what)
        try:
            yield line
        finally:
            line.end()


class _Line:
    """A line that changes in its place."""

    def __init__(self, what: str) -> None:
        self.what, self.began, self.last, self.shown = what, time.monotonic(), 0.0, False
        self.done, self.total = 0, 0
        self.lock = threading.Lock()
        self.first = threading.Timer(AFTER, self._write)  # also where the first step takes longer
        self.first.daemon = True
        self.first.start()

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        now = time.monotonic()
        if self.shown and now - self.last >= EVERY:
            self._write()

    def _write(self) -> None:
        with self.lock:
            steps = f": {self.done} of {self.total}" if self.total else ""
            self.last, self.shown = time.monotonic(), True
            print(f"{ERASE}{self.what}{steps}, {self.last - self.began:.0f} s", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        self.first.cancel()
        self.first.join()
        if self.shown:
            print(ERASE, end="", file=sys.stderr, flush=True)


def _compiling() -> Callable[[], None] | None:
    """A line while kernels are compiled, also where a whole has a line already; what takes it away."""
    return _Line("compiling kernels, once").end if sys.stderr.isatty() else None


while_compiling(_compiling)
