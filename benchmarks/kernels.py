"""Speed of noisy reads: Mho's time over noiseless torch's float32 for the same layers, in the same process.

    python benchmarks/kernels.py [--out runs/kernels] [--quick] [--only PATTERN] [--threads 1,2] [--markdown]

At 1 thread CPU times are compared, at more wall times: medians of runs in turn (mho/timing.py). `must` and
`goal` are the ratios that the project has set itself. Prints a table and writes it, with the machine and the versions,
to kernels.json. Nothing is written if anything fails.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numba
import pandas as pd
import torch
from rich.console import Console
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import mho
from mho import timing
from mho.memory import array_bytes
from mho.models.noise import Noise
from mho.records import record, write_measured
from mho.tables import Column, Columns, print_notes, print_table

FILE = "kernels.json"
PACKAGES = ("mho", "torch", "numba", "numpy")


class Layer(NamedTuple):
    """A linear layer, the batch that it is read with, and the word lines of its tiles."""

    inputs: int
    outputs: int
    batch: int
    rows: int


LAYERS = (
    Layer(512, 512, 256, 512),
    Layer(1024, 1024, 64, 512),
    Layer(1152, 256, 4096, 256),
    Layer(4096, 4096, 256, 512),
)
MLP = (784, 512, 256, 256, 256, 256, 10)
MLP_BATCH, CNN_BATCH, SMALL_BATCHES = 256, 64, (1, 8)
VOTES = 20
CALIBRATION = 256  # samples

# what a read counts, as changes of the ReRAM preset
NOISY: dict[str, Any] = {}
CONVERTERS = {
    "cell.read_noise": {"kind": "none"},
    "sensing.thermal": False,
    "sensing.shot": False,
    "sensing.amplifier_noise": 0.0,
}
CONSTANT = {
    "cell.read_noise": {"kind": "constant", "std_g": "0.4 uS"},
    "sensing.thermal": False,
    "sensing.shot": False,
}
BIT_SERIAL = {"dac.bits_per_pulse": 1}
SLICED = {"cell.levels": 4, "tile.slices": 4, "tile.columns": 4096}


class Pair(NamedTuple):
    """Mho's work and torch's, and other ways to do torch's."""

    mho: timing.Function
    torch: timing.Function
    others: dict[str, timing.Function] = {}  # noqa: RUF012  (never changed)


class Work(NamedTuple):
    """One row: what is timed, what its ratio must be and should become, and how it is set up."""

    group: str
    name: str
    must: float
    goal: float
    build: Callable[[], Pair]


def works() -> list[Work]:
    """All that is timed, in the order of the table."""
    found = []

    def add(group: str, name: str, must: float, goal: float, build: Callable[..., Pair], *arguments: Any) -> None:
        found.append(Work(group, name, must, goal, partial(build, *arguments)))

    first, second = LAYERS[:2]
    for layer in LAYERS:
        add("noisy", title(layer), 2.0, 1.3, linear, layer, NOISY)
    for batch in SMALL_BATCHES:
        for layer in LAYERS:
            add("noisy, small batch", title(layer, batch), 2.5, 1.5, linear, layer, NOISY, batch)
    for layer in LAYERS:
        add("converters only", title(layer), 1.0, 0.7, linear, layer, CONVERTERS)
    for layer in LAYERS:
        add("state-independent noise", title(layer), 1.0, 0.7, linear, layer, CONSTANT)
    add("networks", f"MNIST CNN, batch {CNN_BATCH}", 1.6, 1.15, cnn_read)
    add("networks", f"MNIST CNN, {VOTES} votes, batch {CNN_BATCH}", 1.4, 1.0, cnn_votes)
    add("networks", f"MLP {'-'.join(map(str, MLP))}, {VOTES} votes, batch {MLP_BATCH}", 1.0, 0.55, mlp_votes)
    add(
        "several planes",
        f"Linear {first.inputs} x {first.outputs}, batch {first.batch}, 8 pulses of 1 bit",
        15,
        8,
        linear,
        first,
        BIT_SERIAL,
    )
    add(
        "several planes",
        f"Linear {first.inputs} x {first.outputs}, batch {first.batch}, 4 slices of 2 bits",
        8,
        5,
        linear,
        first,
        SLICED,
    )
    add("programming", f"Linear {second.inputs} x {second.outputs}", 5, 2, linear_copy, second)
    add("programming", "MNIST CNN", 5, 2, cnn_copy)
    return found


