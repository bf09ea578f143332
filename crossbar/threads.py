"""How many threads the kernels use."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numba

Found = TypeVar("Found")
AT_ONCE = 160_000_000  # bytes that calls in parallel take
FEW = 1_000_000  # bytes; calls that take fewer in all are over before threads have begun

_forked = False
_one_at_a_time = threading.Lock()


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def available(wanted: int) -> int:
    """Threads that kernels can use when `wanted` are asked for: 1 in a forked process, else at most numba's number.

    A pool of OpenMP threads does not survive a fork, and numba ends a child that uses it. Kernels give the same bits
    with one thread; worker processes that shall use several are spawned.
    """
    return 1 if _forked else max(1, min(wanted, numba.config.NUMBA_NUM_THREADS))


@contextmanager
def pool_of(count: int) -> Iterator[None]:
    """Parallel kernels called inside run on `count` threads; what the caller has set in numba is restored.

    One thread of Python at a time gets the pool: not all of numba's threading layers can serve several.
    """
    with _one_at_a_time:
        before = numba.get_num_threads()
        numba.set_num_threads(count)
        try:
            yield
        finally:
            numba.set_num_threads(before)


def in_parallel(call: Callable[[int], Found], count: int, each: int = 0) -> list[Found]:
    """What a function of a number gives for 0 to `count` - 1, on all threads that numba has.

    What the calling thread has set (numpy's handling of floating-point errors) holds in all of them. A call takes
    `each` bytes of memory for a while: fewer threads make them where all together would take more than AT_ONCE, and
    this one alone where they take less than FEW. Calls of 0 bytes are taken to be long.
    """
    threads = min(count, available(numba.config.NUMBA_NUM_THREADS), AT_ONCE // max(each, 1))
    if threads < 2 or 0 < count * each < FEW:
        return [call(i) for i in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, call, i) for i in range(count)]
        return [job.result() for job in jobs]
