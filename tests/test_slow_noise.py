"""Noise that successive reads share: what votes cannot average."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import hardware, ideal, on_tiles
from hypothesis import given
from hypothesis import strategies as st

from mho import Hardware
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.keys import stream_key
from mho.crossbar.programmed import Programmed
from mho.crossbar.slow_noise import DOUBLINGS, block_shares, perturbed, variance_of_mean


def matrix(hw: Hardware, rows=200, outputs=64, x=None) -> Programmed:
    weights = np.random.default_rng(5).normal(size=(1, rows, outputs)).astype(np.float32)
    return on_tiles(weights, hw, inputs=x, limit=1.0 if hw.dac.range is not None else None)


def inputs(n=20, rows=200) -> np.ndarray:
    return np.random.default_rng(6).uniform(-1, 1, (n, 1, 1, 1, rows)).astype(np.float32)


def quiet(**fields) -> Hardware:
    """Only the noise of cells: telegraph noise of 10 %."""
    cell = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
    return ideal(cell__g_min="1 uS", cell__read_noise=cell, **fields)


@given(
    st.floats(0.01, 20), st.sampled_from(["exponential", "logarithm", "white", "constant", "power"]), st.integers(1, 40)
)
def test_shares_keep_the_correlation(scale, kind, reads):
    shape = {
        "exponential": lambda d: np.exp(-d / scale),
        "logarithm": lambda d: np.maximum(0, 0.9 - 0.02 * np.log(d)),
        "white": np.zeros_like,
        "constant": np.ones_like,
        "power": lambda d: (1 + d) ** -scale,
    }[kind]
    shares = block_shares(shape)
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1)
    for d in 2.0 ** np.arange(DOUBLINGS + 1):
        common = shares[-1] + np.maximum(0, 1 - d / 2.0 ** np.arange(DOUBLINGS + 1)) @ shares[:-1]
        assert common == pytest.approx(float(shape(np.array(d))), abs=1e-9)
    assert 1 / reads - 1e-9 <= variance_of_mean(shares, reads) <= 1 + 1e-9


def test_the_noise_of_a_cell_has_its_covariance():
    shares = block_shares(lambda d: 0.2 + 0.7 * np.exp(-d / 5))
    key, shape = stream_key(3, "slow", "layer"), (64, 256)
    nothing, one = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    x = np.stack([perturbed(nothing, one, shares, (0, read, 0), key, Compiled()) for read in range(40)]).reshape(40, -1)
    cells = x.shape[1]
    for lag in (0, 1, 2, 4, 8, 16):
        got = np.mean(x[: 40 - lag] * x[lag:])
        expected = 0.2 + 0.7 * np.exp(-lag / 5) if lag else 1 - shares[0]
        assert abs(got - expected) < 5 * np.sqrt(2 / cells)
    assert abs(np.mean(x[0] * np.roll(x[0], 1))) < 5 / np.sqrt(cells)  # cells are independent
    assert abs(np.mean(x[0] * x[16]) - 1) > 5 * np.sqrt(2 / cells)  # negative control


def mean_of_reads(tiled: Programmed, x: np.ndarray, reads: int, first: int = 0) -> np.ndarray:
    got = tiled.reader.read(x, read=first, reads=reads, shared=True)[0].reshape(reads, len(x), -1)
    return got.mean(axis=0) - tiled.reader.read(x, noisy=False)[0]


@pytest.mark.parametrize("reads", [1, 4, 16])
@pytest.mark.parametrize("interval", ["0.2 us", "1 us"])
def test_variance_of_the_mean_of_reads(reads, interval):
    hw = quiet(sensing__read_interval=interval)
    tiled = matrix(hw, outputs=256)
    x = inputs()
    slow = mean_of_reads(tiled, x, reads)
    single = np.square(mean_of_reads(matrix(quiet(), outputs=256), x, 1)).mean()  # independent reads
    shares = tiled.packed[0].slow_shares[0]
    expected = variance_of_mean(shares, reads) * single
    # the inputs share the cells: a column is one draw of weights, whose 20 outputs are correlated
    spread = np.square(slow).mean(axis=0).std() / 16
    assert abs(np.square(slow).mean() - expected) < 5 * spread + 0.02 * expected
    assert shares[0] < 0.5 or interval == "1 us"
    if reads == 16 and interval == "0.2 us":  # negative control
        assert np.square(slow).mean() > 1.5 * single / reads


def test_pcm_after_an_hour_hardly_gains_from_votes():
    hw = Hardware.preset("pcm").replace({"time_s": 3600, "sensing.read_interval": 250e-9})
    cell = hw.cell.read_noise
    shares = block_shares(lambda d: cell.correlation(d * 250e-9, hw.conditions))
    for reads, left in ((4, 0.94), (16, 0.88), (100, 0.80)):
        assert variance_of_mean(shares, reads) == pytest.approx(left, abs=0.015)


def test_independent_reads_stay_as_they_were():
    assert len(matrix(hardware()).packed[0].slow_std) == 0
    memory = {"kind": "relative", "fraction": 0.02, "memory": {"kind": "white"}}
    apart = matrix(
        hardware(cell__read_noise=memory, sensing__read_interval="1 s", dac__range=1.0, adc__full_scale=1e-4)
    )
    assert len(apart.packed[0].slow_std) == 0


def test_reads_at_once_are_the_reads_one_by_one_and_in_any_order():
    tiled, x = matrix(quiet(sensing__read_interval="0.2 us")), inputs()
    together = tiled.reader.read(x, reads=6, shared=True)[0].reshape(6, len(x), -1)
    other = matrix(quiet(sensing__read_interval="0.2 us"))
    for read in (5, 0, 3):
        assert np.array_equal(other.reader.read(x, read=read)[0], together[read])
    apart = np.concatenate([x, x + 0.01])
    both = tiled.reader.read(apart, reads=2, read=3)[0].reshape(2, len(x), -1)
    assert np.array_equal(both[0], together[3])


def test_several_sources_remember_each_for_itself():
    forgets = {"kind": "relative", "fraction": 0.1}
    remembers = {"kind": "relative", "fraction": 0.1, "memory": {"kind": "telegraph", "tau": "1 s"}}
    parts = ideal(
        cell__read_noise={"kind": "sum", "parts": [forgets, remembers]},
        cell__g_min="1 uS",
        sensing__read_interval="1 us",
    )
    tiled, x = matrix(parts, outputs=256), inputs()
    one, many = (np.square(mean_of_reads(tiled, x, k)).mean() for k in (1, 64))
    assert many / one == pytest.approx(0.5 + 0.5 / 64, abs=0.06)


def test_supply_noise_is_common_to_all_columns_of_a_read():
    hw = ideal(sensing__supply_noise=0.05, tile__rows=64)
    tiled, x = matrix(hw), inputs(n=400)
    factors = tiled.reader.read(x)[0] / tiled.reader.read(x, noisy=False)[0]
    assert np.abs(factors - factors[:, :1]).max() < 1e-3
    assert factors[:, 0].std() == pytest.approx(0.05, rel=5 / np.sqrt(800))
    again = tiled.reader.read(x, read=1)[0] / tiled.reader.read(x, noisy=False)[0]
    assert abs(np.corrcoef(factors[:, 0], again[:, 0])[0, 1]) < 5 / np.sqrt(400)


def test_a_range_that_stays_costs_bits_at_low_voltage():
    def calibrated(volts, **fields):
        return matrix(hardware(sensing__v_read=volts, sensing__amplifier_noise=0, **fields), x=inputs()).ranges

    full = [float(calibrated(v).full_scale[0]) for v in (0.1, 0.2)]
    assert full[0] == pytest.approx(full[1])  # in units of v_read g_max: the range tracks the voltage
    stays = [float(calibrated(v, adc__calibrated_at=0.2).full_scale[0]) * v for v in (0.1, 0.2)]
    assert stays[0] == pytest.approx(stays[1])  # in amperes
    assert stays[1] == pytest.approx(0.2 * full[1])
    with pytest.raises(ValueError, match=r"calibrated_at must be null unless adc\.full_scale is 'calibrated'"):
        hardware(adc__full_scale=1e-5, adc__calibrated_at=0.1)


def test_frozen_output_noise_is_the_same_in_all_reads():
    tiled, x = matrix(ideal(output_noise__frozen_add=0.1, output_noise__sigma_add=0.05)), inputs(n=200)
    exact = x.reshape(len(x), -1) @ tiled.design.matrix.weights[0]
    reads = tiled.reader.read(x, reads=8, shared=True)[0].reshape(8, *exact.shape) - exact
    assert reads.mean(axis=0).std() == pytest.approx(np.hypot(0.1, 0.05 / np.sqrt(8)), rel=0.05)
    assert (reads - reads.mean(axis=0)).std() == pytest.approx(0.05 * np.sqrt(7 / 8), rel=0.05)
    assert np.allclose(tiled.reader.read(x, noisy=False)[0] - exact, reads.mean(axis=0), atol=0.1)
