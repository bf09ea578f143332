"""A matrix on tiles: exact where nothing errs, and the errors it is told to have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers import hardware, ideal, on_tiles
from scipy import stats

from mho.crossbar.programmed import Programmed

ENCODINGS = ["differential", "differential_two_sided", "offset"]


def matrix(hw, rows=50, outputs=12, *, seed=0, groups=1, bias=True, x=None, signed=True, positive=False) -> Programmed:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(groups, rows, outputs)).astype(np.float32)
    return on_tiles(
        np.abs(weights) if positive else weights,
        hw,
        bias=rng.normal(size=(groups, outputs)).astype(np.float32) if bias else None,
        inputs=x,
        limit=1.0 if hw.dac.range is not None else None,
        signed=signed,
        seed=seed,
    )


def inputs(n=40, rows=50, groups=1, low=-1.0):
    return np.random.default_rng(6).uniform(low, 1, (n, 1, 1, 1, groups * rows)).astype(np.float32)


def exact(tiled: Programmed, x: np.ndarray) -> np.ndarray:
    weights, bias = tiled.design.matrix.weights, tiled.design.matrix.bias
    parts = np.split(x.reshape(len(x), -1), len(weights), axis=1)
    out = [part @ w for part, w in zip(parts, weights, strict=True)]
    return np.concatenate(out, axis=1) + (0 if bias is None else bias.reshape(-1))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("scale", ["column", "tile"])
@pytest.mark.parametrize("bias", ["digital", "array"])
def test_an_ideal_matrix_is_exact(encoding, scale, bias):
    tiled = matrix(
        ideal(tile__encoding=encoding, tile__scale=scale, tile__bias=bias, tile__rows=16, tile__columns=9), groups=2
    )
    x = inputs(groups=2)
    assert np.abs(tiled.reader.read(x)[0] - exact(tiled, x)).max() < 2e-5
    assert np.allclose(tiled.weights[:, :50], tiled.design.matrix.weights, atol=1e-6)


def test_single_polarity_takes_positive_weights_only():
    hw = ideal(tile__encoding="single", cell__g_min="1 uS", tile__rows=16)
    x = inputs()
    tiled = matrix(hw, positive=True)
    assert np.abs(tiled.reader.read(x)[0] - exact(tiled, x)).max() < 1e-4
    with pytest.raises(ValueError, match="no negative weights"):
        matrix(hw)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("slices", [1, 2, 3])
def test_slices_hold_more_bits_than_a_cell(encoding, slices):
    tiled = matrix(ideal(tile__encoding=encoding, tile__slices=slices, cell__levels=4, cell__g_min="1 uS"))
    levels = 4**slices - 1 if encoding == "differential" else (4**slices - 1) / 2
    stored, weights = tiled.weights[0], tiled.design.matrix.weights[0]
    step = np.abs(weights).max(axis=0) / levels
    assert (np.abs(stored - weights) <= 0.5001 * step + 1e-5).all()
    assert (np.abs(stored - weights) > 0.3 * step).any()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits_per_pulse", [1, 2, 3])
def test_bit_serial_streaming_is_the_parallel_read_when_nothing_errs(signed, bits_per_pulse):
    x = inputs(low=-1.0 if signed else 0.0)
    whole = matrix(ideal(dac__bits=8, dac__range=1.0), signed=signed)
    serial = matrix(ideal(dac__bits=8, dac__range=1.0, dac__bits_per_pulse=bits_per_pulse), signed=signed)
    assert serial.design.drive.pulses == -(-(8 - signed) // bits_per_pulse)
    assert np.allclose(whole.reader.read(x)[0], serial.reader.read(x)[0], atol=1e-4)


def test_programming_error_has_the_spread_of_the_cell():
    clean = matrix(ideal(), 300, 60)
    sigma = 0.03e-4
    erring = matrix(
        ideal(cell__programming={"kind": "polynomial", "coefficients": [sigma], "g_ref": 1.0}, cell__g_min="20 uS"),
        300,
        60,
    )
    weights = clean.design.matrix.weights[0]
    scale = np.abs(weights).max(axis=0) / 0.8e-4
    error = ((erring.weights[0] - weights) / scale).ravel()
    n = error.size
    assert abs(error.mean()) < 5 * sigma * np.sqrt(2 / n)
    assert abs(error.std() / (sigma * np.sqrt(2)) - 1) < 5 / np.sqrt(2 * n)
    assert stats.kstest(error / (sigma * np.sqrt(2)), "norm").pvalue > 1e-3
    assert stats.kstest(error / (sigma * np.sqrt(2)) * 1.08, "norm").pvalue < 1e-3  # negative control


def test_stuck_cells_have_their_share():
    tiled = matrix(ideal(cell__stuck={"at_g_min": 0.1, "at_g_max": 0.05}), 300, 60)
    cells = tiled.packed[0].histogram
    n = cells.sum()
    top = int(1.0 / (1.25 / 125))
    share = cells[top - 1 : top + 1].sum() / n
    maxima = 60 / (2 * 300 * 60)  # each column's largest weight sits at g_max by design
    assert abs(share - (0.05 + 0.95 * maxima)) < 5 * np.sqrt(0.05 / n)


def test_drift_lowers_conductances_with_time():
    drift = {
        "kind": "power_law",
        "t_0": "20 s",
        "g_ref": "100 uS",
        "mean": {"offset": 0.05, "slope": 0.0, "low": 0.0, "high": 1.0},
        "spread": {"offset": 0.0, "slope": 0.0, "low": 0.0, "high": 1.0},
    }
    fresh = matrix(ideal(cell__drift=drift)).weights
    old = matrix(ideal(cell__drift=drift, time_s=3600.0)).weights
    assert np.allclose(old, fresh * (1 + 3600 / 20) ** -0.05, rtol=1e-4)


def test_a_seed_is_a_chip():
    a, b, c = (matrix(hardware(), seed=seed).weights for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    fixed = [matrix(hardware(seeds__program=7), seed=seed).weights for seed in (0, 1)]
    assert np.array_equal(*fixed)


def test_adc_clips_and_counts():
    tiled = matrix(ideal(adc__bits=6, adc__full_scale="10 uA"))
    x = inputs()
    y, counts = tiled.reader.read(x)
    assert counts.readings == 40 * 12
    tops = np.abs(tiled.design.matrix.weights[0]).max(axis=0)
    current = (exact(tiled, x) - tiled.design.matrix.bias) / tops * 0.2 * 1e-4
    clipped = np.abs(current) > 10e-6 * (1 + 0.5 / 31)
    assert 0 < counts.readings_clipped == clipped.sum() < 480
    step = 10e-6 / 31 / (0.2 * 1e-4) * tops
    assert (np.abs(y - exact(tiled, x))[~clipped] <= np.broadcast_to(0.51 * step, y.shape)[~clipped]).all()


def programmed_product(tiled: Programmed, x: np.ndarray) -> np.ndarray:
    """Rounded inputs times the weights that the cells hold, and the bias."""
    full, limit, bias = tiled.design.drive.full_code, tiled.design.drive.limit, tiled.design.matrix.bias
    codes = np.rint(x.reshape(len(x), -1).astype(np.float64) / limit * full) / full
    return codes @ tiled.weights[0] * limit + (0 if bias is None else bias[0])


def tile_steps(tiled: Programmed) -> np.ndarray:
    """(row tiles, outputs) of one ADC step, in weight units."""
    return tiled.packed[0].planes.scale[0, :, : tiled.design.placement.outputs] * tiled.reader.circuit().step[0]


def energy_of_cells(tiled: Programmed, x: np.ndarray, error: float | None = None) -> float:
    """V^2 g t over the cells of differential columns programmed to `hardware()`, or the spread of it among chips whose
    cells are off by `error`.
    """
    w, full = tiled.design.matrix.weights[0].astype(np.float64), tiled.design.drive.full_code
    tops = np.concatenate([np.broadcast_to(np.abs(w[a:b]).max(axis=0), (b - a, 12)) for a, b in tiles_of(tiled)])
    volts = 0.2 * np.rint(x.reshape(len(x), -1) / tiled.design.drive.limit * full) / full
    squares = np.square(volts).mean(axis=0)
    if error is not None:
        return float(np.sqrt(np.square(squares).sum() * 2 * 12) * error * 100e-9)
    pair = 2 * 1e-6 + 39e-6 * np.abs(w) / tops
    cut = 0.5e-6 * (stats.norm.pdf(2) - 2 * stats.norm.sf(2))  # one cell of a pair is at 1 uS, 2 sigma above 0
    return float(squares @ (pair + cut).sum(axis=1) * 100e-9)


def tiles_of(tiled: Programmed) -> list[tuple[int, int]]:
    return list(itertools.pairwise(tiled.design.placement.edges))


def test_calibration_sets_ranges_that_fit():
    x = 3 * inputs(400)
    tiled = matrix(hardware(), x=x)
    drive = tiled.design.drive
    assert drive.limit == pytest.approx(np.abs(x).max())
    assert drive.signed
    y, counts = tiled.reader.read(x, noisy=False)
    error = y - programmed_product(tiled, x)
    assert counts.readings_clipped == 0
    assert (np.abs(error) <= 0.501 * tile_steps(tiled).sum(axis=0) + 1e-5).all()
    assert error.std() == pytest.approx(np.sqrt(np.square(tile_steps(tiled)).sum(axis=0).mean() / 12), rel=0.05)
    volts = np.rint(x.reshape(400, -1) / drive.limit * drive.full_code) / drive.full_code
    g = tiled.packed[0].conductances[0, :, :12]
    currents = np.concatenate([volts[:, a:b] @ g[a:b] for a, b in tiles_of(tiled)])
    full_scale = np.percentile(np.abs(currents), tiled.hardware.adc.percentile)
    assert tiled.reader.circuit().step[0] == pytest.approx(full_scale / 127, rel=0.02)  # nearly all rows are looked at
    energy = tiled.ranges.array_energy_j
    assert energy == pytest.approx(energy_of_cells(tiled, x), abs=5 * energy_of_cells(tiled, x, 5e-7))
    assert 5 * energy_of_cells(tiled, x, 5e-7) < 0.02 * energy  # and that is a narrow band
    assert not matrix(hardware(), x=np.abs(x)).design.drive.signed
    with pytest.raises(ValueError, match="all zero"):
        matrix(hardware(), x=0 * x)
    with pytest.raises(ValueError, match="NaN"):
        matrix(hardware(), x=np.nan * x)


def test_array_energy_is_that_of_the_conductances():
    x = inputs(48)
    tiled = matrix(ideal(dac__bits=8, dac__range="calibrated"), bias=False, x=x)
    w = np.abs(tiled.design.matrix.weights[0])
    w = w / w.max(axis=0) * 1e-4
    volts = 0.2 * np.rint(x.reshape(48, -1) / np.abs(x).max() * 127) / 127
    assert tiled.ranges.array_energy_j == pytest.approx((volts**2 @ w).sum(axis=1).mean() * 100e-9, rel=1e-4)


def test_offset_references_are_cells_with_errors_of_their_own():
    """A reference column's error is common to the columns of its tile, so their outputs err together."""
    quiet = {"sensing__thermal": False, "sensing__shot": False, "sensing__amplifier_noise": 0.0}
    hw = hardware(tile__encoding="offset", tile__columns=13, adc__bits=None, adc__full_scale=None, **quiet)
    tiled, n = matrix(hw, bias=False), 4000
    x = np.repeat(inputs(1), n, axis=0)
    correlation = np.corrcoef((tiled.reader.read(x)[0] - tiled.reader.read(x, noisy=False)[0]).T)
    g, scale = tiled.packed[0].conductances[0].astype(np.float64), tiled.packed[0].planes.scale[0, :, :12]
    full = tiled.design.drive.full_code
    volts = np.rint(x[0].reshape(-1) * full) / full
    covariance = np.zeros((12, 12))
    for (a, b), unit in zip(tiles_of(tiled), scale, strict=True):  # each cell has 2 % of its conductance
        noise = volts[a:b] ** 2 @ (0.02 * g[a:b, :13]) ** 2
        covariance += np.outer(unit, unit) * (noise[12] + np.diag(noise[:12]))
    std = np.sqrt(np.diag(covariance))
    expected = covariance / np.outer(std, std)
    assert np.abs(correlation - expected)[~np.eye(12, dtype=bool)].max() < 5 / np.sqrt(n)
    assert expected.min() > 0.2  # so that a reference without an error of its own is found out
    pair = matrix(hardware(adc__bits=None, adc__full_scale=None), bias=False)
    independent = np.corrcoef((pair.reader.read(x)[0] - pair.reader.read(x, noisy=False)[0]).T)[~np.eye(12, dtype=bool)]
    assert np.abs(independent).max() < 5 / np.sqrt(n)


