"""The chain from inputs to readings: each part as a simulation of every cell has it, and as its twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cell_by_cell import simulate
from helpers import hardware, ideal, on_tiles
from scipy import stats

import mho
from mho import Hardware
from mho.crossbar.backends.plain import Plain
from mho.crossbar.expected import expected_errors
from mho.crossbar.programmed import Programmed
from mho.mapping.architecture.cost import layer_costs

PLAIN: dict[str, Any] = {"adc__bits": None, "adc__full_scale": None, "tile__rows": 16, "sensing__gain_noise": 0.0}
SERIAL = {"dac__bits": 6, "dac__bits_per_pulse": 1}
PARTS: dict[str, dict[str, Any]] = {
    "time": {"dac__coding": "time"},
    "time, in digits": {"dac__coding": "time", "dac__bits": 7, "dac__bits_per_pulse": 3},
    "two phases": {"dac__phases": 2},
    "two phases of bits": {"dac__phases": 2, **SERIAL},
    "charge, scaled": {"dac__accumulate": "scaled", **SERIAL},
    "charge, scaled, of digits": {"dac__accumulate": "scaled", "dac__bits": 9, "dac__bits_per_pulse": 3},
    "charge, repeated": {"dac__accumulate": "repeated", **SERIAL},
    "pairs apart": {"adc__polarity": "apart"},
    "four phases of time": {"adc__polarity": "apart", "dac__phases": 2, "dac__coding": "time"},
    "voltage, one line": {"sensing__mode": "voltage", "wires__pairs": "shared"},
    "voltage, two lines": {"sensing__mode": "voltage", "adc__polarity": "apart"},
    "voltage of charge": {
        "sensing__mode": "voltage",
        "wires__pairs": "shared",
        "sensing__amplifier_voltage_noise": "100 nV/rtHz",
        "dac__accumulate": "repeated",
        **SERIAL,
    },
    "curved cells": {"cell__nonlinearity": {"kind": "sinh", "v_0": "0.15 V"}},
    "curved cells, digits": {
        "cell__nonlinearity": {"kind": "cubic", "c_3": 20.0},
        "dac__bits": 7,
        "dac__bits_per_pulse": 2,
    },
    "devices": {"tile__devices": 3},
    "devices, one line": {"tile__devices": 2, "sensing__mode": "voltage", "wires__pairs": "shared"},
    "slices of shares": {"tile__slices": 3, "tile__slicing": "shares", "tile__significance": 2.0},
    "slices of what is left": {"tile__slices": 2, "tile__slicing": "residual", "tile__significance": 6.0},
    "joined shares": {
        "tile__slices": 3,
        "tile__slicing": "shares",
        "tile__significance": 2.0,
        "tile__join": "mirror",
        "sensing__amplifier_noise": "30 pA/rtHz",
    },
    "joined, left": {
        "tile__slices": 2,
        "tile__slicing": "residual",
        "tile__significance": 6.0,
        "tile__join": "mirror",
        "adc__polarity": "apart",
    },
    "joined digits of time": {
        "tile__slices": 2,
        "cell__levels": 8,
        "tile__join": "mirror",
        "dac__coding": "time",
    },
    "slices apart": {"adc__polarity": "apart", "tile__slices": 2, "cell__levels": 8},
}
ROWS, OUTPUTS, READS = 24, 3, 6000


def setting(**fields: Any) -> Hardware:
    return hardware(**{**PLAIN, **fields})


def programmed(hw: Hardware, **options: Any) -> Programmed:
    weights = np.random.default_rng(3).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    return on_tiles(weights, hw, limit=1.0, **options)


def one_input(low: float = -1.0) -> np.ndarray:
    return np.random.default_rng(4).uniform(low, 1, ROWS).astype(np.float32)


def reads_of(tiled: Programmed, x: np.ndarray, count: int = READS) -> np.ndarray:
    return tiled.reader.read(x.reshape(1, 1, 1, 1, -1), reads=count, shared=True)[0]


def disagreement(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest distance of means and variances of outputs, in standard errors; and of the shapes, in p-values' terms."""
    n = len(got)
    error = np.sqrt(got.var(axis=0) / n + wanted.var(axis=0) / n)
    means = np.abs(got.mean(axis=0) - wanted.mean(axis=0)) / error
    variances = np.abs(np.log(got.var(axis=0) / wanted.var(axis=0))) / np.sqrt(4 / n)
    shapes = [-stats.norm.ppf(stats.ks_2samp(a, b).pvalue / 2) for a, b in zip(got.T, wanted.T, strict=True)]
    return float(max(means.max(), variances.max(), *shapes))


