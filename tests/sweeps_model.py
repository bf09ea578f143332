"""A small trained-like network that sweeps of the tests name as `sweeps_model:net`, and their files."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from helpers import hardware
from torch import nn

CLASSES = 4


def net() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    network = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, CLASSES))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    return network.eval()


def random_net() -> nn.Module:
    """Other weights each time."""
    return nn.Sequential(nn.Linear(16, CLASSES)).eval()


class Fragile(nn.Module):
    """Passes its inputs on. Meanwhile, in a worker: the first to see three finished parts is killed.

    Until then each pass waits a little, so that the parts are written while there is still work.

    MHO_TEST_FRAGILE: the run folder, and the process that is none of the workers.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        folder, _, spared = os.environ.get("MHO_TEST_FRAGILE", "").partition(" ")
        if not folder or os.getpid() == int(spared):
            return x
        killed, until = Path(folder, "killed"), time.monotonic() + 0.2
        while not killed.exists() and time.monotonic() < until:
            if len(list(Path(folder, "parts").glob("[!.]*.parquet"))) >= 3:
                with suppress(FileExistsError):
                    os.close(os.open(killed, os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
        return x


def fragile_net() -> nn.Module:
    return nn.Sequential(*net(), Fragile()).eval()


class Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return x


def slow_net() -> nn.Module:
    return nn.Sequential(*net(), Slow()).eval()


def leaving_net() -> nn.Module:
    raise SystemExit(3)


def write_files(folder: Path) -> dict[str, Any]:
    """Data and hardware in a folder, and a sweep of 24 tasks that uses them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = torch.rand(400, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        labels = net()(images).argmax(dim=1)
    np.savez(folder / "data.npz", images=images.numpy(), labels=labels.numpy())
    hardware(output_noise__sigma_add=0.3).save(folder / "chip.yaml")
    return {
        "experiment": "accuracy",
        "model": "sweeps_model:net",
        "data": str(folder / "data.npz"),
        "images": 50,
        "calibrate": 20,
        "hardware": str(folder / "chip.yaml"),
        "grid": {"sensing.v_read": [0.05, "0.1 V"], "seed": [0, 1, 2], "votes": [1, 4, 9, 2]},
    }


def write_sweep(folder: Path, **changes: Any) -> Path:
    """The sweep as a file."""
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**write_files(folder), **changes}, sort_keys=False), encoding="utf-8")
    return path
