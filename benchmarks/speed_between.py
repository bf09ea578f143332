"""Speed of named layers in two checkouts, timed in turn in one run.

    python benchmarks/speed_between.py OLD_CHECKOUT [NEW_CHECKOUT] [--times 15] [--only PATTERN] [--threads 1]

Each checkout has a process of its own, which times a case when it is asked to: one after the other, each the first in
turn, so that both see the same machine. Prints minima and medians of CPU time and the ratios new / old.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from digests import HERE as DIGESTS
from digests import check_package, laid_out

SHORTEST = 0.02  # seconds of CPU time of one timing: work is repeated until it takes that long
WIRES = {"wires.r_word_line": 1.0, "wires.r_bit_line": 1.0}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.05, "capture": "1 us", "emission": "1 us"}
SLOW = {"cell.read_noise": TELEGRAPH, "sensing.read_interval": "1 us"}
Work = Callable[[], Any]


def layer(net: Any, fields: dict[str, Any], *shape: int) -> Work:
    """Reads of a network on the ReRAM preset with some fields changed, always of another number."""
    import mho

    x = values(*shape)
    chip = mho.map(filled(net()), mho.Hardware.preset("reram").replace(fields), calibrate=x[:16], check=False)
    return partial(chip, x)


def mapping(*shape: int) -> Work:
    import mho

    net, x = filled(cnn()), values(*shape)
    return partial(mho.map, net, mho.Hardware.preset("reram"), calibrate=x)


def values(*shape: int) -> Any:
    import torch

    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def filled(net: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator) - 0.5
    return net.eval().requires_grad_(False)


def cnn() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3872, 10),
    )


def works() -> dict[str, Callable[[], Work]]:
    """What is timed, and how it is set up."""
    from torch import nn

    def square(size: int) -> Any:
        return partial(nn.Linear, size, size)

    def conv(inputs: int, outputs: int, **options: Any) -> Any:
        return partial(nn.Conv2d, inputs, outputs, 3, padding=1, **options)

    sliced = {"tile.slices": 4, "cell.levels": 4}
    return {
        "linear 512 x 512, batch 64": partial(layer, square(512), {}, 64, 512),
        "linear 64 x 64, batch 1": partial(layer, square(64), {}, 1, 64),
        "convolution 3 to 16, 32 x 32, batch 8": partial(layer, conv(3, 16), {}, 8, 3, 32, 32),
        "convolution 32 to 64, 32 x 32, batch 4": partial(layer, conv(32, 64), {}, 4, 32, 32, 32),
        "depthwise convolution, 32 channels": partial(layer, conv(32, 32, groups=32), {}, 4, 32, 16, 16),
        "LSTM step, 64 to 64, batch 16": partial(layer, partial(nn.LSTM, 64, 64, batch_first=True), {}, 16, 1, 64),
        "linear 512 x 512, 4 slices, batch 16": partial(layer, square(512), sliced, 16, 512),
        "linear 512 x 512, 8 pulses, batch 16": partial(layer, square(512), {"dac.bits_per_pulse": 1}, 16, 512),
        "linear 512 x 512, 10 bits, batch 16": partial(layer, square(512), {"dac.bits": 10}, 16, 512),
        "linear 64 x 64, wires, batch 16": partial(layer, square(64), WIRES, 16, 64),
        "linear 128 x 128, slow noise, batch 4": partial(layer, square(128), SLOW, 4, 128),
        "map of a small CNN, 16 pictures": partial(mapping, 16, 1, 28, 28),
    }


def serve(threads: int) -> None:
    """Answer names of cases on standard input with the CPU time of one run in seconds."""
    import torch

    torch.set_num_threads(threads)
    ready: dict[str, tuple[Work, int]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ready:
            work = works()[name]()
            work(), work()
            begun = time.process_time()
            work()
            ready[name] = work, max(1, round(SHORTEST / max(time.process_time() - begun, 1e-6)))
            check_package(os.environ.get("PYTHONPATH"))
        work, repeats = ready[name]
        begun = time.process_time()
        for _ in range(repeats):
            work()
        print(json.dumps((time.process_time() - begun) / repeats), flush=True)


class Side:
    """The process of one checkout."""

    def __init__(self, checkout: Path, folder: Path, threads: int) -> None:
        folder.mkdir()
        script = checkout.resolve() / "benchmarks" / Path(__file__).name
        command = [sys.executable, str(script if script.exists() else __file__), "--serve", "--threads", str(threads)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=laid_out(checkout.resolve(), folder), cwd=folder, **pipes)

    def time(self, name: str) -> float:
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{name}: the process ended")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(old: Path, new: Path, times: int, only: str, threads: int) -> None:
    print(f"{'':42}{'old, ms':>10}{'new, ms':>10}{'ratio of':>12}{'ratio of':>12}")
    print(f"{'':42}{'median':>10}{'median':>10}{'medians':>12}{'minima':>12}")
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(path, Path(folder) / name, threads) for path, name in ((old, "old"), (new, "new"))]
        try:
            for name in works():
                if not fnmatchcase(name, only):
                    continue
                found: list[list[float]] = [[], []]
                for side in sides:
                    side.time(name)  # set up
                for turn in range(times):
                    for s in (0, 1) if turn % 2 else (1, 0):
                        found[s].append(1e3 * sides[s].time(name))
                before, after = (statistics.median(f) for f in found)
                least = min(found[1]) / min(found[0])
                print(f"{name:42}{before:10.3f}{after:10.3f}{after / before:12.3f}{least:12.3f}", flush=True)
        finally:
            for side in sides:
                side.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path, nargs="?", default=DIGESTS.parents[1])
    parser.add_argument("--times", type=int, default=15)
    parser.add_argument("--only", default="*", help="names of cases, as a pattern of shell wildcards")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.threads)
    elif options.old is None:
        parser.error("name the checkout to compare with")
    else:
        compare(options.old, options.new, options.times, options.only, options.threads)


if __name__ == "__main__":
    main()
