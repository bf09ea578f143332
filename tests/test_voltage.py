"""Noise against voltage: the script at a tiny size, and what its tables say."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from mho.mapping.voting.intervals import Accuracy

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("noise_vs_voltage")
    for name, value in {"PRESETS": ("pcm",), "FIXED": (-5.0, 0.5), "TRACKING": (-9.0, 0.0), "CALIBRATE": 8}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.filterwarnings("ignore::mho.devices.data.ExtrapolationWarning")  # it goes beyond the limits of cells
def test_tables_and_figures_are_written(script: ModuleType, tmp_path: Path) -> None:
    asked = ["--images", "6", "--chips", "2", "--votes", "4", "--jobs", "1", "--out", str(tmp_path / "out")]
    assert script.main(asked) == 0
    out = tmp_path / "out"
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["tasks"] == 8
    for name in ("noise", "accuracy", "pareto", "chips"):
        tables = pd.read_parquet(out / f"{name}.parquet"), pd.read_csv(out / f"{name}.csv")
        known = (table.fillna({"extrapolated": ""}) for table in tables)  # an empty text of CSV is read as none
        whole, text = (table.dropna(axis="columns", how="all") for table in known)
        pd.testing.assert_frame_equal(whole, text, check_dtype=False, rtol=1e-5)
    assert all((out / f"{name}.png").stat().st_size > 10_000 for name in ("noise_vs_voltage", "energy_accuracy"))
    accuracy = pd.read_parquet(out / "accuracy.parquet")
    assert accuracy["allowed"].tolist() == [True, False, True, True]
    assert (accuracy["adc"] == ["fixed", "fixed", "tracking", "tracking"]).all()
    chips = pd.read_parquet(out / "chips.parquet")
    for way in script.WAYS:
        means = chips.groupby(["adc.calibrated_at", "sensing.v_read"], dropna=False, sort=False)[way].mean()
        np.testing.assert_allclose(accuracy[way], means)
        assert (accuracy[f"{way}_low"] <= accuracy[way]).all()
        assert (accuracy[f"{way}_high"] >= accuracy[way]).all()


@pytest.mark.filterwarnings("ignore::mho.devices.data.ExtrapolationWarning")  # it goes beyond the limits of cells
def test_the_budget_is_that_of_the_pairs_of_the_chip(script: ModuleType) -> None:
    images, _ = script.mho.models.data.mnist("test")
    hardware = script.mho.Hardware.preset("pcm")
    chip = script.mho.map(script.mho.models.mnist_cnn(weights="sigma-0.5"), hardware, calibrate=images[:8])
    columns = script.columns_of(chip, "conv2", images[:8])
    assert columns.g.shape == (2 * 144, 32)  # 288 word lines on two row tiles
    assert columns.x.shape == (script.SAMPLES, 2 * 144)
    assert np.abs(columns.x @ columns.g).max() * hardware.sensing.v_read < 1.05 * columns.full_scale
    assert columns.x.max() <= 1
    table = script.noise_table(images[:8])
    assert set(table["adc"]) == {"fixed", "tracking"}
    at_limit = table[np.isclose(table["v_read (V)"], script.v_max("pcm"))]
    assert np.ptp(at_limit["snr"]) < 1e-9 * at_limit["snr"].max()  # there the two ranges are the same
    lowest = table.groupby("adc")["snr"].first()
    assert lowest["tracking"] > 40 * lowest["fixed"]


def test_the_front_holds_what_nothing_beats(script: ModuleType) -> None:
    shared = {"preset": "pcm", "adc": "fixed", "v_read": 0.1, "mean_reads": 3.0}
    rows = [
        {"single": 0.8, "voted": 0.9, "adaptive": 0.9, "inference_energy_j": 1.0, "array_energy_j": 0.1},
        {"single": 0.95, "voted": 0.94, "adaptive": 0.94, "inference_energy_j": 2.0, "array_energy_j": 1.0},
        {"single": 0.99, "voted": 1.0, "adaptive": 1.0, "inference_energy_j": 0.5, "array_energy_j": 9.0},
    ]
    accuracy = pd.DataFrame([shared | row for row in rows]).assign(allowed=[True, True, False])
    table = script.pareto_table(accuracy, 10)
    chosen = table[table["front"]]
    assert chosen[["way", "energy_j", "accuracy"]].to_numpy().tolist() == [["single", 1.0, 0.8], ["single", 2.0, 0.95]]
    arrays = table[table["array_front"]].sort_values("array_energy_j")
    assert arrays["way"].tolist() == ["single", "adaptive", "single"]
    assert arrays["array_energy_j"].tolist() == pytest.approx([0.1, 0.3, 1.0])


def test_few_chips_widen_the_interval(script: ModuleType) -> None:
    def table(values: list[float]) -> pd.Series:
        row = {
            "hardware": "pcm",
            "sensing.v_read": 0.1,
            "adc.calibrated_at": np.nan,
            "pictures": 100,
            "mean_reads": 2.0,
        }
        names = ("array_energy_j", "inference_energy_j", "decision_energy_j", "adaptive_energy_j")
        ways = [dict.fromkeys((*script.WAYS,), value) for value in values]
        return script.accuracy_table(pd.DataFrame([row | dict.fromkeys(names, 1.0) | way for way in ways]), 1.0).iloc[0]

    same, apart = table([0.9, 0.9, 0.9]), table([0.8, 0.9, 1.0])
    wilson = Accuracy(90, 100)
    assert (same["single_low"], same["single_high"]) == pytest.approx((wilson.low, wilson.high))
    assert apart["single_low"] < 0.9 - 4.3 * 0.1 / 3**0.5
    assert apart["single_high"] == 1.0
