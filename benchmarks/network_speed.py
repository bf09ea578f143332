"""How fast and how large real networks are on a chip: noisy reads over noiseless torch, mapping, memory, threads.

    python benchmarks/network_speed.py [--out docs/results/network_speed] [--only PATTERN] [--threads 1,2] [--quick]
                                       [--large] [--no-limits] [--check FOLDER] [--tolerance 0.15] [--markdown]

Networks are of torchvision and transformers, of their published sizes and with random weights: install both, or choose
other rows. Rows of more than a billion weights are measured with --large only. Ratios at 1 thread are of CPU times, at
more of wall times (mho/timing.py). Beside each ratio stands its limit: what it would be if a read were only its matrix
products and normal numbers, each timed alone in the same process; then how a read's time is shared out. Writes all
rows, with machine and versions, to <kind of processor>.json.

With --check the ratios at 1 thread are compared with those in a folder of such files, of the same kind of processor.
What got slower by more than the tolerance is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import kernels
import network_rows
import numba
import numpy as np
import pandas as pd
import profile_read
import torch
from network_rows import GB, KINDS, Row, built, mapped
from rich.console import Console

from mho import timing
from mho.crossbar.arrays import Unpadded
from mho.mapping.layers import TileLayer
from mho.records import record, write_measured
from mho.tables import Column, Columns, print_notes, print_table

PACKAGES = ("mho", "torch", "numba", "numpy", "torchvision", "transformers")
PARTS = {  # what the kernels of a read are about
    "arithmetic": ("currents", "variances"),
    "random numbers": ("noise, ADC, sum",),
    "memory": ("codes", "gather", "squares"),
}
HERE = Path(__file__).resolve().parent


def kind_of(cpu: str) -> str:
    """The kind of a processor, of its name in a record."""
    return KINDS["AVX-512" in cpu]


def measured(row: Row, threads: Sequence[int], *, quick: bool, limits: bool) -> list[dict[str, Any]]:
    """The entries of a row: one for each number of threads that it is measured with."""
    if row.what == "map":
        return [entry(row, row.threads, seconds_to_map(row), "s")]
    if row.what == "peak":
        return [peak(row)]
    if row.what == "threads":
        return [over_threads(row, quick=quick)]
    pair, read = functions(row)
    found = []
    runs, budget = (3, 3.0) if quick else (9, 30.0)
    for count in threads:
        times = timing.compare({"mho": pair.mho, "torch": pair.torch}, count, runs=runs, budget=budget)
        mine, theirs = times.seconds["mho"], times.seconds["torch"]
        one = entry(row, count, mine / theirs, "of torch's time")
        one |= {"mho_ms": 1e3 * mine, "torch_ms": 1e3 * theirs, "quiet": times.quiet}
        if limits and count == 1 and read is not None:
            one |= limit(read, 1e3 * mine, 1e3 * theirs)
        found.append(one)
    return found


def entry(row: Row, threads: int, value: float, unit: str) -> dict[str, Any]:
    """What is written of a row; the aims are known for its own number of threads."""
    return {"work": row.name, "what": row.what, "threads": threads, "value": value, "unit": unit, "quiet": True}


def functions(row: Row) -> tuple[kernels.Pair, timing.Function | None]:
    """What is compared, and one read, where that is one pass of a network."""
    if row.read is not None:
        return row.read(), None
    subject = built(row)
    read = partial(subject.called, mapped(row))
    return kernels.Pair(read, partial(subject.called, subject.network)), read


def seconds_to_map(row: Row) -> float:
    """Wall seconds of mapping and programming, with the calibration."""
    built(row)
    start = time.perf_counter()
    mapped(row)
    return time.perf_counter() - start


def over_threads(row: Row, *, quick: bool) -> dict[str, Any]:
    """Wall time of a read on two threads over that on one."""
    pair, _ = functions(row)
    one, two = (timing.compare({"mho": pair.mho}, n, runs=3 if quick else 9, budget=30) for n in (1, row.threads))
    found = entry(row, row.threads, two.seconds["mho"] / one.seconds["mho"], "of the time on 1 thread")
    return {**found, "quiet": one.quiet and two.quiet}


JOB = """
import re, sys
sys.path.insert(0, {folder!r})
import network_rows
row = next(row for row in network_rows.rows() if row.name == {name!r})
subject = network_rows.built(row)
subject.called(network_rows.mapped(row) if {on_chip} else subject.network)
print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]))
"""


def peak(row: Row) -> dict[str, Any]:
    """Peak memory of a process that maps a network and reads it: in all, or what it takes beyond torch's own."""
    jobs = [JOB.format(folder=str(HERE), name=row.name, on_chip=on) for on in (True, False)]
    whole = float(timing.fresh_process(jobs[0]).output.split()[-1])
    if not row.share:
        return entry(row, 1, whole / GB, "GB")
    alone = float(timing.fresh_process(jobs[1]).output.split()[-1])
    weights = 4 * sum(parameter.numel() for parameter in built(row).network.parameters())
    return entry(row, 1, (whole - alone) / weights, "of its float32 weights, beyond torch's process")


