"""A working folder for the commands, whose files are good until a test spoils them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import NOISY
from torch import nn

from mho.cli import app, run

TINY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()
    def forward(self, x):
        return self.net(x) if x.sum() >= 0 else x
"""


def tiny() -> nn.Sequential:
    scope: dict = {}
    exec(TINY, scope)
    torch.manual_seed(0)
    return scope["build"]().eval()


class Shop:
    """A working folder with a factory, a checkpoint, a hardware file and data, all good; tests spoil one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.py").write_text(TINY, encoding="utf-8")
        self.save(tiny().state_dict())
        self.hardware(NOISY)
        generator = np.random.default_rng(0)
        self.images = generator.random((20, 1, 8, 8), dtype=np.float32)
        self.labels = generator.integers(0, 3, 20)
        self.data(images=self.images, labels=self.labels)

    def save(self, state: dict[str, torch.Tensor]) -> None:
        torch.save(state, self.folder / "tiny.pt")

    def spoil(self, key: str, change: Callable[[torch.Tensor], object]) -> None:
        state = tiny().state_dict()
        change(state[key])
        self.save(state)

    def hardware(self, fields: dict) -> None:
        (self.folder / "chip.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")

    def data(self, **arrays: object) -> None:
        np.savez(self.folder / "data.npz", **arrays)

    def map(self, **options: object) -> list[str]:
        """The arguments of `mho map` with some options replaced."""
        given = {"model": "tiny:build", "hardware": "chip.yaml", "calibrate": "data.npz", "out": "out/chip"} | options
        checkpoint = str(given.pop("checkpoint", "tiny.pt"))
        return ["map", checkpoint, *(part for key, value in given.items() for part in (f"--{key}", str(value)))]


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Shop:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    return Shop(tmp_path)


@pytest.fixture
def refused(capsys, tmp_path) -> Callable[..., None]:
    def check(arguments: list[str], *said: str) -> None:
        before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)
        capsys.readouterr()
        code = run(app, arguments)
        err = capsys.readouterr().err
        assert err.startswith("mho: error: ")
        assert (code, err.count("\n"), err[-1]) == (2, 1, "\n")
        for part in said:
            assert part in err
        assert " at 0x" not in err
        assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before

    return check
