"""Worker processes: how they are started, and how they end. Light, as it is the first that they import."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from typing import Any

WATCH = 0.5  # seconds between two looks at whether the parent is there


def spread(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], jobs: int) -> Generator[Any, None, None]:
    """The results of calls as they come, made by so many processes of this machine, whose threads share the cores.

    With one job this process makes them, in their order.

    Raises:
        ChildProcessError: a process was killed, or crashed.
    """
    if jobs == 1:
        yield from (function(*arguments) for arguments in calls)
        return
    import joblib

    # joblib starts a process anew when its memory has grown, and tells what an interrupt has cancelled: no news
    for text in ("A worker stopped while some jobs", r"\d+ tasks (which were still|have been successfully)"):
        warnings.filterwarnings("ignore", message=text, category=UserWarning)
    options: dict[str, Any] = {"initializer": attend, "initargs": (os.getpid(),)}
    with joblib.parallel_config("loky", n_jobs=jobs, inner_max_num_threads=max(1, cores() // jobs), **options):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        try:
            with deaf():  # the call starts the processes
                results = parallel(joblib.delayed(function)(*arguments) for arguments in calls)
            with closing(results):
                yield from results
        except BrokenProcessPool as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise lost(next((line for line in lines if "exit codes" in line), lines[0])) from error


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