def limit(read: timing.Function, mho_ms: float, torch_ms: float) -> dict[str, Any]:
    """What the ratio would be of products and normals alone, and how the time of a read is shared out.

    Nothing where groups of a layer are read one after another.
    """
    spent = parts(read)
    if not spent:
        return {}
    shares = {name: sum(spent[part] for part in some) for name, some in PARTS.items()}
    shares["kernels, other"] = spent["other"]
    shares["network, Python"] = mho_ms - spent["whole"]  # digital layers, calls and copies of tensors
    alone = shares["arithmetic"] + spent["normals"]
    return {
        "limit": alone / torch_ms,
        "shares": {name: value / mho_ms for name, value in shares.items()},
        "keeps": max(shares, key=lambda name: shares[name]),
    }


def parts(read: timing.Function) -> Counter[str]:
    """Milliseconds at one thread of each kernel in one read of a network, those of layers that are alike timed once."""
    seen: list[tuple[TileLayer, tuple[int, ...]]] = []
    of_layer = TileLayer.read

    def watched(layer: TileLayer, given: Any, *more: Any) -> Any:
        whole = given.values if given.margins is None else Unpadded(given.values, given.margins)
        seen.append((layer, tuple(whole.shape)))
        return of_layer(layer, given, *more)

    with mock.patch.object(TileLayer, "read", watched), torch.no_grad():
        read()
    many = Counter((shape, layer.matrix.weights.shape, layer.spec.patches) for layer, shape in seen)
    firsts = {(shape, layer.matrix.weights.shape, layer.spec.patches): (layer, shape) for layer, shape in seen}
    total: Counter[str] = Counter()
    with timing.use_threads(1):
        for kind, (layer, shape) in firsts.items():
            x = np.random.default_rng(0).random(shape, dtype=np.float32) * np.float32(layer.tiles.design.drive.limit)
            try:
                found = profile_read.parts(layer.tiles, x, runs=3)
            except ValueError:
                return Counter()
            for name, value in found.items():
                total[name] += many[kind] * value
    return total


def judged(found: Mapping[str, Any], row: Row, kind: str) -> dict[str, Any]:
    """An entry with what it must be and should become, and which it reaches: goal, must, no, or ? where unknown."""
    if found["threads"] != row.threads and row.what == "read":
        return {**found, "must": None, "goal": None, "reached": "-"}
    must, goal = row.aim.must[kind], row.aim.goal[kind]
    reached = "goal" if found["value"] <= goal else "must" if found["value"] <= must else "no"
    return {**found, "must": must, "goal": goal, "reached": reached if found["quiet"] else "?"}


