"""The queue of DenseNet-40s: what is there is not trained again, what was carried goes on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script in an empty world: commands are noted, and finish at once."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("densenet")
    folder = tmp_path / "weights"
    (folder / "densenet40").mkdir(parents=True)
    monkeypatch.setattr(module, "FOLDER", folder)
    monkeypatch.setattr(module, "names", lambda network: [p.stem for p in (folder / network).glob("*.safetensors")])
    return module


def test_the_queue(queue: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    found: list[bool] = []

    def run(command: list[str], check: bool) -> None:
        out = Path(command[command.index("--out") + 1])
        found.append((out / "checkpoint.pt").exists())
        commands.append(command[3:])
        out.mkdir(parents=True, exist_ok=True)
        for end in ("safetensors", "yaml"):
            (out / f"sigma-{command[command.index('--sigma-train') + 1]}.{end}").touch()

    monkeypatch.setattr(queue.subprocess, "run", run)
    (tmp_path / "weights" / "densenet40" / "sigma-0.6.safetensors").touch()
    carried = tmp_path / "benchmarks" / "training" / "densenet40" / "sigma-0.4"
    carried.mkdir(parents=True)
    (carried / "checkpoint.pt").touch()
    (tmp_path / "runs" / "train" / "densenet40" / "sigma-0.2").mkdir(parents=True)
    (tmp_path / "runs" / "train" / "densenet40" / "sigma-0.2" / "checkpoint.pt").touch()

    queue.carry()
    assert [(c[c.index("--sigma-train") + 1], c[-2:]) for c in commands] == [
        ("0.2", ["--carry", str(Path("benchmarks/training/densenet40/sigma-0.2"))])
    ]
    commands.clear()
    found.clear()
    queue.train(["--threads", "2"])
    sigmas = [command[command.index("--sigma-train") + 1] for command in commands]
    assert sigmas == ["0.4", "0.2", "1.0", "0.8", "0.3", "0.1", "0.0", "0.0"]
    assert found == [True, True, False, False, False, False, False, False]
    assert commands[-2][commands[-2].index("--dropout") + 1] == "0.2"
    assert "--start" not in commands[-1]
    assert all(command[-2:] == ["--threads", "2"] for command in commands)
    assert not carried.exists()
    assert set(queue.names("densenet40")) == {training.name for training in queue.QUEUE}
    commands.clear()
    queue.train([])
    assert commands == []


def test_every_start_is_trained_before(queue: ModuleType) -> None:
    there: list[Any] = [0.0]
    for training in queue.QUEUE:
        assert training.start in (None, *there)
        there.append(training.sigma)
    assert sorted(set(there)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0]
