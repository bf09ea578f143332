"""`benchmarks/coded_outputs.py`: codes for the last layer of the paper's networks."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mho.models.networks import NETWORKS

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("coded_outputs")
    monkeypatch.setattr(found, "CELLS", {"mnist-cnn": [("sigma-1.0", 1.0)]})
    monkeypatch.setattr(found, "CODES", [found.PLAIN, ("hadamard", 32)])
    threads = torch.get_num_threads()
    yield found
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("network", "shape"), [("mnist-cnn", (1, 28, 28)), ("stroke-lstm", (50, 2))])
def test_the_decoder_is_behind_the_noise_of_the_last_layer(
    study: ModuleType, network: str, shape: tuple[int, ...]
) -> None:
    net = NETWORKS[network].build("sigma-1.0").eval()
    x = torch.rand(4, *shape)
    exact = net(x)
    made = study.with_code(net, network, ("hadamard", 32))
    torch.testing.assert_close(made(x), exact, rtol=1e-4, atol=1e-4)
    noise = study._noises(made, network)
    assert noise.keys() == study._noises(net, network).keys()
    widths = []
    last = list(noise.values())[-1][0]
    last.register_forward_hook(lambda module, args, output: widths.append(output.shape[-1]))
    made(x)
    assert widths == [32]


def test_what_is_measured_is_kept(study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--parts", "mnist-cnn", "--images", "60", "--seeds", "0", "--out", str(tmp_path)]
    study.main(asked)
    rows = json.loads((tmp_path / "mnist-cnn.json").read_text())["rows"]
    assert [row["outputs"] for row in rows] == [0, 32]
    assert rows[0]["single"] < rows[1]["single"]
    capsys.readouterr()
    study.main(asked)
    said = capsys.readouterr().out
    assert f"| `sigma-1.0` | 1.0 | {100 * rows[0]['single']:.1f} | {100 * rows[1]['single']:.1f} |" in said
    assert "'single'" not in said  # nothing is measured again