@pytest.mark.parametrize("part", PARTS)
def test_noise_is_that_of_every_cell(part):
    tiled, x = programmed(setting(**PARTS[part])), one_input()
    wanted = simulate(tiled, x, READS, np.random.default_rng(7))
    assert disagreement(reads_of(tiled, x), wanted) < 4.5


POORLY = {"kind": "polynomial", "coefficients": ["0.8 uS"], "g_ref": "1 uS"}
QUIET = {"cell__read_noise": {"kind": "none"}}
SEEN = {
    "time": QUIET | {"sensing__amplifier_noise": 0.0, "sensing__fano": 1.0, "sensing__v_read": "0.5 V"},
    "charge, repeated": {},
    "voltage, one line": {},
    "two phases of bits": QUIET,
    "joined shares": QUIET | {"sensing__thermal": False, "sensing__shot": False},
}  # what shows that a part is not the plain one


@pytest.mark.parametrize("part", SEEN)
def test_noise_of_another_part_is_told_apart(part):
    kept = (*SERIAL, "tile__slices", "tile__slicing", "tile__significance", "sensing__amplifier_noise")
    plain = {key: value for key, value in PARTS[part].items() if key in kept}
    tiled, x = programmed(setting(**(PARTS[part] | SEEN[part]))), one_input()
    for fields, agrees in ((PARTS[part], True), (plain, False)):
        wanted = simulate(programmed(setting(**(fields | SEEN[part]))), x, READS, np.random.default_rng(7))
        assert (disagreement(reads_of(tiled, x), wanted) < 4.5) is agrees


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_expected_errors_are_those_of_reads(part, quiet):
    fields = PARTS[part] | (SEEN["time"] if quiet else {})
    tiled, x = programmed(setting(**fields)), one_input().reshape(1, 1, 1, 1, -1)
    reads = reads_of(tiled, x[0, 0, 0, 0])
    errors = expected_errors(tiled, x, reads=2)
    assert errors.total("fresh")[0] == pytest.approx(reads.var(axis=0), rel=0.12)


@pytest.mark.parametrize(
    "part", ["charge, repeated", "charge, scaled", "voltage of charge", "two phases of bits", "time"]
)
@pytest.mark.parametrize("noise", ["gain", "supply"])
def test_factors_that_readings_come_with_are_those_of_conversions(part, noise):
    fields = PARTS[part] | {f"sensing__{noise}_noise": 0.1, "cell__programming": {"kind": "none"}}
    tiled, x = programmed(setting(**fields)), one_input()
    errors = expected_errors(tiled, x.reshape(1, 1, 1, 1, -1), reads=2)
    assert errors.total("fresh")[0] == pytest.approx(reads_of(tiled, x).var(axis=0), rel=0.15)


@pytest.mark.parametrize(
    "part",
    [
        "time",
        "voltage, one line",
        "voltage, two lines",
        "curved cells",
        "pairs apart",
        "slices of shares",
        "slices of what is left",
        "joined shares",
        "joined, left",
    ],
)
def test_expected_errors_of_programming_are_those_of_chips(part):
    hw = setting(
        **(PARTS[part] | {"cell__programming": {"kind": "polynomial", "coefficients": ["0.8 uS"], "g_ref": "1 uS"}})
    )
    x = one_input().reshape(1, 1, 1, 1, -1)
    chips = [programmed(hw, seed=seed) for seed in range(150)]
    means = np.concatenate([chip.reader.read(x, noisy=False)[0] for chip in chips])
    expected = expected_errors(chips[0], x, reads=2)
    assert np.abs(means.mean(axis=0) - expected.mean[0]).max() < 4 * np.sqrt(means.var(axis=0).max() / len(chips))
    assert expected.frozen["programming"][0] == pytest.approx(means.var(axis=0), rel=0.5)


@pytest.mark.parametrize("bits", [None, 7])
@pytest.mark.parametrize("part", PARTS)
def test_kernels_equal_their_twin(part, bits):
    fields = {"adc__bits": bits, "adc__full_scale": bits and "calibrated", "sensing__supply_noise": 0.01}
    hw = setting(**(PARTS[part] | fields))
    rng = np.random.default_rng(9)
    x = rng.uniform(-1, 1, (5, 1, 1, 1, ROWS)).astype(np.float32)
    weights = rng.normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    fast, slow = (on_tiles(weights, hw, inputs=x, limit=1.0, backend=backend) for backend in (None, Plain()))
    got, wanted = (tiled.reader.read(x, read=3, first_sample=2) for tiled in (fast, slow))
    steps = np.abs(got[0] - wanted[0])
    if bits is None:
        assert steps.max() < 2e-3 * np.abs(wanted[0]).max()
    else:
        assert np.median(steps) < 1e-4  # a reading may be a step off where rounding decides
        assert abs(got[1].readings_clipped - wanted[1].readings_clipped) <= 2
        assert got[1].readings == wanted[1].readings