def test_inputs_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="inputs must be finite"):
        matrix(ideal()).reader.read(np.full((1, 1, 1, 1, 50), np.inf, np.float32))


def test_a_tile_too_narrow_is_refused():
    with pytest.raises(ValueError, match=r"tile.columns must be at least 2"):
        matrix(ideal(tile__columns=1))


@pytest.mark.parametrize("bits", [8, 10])
def test_equally_noisy_cells_need_no_second_product(bits):
    """The variance of a reading is that of the pairs, 2 std^2 V^2 for each word line, in integers and in floats."""
    fields = {"sensing__thermal": False, "sensing__shot": False, "sensing__amplifier_noise": 0.0, "dac__bits": bits}
    hw = hardware(
        cell__read_noise={"kind": "constant", "std_g": "0.5 uS"}, adc__bits=None, adc__full_scale=None, **fields
    )
    tiled = matrix(hw, bias=False)
    planes = tiled.packed[0].planes
    assert planes.variance.size == 0
    assert np.allclose(planes.uniform, 2 * (0.5e-6 / 40e-6) ** 2, rtol=1e-5)
    n = 20_000
    x = np.repeat(inputs(1), n, axis=0)
    noise = (tiled.reader.read(x)[0] - tiled.reader.read(x, noisy=False)[0]).astype(np.float64)
    full = tiled.design.drive.full_code
    volts = np.rint(x[0].reshape(-1) * full) / full
    edges, scale = tiled.design.placement.edges, planes.scale[0, :, :12].astype(np.float64)
    squares = np.add.reduceat(volts**2, edges[:-1])
    expected = (scale**2 * planes.uniform[0, :, None] * squares[:, None]).sum(axis=0)
    assert np.abs(noise.var(axis=0) / expected - 1).max() < 5 * np.sqrt(2 / n)
    assert np.abs(noise.var(axis=0) / (0.9 * expected) - 1).min() > 5 * np.sqrt(2 / n)  # negative control
