"""What the scripts on votes, volts and the reduction say, at a tiny size."""

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def volts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("votes_or_volts")


@pytest.fixture
def reduction(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("reduction")


@pytest.mark.filterwarnings("ignore::mho.devices.data.ExtrapolationWarning")  # it goes beyond the limits of cells
def test_the_coefficients_of_reads_are_the_predicted_ones(volts: ModuleType) -> None:
    table = volts.coefficients_table(50)
    np.testing.assert_allclose(table["fitted_to_budget"], table["predicted"], rtol=0.02)
    off = (table["fitted_to_reads"] - table["predicted"]) / table["standard_error"]
    assert off.abs().max() < 5
    quiet = table[table["tile"] == "quiet"]
    assert (quiet["standard_error"] < 0.1 * quiet["predicted"]).all()  # so that each of them is really measured
    wrong = (quiet["fitted_to_reads"] - 1.5 * quiet["predicted"]) / quiet["standard_error"]
    assert (wrong.abs() > 5).all()


def test_the_mode_needs_more_reads_than_the_mean(volts: ModuleType) -> None:
    table = volts.majority_table()
    sigma = np.sqrt(0.25 / volts.DECISIONS)
    assert (table["mean"] - table["predicted_mean"]).abs().max() < 5 * sigma
    many = table[table["reads"] > 10]  # the prediction of the mode is for many reads
    assert (many["mode"] - many["predicted_mode"]).abs().max() < 5 * sigma
    assert (many["mean"] - many["predicted_mode"]).max() > 5 * sigma


def test_memory_keeps_what_votes_would_average(volts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volts, "MEMORY", (1, 16))
    table = volts.memory_table(8).set_index(["back_to_back", "reads"])
    bound = 5 * np.sqrt(2 / (8 * 64))  # of 64 columns on 8 chips, whose cells keep most of their noise
    assert (table["measured"] - table["predicted"]).abs().max() < bound
    assert table.loc[(True, 16), "measured"] - table.loc[(False, 16), "predicted"] > bound


def test_volts_are_compared_at_the_energy_of_votes(
    volts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volts, "START", (-8.0,))
    monkeypatch.setattr(volts, "VOTES", (4,))
    table = volts.volts_table(argparse.Namespace(images=4, chips=1, jobs=1, out=tmp_path)).set_index(["votes", "rule"])
    more, votes = table.loc[(1, "hard")].iloc[1], table.loc[(4, "hard")]
    assert more["sensing.v_read"] == pytest.approx(2 * table.loc[(1, "hard")].iloc[0]["sensing.v_read"])
    assert more["array_energy_j"] == pytest.approx(votes["array_energy_j"], rel=1e-6)


def test_the_claims_of_a_reduction_are_counted(reduction: ModuleType) -> None:
    shared = {"hardware": "pcm", "sensing.v_read": 0.1, "tile.scale": "tile", "pictures": 500}
    shared |= {"chip_voted": 0.9, "model_voted": 0.98, "misfit": 0.1, "layer": "fc1", "frozen": 0.2}
    cells = json.dumps({"kind": "none"})
    rows = [
        shared
        | {"adc.calibrated_at": np.nan, "cell.programming": cells, "holds": True, "chip_single": p, "model_single": p}
        for p in (0.80, 0.82, 0.84)
    ]
    table = reduction.compare(pd.DataFrame(rows))
    row = table.iloc[0]
    assert (row["cells"], row["adc"], row["chips"]) == ("exact", "tracking", 3)
    assert row["off_single"] == pytest.approx(0)
    assert row["interval_single"] == pytest.approx(1.96 * np.sqrt(2 * 0.82 * 0.18 / 1500), rel=1e-3)
    assert not row["agrees_voted"]
    silent = {"claimed": 0, "claimed_and_agrees": 0, "not_claimed": 2, "not_claimed_and_agrees": 1}
    assert reduction.summary(table) == silent | {"claimed": 2, "claimed_and_agrees": 1, "not_claimed": 0} | {
        "not_claimed_and_agrees": 0
    }
    assert reduction.summary(table.assign(claims=False)) == silent
    assert len(reduction.points()) == 4 + sum(map(len, reduction.OCTAVES.values()))