def title(layer: Layer, batch: int | None = None) -> str:
    """A layer with its batch (its own, or another one) and its tiles, in words."""
    return f"Linear {layer.inputs} x {layer.outputs}, batch {batch or layer.batch}, {layer.rows}-row tiles"


def reram(rows: int, changes: dict[str, Any]) -> mho.Hardware:
    """The ReRAM preset (8-bit converters, noisy) on tiles of `rows` by 512, with changes."""
    return mho.Hardware.preset("reram").replace({"tile.rows": rows, "tile.columns": 512, **changes})


def linear(layer: Layer, changes: dict[str, Any], batch: int | None = None) -> Pair:
    """One read of a linear layer; its inputs are never negative."""
    net, chip = mapped_linear(layer, json.dumps(changes))
    x = torch.rand(batch or layer.batch, layer.inputs)
    return Pair(lambda: chip(x), lambda: net(x))


@lru_cache(maxsize=len(LAYERS))
def mapped_linear(layer: Layer, changes: str) -> tuple[nn.Linear, mho.Chip]:
    """A linear layer with random weights, and its chip; changes of the preset as JSON."""
    torch.manual_seed(0)
    net = nn.Linear(layer.inputs, layer.outputs).requires_grad_(False)
    hardware = reram(layer.rows, json.loads(changes))
    return net, mho.map(net, hardware, calibrate=torch.rand(CALIBRATION, layer.inputs), seed=0)


@lru_cache(maxsize=1)
def mapped_cnn() -> tuple[nn.Sequential, mho.Chip, torch.Tensor]:
    """The trained MNIST CNN for torch, with its batch norms folded; its chip; one batch of pictures."""
    images, _ = mho.models.data.mnist("test")
    net = mho.models.mnist_cnn(weights="sigma-0.5").eval().requires_grad_(False)
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=images[:CALIBRATION], seed=0)
    return folded(net), chip, images[:CNN_BATCH]


def folded(net: nn.Sequential) -> nn.Sequential:
    """A network in evaluation mode with each batch norm folded into the layer before it, without noise layers."""
    layers: list[nn.Module] = []
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(layers[-1], layer)
        elif isinstance(layer, nn.BatchNorm1d):
            layers[-1] = fuse_linear_bn_eval(layers[-1], layer)
        elif not isinstance(layer, Noise):
            layers.append(layer)
    return nn.Sequential(*layers).requires_grad_(False)


def cnn_read() -> Pair:
    """One noisy pass of the CNN, and torch's in both of its memory formats."""
    net, chip, x = mapped_cnn()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    y = x.to(memory_format=torch.channels_last)
    return Pair(lambda: chip(x), lambda: net(x), {"channels_last": lambda: other(y)})


def cnn_votes() -> Pair:
    """Votes of the CNN, and as many noiseless passes."""
    net, chip, x = mapped_cnn()
    return Pair(lambda: mho.vote(chip, x, k=VOTES), lambda: [net(x) for _ in range(VOTES)])


def mlp_votes() -> Pair:
    """Votes of an MLP with random weights, all samples at once, and as many noiseless passes."""
    torch.manual_seed(0)
    net = nn.Sequential(*(part for sizes in pairwise(MLP) for part in (nn.Linear(*sizes), nn.ReLU())))[:-1]
    net.eval().requires_grad_(False)
    x = torch.rand(MLP_BATCH, MLP[0])
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=torch.rand(CALIBRATION, MLP[0]), seed=0)
    return Pair(
        lambda: mho.vote(chip, x, k=VOTES, batch_size=None),
        lambda: [net(x) for _ in range(VOTES)],
    )


