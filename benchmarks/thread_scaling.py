"""How noisy reads scale over threads: one thread against several, layer by layer and for networks.

    python benchmarks/thread_scaling.py [--threads 2] [--only PATTERN] [--out docs/results]
    python benchmarks/thread_scaling.py --model timm:vit_small_patch16_224 --shape 2 3 224 224

Times are those that the threads of this process were running for (Linux counts them), so that other processes of a
busy machine do not matter. With several threads that of the thread that ran longest counts: it is what the read takes
where there is a core for each. `ratio` is one thread's time over that, `work` the time of all threads together over
one thread's. Medians of pairs of runs, one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that waits by spinning would count as running
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pandas as pd
import torch
from torch import nn

import mho
from mho.records import record, write_json
from mho.tables import Column, print_table

COLUMNS = {
    "what": Column("noisy read on `reram`", "s"),
    "one_s": Column("1 thread (ms)", ".2f", 1e3),
    "several_s": Column("several (ms)", ".2f", 1e3),
    "ratio": Column("ratio", ".2f"),
    "work": Column("work", ".2f"),
}


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear 512, 64 rows": (lambda: nn.Linear(512, 512), (64, 512)),
    "linear 1024, 256 rows": (lambda: nn.Linear(1024, 1024), (256, 1024)),
    "linear 1024, 4 rows": (lambda: nn.Linear(1024, 1024), (4, 1024)),
    "linear 1024 to 16384, 1 row": (lambda: nn.Linear(1024, 16384), (1, 1024)),
    "3x3, 64 channels, 28 x 28 (4)": (lambda: conv(64, 64, 3), (4, 64, 28, 28)),
    "1x1, 64 to 256, 28 x 28 (4)": (lambda: conv(64, 256, 1), (4, 64, 28, 28)),
    "3x3, 4 groups of 64, 14 x 14 (4)": (lambda: conv(256, 256, 3, 4), (4, 256, 14, 14)),
    "depthwise 3x3, 64 channels, 28 x 28 (4)": (lambda: conv(64, 64, 3, 64), (4, 64, 28, 28)),
}


def running() -> dict[str, float]:
    """Seconds that each thread of this process was running for."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            found[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def timed(read: Callable[[], Any], threads: int, least: float) -> list[float]:
    """Seconds a call of each thread that ran."""
    torch.set_num_threads(threads)
    read()
    before, calls, start = running(), 0, time.process_time()
    while not calls or time.process_time() - start < least:
        read()
        calls += 1
    return [(now - before.get(thread, 0.0)) / calls for thread, now in running().items()]


def measure(chip: mho.Chip, x: torch.Tensor, threads: int, pairs: int, least: float) -> dict[str, float]:
    """A row of the table."""

    def read() -> Any:
        return chip.read(x, read=0)

    found = [(timed(read, 1, least), timed(read, threads, least)) for _ in range(pairs)]
    row = {"one_s": median(sum(one) for one, _ in found), "several_s": median(max(many) for _, many in found)}
    row["ratio"] = median(sum(one) / max(many) for one, many in found)
    return {**row, "work": median(sum(many) / sum(one) for one, many in found)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="*", help="rows whose names fit")
    parser.add_argument("--model", help="a network in place of the layers, as `mho map --model` names it")
    parser.add_argument("--shape", type=int, nargs="+", help="of its inputs")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.3, help="seconds that a run takes at least")
    parser.add_argument("--out", type=Path, default=Path("runs/thread_scaling"))
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    options = parser.parse_args(arguments)
    rows = []
    cases = LAYERS
    if options.model:
        cases = {options.model: (lambda: mho.build_model(options.model), tuple(options.shape))}
    for name, (make, shape) in cases.items():
        if not fnmatchcase(name, options.only):
            continue
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net, x = make().eval(), torch.rand(shape)
            chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=x, check=False)
            rows.append({"what": name, **measure(chip, x, options.threads, options.pairs, options.least)})
        print(rows[-1], file=sys.stderr, flush=True)
    found = record(("mho", "torch", "numba"), f"benchmarks/thread_scaling.py --threads {options.threads}")
    write_json({**found, "threads": options.threads, "rows": rows}, options.out / "thread_scaling.json")
    print_table(f"1 and {options.threads} threads", pd.DataFrame(rows), COLUMNS, markdown=options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
