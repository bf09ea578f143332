"""Random networks equal torch on ideal hardware or are refused by name: a few of benchmarks/fuzz_networks.py."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mho.mapping.layers import TileLayer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fuzz_networks")


def test_random_networks(bench, tmp_path, capsys):
    assert bench.main(["--models", "40", "--seed", "5000", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    found = json.loads((tmp_path / "fuzz_networks.json").read_text())
    for outcomes in found["outcomes"].values():
        assert sum(outcomes.values()) == found["models"] == 40
        assert sum(count for name, count in outcomes.items() if name.startswith("equal")) > 20


def test_the_fuzzer_finds_a_fault(bench, monkeypatch, tmp_path):
    """Hooks that are lost, and batch norm that is folded though its input is used elsewhere."""
    module = importlib.import_module("mho.mapping.modules")
    monkeypatch.setattr(module, "move_hooks", lambda *_: None)
    outcomes = {bench.tried(seed, False)[0] for seed in range(5000, 5040)}
    assert any(name.startswith("failed: differs") for name in outcomes)


class Delicate:
    """Makes a network of rounding: samples differ by 1e-5, and the batch's own statistics take the rest off."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def network(self):
        torch.manual_seed(self.seed)
        net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval()
        return net, (torch.randn(6) + 1e-5 * torch.randn(4, 6),), "delicate"


def test_what_is_rounding_is_no_difference(bench, monkeypatch):
    assert bench.tried(5001, False)[0].startswith(("equal, layers", "equal, all"))
    monkeypatch.setattr(bench, "Maker", Delicate)
    assert bench.tried(0, False)[0] == "equal, as near to float64 as torch is"
    monkeypatch.setattr(bench, "ROUNDING", 0)
    assert bench.tried(0, False)[0].startswith("failed: differs")


def test_rounding_does_not_hide_a_difference(bench):
    exact = torch.linspace(-1, 1, 50, dtype=torch.float64)
    want = exact.float()
    assert bench.is_rounding(want, want, exact)
    assert bench.is_rounding(want * (1 + 1e-6), want, exact)
    assert not bench.is_rounding(want * (1 + 1e-4), want, exact)
    assert not bench.is_rounding({"a": want, "b": 2 * want}, {"a": want, "b": want}, {"a": exact, "b": exact})
    assert not bench.is_rounding(want * torch.nan, want, exact)
    assert not bench.is_rounding(want[:1], want, exact)


def test_networks_are_those_of_their_seeds(bench):
    maker = importlib.import_module("random_networks").Maker
    one, other = maker(3).network(), maker(3).network()
    assert one[2] == other[2]
    assert torch.equal(one[1][0], other[1][0])
    assert maker(4).network()[2] != one[2]
    assert not any(isinstance(module, TileLayer) for module in one[0].modules())
    assert isinstance(one[0], nn.Module)
