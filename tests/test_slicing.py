"""Slices of a weight: what each holds, how they are programmed one after another, and mirrors that join them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cell_by_cell import program
from helpers import hardware, on_tiles, relative_error
from test_chain import OUTPUTS, ROWS, disagreement, one_input, programmed, setting

import mho
from mho import Hardware
from mho.crossbar.expected import expected_errors
from mho.mapping.architecture.cost import layer_costs

SLICED = {"tile__slices": 2, "tile__slicing": "residual", "tile__significance": 8.0}


def weights_of_chips(hw: Hardware, chips: int) -> np.ndarray:
    """(chips x rows, outputs) weights of many chips, of a matrix whose rows are all the same; their largest is 1."""
    wanted = np.tile(np.array([1.0, -0.4, 0.1, 0.0], np.float32), (1, 64, 1)).reshape(1, 64, 4)
    wanted[0, 0] = 1.0  # so that each column has the scale 1
    found = [on_tiles(wanted, hw, limit=1.0, seed=seed).weights[0, 1:] for seed in range(chips)]
    return np.concatenate(found)


@pytest.mark.parametrize(
    "fields",
    [
        SLICED,
        SLICED | {"tile__slices": 3, "tile__significance": 3.0},
        SLICED | {"tile__slices": 3, "tile__significance": [4.0, 2.0]},
        SLICED | {"tile__encoding": "differential_two_sided", "tile__devices": 2},
        SLICED | {"tile__slicing": "shares", "tile__significance": 1.0},
        SLICED | {"tile__slicing": "shares", "tile__significance": 4.0},
    ],
)
def test_slices_are_programmed_as_cells_one_after_the_other(fields):
    hw, u, rng = setting(**fields, tile__rows=64), np.array([1.0, -0.4, 0.1, 0.0]), np.random.default_rng(5)
    got = weights_of_chips(hw, 60)
    assert disagreement(got, program(hw, u, len(got), rng)) < 4.5
    other = hw.replace({"tile.slicing": {"residual": "shares", "shares": "residual"}[hw.tile.slicing]})
    assert disagreement(got, program(other, u, len(got), rng)) > 6  # the negative control


def test_what_is_left_of_a_weight_is_that_of_the_cells_below():
    rough, x = {"cell__read_noise": {"kind": "none"}}, one_input().reshape(1, 1, 1, 1, -1)

    def error(**fields: Any) -> float:
        chips = [programmed(setting(**rough, **fields), seed=seed) for seed in range(40)]
        exact = x[0, 0, 0, 0] @ chips[0].design.matrix.weights[0]
        return float(np.std([chip.reader.read(x, noisy=False)[0][0] - exact for chip in chips]))

    plain, left, equal = (
        error(),
        error(**SLICED),
        error(**SLICED | {"tile__slicing": "shares", "tile__significance": 1}),
    )
    assert left < 1.3 * plain / 8  # only the errors of the lower slice are left, which counts an eighth
    assert equal == pytest.approx(plain / np.sqrt(2), rel=0.2)


MIRRORS = {"tile__slices": 2, "cell__levels": 16, "tile__join": "mirror", "cell__programming": {"kind": "none"}}


@pytest.mark.parametrize("encoding", ["differential", "offset", "single"])
@pytest.mark.parametrize("apart", [False, True])
def test_ratios_of_mirrors_are_off_as_single_ones_are(encoding, apart):
    """Each pair of bit lines, or each bit line, has a mirror of its own, whose current is off by a factor."""
    if apart and encoding != "differential":
        return
    polarity = "apart" if apart else "together"
    hw = setting(**MIRRORS, tile__mirror_mismatch=0.02, tile__encoding=encoding, adc__polarity=polarity)
    x, rng = np.abs(one_input()), np.random.default_rng(11)
    weights = rng.normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    weights = np.abs(weights) if encoding == "single" else weights
    chips = [on_tiles(weights, hw, limit=1.0, seed=seed, signed=False) for seed in range(400)]
    got = np.concatenate([c.reader.read(x.reshape(1, 1, 1, 1, -1), noisy=False)[0] for c in chips])

    def errors(mismatch: float, trials: int) -> np.ndarray:
        design, found = chips[0].design, np.zeros((trials, OUTPUTS))
        code = np.rint(x * design.drive.full_code) / design.drive.full_code
        for t in range(design.placement.row_tiles):
            rows = slice(*design.placement.edges[t : t + 2])
            g = chips[0].cells.conductances(design, 0, t, chips[0].backend).astype(np.float64)
            currents = np.einsum("r,sprj->spj", code[rows], g)  # of each bit line
            if not apart and encoding == "differential":
                currents = currents[:, :1] - currents[:, 1:]
            ratios = np.array([1 / 16, 1.0])[:, None, None]
            off = 1 + mismatch * rng.normal(size=(trials, *currents.shape))
            lines = (ratios * currents * off).sum(axis=1)
            one = lines[:, 0] - (lines[:, 1] if apart else 0)
            if encoding == "offset":
                one = one[:, :OUTPUTS] - one[:, OUTPUTS:]
            elif encoding == "single":
                one = one - ratios.sum() * hw.cell.g_min * code[rows].sum()
            found += one * design.encodings[0].scale[0, t]
        return found

    assert disagreement(got, errors(0.02, 2000)) < 4.5
    assert disagreement(got, errors(0.03, 2000)) > 5  # the negative control
    expected = expected_errors(chips[0], x.reshape(1, 1, 1, 1, -1), reads=2)
    assert expected.frozen["mirrors"][0] == pytest.approx(got.var(axis=0), rel=0.3)
    assert expected.mean[0] == pytest.approx(got.mean(axis=0), abs=4 * got.std() / np.sqrt(len(got)))


def test_mirrors_convert_once_and_cost_what_they_feed():
    torch.manual_seed(0)
    net, x = torch.nn.Sequential(torch.nn.Linear(24, 6)).eval().requires_grad_(False), torch.rand(20, 24)
    sliced = {"tile__slices": 2, "cell__levels": 16, "cell__programming": {"kind": "none"}}
    apart, joined = (mho.map(net, hardware(**sliced, tile__join=how), calibrate=x) for how in ("digital", "mirror"))
    for chip in (apart, joined):
        chip(x)
    layers = [chip.layers["0"] for chip in (apart, joined)]
    assert layers[0].counts.readings == 2 * layers[1].counts.readings
    first, second = (layer_costs(chip).iloc[0] for chip in (apart, joined))
    assert second["energy_adc_j"] == pytest.approx(first["energy_adc_j"] / 2)
    assert second["energy_sense_j"] > 0.5 * first["energy_sense_j"]  # half the amplifiers, and copies of the currents
    assert second["area_sense_m2"] == pytest.approx(first["area_sense_m2"] / 2)
    errors = [relative_error(chip.read(x, read=0), net(x)) for chip in (apart, joined)]
    assert errors[1] == pytest.approx(errors[0], abs=0.05)


@pytest.mark.parametrize("compensated", [False, True])
def test_joined_slices_in_wires_and_after_drift(compensated):
    weights = np.random.default_rng(3).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    x = one_input().reshape(1, 1, 1, 1, -1)
    law = {"offset": 0.05, "slope": 0.0, "low": 0.0, "high": 0.1}
    drift = {"kind": "power_law", "t_0": 1, "g_ref": 1e-5, "mean": law, "spread": law | {"offset": 0.0}}
    wires = {"wires__r_word_line": "20 ohm", "wires__r_bit_line": "30 ohm"} if compensated else {}
    found = []
    for join in ("digital", "mirror"):
        hw = setting(**MIRRORS | {"tile__join": join}, **wires, cell__drift=drift)
        tiled = on_tiles(weights, hw, limit=1.0, wire_compensation="gain" if compensated else None)
        late = tiled.at(1e5, drift_compensation=True)
        found += [tiled.reader.read(x, noisy=False)[0][0], late.reader.read(x, noisy=False)[0][0]]
    assert found[0] == pytest.approx(x[0, 0, 0, 0] @ weights[0], abs=0.1)
    assert found[2] == pytest.approx(found[0], abs=0.05)
    assert found[3] == pytest.approx(found[1], abs=0.05)
    assert found[1] == pytest.approx(found[0], abs=0.1)
