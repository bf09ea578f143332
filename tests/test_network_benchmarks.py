"""The benchmarks of networks of other packages and of a language model compute what their pages say."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("networks")


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("language_model")


def test_a_row_of_the_table_of_networks(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 30, bias=False)
            self.inner, self.out = nn.Linear(16, 16), nn.Parameter(torch.zeros(16))
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.head(self.inner(self.table(tokens)) * self.out)}

    made = Tied().eval().requires_grad_(False)
    made.out.fill_(1.0)
    monkeypatch.setitem(benchmark.NETWORKS, "tied", lambda: (made, {"tokens": torch.arange(20).view(2, 10)}))
    row = benchmark.measured("tied", 1)
    assert row["parameters"] == 30 * 16 + 16 * 17 + 16
    assert row["parameters_on_tiles"] == pytest.approx((30 * 16 + 16 * 17) / row["parameters"])
    assert row["macs_on_tiles"] == 1.0
    assert row["error_ideal"] < 1e-5 < 0.01 < row["error_reram"]
    assert row["layers"] == 2


def test_networks_begin_with_no_dead_branch(benchmark: ModuleType) -> None:
    from network_list import RESIDUAL, settled

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    nn.init.zeros_(net[1].weight)
    nn.init.zeros_(net[3].weight)
    x = 5 + torch.randn(8, 3, 6, 6)
    settled(net, x)
    assert torch.all(net[1].weight == RESIDUAL)
    assert net[3].weight.std() > 0
    assert not net[1].training
    assert torch.allclose(net[1].running_mean, net[0](x).mean((0, 2, 3)), atol=1e-5)


def test_the_language_model_sees_only_what_is_before(language: ModuleType) -> None:
    model = language.ByteModel().eval()
    text = torch.randint(256, (2, 20), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, 12:] = 7
    with torch.no_grad():
        a, b = model(text), model(changed)
    assert torch.allclose(a[:, :12], b[:, :12], atol=1e-6)
    assert not torch.allclose(a[:, 12:], b[:, 12:], atol=1e-3)
    given, wanted = language.windows("test", 3)
    assert given.shape == wanted.shape == (3, language.WINDOW)
    assert torch.equal(given[:, 1:], wanted[:, :-1])


def test_ratios_of_perplexity_are_over_windows_and_chips(language: ModuleType) -> None:
    exact = np.random.default_rng(0).uniform(1.0, 3.0, 16)
    more = np.random.default_rng(1).normal(0.1, 0.02, (1, 3, 16))
    (row,) = language.rows("a", 1, exact + more, exact)
    assert row["ratio"] == pytest.approx(np.exp(more.mean()))
    assert row["ratio_low"] < np.exp(0.1) < row["ratio_high"]
    assert row["ratio_high"] / row["ratio_low"] < 1.1  # the texts' own spread, threefold, is not in it
    (same,) = language.rows("a", 1, np.broadcast_to(exact, (1, 1, 16)), exact)
    assert (same["ratio"], same["ratio_low"]) == (1.0, 1.0)
