"""Tables 10 and 11: the script at a tiny size, and its intervals."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from mho.mapping.voting.intervals import of_mean
from mho.models import mnist_cnn
from mho.models.attacks import Pgd

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With a short attack on weights of an ordinary training, few pictures and one kind of chip."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("attacks")
    small = {"SIGMAS": (0.0, 0.3), "PAPER": {"mnist": (97.4, 97.7)}, "CHUNK": 5, "WHITE_BOX": 6, "SAMPLES": 2}
    small |= {"CHIPS": 2, "CHIP_IMAGES": 6, "CHIP_ATTACKED": 4, "CALIBRATE": 6, "EXAMPLES": 4}
    small["TABLE_10"] = {"mnist": Pgd(epsilon=0.1, step=0.03, iterations=3, restarts=2)}
    small["PAIRS"] = {"mnist": module.Pair(*[lambda: mnist_cnn("sigma-0.5")] * 2)}
    reram = {"reram": module.mho.Hardware.preset("reram")}
    for name, value in (small | {"hardware": lambda: reram}).items():
        monkeypatch.setattr(module, name, value)
    return module


def test_tables_and_figures_are_written(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    asked = ["--images", "12", "--runs", "4", "--out", str(out)]
    assert script.main(asked) == 0
    assert "0.974" in capsys.readouterr().out
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert {"date", "command", "machine", "versions", "seconds"} <= set(record)
    assert all(
        (out / f"{name}.png").stat().st_size > 10_000 for name in ("accuracy_under_attack", "adversarial_examples")
    )
    table, white_box, chips = (pd.read_csv(out / f"{name}.csv") for name in ("table_11", "white_box", "chips"))
    assert table["sigma"].tolist() == [0.0, 0.3]
    assert table["runs"].tolist() == [1, 4]
    assert table.loc[0, ["single_gain", "voted_gain", "natural_gain"]].tolist() == [0, 0, 0]
    gains = table["single"] - table.loc[0, "single"]
    np.testing.assert_allclose(table["single_gain"], gains, atol=1e-6)
    assert white_box[["sigma", "noise"]].values.tolist() == [[0.0, "ignored"], [0.3, "ignored"], [0.3, "averaged"]]
    assert chips["errors"].tolist() == ["frozen", "fresh", "both"]
    for name in ("on_chip", "on_network"):
        assert chips[name].isna().tolist() == [True, True, False]
    assert table_pictures(script, out) == ["0-5.npz", "10-12.npz", "5-10.npz"]

    monkeypatch.setattr(script, "pgd", None)  # what was made is not made again
    settings = script.Settings(images=12, runs=4, out=out)
    again = script.table_11(settings)
    pd.testing.assert_frame_equal(again, table, check_dtype=False, rtol=1e-4)


def test_some_parts_alone(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert script.main(["--images", "4", "--runs", "2", "--out", str(out), "--parts", "white_box"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "table_10.csv", "white_box.csv"]
    assert "averaged" in capsys.readouterr().out
    assert "--parts white_box" in json.loads((out / "run.json").read_text(encoding="utf-8"))["command"]


def table_pictures(script: ModuleType, out: Path) -> list[str]:
    (folder,) = (out / "pictures").iterdir()
    return sorted(path.name for path in folder.iterdir())


def test_files_hold_the_pictures_of_one_attack(script: ModuleType, tmp_path: Path) -> None:
    settings = script.Settings(images=7, runs=2, out=tmp_path)
    found = script.transferred(settings)
    images, labels = settings.load()
    whole = script.pgd(mnist_cnn("sigma-0.5"), images, labels, script.TABLE_10["mnist"], seed=0)
    assert torch.equal(found.images, whole.images)
    assert torch.equal(script.transferred(settings).images, whole.images)
    other = script.transferred(script.Settings(images=7, runs=2, out=tmp_path, seed=1))
    assert not torch.equal(other.images, whole.images)


def test_missing_weights_get_one_line(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(script.PAIRS, "mnist", script.Pair(*[lambda: mnist_cnn("none")] * 2))
    assert script.main(["--images", "2", "--out", str(tmp_path)]) == 2
    assert "error: weights of mnist_cnn must be one of" in capsys.readouterr().err


def test_the_networks_and_attacks_of_the_paper(script: ModuleType) -> None:
    module = importlib.reload(script)
    names = {data: [f"{build.func.__name__} {build.args[0]}" for build in pair] for data, pair in module.PAIRS.items()}
    assert names == {
        "mnist": ["mnist_cnn4 adv-sigma-0.0", "mnist_cnn adv-sigma-0.0"],
        "cifar10": ["densenet40 adv-sigma-0.0", "resnet32 adv-sigma-0.0"],
    }
    assert module.table_10().loc[1, ["data", "iterations", "restarts"]].tolist() == ["cifar10", 7, 10]


def test_the_paired_test_is_that_of_scipy_and_its_interval_covers(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    base = rng.random(500) < 0.9
    values = np.clip(base + rng.normal(0.01, 0.1, 500), 0, 1)
    found = script.compared("x", values, base.astype(float))
    test = stats.ttest_rel(values, base.astype(float))
    assert found["x_p"] == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found["x_gain_low"], found["x_gain_high"]) == pytest.approx((low, high))
    assert script.compared("x", base * 1.0, base * 1.0)["x_p"] == 1.0

    def covered(shift: float) -> int:
        """How many intervals of 2000 hold the true mean moved by so many standard errors."""
        samples = rng.normal(size=(2000, 30)) + shift / np.sqrt(30)
        return sum(low <= 0 <= high for _, low, high in map(of_mean, samples))

    assert abs(covered(0.0) - 1900) < 5 * np.sqrt(2000 * 0.95 * 0.05)
    assert abs(covered(1.0) - 1900) > 5 * np.sqrt(2000 * 0.95 * 0.05)  # negative control
