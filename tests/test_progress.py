"""What takes a while says how far it is, on a terminal, and says it once."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import hardware

import mho
from mho.mapping import progress


class Terminal(io.StringIO):
    """Standard error that is one."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def chip() -> mho.Chip:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)).eval()
    return mho.map(net, hardware(), calibrate=torch.rand(8, 6))


class Shown:
    """Lines, without the time that they wait for."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def line(self, what: str) -> Shown:
        self.said.append(what)
        return self

    def __call__(self, done: int, total: int) -> None:
        self.steps.append((done, total))

    def end(self) -> None:
        self.said.append("end")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What is said on a terminal."""
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=Terminal()))  # pytest puts its own into sys
    monkeypatch.setattr(progress, "_Line", (found := Shown()).line)
    return found


def test_votes_are_told(chip: mho.Chip, shown: Shown) -> None:
    mho.vote(chip, torch.rand(4, 6), 3, batch_size=2)
    mho.adaptive_vote(chip, torch.rand(4, 6), 3)
    assert shown.said == ["voting, samples", "end"] * 2
    assert shown.steps == [(2, 4), (4, 4), (4, 4)]


def test_loading_is_told(chip: mho.Chip, shown: Shown, tmp_path: Path) -> None:
    chip.save(tmp_path / "chip")
    mho.load(tmp_path / "chip")
    assert shown.said == ["loading, layers", "end"]
    assert shown.steps == [(1, 2), (2, 2)]


def test_what_is_part_of_a_whole_is_not(chip: mho.Chip, shown: Shown) -> None:
    mho.explain(chip, torch.rand(12, 6), torch.arange(12) % 3, most=12)
    assert shown.said == ["explaining, accuracies", "end"]
    assert shown.steps


def test_a_caller_who_is_told_sees_no_line(chip: mho.Chip, shown: Shown, tmp_path: Path) -> None:
    seen: list[tuple[int, ...]] = []
    mho.vote(chip, torch.rand(4, 6), 3, batch_size=2, progress=lambda *now: seen.append(now))
    chip.save(tmp_path / "chip")
    mho.load(tmp_path / "chip", progress=lambda *now: seen.append(now))
    mho.explain(chip, torch.rand(12, 6), torch.arange(12) % 3, most=12, progress=lambda *now: seen.append(now[:2]))
    assert seen[:4] == [(2, 4), (4, 4), (1, 2), (2, 2)]
    assert len(seen) > 4
    assert shown.said == []
