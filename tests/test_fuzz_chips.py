"""Saved chips that were damaged or forged: a few of the cases of benchmarks/fuzz_chips.py, in this process."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import mho
from mho.mapping.saved import load, store

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("linear", "conv", "slices", "lstm", "given")
OLD = ("conv, format 2", "wires, format 2", "lstm, format 3")


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzz_chips")


def fuzzed(chips: ModuleType, tmp_path: Path, cases: int, names: tuple[str, ...] = NAMES) -> tuple[dict, list]:
    folder = tmp_path / "chips"
    chips.make_chips(folder, names)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*saved by version 0.1")
        exact = {name: mho.load(folder / name).read(chips.inputs(name), read=0) for name in names}

    def judged(name: str, path: Path) -> str:
        return chips.judge(path, chips.inputs(name), exact[name])

    return chips.fuzz(cases, 1, folder, judged, names)


def test_no_damage_gives_other_numbers_and_no_forgery_a_traceback(chips, tmp_path):
    counts, wrong = fuzzed(chips, tmp_path, 240)
    assert wrong == []
    for mode, least in (("damage", 110), ("forgery", 60)):
        assert sum(found.get("refused", 0) for found in counts[mode].values()) >= least
    assert sum(found.get("works", 0) for found in counts["forgery"].values()) >= 5  # not all is refused


def test_neither_damage_nor_forgery_of_older_formats_ends_in_a_traceback(chips, tmp_path):
    counts, wrong = fuzzed(chips, tmp_path, 96, OLD)
    assert wrong == []
    refused = sum(found.get("refused", 0) for kinds in counts.values() for found in kinds.values())
    assert 70 <= refused < 96  # not all is


def test_the_fuzzer_finds_what_is_not_looked_at(chips, tmp_path, monkeypatch):
    """Without digests of tensors and cells there are chips with other numbers."""
    monkeypatch.setattr(store, "_digest", lambda value: "")
    for module in (store, load):  # which would find other cells
        monkeypatch.setattr(module, "origin", lambda hardware, cells: "")
    _, wrong = fuzzed(chips, tmp_path, 120)
    assert any(case["mode"] == "damage" and case["outcome"].startswith("works") for case in wrong)


def test_what_a_chip_becomes_is_told(chips, tmp_path):
    chips.make_chips(tmp_path / "chips", ("linear",))
    path, x = tmp_path / "chips" / "linear", chips.inputs("linear")
    exact = mho.load(path).read(x, read=0)
    assert chips.judge(path, x, exact) == "same bits"
    assert chips.judge(path, x, exact + 1) == "works"
    text, tensors = chips.opened(path)
    tensors["layer.0.bias"][0, 0] = float("nan")
    store.write(path, text, tensors)
    assert chips.judge(path, x, exact) == "refused"
    text, tensors = chips.opened(tmp_path / "chips" / "linear again")
    tensors["digital.1.weight"][0] = torch.nan
    store.write(path, text, tensors)
    assert chips.judge(path, x, exact) == "refused when read"
