"""Tiles with resistive wires: currents, noise and energy against full solutions of the circuit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles, pictures, relative_error, small_cnn

import mho
from mho.crossbar.expected import expected_errors
from mho.crossbar.lines import Wires
from mho.crossbar.programmed import Programmed
from mho.crossbar.wires import Network, effective_conductance, noise_variance
from mho.crossbar.wiring import Moments, reach

LOSSY = {"r_word_line": 8.0, "r_bit_line": 5.0}


def matrix(hw, rows=30, outputs=10, *, signed=True) -> Programmed:
    weights = weights_of(rows, outputs)
    if hw.dac.range == "calibrated":
        return on_tiles(weights, hw, inputs=inputs(300, rows, signed=signed))
    return on_tiles(weights, hw, limit=hw.dac.range, signed=signed)


def weights_of(rows=30, outputs=10) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(1, rows, outputs)).astype(np.float32)


def inputs(n=20, rows=30, *, signed=True) -> np.ndarray:
    return np.random.default_rng(6).uniform(-1 if signed else 0, 1, (n, 1, 1, 1, rows)).astype(np.float32)


def cells(tiled: Programmed) -> tuple[np.ndarray, np.ndarray]:
    """Conductances of the pairs of a differential matrix without errors, in siemens."""
    cell, weights = tiled.hardware.cell, tiled.design.matrix.weights[0]
    span = (cell.g_max - cell.g_min) / np.abs(weights).max(axis=0)
    return cell.g_min + span * np.maximum(weights, 0), cell.g_min + span * np.maximum(-weights, 0)


@pytest.mark.parametrize("pairs", ["adjacent", "apart", "shared"])
@pytest.mark.parametrize("ends", [{}, {"r_driver": 20.0, "r_sense": 10.0, "drivers": "both", "sense": "both"}])
def test_a_tile_is_its_circuit(pairs, ends):
    hw = ideal(cell__g_min="1 uS", cell__g_max="100 uS", wires={**LOSSY, **ends, "pairs": pairs})
    tiled = matrix(hw)
    x = inputs().reshape(20, 30).astype(np.float64)
    plus, minus = cells(tiled)
    lines = {**LOSSY, **ends}
    if pairs == "shared":
        both = effective_conductance(np.stack([plus, minus], axis=1).reshape(60, 10), **lines)
        signed = both[0::2] - both[1::2]
    elif pairs == "apart":
        both = effective_conductance(np.concatenate([plus, minus], axis=1), **lines)
        signed = both[:, :10] - both[:, 10:]
    else:
        both = effective_conductance(np.stack([plus, minus], axis=2).reshape(30, 20), **lines)
        signed = both[:, 0::2] - both[:, 1::2]
    scale = np.abs(tiled.design.matrix.weights[0]).max(axis=0) / (hw.cell.g_max - hw.cell.g_min)
    expected = x @ signed * scale
    got = tiled.reader.read(inputs())[0]
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(got - x @ tiled.design.matrix.weights[0]).max() > 1e-2 * np.abs(expected).max()  # negative control


@pytest.mark.parametrize("encoding", ["differential", "differential_two_sided", "offset", "single"])
@pytest.mark.parametrize("pairs", ["adjacent", "apart", "shared"])
def test_little_resistance_is_none(encoding, pairs):
    """Any layout, with several slices, tiles and a reference column, comes back to where it was."""
    fields = {"cell__g_min": "1 uS", "cell__g_max": "100 uS", "cell__levels": 16, "tile__slices": 2}
    shape = {"tile__rows": 16, "tile__columns": 14, "tile__encoding": encoding}
    without, with_ = (
        matrix(ideal(**fields, **shape, wires=wires), outputs=9)
        if encoding != "single"
        else positive(ideal(**fields, **shape, wires=wires))
        for wires in ({}, {"r_word_line": 1e-6, "r_bit_line": 1e-6, "pairs": pairs, "order": "conductance"})
    )
    assert with_.design.placement.column_tiles > 1
    assert with_.design.placement.row_tiles > 1
    assert np.allclose(with_.reader.read(inputs())[0], without.reader.read(inputs())[0], atol=1e-4)


def positive(hw) -> Programmed:
    return on_tiles(np.abs(weights_of(outputs=9)), hw)


def test_order_by_conductance_loses_less():
    wires = {**LOSSY, "r_word_line": 0.0}
    errors = []
    for order in ("natural", "conductance"):
        tiled = matrix(ideal(cell__g_min="1 uS", cell__g_max="100 uS", wires={**wires, "order": order}))
        exact = inputs().reshape(20, 30) @ tiled.design.matrix.weights[0]
        errors.append(np.square(tiled.reader.read(inputs())[0] - exact).mean())
    assert errors[1] < errors[0]


def test_noise_variance_against_full_solutions():
    """The variance from the adjoint solution is that of many circuits whose cells are drawn with their noise."""
    rng = np.random.default_rng(0)
    g, v = rng.uniform(1e-5, 1e-4, (12, 9)), rng.uniform(0, 0.3, 12)
    lines = {"r_word_line": 40.0, "r_bit_line": 60.0}
    expected = noise_variance(g, (0.05 * g) ** 2, v, **lines)
    draws = 4000
    currents = np.array(
        [effective_conductance(g * (1 + 0.05 * rng.standard_normal(g.shape)), **lines).T @ v for _ in range(draws)]
    )
    bound = 5 * np.sqrt(2 / draws)
    assert np.abs(currents.var(axis=0) / expected - 1).max() < bound
    without = np.square(v) @ (0.05 * g) ** 2
    assert np.abs(currents.var(axis=0) / without - 1).min() > bound  # negative control: the voltages of the drivers


@pytest.mark.parametrize("pairs", ["adjacent", "shared"])
@pytest.mark.parametrize("signed", [False, True])
def test_noise_of_a_tile(pairs, signed):
    """The mean of the variance over inputs is within 4 %, at a loss of a quarter of the current and more."""
    rng = np.random.default_rng(1)
    g = rng.uniform(1e-6, 1e-4, (1, 2, 48, 16))
    v = rng.uniform(-1 if signed else 0, 1, (200, 48))
    wires = Wires(r_word_line=10.0, r_bit_line=10.0, pairs=pairs)
    found = reach(g, wires, Moments.of(v))
    if pairs == "shared":
        flat, sign = g[0].transpose(1, 0, 2).reshape(96, 16), np.tile([1.0, -1.0], 48)
        volts, reading = np.repeat(v, 2, axis=1) * sign, np.eye(16)
    else:
        flat, volts = g[0].transpose(1, 2, 0).reshape(48, 32), v
        reading = np.repeat(np.eye(16), 2, axis=1) * np.tile([1.0, -1.0], 16)
    network, variance = Network(flat, wires), np.square(0.01 * g[0])
    across = [np.subtract(*network.solve(x, tolerance=1e-8)) for x in volts[:40]]
    lost = 1 - sum((flat * u).sum() for u in across) / (volts[:40] @ flat).sum()
    assert signed or lost > 0.25 or pairs == "shared"
    for k in (0, 7, 15):
        adjoint = np.subtract(*network.solve(np.zeros(len(flat)), reading[k], tolerance=1e-8))
        exact = np.array([(np.square(0.01 * flat * u * adjoint)).sum() for u in across])
        got = np.square(v[:40]) @ (variance * found.noise[0])[..., k].sum(axis=0)
        got += (variance * found.rest[0])[..., k].sum()
        assert got.mean() / exact.mean() == pytest.approx(1, abs=0.04)
        assert np.std(np.sqrt(got / exact)) < 0.04
        plain = np.square(v[:40]) @ variance[..., k].sum(axis=0)
        assert plain.mean() / exact.mean() > 1.1  # negative control: the voltages of the drivers


def test_noise_of_reads_is_that_of_full_solutions():
    """Reads of a tile vary as the circuit does when its cells are drawn anew for each read."""
    noise = {"kind": "relative", "fraction": 0.05}
    hw = ideal(cell__g_min="1 uS", cell__g_max="100 uS", cell__read_noise=noise, wires={**LOSSY, "r_bit_line": 30.0})
    hw = hw.replace({"sensing.thermal": False, "sensing.shot": False, "dac": {"bits": 8, "range": 1.0}})
    tiled = matrix(hw, signed=False)
    x, reads = inputs(1, signed=False), 4000
    got = tiled.reader.read(x, reads=reads, shared=True)[0].reshape(reads, -1)
    plus, minus = cells(tiled)
    flat = np.stack([plus, minus], axis=2).reshape(30, 20)
    v = np.rint(x.reshape(30).astype(np.float64) * 255) / 255
    network = Network(flat, hw.wires)
    across = np.subtract(*network.solve(v))
    scale = np.abs(tiled.design.matrix.weights[0]).max(axis=0) / (hw.cell.g_max - hw.cell.g_min)
    expected = []
    for k in range(10):
        adjoint = np.subtract(*network.solve(np.zeros(30), np.eye(20)[2 * k] - np.eye(20)[2 * k + 1]))
        expected.append(np.square(0.05 * flat * across * adjoint).sum() * scale[k] ** 2)
    assert np.abs(got.var(axis=0) / expected - 1).max() < 5 * np.sqrt(2 / reads) + 0.03
    without = matrix(hw.replace({"wires": {}}), signed=False)
    ideal_wires = without.reader.read(x, reads=reads, shared=True)[0].reshape(reads, -1)
    assert (ideal_wires.var(axis=0) / expected).min() > 1.1  # negative control


@pytest.mark.parametrize("pairs", ["adjacent", "shared"])
def test_energy_includes_the_wires(pairs):
    """Mean power of the drivers over the calibration inputs, which is what cells and wires turn into heat."""
    fields = {
        "cell__g_min": "1 uS",
        "cell__g_max": "100 uS",
        "wires": {"r_word_line": 40.0, "r_bit_line": 40.0, "pairs": pairs},
    }
    tiled = matrix(ideal(**fields, dac__range="calibrated"), signed=False)
    plus, minus = cells(tiled)
    v = inputs(300, signed=False).reshape(300, 30).astype(np.float64)
    v /= v.max()
    if pairs == "shared":
        flat, volts = np.stack([plus, minus], axis=1).reshape(60, 10), np.repeat(v, 2, axis=1) * np.tile([1, -1], 30)
    else:
        flat, volts = np.stack([plus, minus], axis=2).reshape(30, 20), v
    network = Network(flat, tiled.hardware.wires)
    power = [x @ (flat * np.subtract(*network.solve(x))).sum(axis=1) for x in volts]
    sensing = tiled.hardware.sensing
    exact = np.mean(power) * sensing.v_read**2 * sensing.t_read
    assert tiled.ranges.array_energy_j == pytest.approx(exact, rel=0.01)
    without = matrix(ideal(**{**fields, "wires": {}}, dac__range="calibrated"), signed=False)
    assert exact < 0.96 * without.ranges.array_energy_j  # negative control


def test_expected_errors_know_the_wires():
    """The gain and the error of the product, and the noise, as measured on a chip with wires."""
    hw = hardware(cell__programming__coefficients=["0.2 uS"], wires={"r_word_line": 20.0, "r_bit_line": 20.0})
    tiled = matrix(hw, rows=60, outputs=40, signed=False)
    x = inputs(200, 60, signed=False)
    expected = expected_errors(tiled, x, 24)
    reads = tiled.reader.read(x, reads=24, shared=True)[0].reshape(24, 200, -1).astype(np.float64)
    gain = (reads.mean(axis=0) * expected.product).sum() / np.square(expected.product).sum()
    assert expected.gain == pytest.approx(gain, abs=0.01)
    assert gain < 0.95
    fresh = reads.var(axis=0, ddof=1).mean()
    assert expected.total("fresh").mean() == pytest.approx(fresh, rel=0.05)
    frozen = np.square(reads.mean(axis=0) - gain * expected.product).mean() - fresh / 24
    assert expected.total("frozen").mean() == pytest.approx(frozen, rel=0.15)


def test_chips_with_wires(tmp_path):
    """Progress, replicas, threads, a saved chip: the same bits as ever."""
    told: list[tuple[int, int]] = []
    hw = hardware(wires={"r_word_line": 30.0, "r_bit_line": 30.0})
    chip = mho.map(small_cnn(), hw, calibrate=pictures(40), progress=lambda *at: told.append(at))
    tiles = sum(layer.placement.tiles for layer in chip.layers.values())
    assert told == [(k, tiles) for k in range(1, tiles + 1)]
    told.clear()
    without = mho.map(small_cnn(), hardware(), calibrate=pictures(40), progress=lambda *at: told.append(at))
    assert told == [(k, len(chip.layers)) for k in range(1, len(chip.layers) + 1)]
    exact = small_cnn()(pictures())
    first = chip(pictures())
    assert relative_error(first, exact) > 1.5 * relative_error(without(pictures()), exact)
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded(pictures()), first)
    assert torch.equal(loaded.copy(1)(pictures()), chip.copy(1)(pictures()))
    assert (loaded.layers["0"].tiles.design.moments == chip.layers["0"].tiles.design.moments).all()


def test_layers_may_have_wires_of_their_own():
    wires = {"r_word_line": "30 ohm", "r_bit_line": "30 ohm"}
    some = mho.map(small_cnn(), hardware(layers={"7": {"wires": wires}}), calibrate=pictures(40))
    assert some.layers["0"].hardware.wires.ideal
    assert some.layers["7"].hardware.wires.r_bit_line == 30
    with pytest.raises(ValueError, match=r"(?s)wires\.r_bit_line.*ohms"):
        hardware(wires={"r_bit_line": "30 V"})
