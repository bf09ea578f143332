"""What is done about the loss in wires: gains of columns, cells programmed with it in mind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles, pictures, relative_error, small_cnn

import mho
from mho.crossbar.expected import expected_errors
from mho.crossbar.programmed import Programmed
from mho.mapping.errors import MappingError

WIRES = {"r_word_line": 15.0, "r_bit_line": 15.0}
ENCODINGS = ["differential", "differential_two_sided", "offset", "single"]


def matrix(wire_compensation, encoding="differential", x=None, **fields) -> Programmed:
    weights = np.random.default_rng(5).normal(size=(1, 60, 20)).astype(np.float32)
    weights = np.abs(weights) if encoding == "single" else weights
    hw = ideal(
        cell__g_min="1 uS",
        cell__g_max="40 uS",
        dac__range="calibrated",
        **{"tile__encoding": encoding, "tile__rows": 32, "tile__columns": 26, "wires": WIRES, **fields},
    )
    return on_tiles(weights, hw, inputs=inputs() if x is None else x, wire_compensation=wire_compensation)


def inputs(low=0.0) -> np.ndarray:
    return np.random.default_rng(6).uniform(low, 1, (200, 1, 1, 1, 60)).astype(np.float32)


def error(tiled: Programmed, x: np.ndarray) -> float:
    """Relative to the spread of the exact outputs."""
    exact = x.reshape(200, 60) @ tiled.design.matrix.weights[0]
    return float(np.sqrt(np.square(tiled.reader.read(x)[0] - exact).mean()) / exact.std())


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_both_help(encoding, low):
    x = inputs(low)
    nothing, gain, program = (error(matrix(kind, encoding, x), x) for kind in (None, "gain", "program"))
    assert nothing > 0.05
    assert gain < 0.7 * nothing
    assert program < 0.01 * nothing


@pytest.mark.parametrize("pairs", ["adjacent", "apart", "shared"])
@pytest.mark.parametrize("order", ["natural", "conductance"])
def test_any_layout_can_be_programmed(pairs, order):
    assert error(matrix("program", wires={**WIRES, "pairs": pairs, "order": order}), inputs()) < 0.005


def test_cells_stay_in_their_range():
    tiled = matrix("program", cell__levels=16)
    (targets,) = (np.concatenate([t.reshape(-1) for t in e.adjusted]) for e in tiled.design.encodings)
    cell = tiled.hardware.cell
    steps = (targets - cell.g_min) / (cell.g_max - cell.g_min) * 15
    assert np.allclose(steps, np.rint(steps), atol=1e-4)
    assert steps.min() >= -1e-4
    assert steps.max() <= 15 + 1e-4
    assert error(tiled, inputs()) < 2 * error(matrix(None, cell__levels=16, wires={}), inputs())


def test_gains_are_those_of_least_squares():
    """On inputs that vary independently, as the moments assume."""
    tiled = matrix("gain", tile__rows=64, tile__columns=64)
    exact, got = inputs().reshape(200, 60) @ tiled.design.matrix.weights[0], tiled.reader.read(inputs())[0]
    left = (exact * got).sum(axis=0) / np.square(got).sum(axis=0)
    assert np.abs(left - 1).max() < 0.05
    assert (tiled.ranges.gains[0] > 1).all()


def test_each_chip_measures_its_gains_once():
    fields = {"cell__programming": {"kind": "polynomial", "coefficients": ["2 uS"], "g_ref": "1 uS"}}
    tiled = matrix("gain", **fields)
    other = tiled.copied(1)
    assert not np.array_equal(other.ranges.gains[0], tiled.ranges.gains[0])
    assert np.array_equal(tiled.at(0.0, drift_compensation=False).ranges.gains[0], tiled.ranges.gains[0])
    assert np.array_equal(tiled.copied(0).ranges.gains[0], tiled.ranges.gains[0])


def test_chips_of_one_design_have_the_same_targets():
    tiled = matrix("program")
    other = tiled.copied(1)
    assert other.design.encodings[0] is tiled.design.encodings[0]


@pytest.mark.parametrize("kind", ["gain", "program"])
def test_maps(kind, tmp_path):
    hw = hardware(wires={"r_word_line": 30.0, "r_bit_line": 30.0}, cell__read_noise={"kind": "none"})
    told: list[tuple[int, int]] = []
    chip = mho.map(
        small_cnn(), hw, calibrate=pictures(40), wire_compensation=kind, progress=lambda *at: told.append(at)
    )
    plain = mho.map(small_cnn(), hw, calibrate=pictures(40))
    assert told[-1][0] == told[-1][1] == len(told)
    exact = small_cnn()(pictures())
    first = chip(pictures())
    assert relative_error(first, exact) < 0.7 * relative_error(plain(pictures()), exact)
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded(pictures()), first)
    assert torch.equal(loaded.copy(1)(pictures()), chip.copy(1)(pictures()))


def test_expected_errors_know_the_compensation():
    for kind in ("gain", "program"):
        tiled = matrix(kind)
        expected = expected_errors(tiled, inputs(), 2)
        measured = tiled.reader.read(inputs())[0] - expected.gain * expected.product
        found = expected.frozen["shift and DAC"].mean()
        assert found == pytest.approx(np.square(measured).mean(), rel=0.02, abs=1e-6)


def test_bad_input():
    hw = hardware(wires=WIRES)
    with pytest.raises(MappingError, match="wire_compensation must be 'gain', 'program' or None, got 'both'"):
        mho.map(small_cnn(), hw, calibrate=pictures(8), wire_compensation="both")
    with pytest.raises(MappingError, match="no layer has wires with resistance"):
        mho.map(small_cnn(), hardware(), calibrate=pictures(8), wire_compensation="gain")
