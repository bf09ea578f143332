"""What the worker processes of a sweep owe the process that started them; light, as it is the first that they run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

WATCH = 0.5  # seconds between two looks at whether the parent is there


def attend(owner: int) -> None:
    """Initialise a worker: leave Ctrl-C to its parent, and end with it, which may be killed.

    Args:
        owner: process id of the parent. In the parent itself this does nothing.
    """
    if owner == os.getpid():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(WATCH)
        os._exit(1)  # nobody is left who could be told

    threading.Thread(target=watch, daemon=True).start()


def lost(why: str) -> ChildProcessError:
    """The error of a sweep whose workers are gone."""
    return ChildProcessError(
        "a worker ended in the middle of a task: it was killed, as when memory runs out, or crashed "
        f"({' '.join(why.split())}). What is finished is kept; the same command goes on from there"
    )


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C: it is for this one, which ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's to change
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
