"""What a training step through a chip takes, beside the plain step: CPU time of one thread, and memory.

    python benchmarks/training_speed.py [--out docs/results/training_speed.json] [--only PATTERN] [--steps 7]
                                        [--markdown]

Batches of 64 with random inputs and weights, SGD. Both steps are timed in turn in one process; ratios are of the
shortest of each. Memory is the peak of the resident set (Linux) over that of the same process before, in which a step
with a batch of 2 has been made: parameters, gradients and compiled kernels are there. A network whose plain step
takes less than 16 MiB has none, as too little of it shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import mho
from mho.records import record, write_json
from mho.timing import fresh_process

BATCH = 64
YEAR = 365.25 * 86400


class Block(nn.Module):
    """Two convolutions and a shortcut, without parameters where the size changes (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        past = x[:, :, :: self.stride, :: self.stride]
        return (y + functional.pad(past, (0, 0, 0, 0, 0, self.more))).relu()


def resnet32() -> nn.Sequential:
    """That of He et al. (2016) for pictures of 32 x 32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for outputs in (16, 32, 64):
        for block in range(5):
            layers.append(Block(channels, outputs, 2 if block == 0 and outputs > 16 else 1))
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp() -> nn.Sequential:
    """784, 512, 512, 10."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MNIST CNN": (mho.models.mnist_cnn, (1, 28, 28)),
    "ResNet-32, 32 x 32": (resnet32, (3, 32, 32)),
    "MLP 784-512-512-10": (mlp, (784,)),
    "stroke LSTM": (mho.models.stroke_lstm, (50, 2)),
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "reram": ("reram", {}),
    "reram, 2 pulses": ("reram", {"dac.bits_per_pulse": 4}),
    "reram, 8 pulses": ("reram", {"dac.bits_per_pulse": 1}),
    "reram, 2 slices of 16 levels": ("reram", {"cell.levels": 16, "tile.slices": 2}),
    "reram, tiles of 128 rows": ("reram", {"tile.rows": 128}),
    "reram, tiles of 64 rows": ("reram", {"tile.rows": 64}),
    "reram, 3 % stuck": ("reram", {"cell.stuck.at_g_min": 0.015, "cell.stuck.at_g_max": 0.015}),
    "reram after a day": ("reram", {"time_s": 86400.0}),
    "pcm": ("pcm", {}),
    "pcm after a year": ("pcm", {"time_s": YEAR}),
    "nand": ("nand", {}),
}


def cases() -> list[tuple[str, str]]:
    """Networks and settings: all settings for the first network."""
    first, *rest = NETWORKS
    return [(first, setting) for setting in SETTINGS] + [(name, "reram") for name in rest]


def steps_of(network: str, setting: str | None, batch: int = BATCH) -> Callable[[], None]:
    """A training step of a network, plain or through a chip, on a batch of random inputs."""
    torch.manual_seed(0)
    build, shape = NETWORKS[network]
    net, x, y = build().train(), torch.rand(batch, *shape), torch.randint(10, (batch,))
    trained = net
    if setting is not None:
        preset, fields = SETTINGS[setting]
        trained = mho.trainable(net, mho.Hardware.preset(preset).replace(fields), calibrate=torch.rand(16, *shape))
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)

    def step() -> None:
        optimiser.zero_grad()
        functional.cross_entropy(trained(x), y).backward()
        optimiser.step()

    return step


def timed(network: str, setting: str, steps: int) -> tuple[float, float]:
    """Shortest CPU seconds of a plain step and of one through a chip, made in turn."""
    both = [steps_of(network, None), steps_of(network, setting)]
    found: list[list[float]] = [[], []]
    for i in range(steps + 1):
        for step, times in zip(both, found, strict=True):
            start = time.thread_time()
            step()
            if i:  # the first compiles
                times.append(time.thread_time() - start)
    return min(found[0]), min(found[1])


def memory(network: str, setting: str | None) -> int:
    """Bytes that steps add to the resident set of this process at their peak."""
    steps_of(network, setting, 2)()  # what is compiled is there
    step = steps_of(network, setting)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(3):
        step()
    return _status("VmHWM") - before


def _status(what: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith(what))
    return 1024 * int(line.split()[1])


def measured(network: str, setting: str, steps: int) -> dict[str, Any]:
    """A row of the table."""
    plain, through = timed(network, setting, steps)
    code = "import training_speed as t; print(t.memory({!r}, {!r}))"
    path = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    bytes_ = [int(fresh_process(code.format(network, s), **path).output) for s in (None, setting)]
    shows = bytes_[0] >= 16 * 2**20
    return {
        "network": network,
        "hardware": setting,
        "plain_ms": round(1e3 * plain, 1),
        "through_ms": round(1e3 * through, 1),
        "time": round(through / plain, 2),
        "plain_mib": round(bytes_[0] / 2**20, 1) if shows else None,
        "through_mib": round(bytes_[1] / 2**20, 1) if shows else None,
        "memory": round(bytes_[1] / bytes_[0], 2) if shows else None,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Of docs/training.md."""
    lines = ["| network | hardware | plain step | step through the chip | memory, plain | through the chip |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| {row['network']} | `{row['hardware']}` | {row['plain_ms']:.0f} ms | {row['time']:.1f} times | "
        + (f"{row['plain_mib']:.0f} MiB | {row['memory']:.1f} times |" if row["memory"] else "| |")
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/training_speed.json"))
    parser.add_argument("--only", default="*", help="pattern of 'network: hardware'; other rows stay as they are")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--markdown", action="store_true", help="print the table of a file that is there")
    options = parser.parse_args(arguments)
    known = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.exists() else []
    if options.markdown:
        print(table(known))
        return 0
    torch.set_num_threads(1)
    found = {(row["network"], row["hardware"]): row for row in known}
    for network, setting in cases():
        if not fnmatch(f"{network}: {setting}", options.only):
            continue
        row = measured(network, setting, options.steps)
        found[network, setting] = row
        print(row, flush=True)
        rows = [found[case] for case in cases() if case in found]
        write_json(
            {**record(("mho", "torch", "numba", "numpy"), "python benchmarks/training_speed.py"), "rows": rows},
            options.out,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