def slower(found: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], tolerance: float) -> list[str]:
    """A line for each ratio of CPU times that is above the one before by more than a tolerance, the largest first."""
    ratios = {row["work"]: row["value"] for row in before if row["what"] == "read" and row["threads"] == 1}
    worse = []
    for row in found:
        old = ratios.get(row["work"])
        if row["what"] == "read" and row["threads"] == 1 and old and row["value"] > (1 + tolerance) * old:
            worse.append((row["value"] / old, f"{row['work']}: {row['value']:.2f}, was {old:.2f}"))
    return [f"{line} ({100 * (factor - 1):.0f} % slower)" for factor, line in sorted(worse, reverse=True)]


def committed(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of an earlier run on this kind of processor.

    Raises:
        ValueError: there is none.
    """
    path = folder / f"{kind}.json"
    if not path.exists():
        raise ValueError(f"--check {folder} has no results of processors with {kind}: {path.name}")
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


COLUMNS: Columns = {
    "work": Column("work", "s"),
    "threads": Column("threads", "d"),
    "value": Column("value", ".2f"),
    "unit": Column("", "s"),
    "must": Column("must", "g"),
    "goal": Column("goal", "g"),
    "reached": Column("reached", "s"),
    "limit": Column("limit", ".2f"),
    "keeps": Column("most time", "s"),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    default = "1,2" if numba.config.NUMBA_NUM_THREADS > 1 else "1"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/network_speed"), help="folder for the file of results")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="rows that contain it (shell wildcards)")
    parser.add_argument("--threads", type=timing.thread_counts, default=default, help="numbers of threads, e.g. 1,2")
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--large", action="store_true", help="rows of more than a billion weights, too")
    parser.add_argument("--no-limits", dest="limits", action="store_false", help="without the parts of the reads")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="compare with the results in a folder")
    parser.add_argument("--tolerance", type=float, default=0.15, help="of --check: what may be slower by this share")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure and print what the options choose; the record of it."""
    log, made = Console(stderr=True), record(PACKAGES, command)
    kind, found = kind_of(made["cpu"]), []
    chosen = [row for row in network_rows.rows() if kernels.matches(options.only, row.name)]
    chosen = [row for row in chosen if options.large or not row.large]
    if not chosen:
        raise ValueError(f"--only {options.only!r} matches no row (those of billions of weights need --large)")
    for number, row in enumerate(chosen, start=1):
        entries = measured(row, options.threads, quick=options.quick, limits=options.limits)
        found += [judged(one, row, kind) for one in entries]
        said = ", ".join(f"{one['value']:.2f} {one['unit']} ({one['threads']} thr.)" for one in entries)
        log.print(f"{number}/{len(chosen)} {row.name}: {said}", highlight=False, soft_wrap=True)
    table = pd.DataFrame(found, columns=[*COLUMNS, "shares"]).astype(object)
    table = table.where(table.notna(), None)
    print_table(f"Networks on a chip, {made['cpu']}", table, COLUMNS, markdown=options.markdown)
    notes = [f"{r['work']}: {shared(r['shares'])}" for r in found if r.get("shares")]
    if not all(row["quiet"] for row in found):
        notes.append("?: the machine was busy with other work: measure again")
    print_notes(notes)
    return {**made, "kind": kind, "rows": found}


def shared(shares: Mapping[str, float]) -> str:
    """How the time of a read is shared out, in words."""
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the record when all is done, and compare. Returns the exit code: 1 where something got slower."""
    options = parse(arguments)
    command = shlex.join(["benchmarks/network_speed.py", *(sys.argv[1:] if arguments is None else arguments)])
    kind = kind_of(record((), "")["cpu"])
    path, before = options.out / f"{kind}.json", []
    if options.check is not None:
        try:
            before = committed(options.check, kind)  # before it is written over
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    if code := write_measured(path, lambda: run(options, command)):
        return code
    worse = slower(json.loads(path.read_text(encoding="utf-8"))["rows"], before, options.tolerance)
    print_notes([f"slower: {line}" for line in worse])
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
