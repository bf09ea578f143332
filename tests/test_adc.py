"""ADCs that are not ideal, or not all alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles
from pydantic import ValidationError
from torch import nn

import mho
from mho.crossbar.adc_kinds import Cyclic, Flash, Measured, Oscillator, Ramp, Sar
from mho.crossbar.backends.plain import Plain
from mho.crossbar.converters import Adc, quantise
from mho.crossbar.each_adc import adc_of_reading
from mho.crossbar.expected import expected_errors

ROWS, OUTPUTS = 40, 12
WEIGHTS = np.random.default_rng(1).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
INPUTS = np.random.default_rng(2).uniform(-1, 1, (200, 1, 1, 1, ROWS)).astype(np.float32)
SETTINGS: dict[str, dict[str, Any]] = {
    "each tile": {"adc__per": "tile"},
    "the layer": {"adc__per": "layer", "tile__slices": 2, "cell__levels": 16},
    "fitted": {"adc__span": "fitted"},
    "fitted, each tile, apart": {"adc__span": "fitted", "adc__per": "tile", "adc__polarity": "apart"},
    "offsets": {"adc__offset": 2.0, "cost__adcs_per_tile": 4},
    "gains": {"adc__gain": 0.02, "cost__adcs_per_tile": 4},
    "known": {"adc__offset": 2.0, "adc__gain": 0.02, "adc__calibrated": True, "cost__adcs_per_tile": 4},
    "sar": {"adc__kind": {"kind": "sar", "mismatch": 0.05}, "cost__adcs_per_tile": 4},
    "cyclic": {"adc__kind": {"kind": "cyclic", "mismatch": 0.01}, "adc__transfer": "mid_rise"},
    "flash": {"adc__kind": {"kind": "flash", "offset": 0.5}, "adc__bits": 5},
    "ramp": {"adc__kind": {"kind": "ramp", "bow": 1.5}, "tile__encoding": "offset"},
    "table": {"adc__kind": {"kind": "table", "inl": [0.0, 1.0, -1.0, 0.0]}},
}
ERRORS = {"adc__kind", "adc__offset", "adc__gain"}
DIFFER = [name for name, fields in SETTINGS.items() if ERRORS & set(fields) and name != "known"]


def setting(**fields: Any) -> mho.Hardware:
    quiet = {"cell__read_noise": {"kind": "none"}, "cell__programming": {"kind": "none"}, "sensing__amplifier_noise": 0}
    return hardware(**(quiet | {"tile__rows": 16, "tile__columns": 16, "sensing__thermal": False} | fields))


@pytest.mark.parametrize("kind", [Ramp(), Oscillator(), Sar(), Cyclic(), Flash(), Measured(inl=(0.0, 0.0))])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_kinds_without_errors_have_equal_steps(kind, bits):
    levels = kind.transitions(bits, np.zeros((3, kind.draws(bits))))
    assert levels == pytest.approx(np.tile(np.arange(1, 2**bits) - 0.5, (3, 1)), abs=1e-9)


def searched(level: float, weights: np.ndarray) -> int:
    """The code that successive approximation ends with, bit by bit."""
    code, reached = 0, 0.0
    for weight in weights:
        bit = level + 0.5 >= reached + weight
        reached += weight * bit
        code = 2 * code + int(bit)
    return code


@pytest.mark.parametrize("kind", [Sar(mismatch=0.2), Cyclic(mismatch=0.05), Cyclic(mismatch=0.0)])
def test_codes_that_are_searched_are_those_of_the_search(kind):
    bits, rng = 5, np.random.default_rng(3)
    normals = rng.normal(size=(20, kind.draws(bits)))
    for row, levels in zip(normals, kind.transitions(bits, normals), strict=True):
        if isinstance(kind, Sar):
            units = 2.0 ** np.arange(bits)[::-1]
            weights = units * (1 + 0.2 / np.sqrt(units) * row)
            weights *= units.sum() / weights.sum()
        else:
            weights = 2.0 ** (bits - 1) * (2 * (1 + kind.mismatch * row[0])) ** -np.arange(bits)
        for level in rng.uniform(-2, 2**bits + 1, 60):
            assert np.searchsorted(levels, level, side="right") == searched(level, weights)


@pytest.mark.parametrize("transfer", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("signed", [True, False])
def test_a_kind_without_errors_reads_as_equal_steps_do(transfer, signed):
    fields = {"adc__transfer": transfer, "adc__bits": 6, "adc__polarity": "together" if signed else "apart"}
    x = INPUTS if signed else np.abs(INPUTS)
    plain, sar = (
        on_tiles(WEIGHTS, setting(**fields, **more), inputs=x).reader.read(x)
        for more in ({}, {"adc__kind": {"kind": "sar"}})
    )
    differ = np.abs(plain[0] - sar[0]) > 1e-5
    assert differ.mean() < 0.002  # a current at the very edge of a step
    assert plain[1].readings_clipped == sar[1].readings_clipped
    codes = Adc(bits=6, full_scale="calibrated", transfer=transfer).codes(signed)
    assert len(np.unique(quantise(np.linspace(-3, 3, 10001), codes, 1.0))) == codes.high - codes.low + 1


@pytest.mark.parametrize("name", SETTINGS)
def test_kernels_equal_their_twin(name):
    hw = setting(**SETTINGS[name])
    fast, slow = (on_tiles(WEIGHTS, hw, inputs=INPUTS, backend=backend) for backend in (None, Plain()))
    (got, counts), (wanted, expected) = (tiled.reader.read(INPUTS) for tiled in (fast, slow))
    assert (np.abs(got - wanted) > 1e-3 * np.abs(wanted).max()).mean() < 0.02
    assert abs(counts.readings_clipped - expected.readings_clipped) <= 0.001 * counts.readings


@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if "adc__kind" in SETTINGS[name] or name in ("offsets", "gains")]
)
def test_expected_errors_are_those_of_chips(name):
    hw = setting(**SETTINGS[name])
    x = INPUTS[:60]
    exact = x.reshape(60, ROWS) @ WEIGHTS[0]
    chips = [on_tiles(WEIGHTS, hw, inputs=INPUTS, seed=seed) for seed in range(20)]
    predicted = expected_errors(chips[0], x, reads=2)
    errors = np.stack([chip.reader.read(x)[0] - predicted.gain * exact for chip in chips])
    total = predicted.total("frozen").mean()
    assert np.square(errors).mean() == pytest.approx(total, rel=0.3)
    ideal_adcs = setting(**{key: value for key, value in SETTINGS[name].items() if key not in ERRORS})
    assert total > 1.02 * expected_errors(on_tiles(WEIGHTS, ideal_adcs, inputs=INPUTS), x, 2).total("frozen").mean()


SHARED = {
    "pairs apart": {"adc__polarity": "apart"},
    "two phases": {"dac__phases": 2},
    "bits": {"dac__bits_per_pulse": 1},
    "slices": {"tile__slices": 3, "cell__levels": 4},
    "reference": {"tile__encoding": "offset"},
    "reference, many": {"tile__encoding": "offset", "cost__adcs_per_tile": 64},
}


@pytest.mark.parametrize("error", ["adc__offset", "adc__gain", "cyclic"])
@pytest.mark.parametrize("how", SHARED)
def test_errors_of_an_adc_that_all_share_add_up_or_cancel(how, error):
    own = {"adc__kind": {"kind": "cyclic", "mismatch": 0.02}} if error == "cyclic" else {error: 0.03}
    hw = setting(**SHARED[how], **(own if error != "adc__offset" else {error: 3.0}))
    x = INPUTS[:60]
    chips = [on_tiles(WEIGHTS, hw, inputs=INPUTS, seed=seed) for seed in range(60)]
    predicted = expected_errors(chips[0], x, reads=2)
    exact = x.reshape(60, ROWS) @ WEIGHTS[0]
    errors = np.stack([chip.reader.read(x)[0] - predicted.gain * exact for chip in chips])
    assert np.square(errors).mean() == pytest.approx(predicted.total("frozen").mean(), rel=0.35)


def test_what_is_known_of_offsets_and_gains_is_taken_off():
    def error(**fields: Any) -> float:
        tiled = on_tiles(WEIGHTS, setting(**fields), inputs=INPUTS)
        return float((tiled.reader.read(INPUTS)[0] - INPUTS.reshape(len(INPUTS), ROWS) @ WEIGHTS[0]).std())

    assert error(**SETTINGS["known"]) < 1.3 * error() < 0.5 * error(adc__offset=2.0, adc__gain=0.02)


def test_ranges_of_their_own_lose_less():
    skewed = WEIGHTS * np.where(np.arange(ROWS) < 14, 0.05, 1.0)[None, :, None].astype(np.float32)

    def error(x: np.ndarray, **fields: Any) -> float:
        tiled = on_tiles(skewed, setting(adc__bits=6, tile__scale="tile", **fields), inputs=x)
        return float((tiled.reader.read(x)[0] - x.reshape(len(x), ROWS) @ skewed[0]).std())

    single = {"tile__encoding": "offset"}
    assert error(np.abs(INPUTS), **single, adc__span="fitted") < 0.9 * error(np.abs(INPUTS), **single)
    columns = {"adc__polarity": "apart"}
    assert error(np.abs(INPUTS), **columns, adc__per="tile") < 0.9 * error(np.abs(INPUTS), **columns)


def test_neighbours_share_an_adc():
    tiled = on_tiles(WEIGHTS, setting(cost__adcs_per_tile=4, adc__polarity="apart"), inputs=INPUTS)
    which = adc_of_reading(tiled.design, 0)
    assert which.shape == (2, 3, OUTPUTS)
    first = which[:, 0, :8]  # 8 outputs of two bit lines on a tile
    assert first[:, 0].tolist() == [0, 0]
    assert np.unique(first).tolist() == [0, 1, 2, 3]
    assert (np.unique(first, return_counts=True)[1] == 4).all()
    assert len(np.unique(which)) <= 4 * 3 * 2


@pytest.mark.parametrize("name", SETTINGS)
def test_chips_are_saved_with_their_adcs(name, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(30, ROWS)
    chip = mho.map(nn.Sequential(nn.Linear(ROWS, OUTPUTS)), setting(**SETTINGS[name]), calibrate=x)
    chip.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip")
    assert torch.equal(chip.read(x, read=0), again.read(x, read=0))
    assert torch.equal(chip.at(10.0).read(x, read=0), again.at(10.0).read(x, read=0))
    other = chip.copy(1).read(x, read=0)
    if name in DIFFER:
        assert not torch.equal(other, chip.read(x, read=0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"adc__per": "tile", "adc__full_scale": "10 uA"}, "adc.per and adc.span must be"),
        ({"adc__offset": 1.0, "adc__bits": None, "adc__full_scale": None}, "must be null or 0 when adc.bits is null"),
        ({"adc__kind": {"kind": "sar"}, "adc__bits": 14}, "adc.bits must be at most 12"),
        ({"adc__calibrated": True}, "adc.calibrated must be false"),
        ({"adc__kind": {"kind": "sar", "mismatch": 5}}, "mismatch"),
        ({"adc__kind": {"kind": "pipeline"}}, "kind must be one of ramp, cco, sar, cyclic, flash, table"),
        ({"adc__kind": {"kind": "table", "inl": [0.0, float("nan")]}}, "inl"),
        ({"adc__polarity": "apart", "tile__encoding": "offset"}, "adc.polarity must be 'together'"),
    ],
)
def test_what_no_adc_can_be_is_refused_in_a_line(fields, said):
    with pytest.raises((ValueError, ValidationError), match=said) as error:
        ideal(**({"adc__bits": 6, "adc__full_scale": "calibrated", "dac__bits": 8, "dac__range": 1.0} | fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("samples", [1, 49, 95, 143])
def test_a_full_scale_is_that_of_all_samples_where_they_are_few(samples):
    """Not of those in the first blocks of rows that are read together."""
    net, x = nn.Linear(4, 3).eval(), torch.rand(samples, 4)
    for bright in {0, samples // 3, samples // 2, 2 * samples // 3, samples - 1}:
        inputs = torch.where(torch.arange(samples)[:, None] == bright, 20 * x, x)
        chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=inputs, check=False)
        chip.read(inputs, read=0, noisy=False)
        assert chip.report().table["adc_clipped"].item() == 0
