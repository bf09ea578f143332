"""The reduction to sigma_add and sigma_mult: what it finds where the answer is known, and what its model is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, pictures, small_cnn

import mho
from mho.crossbar.expected import Cells, undithered_share
from mho.crossbar.matrix import TiledMatrix
from mho.mapping.reduce import PARTS, reduce


def parts(chip, n=64, reads=16):
    return reduce(chip, pictures(n, seed=7), reads=reads).table.set_index(["layer", "part"])


def test_the_papers_own_noise_is_found():
    chip = mho.map(small_cnn(), mho.Hardware.paper(sigma_add=0.05, sigma_mult=0.2), seed=1)
    table = parts(chip, n=1024)
    for layer in chip.layers:
        fresh = table.loc[layer, "fresh"]
        assert fresh["sigma_add"] == pytest.approx(0.05, rel=0.2)
        assert fresh["sigma_mult"] == pytest.approx(0.2, rel=0.05)
        assert fresh["predicted_sigma_add"] == pytest.approx(0.05, rel=1e-6)
        assert fresh["predicted_sigma_mult"] == pytest.approx(0.2, rel=1e-6)
        assert fresh["holds"]
        assert table.loc[layer, "frozen"]["rms"] < 0.05 * fresh["rms"]


CHIPS = 12  # the frozen error of one small chip says little
SLOW = {"kind": "relative", "fraction": 0.05, "memory": {"kind": "telegraph", "tau": "1 us"}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cell__programming": {"kind": "none"}, "sensing__gain_noise": 0.02, "sensing__supply_noise": 0.03},
        {"cell__read_noise": SLOW, "sensing__read_interval": "0.2 us"},
        {"tile__slices": 2, "cell__levels": 16, "dac__bits_per_pulse": 2, "sensing__amplifier_noise": "100 pA/rtHz"},
        {"tile__encoding": "offset", "tile__bias": "array", "adc__bits": 6},
        {"tile__encoding": "differential_two_sided", "cell__stuck": {"at_g_min": 0.05, "at_g_max": 0.05}},
    ],
)
def test_physics_predicts_what_is_measured(fields):
    chips = [mho.map(small_cnn(), hardware(**fields), calibrate=pictures(64), seed=seed) for seed in range(CHIPS)]
    tables = [parts(chip) for chip in chips]
    for layer in chips[0].layers:
        for part in PARTS:
            rms = np.sqrt(np.mean([t.loc[layer, part]["rms"] ** 2 for t in tables]))
            predicted = np.sqrt(np.mean([t.loc[layer, part]["predicted_rms"] ** 2 for t in tables]))
            total = tables[0].loc[layer, "total"]["rms"]
            assert rms == pytest.approx(predicted, rel=0.3, abs=0.08 * total), (layer, part)


def test_the_model_is_a_chip_of_that_noise(tmp_path):
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures(64), seed=1)
    model = reduce(chip, pictures(64, seed=7)).model()
    x = pictures(256, seed=8)
    exact = small_cnn()(x)
    errors = [float((c.read(x, read=0) - exact).square().mean().sqrt()) for c in (chip, model)]
    assert errors[1] == pytest.approx(errors[0], rel=0.35)
    spread = [float((c.read(x, read=0) - c.read(x, read=1)).square().mean().sqrt()) for c in (chip, model)]
    assert spread[1] == pytest.approx(spread[0], rel=0.25)
    model.save(tmp_path / "model")
    assert torch.equal(mho.load(tmp_path / "model").read(x, read=3), model.read(x, read=3))


def test_bad_input():
    chip = mho.map(small_cnn(), ideal(), seed=1)
    with pytest.raises(ValueError, match="images must hold at least one sample"):
        reduce(chip, pictures(4)[:0])
    with pytest.raises(ValueError, match="reads must be at least 2"):
        reduce(chip, pictures(4), reads=1)


def test_expected_cells_are_those_programmed():
    hw = mho.Hardware.preset("pcm").replace({"time_s": 1e4, "cell.stuck.at_g_min": 0.02})
    matrix = TiledMatrix(np.ones((1, 128, 128), np.float32), None, hw, "layer")
    matrix.set_drive(1.0, signed=False)  # all cells at g_max, their partners at g_min
    expected = Cells.of(hw)
    mean = matrix.programmed[0].conductances[0][:, :128].astype(np.float64) * hw.cell.g_max
    target = np.array([hw.cell.g_max, hw.cell.g_min])
    g, variance = expected.at(expected.mean, target), expected.at(expected.variance, target)
    std = np.sqrt(variance.sum())
    assert mean.mean() == pytest.approx(g[0] - g[1], abs=5 * std / 128)
    assert mean.std() == pytest.approx(std, rel=0.05)


def test_noise_dithers_a_quantiser():
    rng = np.random.default_rng(0)
    for noise in (0.05, 0.2, 0.4):
        x = rng.uniform(-50, 50, 4000)
        error = np.rint(x + noise * rng.standard_normal((400, 4000))).mean(axis=0) - x
        left = np.square(error).mean() - noise**2 / 400
        assert left * 12 == pytest.approx(float(undithered_share(np.array(noise))), abs=0.03)
    assert undithered_share(np.zeros(1)) == 1


def test_outputs_of_unequal_noise_do_not_hold():
    """Weights of one output are 10 times as large, and with a scale of its own its noise is too."""
    net = torch.nn.Sequential(torch.nn.Linear(64, 16)).eval()
    with torch.no_grad():
        net[0].weight[0] *= 10
    for scale, expected in (("tile", True), ("column", False)):
        loud = hardware(
            tile__scale=scale,
            sensing__amplifier_noise="2 nA/rtHz",
            cell__programming={"kind": "none"},
            cell__read_noise={"kind": "none"},
        )
        x = torch.rand(256, 64, generator=torch.Generator().manual_seed(2))
        reduced = reduce(mho.map(net, loud, calibrate=x, seed=0), x)
        assert reduced.holds == expected, str(reduced)
