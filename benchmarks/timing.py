"""What the timing scripts share: times of functions run in turn in one process, fresh processes, tables, records.

At one thread the measure is the CPU time of the process, which other programs on the machine disturb least; at more it
is wall time. Runs that were disturbed all the same are left out: at one thread those whose wall time is well above
their CPU time, at more those during which other programs were busy.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

SHORTEST_RUN = 2e-3  # seconds of one timed run; a shorter call is repeated within it
WARM_RUN = 30e-3  # seconds; an untimed call goes before each shorter run, so that it finds its own caches
BLOCK = 0.15  # seconds that others' load is averaged over: the kernel counts it in steps of 0.01 s
FEWEST = 5  # undisturbed runs that a median needs
WAIT = 1.2  # wall over CPU time at one thread, from which a run counts as interrupted
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


@torch.no_grad()
def compare(functions: Mapping[str, Function], threads: int, *, runs: int = 15, budget: float = 20.0) -> Times:
    """Median times of the functions, run one after the other again and again, with `threads` threads.

    Args:
        functions: what to time, by name.
        threads: of torch and of numba.
        runs: undisturbed runs of each that are aimed at.
        budget: seconds after which no more are made (`FEWEST` of each always are).
    """
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


def array_bytes(thing: Any) -> int:
    """Bytes of the numpy arrays that an object holds, in attributes and containers; shared memory counts once."""
    seen: set[int] = set()
    arrays: dict[int, int] = {}
    waiting = [thing]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            while isinstance(item.base, np.ndarray):
                item = item.base
            arrays[item.__array_interface__["data"][0]] = item.nbytes
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):  # named tuples too
            waiting += item
        elif not isinstance(item, type | types.ModuleType | types.FunctionType | torch.Tensor):
            waiting += vars(item).values() if hasattr(item, "__dict__") else ()
            if dataclasses.is_dataclass(item):  # one with slots has no __dict__
                waiting += [getattr(item, field.name) for field in dataclasses.fields(item)]
    return sum(arrays.values())


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


def record(packages: Sequence[str], command: str) -> dict[str, Any]:
    """What stands beside a table of times: date, command, machine, processor, cores, versions (None: not installed)."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "machine": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def version(package: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name, and whether it has AVX2 and AVX-512 (on Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [line.partition(":") for line in reversed(lines)]  # the first core's fields last, so that they stay
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    vectors = [label for label, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f")) if flag in fields.get("flags", "")]
    name = fields.get("model name", platform.machine())
    return f"{name} with {', '.join(vectors)}" if vectors else name


# column -> (heading, format)
Columns = dict[str, tuple[str, str]]


def print_table(title: str, table: pd.DataFrame, columns: Columns, *, markdown: bool = False) -> None:
    """The chosen columns of a table on the terminal, or as GitHub Markdown; `-` where there is no value."""
    cells = [[_cell(row[name], spec) for name, (_, spec) in columns.items()] for row in table.to_dict("records")]
    headings = [heading for heading, _ in columns.values()]
    if markdown:
        sides = [":--" if spec == "s" else "--:" for _, spec in columns.values()]
        print(*(f"| {' | '.join(line)} |" for line in [headings, sides, *cells]), sep="\n")
        return
    shown = Table(title=title, title_justify="left")
    for heading, spec in columns.values():
        shown.add_column(heading, justify="left" if spec == "s" else "right")
    for line, following in zip(cells, [*cells[1:], [""]], strict=True):
        shown.add_row(*line, end_section=line[0] != following[0])
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def print_notes(notes: Sequence[str]) -> None:
    """Lines below a table."""
    for note in notes:
        print(f"- {note}")


def _cell(value: Any, spec: str) -> str:
    return "-" if value is None or value != value else format(value, spec)


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


def write_json(path: Path, measure: Callable[[], dict[str, Any]]) -> int:
    """Measure, and only then write the record, all of it or nothing. Returns the exit code: 2 after an error."""
    try:
        if path.parent.exists() and not path.parent.is_dir():  # said before the long measurement
            raise ValueError(f"--out {path.parent} exists and is not a folder")
        text = json.dumps(measure(), indent=2) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written to {path}", file=sys.stderr)
    return 0
