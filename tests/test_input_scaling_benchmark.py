"""The benchmark of a transformer with outliers, at a tiny size: it writes what it promises."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("input_scaling")
    for name, value in {"FEATURES": 24, "HEADS": 2, "HIDDEN": 32, "OUTLIERS": 2}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_outliers_change_nothing_of_the_network(benchmark_module: ModuleType) -> None:
    x = torch.rand(2, 5, 24)
    plain, odd = (benchmark_module.encoder(2, outlier) for outlier in (1.0, 64.0))
    assert torch.allclose(plain(x), odd(x), atol=1e-5)
    inner = odd[0].norms[0](x).abs().amax((0, 1))
    assert (inner > 10 * inner.median()).sum() == 2


def test_results_say_how_they_were_made(
    benchmark_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "found.json"
    options = ["--layers", "1", "--tokens", "6", "--outliers", "64", "--cells", "reram, exact cells", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["input_scaling.py", *options])
    assert benchmark_module.main() == 0
    found = json.loads(out.read_text())
    assert {"command", "versions", "machine", "seed", "alpha"} <= found.keys()
    assert "--cells 'reram, exact cells'" in found["command"]
    errors = {row["one scale"]: row["error"] for row in found["measured"][0]["rows"]}
    assert errors.keys() == benchmark_module.WAYS.keys()
    assert errors["a token, equalised"] < errors["a layer"] / 4