@pytest.mark.parametrize("part", [part for part in PARTS if "curved" not in part])
def test_an_ideal_chip_is_exact_whatever_its_chain(part):
    fields = {key: value for key, value in PARTS[part].items() if "amplifier" not in key}
    hw = ideal(**{"dac__bits": 8, "dac__range": 1.0, "tile__rows": 16, "cell__g_min": "1 uS"} | fields)
    if "levels" in str(fields):
        hw = hw.replace({"cell.levels": 4096})
    tiled, x = programmed(hw), one_input()
    codes = np.rint(x * tiled.design.drive.full_code) / tiled.design.drive.full_code
    assert reads_of(tiled, x, 1)[0] == pytest.approx(codes @ tiled.design.matrix.weights[0], abs=5e-4)


def test_levels_of_even_current_undo_the_law_of_the_cells():
    law = {"kind": "sinh", "v_0": "0.1 V"}
    fields = {"dac__bits": 8, "dac__range": 1.0, "cell__nonlinearity": law}
    bent, even = (programmed(ideal(**fields, dac__levels=levels)) for levels in ("voltage", "current"))
    x = one_input()
    codes = np.rint(x * 127) / 127
    assert reads_of(even, x, 1)[0] == pytest.approx(codes @ even.design.matrix.weights[0], abs=5e-4)
    v_read = bent.hardware.sensing.v_read
    drive = np.sinh(codes * v_read / 0.1) / np.sinh(v_read / 0.1)
    assert reads_of(bent, x, 1)[0] == pytest.approx(drive @ bent.design.matrix.weights[0], abs=5e-4)


@pytest.mark.parametrize("name", ["hermes", "neurram", "isaac"])
def test_published_arrangements_map_and_cost(name):
    folder = Path(__file__).parents[1] / "benchmarks" / "arrangements"
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(100, 20), torch.nn.ReLU(), torch.nn.Linear(20, 5)).eval()
    x = torch.rand(60, 100)
    chip = mho.map(net, Hardware.load(folder / f"{name}.yaml"), calibrate=x)
    error = (chip.read(x, read=0) - net(x)).std() / net(x).std()
    assert error < 0.5
    assert mho.schedule(chip).makespan_s > 0
    assert (layer_costs(chip)["energy_j"] > 0).all()


@pytest.mark.parametrize("fields", [PARTS["voltage, one line"], PARTS["voltage, two lines"]])
def test_a_bit_line_on_which_no_cell_conducts_reads_nothing(fields):
    weights = np.random.default_rng(3).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    weights[..., 1] = 0
    weights[..., 2] = np.abs(weights[..., 2])
    tiled, x = on_tiles(weights, ideal(**fields, cell__g_min=0.0), limit=1.0), one_input()
    assert reads_of(tiled, x, 1)[0] == pytest.approx(x @ weights[0], abs=1e-5)
    noisy = on_tiles(weights, setting(**fields, cell__g_min=0.0, cell__programming={"kind": "none"}), limit=1.0)
    errors = expected_errors(noisy, x.reshape(1, 1, 1, 1, -1), reads=2)
    assert np.isfinite(errors.total("fresh")).all()
    assert reads_of(noisy, x, 2000).var(axis=0) == pytest.approx(errors.total("fresh")[0], rel=0.15)


@pytest.mark.parametrize("fields", [{"dac__bits_per_pulse": 1}, {"dac__levels": "current"}, {}])
def test_curved_cells_do_not_make_the_mean_that_a_floating_bit_line_is_taken_for(fields):
    with pytest.raises(ValueError, match=r"cell.nonlinearity must be 'linear' when sensing.mode is 'voltage'"):
        setting(**PARTS["voltage, one line"], **PARTS["curved cells"], **fields)


@pytest.mark.parametrize("slow", [False, True])
def test_pairs_apart_in_wires_are_those_together(slow):
    wires = {"wires__r_word_line": "20 ohm", "wires__r_bit_line": "30 ohm"}
    if slow:
        wires |= {
            "sensing__read_interval": "1 us",
            "cell__read_noise": {"kind": "relative", "fraction": 0.02, "memory": {"kind": "one_over_f", "t_0": "1 s"}},
        }
    x = one_input()
    apart, together = (programmed(setting(**wires, adc__polarity=how)) for how in ("apart", "together"))
    got, wanted = (tiled.reader.read(x.reshape(1, 1, 1, 1, -1), noisy=False)[0][0] for tiled in (apart, together))
    assert got == pytest.approx(wanted, abs=2e-3)
    noise, expected = (reads_of(tiled, x, 1500 if not slow else 300).var(axis=0) for tiled in (apart, together))
    assert noise == pytest.approx(expected, rel=0.2 if not slow else 0.5)
