"""Times of functions that are run in turn in one process, and of fresh processes.

At one thread the measure is the CPU time of the process, which other programs on the machine disturb least; at more it
is wall time. Runs that were disturbed all the same are left out: at one thread those whose wall time is well above
their CPU time, at more those during which other programs were busy. All of them get memory as in a process that has run
for a while: see `keep_memory`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

SHORTEST_RUN = 2e-3  # seconds of one timed run; a shorter call is repeated within it
WARM_RUN = 30e-3  # seconds; an untimed call goes before each shorter run, so that it finds its own caches
BLOCK = 0.15  # seconds that others' load is averaged over: the kernel counts it in steps of 0.01 s
FEWEST = 5  # undisturbed runs that a median needs
WAIT = 1.2  # wall over CPU time at one thread, from which a run counts as interrupted
KEPT = 31 << 20  # bytes; glibc learns from sizes up to 32 MiB (malloc(3), M_MMAP_THRESHOLD)
OTHERS = 0.08  # cores that other programs may use at more threads

Function = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Times:
    """Median times of functions that were run in turn.

    Attributes:
        seconds: of one call, by the function's name: CPU time at one thread, else wall time.
        runs: of each function that the medians are over.
        discarded: runs of each that were disturbed and left out.
        quiet: False if too few were undisturbed, so that the medians are over all of them.
    """

    seconds: dict[str, float]
    runs: int
    discarded: int
    quiet: bool


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Torch and numba use `count` threads inside; what they used before is restored."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(count)
    numba.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def keep_memory() -> None:
    """Let the C library keep freed memory of up to `KEPT` bytes, as it does once a process has freed so much at once.

    Before that it gives large tensors back to the system, and each call pays for new pages: with PyTorch's depthwise
    convolution of 384 channels that is four fifths of its time, or nothing, by what the process did before. A training,
    with larger tensors, keeps all: `models.train.keep_freed_memory`.
    """
    np.empty(KEPT, np.uint8)


@torch.no_grad()
def compare(functions: Mapping[str, Function], threads: int, *, runs: int = 15, budget: float = 20.0) -> Times:
    """Median times of the functions, run one after the other again and again, with `threads` threads.

    Args:
        functions: what to time, by name.
        threads: of torch and of numba.
        runs: undisturbed runs of each that are aimed at.
        budget: seconds after which no more are made (`FEWEST` of each always are).
    """
    keep_memory()
    with use_threads(threads):
        for function in functions.values():
            for _ in range(2):  # the first call may compile
                function()
        lengths = {name: _length(function) for name, function in functions.items()}
        quiet: list[dict[str, float]] = []
        disturbed: list[dict[str, float]] = []
        start = time.perf_counter()
        while len(quiet) < runs:
            spent = time.perf_counter() - start
            if spent > budget and len(quiet) + len(disturbed) >= FEWEST:
                break
            good, bad = _block(functions, lengths, threads, runs - len(quiet))
            quiet += good
            disturbed += bad
    enough = len(quiet) >= min(FEWEST, runs)
    used = quiet if enough else quiet + disturbed
    seconds = {name: statistics.median(run[name] for run in used) for name in functions}
    return Times(seconds, len(used), len(disturbed) if enough else 0, enough)


def _length(function: Function) -> float:
    """Seconds of wall time that one call takes; calls are repeated where one is too short to tell."""
    calls, took = 1, 0.0
    while took < SHORTEST_RUN:
        start = time.perf_counter()
        for _ in range(calls):
            function()
        took = time.perf_counter() - start
        calls *= 2
    return 2 * took / calls


def _block(
    functions: Mapping[str, Function], lengths: dict[str, float], threads: int, most: int
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Undisturbed and disturbed runs of about `BLOCK` seconds: each has the seconds of one call of each function."""
    good: list[dict[str, float]] = []
    bad: list[dict[str, float]] = []
    busy, own, start = _busy_cores(), time.process_time(), time.perf_counter()
    while True:
        run, interrupted = {}, False
        for name, function in functions.items():
            cpu, wall = _run(function, lengths[name])
            run[name] = cpu if threads == 1 else wall
            interrupted |= threads == 1 and wall > WAIT * cpu
        (bad if interrupted else good).append(run)
        wall = time.perf_counter() - start
        if wall > BLOCK or (threads == 1 and len(good) >= most):
            break
    if threads > 1 and busy is not None:
        others = ((_busy_cores() or 0.0) - busy - (time.process_time() - own)) / wall
        if others > OTHERS:
            return [], good
    return good, bad


def _run(function: Function, length: float) -> tuple[float, float]:
    """CPU and wall seconds of one call, from as many as make a run of `SHORTEST_RUN`."""
    calls = max(1, round(SHORTEST_RUN / length + 0.5))
    if calls * length < WARM_RUN:
        function()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        function()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / calls, wall / calls


def _busy_cores() -> float | None:
    """Seconds that the machine's cores have been busy since it started, all together; None where Linux doesn't say."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    user, nice, system, _, _, *rest = (int(number) for number in first.split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


class Fresh(NamedTuple):
    """Wall seconds of a fresh process, its start included, and what it printed."""

    seconds: float
    output: str


def fresh_process(code: str, **environment: str) -> Fresh:
    """Run `code` in a Python of its own, with additions to the environment.

    Raises:
        ValueError: it fails; the message is the last line of its errors.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ValueError(f"a fresh process failed: {last}")
    return Fresh(seconds, done.stdout)


def thread_counts(text: str) -> list[int]:
    """A comma-separated list of numbers of threads, each 1 or more and at most what numba was started with."""
    most = int(numba.config.NUMBA_NUM_THREADS)
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not 1 <= min(counts) <= max(counts) <= most:
        raise argparse.ArgumentTypeError(f"whole numbers from 1 to {most}, separated by commas, got {text!r}")
    return counts
