"""The study of noise by layer at a tiny size, and the bound of the last layer beside simulation."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mho.models.networks import NETWORKS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
DRAWS = 40000


@pytest.fixture
def last_layer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("last_layer")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("noise_by_layer")
    monkeypatch.setattr(module, "CELLS", {"mnist-cnn": [("sigma-1.0", 1.0)]})
    monkeypatch.setattr(module, "CHIPS", ("reram-low",))
    monkeypatch.setattr(module, "training", lambda network, count: of_test(count))
    return module


def of_test(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Test pictures, as those of the training set are no part of the package."""
    images, labels, _ = NETWORKS["mnist-cnn"].load("test")
    return images[-count:], labels[-count:]


def simulated(logits: list[float], sigma: float) -> tuple[float, float]:
    """The share of draws in which class 0 is the largest, and its standard error."""
    rng = np.random.default_rng(0)
    reads = np.array(logits) * (1 + sigma * rng.standard_normal((DRAWS, len(logits))))
    share = float((reads[:, 1:] < reads[:, :1]).all(axis=1).mean())
    return share, max(1e-4, float(np.sqrt(share * (1 - share) / DRAWS)))


@pytest.mark.parametrize(("sigma", "expected"), [(0.4, 0.994), (0.6, 0.952), (0.8, 0.894), (1.0, 0.841)])
def test_wrong_logits_of_zero_give_the_bound(last_layer: ModuleType, sigma: float, expected: float) -> None:
    share, error = simulated([5.0, *9 * [0.0]], sigma)
    assert last_layer.bound(sigma) == pytest.approx(expected, abs=5e-4)
    assert abs(share - last_layer.bound(sigma)) < 4 * error


@pytest.mark.parametrize("sigma", [0.4, 0.6, 0.8, 1.0])
def test_on_which_side_of_the_bound_other_logits_are(last_layer: ModuleType, sigma: float) -> None:
    bound, ceiling = last_layer.bound(sigma), last_layer.ceiling(sigma)
    for logits in ([5.0, 0.5, *8 * [-1.0]], [5.0, 1.0, *8 * [0.0]], [5.0, *9 * [1.0]], [-1.0, *9 * [-3.0]]):
        share, error = simulated(logits, sigma)
        assert share < bound + 4 * error, logits
    share, error = simulated([5.0, -5.0], sigma)  # two classes: the most that any logits reach
    assert share > bound
    assert abs(share - ceiling) < 4 * error
    ten = [5.0, *9 * [-0.5]]  # ten classes: above it where sigma is below 1 / 1.485, below it where it is not
    share = last_layer.right(np.array([ten]), np.array([0]), sigma)[0]
    assert (share > bound + 1e-3) if sigma < 1 / 1.485 else (share < bound - 1e-3)
    drawn, error = simulated(ten, sigma)
    assert abs(share - drawn) < 4 * error + 1e-4


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_the_probability_of_given_logits_is_that_of_a_simulation(last_layer: ModuleType, sigma: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(6, 10)) * 3 + np.eye(10)[:6] * 6
    logits[0, 1:] = 0
    found = last_layer.right(logits, np.arange(6), sigma)
    for i, row in enumerate(logits):
        share, error = simulated([row[i], *np.delete(row, i)], sigma)
        assert abs(found[i] - share) < 4 * error + 0.01


def test_a_shift_of_all_logits_is_found(last_layer: ModuleType) -> None:
    logits = np.tile([20.0, *9 * [12.0]], (4, 1))  # far above 0, where noise is large
    labels = np.zeros(4, int)
    shift = last_layer.best_shift(logits, labels, 0.6)
    assert -16 < shift < -10
    assert last_layer.right(logits, labels, 0.6).mean() < 0.5
    assert last_layer.right(logits + shift, labels, 0.6).mean() > 0.94
    assert last_layer.below_bound(logits, labels) == 1
    assert last_layer.below_bound(logits - 13, labels) == 0


@pytest.mark.parametrize("network", ["mnist-cnn", "stroke-lstm", "densenet40"])
def test_each_noise_is_of_one_layer(study: ModuleType, network: str) -> None:
    net = NETWORKS[network].build(None)
    found = study.noises(net, network)
    assert all(found.values())
    assert sum(map(len, found.values())) == sum(isinstance(m, study.Noise) for m in net.modules())
    assert len(study.places(list(found))) == 1 + 2 * len(found)
    last = list(study.places(list(found)).items())[-1]
    assert last == (f"all but {list(found)[-1]}", set(found) - {list(found)[-1]})


def test_noise_in_one_layer_alone_changes_that_layer_alone(study: ModuleType) -> None:
    net = NETWORKS["mnist-cnn"].build("sigma-1.0").eval()
    of, x = study.noises(net, "mnist-cnn"), of_test(3)[0]
    exact = study.scores(net, x, 0)
    study.set_noise(of, {"fc2"}, 0.5)
    ratios = (torch.cat([study.scores(net, x, seed) for seed in range(100)]) / exact.repeat(100, 1)).flatten()
    assert abs(float(ratios.mean()) - 1) < 0.05
    assert abs(float(ratios.std()) - 0.5) < 0.03


def test_reads_of_the_last_layer_hold_its_inputs(study: ModuleType) -> None:
    net = NETWORKS["mnist-cnn"].build("sigma-1.0").eval()
    study.set_noise(study.noises(net, "mnist-cnn"), {"conv1", "fc1"}, 0.5)  # none in the last layer
    reads = study.last_again(net, of_test(3)[0], 1, 0.0)
    first, second = next(reads), next(reads)
    assert torch.equal(first, second)
    assert not torch.equal(first, study.scores(net, of_test(3)[0], 2))


def test_the_study_at_a_tiny_size_and_once_more(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = "--parts mnist-cnn chips --images 6 --seeds 0 --votes 1 2 --threads 1"
    asked = [*asked.split(), "--out", str(tmp_path)]
    assert study.main(asked) == 0
    rows = study.kept(tmp_path, "mnist-cnn")
    assert len(rows) == 13 + 1 + 1 + 2  # places, computed, shifted, votes of all and of the last
    assert {row["where"] for row in rows} == set(study.places(list(study.GROUPS["mnist-cnn"])))
    assert all(0 <= row["single"] <= 1 for row in rows if "single" in row)
    chips = study.kept(tmp_path, "chips")
    assert len(chips) == 13 + 1 + 2
    single = {row["where"]: row["single"] for row in chips if "single" in row}
    assert single["nowhere"] == 1 > single["only conv2"]
    last = next(row for row in chips if row.get("again") == "last")
    whole = next(row for row in chips if row.get("again") == "all")
    assert last["energy_j"]["1"] == whole["energy_j"]["1"] > 0
    assert last["energy_j"]["2"] < whole["energy_j"]["2"]
    monkeypatch.setattr(study, "scores", None)  # nothing is measured again
    monkeypatch.setattr(study, "_vote", None)
    assert study.main(asked) == 0
    assert study.kept(tmp_path, "mnist-cnn") == rows
    assert study.kept(tmp_path, "chips") == chips
    figure = importlib.import_module("noise_by_layer_figure")
    assert figure.main([str(tmp_path), str(tmp_path / "figure.png")]) == 0
    assert (tmp_path / "figure.png").stat().st_size > 10000