def linear_copy(layer: Layer) -> Pair:
    """Programming another chip of a linear layer."""
    return another_chip(*mapped_linear(layer, json.dumps(NOISY)))


def cnn_copy() -> Pair:
    """Programming another chip of the CNN."""
    net, chip, _ = mapped_cnn()
    return another_chip(net, chip)


def another_chip(net: nn.Module, chip: mho.Chip) -> Pair:
    """Programming another chip, and what it could not do without: a copy, and a random number for each weight."""

    def copied() -> nn.Module:
        other = copy.deepcopy(net)
        for parameter in other.parameters():
            if parameter.ndim > 1:
                torch.randn_like(parameter)
        return other

    return Pair(lambda: chip.copy(1), copied)


COLUMNS: Columns = {
    "group": Column("kind", "s"),
    "work": Column("work", "s"),
    "threads": Column("threads", "d"),
    "mho_ms": Column("Mho (ms)", ".3f"),
    "torch_ms": Column("torch (ms)", ".3f"),
    "ratio": Column("ratio", ".2f"),
    "must": Column("must", "g"),
    "goal": Column("goal", "g"),
    "reached": Column("reached", "s"),
}


def row(work: Work, threads: int, times: timing.Times) -> dict[str, Any]:
    """One row of the table. Where too few runs were undisturbed (not `quiet`), what it reaches is not told."""
    seconds = times.seconds
    ratio = seconds["mho"] / seconds["torch"]
    remarks = [
        f"torch in {name} {1e3 * seconds[name]:.3f} ms, ratio {seconds['mho'] / seconds[name]:.2f}"
        for name in seconds
        if name not in ("mho", "torch")
    ]
    return {
        "group": work.group,
        "work": work.name,
        "threads": threads,
        "mho_ms": 1e3 * seconds["mho"],
        "torch_ms": 1e3 * seconds["torch"],
        "ratio": ratio,
        "must": work.must,
        "goal": work.goal,
        "reached": reached(ratio, work) if times.quiet else "?",
        "runs": times.runs,
        "discarded": times.discarded,
        "quiet": times.quiet,
        "remark": "; ".join(remarks),
    }


def reached(ratio: float, work: Work) -> str:
    """What a ratio reaches: goal, must, or no."""
    return "goal" if ratio <= work.goal else "must" if ratio <= work.must else "no"


def measure(chosen: Sequence[Work], threads: Sequence[int], *, quick: bool, log: Console) -> pd.DataFrame:
    """Time the works with each number of threads; a line on `log` as each is done."""
    runs, budget = (5, 3.0) if quick else (15, 20.0)
    rows = []
    for number, work in enumerate(chosen, start=1):
        pair = work.build()
        functions = {"mho": pair.mho, "torch": pair.torch, **pair.others}
        rows += [row(work, count, timing.compare(functions, count, runs=runs, budget=budget)) for count in threads]
        ratios = ", ".join(f"{r['ratio']:.2f} ({r['threads']} thr.)" for r in rows[-len(threads) :])
        log.print(f"{number}/{len(chosen)} {work.group}: {work.name}: {ratios}", highlight=False, soft_wrap=True)
    return pd.DataFrame(rows, columns=[*COLUMNS, "runs", "discarded", "quiet", "remark"])


def limits(pattern: str, *, quick: bool, log: Console) -> list[dict[str, Any]]:
    """Memory and start-up: what, value, unit, must."""
    largest = max(LAYERS, key=lambda layer: layer.inputs * layer.outputs)
    chip = f"arrays of a chip of Linear {largest.inputs} x {largest.outputs}"
    entries: list[tuple[str, str, float, Callable[[], float]]] = [
        (chip, "of its float32 weights", 3.0, lambda: array_share(largest)),
        ("start-up (import, map a small layer, read it)", "s more than importing torch", 1.5, lambda: start_up(quick)),
    ]
    if not quick:
        votes = f"peak memory of {VOTES} votes on 10,000 pictures, MNIST CNN"
        entries.insert(0, (votes, "GB", 1.5, lambda: float(timing.fresh_process(VOTE_JOB).output) / 1e9))
    found = []
    for what, unit, must, value in entries:
        if matches(pattern, what):
            found.append({"what": what, "value": value(), "unit": unit, "must": must})
            log.print(f"{what}: {found[-1]['value']:.2f} {unit}", highlight=False, soft_wrap=True)
    return found


