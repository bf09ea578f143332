"""Models outside their data: who says so, and what."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers import hardware, pictures, small_cnn

import mho
from mho import Hardware
from mho.crossbar.extrapolation import extrapolations
from mho.crossbar.hardware import PRESETS
from mho.devices.budget import budget
from mho.devices.cell import Cell
from mho.devices.data import ExtrapolationWarning

CASES = {
    "largest conductance": (
        "reram",
        {"cell.g_max": 3e-4},
        ["cell.g_max = 0.0003 S is outside the data of cell.programming, 1e-06 to 4e-05 S"],
    ),
    "smallest conductance": (
        "reram",
        {"cell.g_min": "0.5 uS"},
        ["cell.g_min = 5e-07 S is outside the data of cell.programming, 1e-06 to 4e-05 S"],
    ),
    "drift of other conductances": (
        "reram",
        {"cell.programming": {"kind": "none"}, "cell.g_max": "50 uS", "time_s": 3600},
        ["cell.g_max = 5e-05 S is outside the data of cell.drift, 1e-06 to 4e-05 S"],
    ),
    "time": (
        "pcm",
        {"time_s": 1e6, "cell.read_noise": {"kind": "none"}},
        ["time_s = 1e+06 s is outside the data of cell.drift, 0 to 86400 s"],
    ),
    "time of 1/f noise": (
        "pcm",
        {"time_s": 1e6, "cell.drift": {"kind": "none"}},
        ["time_s = 1e+06 s is outside the data of cell.read_noise (pcm), 0 to 86400 s"],
    ),
    "temperature": (
        "nand",
        {"sensing.temperature": 350, "cell.programming": {"kind": "none"}},
        ["sensing.temperature = 350 K is outside the data of cell.read_noise (saturating), 288.15 to 308.15 K"],
    ),
    "voltage": (
        "reram",
        {"sensing.v_read": 0.8, "cell.v_max": None},
        ["sensing.v_read = 0.8 V is outside the data of cell.read_noise (relative), 0 to 0.5 V"],
    ),
    "current": (
        "nand",
        {"sensing.v_read": 0.25, "cell.v_max": None},
        ["cell.g_max sensing.v_read = 4e-06 A is outside the data of cell.read_noise (saturating), 0 to 3.2e-06 A"],
    ),
}


@pytest.mark.parametrize(("preset", "fields", "said"), CASES.values(), ids=CASES)
def test_settings_outside_the_data_are_named_with_their_range(preset, fields, said):
    assert extrapolations(Hardware.preset(preset).replace(fields)) == said


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_stay_within_their_data(preset):
    hw = Hardware.preset(preset)
    assert extrapolations(hw) == []
    assert extrapolations(hw.replace({"time_s": 86400, "sensing.v_read": 2e-3})) == []


def test_a_table_with_an_activation_energy_holds_at_any_temperature():
    hw = Hardware.preset("reram").replace({"time_s": 100, "sensing.temperature": 290, "sensing.v_read": 0.1})
    hot = {"sensing.temperature": 310, "cell.programming": {"kind": "none"}, "cell.read_noise": {"kind": "none"}}
    assert len(extrapolations(hw.replace(hot))) == 1
    assert extrapolations(hw.replace({**hot, "cell.drift.activation": 1.0, "cell.drift.t_data": 300})) == []


def test_a_table_ends_with_its_conductances():
    table = {"kind": "relaxation", "t_0": 1, "g_ref": 4e-5, "times": [10], "conductances": [0.1, 1], "std": [[0, 0]]}
    hw = hardware(cell__drift=table, time_s=5)
    assert extrapolations(hw) == ["cell.g_min = 1e-06 S is outside the data of cell.drift, 4e-06 to 4e-05 S"]
    assert extrapolations(hw.replace({"time_s": 0})) == []


def test_mapping_warns_and_says_it_for_the_layer_that_does():
    layers = {"7": {"cell.g_max": "60 uS"}}
    hw = Hardware.preset("reram").replace({"layers": layers})
    with pytest.warns(
        ExtrapolationWarning, match=r"cell.g_max = 6e-05 S is outside .* 1e-06 to 4e-05 S: its model extra"
    ):
        mho.map(small_cnn(), hw, calibrate=pictures())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mho.map(small_cnn(), Hardware.preset("reram"), calibrate=pictures())


def test_a_budget_warns_of_what_it_evaluates():
    preset = Hardware.preset("pcm")
    read = {"cell": preset.cell, "sensing": preset.sensing}
    x = np.ones(4)
    budget(np.full(4, 29e-6), x, v_read=[0.01, 0.3], **read)  # programmed to 25 uS, it ended there
    with pytest.warns(
        ExtrapolationWarning, match=r"^g = 6e-05 S is outside the data of cell.read_noise \(pcm\), 0 to 3"
    ):
        budget(np.full(4, 60e-6), x, v_read=0.2, **read)
    with pytest.warns(ExtrapolationWarning, match=r"^v_read = 0.4 V is outside .*, 0 to 0.3 V"):
        budget(np.full(4, 1e-6), x, v_read=[0.1, 0.4], **read)
    with pytest.warns(ExtrapolationWarning, match=r"^time_s = 1e\+06 s is outside .*, 0 to 86400 s"):
        budget(np.full(4, 1e-6), x, v_read=0.2, time_s=1e6, **read)


def test_a_range_upside_down_is_refused():
    noise = {"kind": "relative", "fraction": 0.1, "data": {"conductance": ["2 uS", "1 uS"]}}
    with pytest.raises(ValueError, match="a range must have its low end first, at least 0, got 2e-06 and 1e-06"):
        Cell(g_min=0, g_max="3 uS", read_noise=noise)