# the peak of the process itself: what getrusage tells on Linux can be the parent's, which the child once shared
VOTE_JOB = f"""
import re, resource, sys
import mho
images, _ = mho.models.data.mnist("test")
net = mho.models.mnist_cnn(weights="sigma-0.5")
chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=images[:{CALIBRATION}], seed=0)
mho.vote(chip, images, k={VOTES})
try:
    print(1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]))
except OSError:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else 1024 * peak)
"""

READ_JOB = """
import mho, torch
net, x = torch.nn.Linear(16, 8), torch.rand(4, 16)
mho.map(net, mho.Hardware.preset("reram"), calibrate=x)(x)
"""


def start_up(quick: bool) -> float:
    """Seconds from a fresh process to the first read, beyond those of importing torch. Kernels are in numba's cache."""
    jobs = (READ_JOB, "import torch")
    for job in jobs:  # fills the caches
        timing.fresh_process(job)
    runs = [[timing.fresh_process(job).seconds for job in jobs] for _ in range(1 if quick else 3)]
    read, alone = (statistics.median(times) for times in zip(*runs, strict=True))
    return read - alone


def array_share(layer: Layer) -> float:
    """Bytes of all arrays of a linear layer's chip after its first read, over those of its float32 weights."""
    _, chip = mapped_linear(layer, json.dumps(NOISY))
    chip(torch.rand(1, layer.inputs))
    return array_bytes(list(chip.layers.values())) / (4 * layer.inputs * layer.outputs)


def matches(pattern: str, text: str) -> bool:
    """Whether a text contains a pattern of shell wildcards, in capitals or not."""
    return fnmatchcase(text.lower(), f"*{pattern.lower()}*")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    default = "1,2" if numba.config.NUMBA_NUM_THREADS > 1 else "1"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/kernels"), help="folder for kernels.json")
    parser.add_argument("--quick", action="store_true", help="fewer runs, and no votes on 10,000 pictures")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="rows that contain it (shell wildcards)")
    parser.add_argument("--threads", type=timing.thread_counts, default=default, help="numbers of threads, e.g. 1,2")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure and print what the options choose; the record of it."""
    log = Console(stderr=True)
    chosen = [work for work in works() if matches(options.only, f"{work.group}: {work.name}")]
    rows = measure(chosen, options.threads, quick=options.quick, log=log)
    others = limits(options.only, quick=options.quick, log=log)
    if rows.empty and not others:
        raise ValueError(f"--only {options.only!r} matches no row")
    if not rows.empty:
        print_table("Mho's noisy reads over noiseless torch float32", rows, COLUMNS, markdown=options.markdown)
    notes = [f"{r['work']}, {r['threads']} thr.: {r['remark']}" for r in rows.to_dict("records") if r["remark"]]
    if not rows["quiet"].all():
        notes.append("?: the machine was busy with other work: measure again")
    notes += [f"{o['what']}: {o['value']:.2f} {o['unit']} (must: {o['must']:g})" for o in others]
    print_notes(notes)
    return {**record(PACKAGES, command), "rows": rows.to_dict("records"), "limits": others}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write the record when all is done. Returns the exit code."""
    options = parse(arguments)
    command = shlex.join(["benchmarks/kernels.py", *(sys.argv[1:] if arguments is None else arguments)])
    return write_measured(options.out / FILE, lambda: run(options, command))


if __name__ == "__main__":
    sys.exit(main())
