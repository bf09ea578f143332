"""Stuck cells by rate, by line and by a map: where they are, what a file may hold, and the errors to expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import mho
from mho import Hardware
from mho.crossbar import faults
from mho.crossbar.expected import expected_errors
from mho.crossbar.faults import open_lines
from mho.crossbar.programmed import Programmed
from mho.mapping.errors import MappingError

ROWS, OUTPUTS = 48, 20
TILE = {"tile__rows": 24, "tile__columns": 22}


def quiet(**fields: Any) -> Hardware:
    """Cells that err by nothing but their faults; from 1 to 40 uS."""
    return ideal(cell__g_min="1 uS", cell__g_max="40 uS", dac__range=1.0, **{**TILE, **fields})


def matrix(seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)


def cells(chip: Programmed) -> np.ndarray:
    """(slices, polarities, rows, columns) siemens of the first group."""
    tiles = range(chip.design.placement.row_tiles)
    return np.concatenate([chip.cells.conductances(chip.design, 0, t, chip.backend) for t in tiles], axis=2)


ENCODINGS = [
    {"tile__encoding": "differential"},
    {"tile__encoding": "offset"},
    {"tile__encoding": "differential", "cell__levels": 4, "tile__slices": 2, "tile__columns": 24},
    {"tile__encoding": "differential", "wires__pairs": "shared"},
]


@pytest.mark.parametrize("fields", ENCODINGS, ids=["pairs", "offset", "slices", "shared bit line"])
def test_lines_are_open_as_a_whole_and_as_often_as_said(fields: dict[str, Any]) -> None:
    counts = np.zeros(4)
    for seed in range(40):
        hw = quiet(cell__stuck={"word_lines": 0.1, "bit_lines": 0.05}, **fields)
        chip = on_tiles(matrix(), hw, limit=1.0, seed=seed)
        dead, placement = cells(chip) == 0, chip.design.placement
        shared = hw.wires.pairs == "shared"
        tiles = np.repeat(np.arange(placement.column_tiles), np.diff(placement.column_edges))
        tiles = np.append(tiles, np.arange(placement.column_tiles))[: dead.shape[-1]]
        for a, b in zip(placement.edges[:-1], placement.edges[1:], strict=True):
            block = dead[:, :, a:b]
            bit_lines = block.all(axis=2)  # (slices, polarities, columns)
            assert not shared or (bit_lines[:, 0] == bit_lines[:, 1]).all()
            lines = bit_lines[:, :1] if shared else bit_lines
            counts[:2] += lines.sum(), lines.size
            for tile in range(placement.column_tiles):
                mine = block[..., tiles == tile] & ~bit_lines[..., None, tiles == tile]
                alive = np.broadcast_to(~bit_lines[..., None, tiles == tile], mine.shape)
                for p in range(mine.shape[1]) if shared else (slice(None),):
                    some, there = mine[:, p].sum(axis=(0, -1) if shared else (0, 1, 3)), alive[:, p]
                    whole = there.sum(axis=(0, -1) if shared else (0, 1, 3))
                    assert ((some == 0) | (some == whole)).all()
                    counts[2:] += (some[whole > 0] > 0).sum(), (whole > 0).sum()
    for found, many, rate in ((*counts[:2], 0.05), (*counts[2:], 0.1)):
        assert stats.binomtest(int(found), int(many), rate).pvalue > 1e-4
        assert stats.binomtest(int(found), int(many), 2 * rate).pvalue < 1e-2  # the negative control


def test_open_lines_stay_with_age_and_change_with_the_chip() -> None:
    hw = Hardware.preset("pcm").replace({"cell.stuck": {"word_lines": 0.2}, "tile.rows": 24, "dac.range": 1.0})
    hw = hw.replace({"adc.bits": None, "adc.full_scale": None, "cell.programming": {"kind": "none"}})
    chip = on_tiles(matrix(), hw, limit=1.0)
    dead = cells(chip) == 0
    assert 0.05 < dead.mean() < 0.4
    assert_array_equal(cells(chip.at(1e4, drift_compensation=False)) == 0, dead)
    assert not np.array_equal(cells(chip.copied(1)) == 0, dead)
    again = on_tiles(matrix(), hw.replace({"cycles": 3}), limit=1.0)
    assert_array_equal(cells(again) == 0, dead)
    where = (0, 0, 0, 0)
    assert_array_equal(open_lines(chip.design, hw, where, 24, (0, 0), chip.backend), dead[0, 0, :24])


CASES = [
    ({"word_lines": 0.05}, {}),
    ({"bit_lines": 0.05}, {}),
    ({"word_lines": 0.03, "bit_lines": 0.03}, {}),
    ({"word_lines": 0.03, "bit_lines": 0.03}, {"tile__encoding": "offset"}),
    ({"word_lines": 0.03, "bit_lines": 0.03}, {"cell__levels": 4, "tile__slices": 2, "tile__columns": 24}),
    ({"word_lines": 0.03, "bit_lines": 0.03}, {"wires__pairs": "shared"}),
    ({"at_g_min": 0.03, "at_g_max": 0.02}, {}),
]


@pytest.mark.parametrize(("stuck", "fields"), CASES)
def test_the_errors_to_expect_are_those_of_many_chips(stuck: dict[str, float], fields: dict[str, Any]) -> None:
    x = np.random.default_rng(1).uniform(0, 1, (30, 1, 1, 1, ROWS)).astype(np.float32)
    hw, exact = quiet(cell__stuck=stuck, **fields), x.reshape(30, ROWS) @ matrix()[0]
    chips = [on_tiles(matrix(), hw, limit=1.0, signed=False, seed=seed) for seed in range(200)]
    outputs = np.stack([chip.reader.read(x)[0] for chip in chips])
    expected = expected_errors(chips[0], x, 2)
    spread = outputs.var(axis=0, ddof=1)
    found = expected.total("frozen") - expected.frozen["shift and DAC"]
    per_chip = np.square(outputs - outputs.mean(axis=0)).mean(axis=(1, 2))
    error = per_chip.std() / np.sqrt(len(chips))
    assert abs(spread.mean() - found.mean()) < 5 * error
    assert abs(spread.mean() - 2.5 * found.mean()) > 5 * error  # the negative control
    off = (outputs.mean(axis=0) - expected.mean).mean(axis=1)
    assert np.abs(off).max() < 5 * np.sqrt(spread.mean() / len(chips))
    assert ("open lines" in expected.frozen) == ("at_g_min" not in stuck)
    assert expected.gain == pytest.approx((outputs.mean(axis=0) * exact).sum() / (exact**2).sum(), abs=0.05)


def masks() -> np.ndarray:
    """(slices, polarities, rows, columns) of a differential matrix."""
    return np.random.default_rng(2).choice([0, 1, 2], (1, 2, ROWS, OUTPUTS), p=[0.9, 0.05, 0.05]).astype(np.uint8)


def kept_in(folder: Path, form: str) -> Any:
    if form == "npz":
        np.savez(folder / "map.npz", layer=masks())
        return str(folder / "map.npz")
    if form == "npy":
        np.save(folder / "map.npy", masks())
        return str(folder / "map.npy")
    return {"layer": masks()[0].tolist()}


@pytest.mark.parametrize("form", ["npz", "npy", "lists"])
def test_cells_of_a_map_are_stuck(form: str, tmp_path: Path) -> None:
    plain, held = on_tiles(matrix(), quiet(), limit=1.0), kept_in(tmp_path, form)
    hw = quiet(cell__stuck={"map": held})
    chip = on_tiles(matrix(), hw, limit=1.0)
    ends = np.choose(masks(), [np.zeros(()), np.float32(1e-6), np.float32(40e-6)])
    assert_allclose(cells(chip), np.where(masks() == 0, cells(plain), ends), rtol=1e-6)
    assert_array_equal(cells(chip.copied(2)), cells(chip))
    assert Hardware.parse(hw.dump(), "dump") == hw
    assert hw.replace({"adc.bits": None}) == hw


def test_the_error_of_a_map_is_known() -> None:
    x = np.random.default_rng(1).uniform(0, 1, (30, 1, 1, 1, ROWS)).astype(np.float32)
    hw = quiet(cell__stuck={"map": {"layer": masks()[0].tolist()}}, cell__programming={"kind": "none"})
    chip = on_tiles(matrix(), hw, limit=1.0, signed=False)
    expected = expected_errors(chip, x, 2)
    got = chip.reader.read(x)[0]
    assert_allclose(expected.mean, got, rtol=1e-4, atol=1e-4)
    error = np.square(got - expected.gain * expected.product)
    assert_allclose(expected.total("frozen"), error, rtol=1e-3, atol=1e-3)
    assert expected.frozen["stuck map"].mean() > 0.5 * error.mean()
    without = expected_errors(on_tiles(matrix(), quiet(), limit=1.0, signed=False), x, 2)
    assert "stuck map" not in without.frozen
    noisy = hw.replace({"cell.programming": {"kind": "polynomial", "coefficients": ["1 uS"], "g_ref": "1 uS"}})
    part = expected_errors(on_tiles(matrix(), noisy, limit=1.0, signed=False), x, 2).frozen["programming"].mean()
    free = noisy.replace({"cell.stuck": {}})
    whole = expected_errors(on_tiles(matrix(), free, limit=1.0, signed=False), x, 2).frozen["programming"].mean()
    assert 0.85 < part / whole < 0.95  # a tenth of the cells no longer errs


def network() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(ROWS, OUTPUTS, bias=False)).eval(), torch.rand(20, ROWS)


def test_a_saved_chip_keeps_its_map_and_notices_another_file(tmp_path: Path) -> None:
    net, x = network()
    np.savez(tmp_path / "map.npz", **{"0": masks()})
    hw = hardware(cell__stuck={"map": str(tmp_path / "map.npz")}, tile__bias="digital")
    chip = mho.map(net, hw, calibrate=x)
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").copy(1).read(x, read=0), chip.copy(1).read(x, read=0))
    np.savez(tmp_path / "map.npz", **{"0": 0 * masks() + 1})
    faults._maps.cache_clear()
    loaded = mho.load(tmp_path / "chip")  # its cells are in the file of the chip
    assert torch.equal(loaded.read(x, read=0), chip.read(x, read=0))
    with pytest.raises(ValueError, match=r"cell.stuck.map: file .*map.npz has changed: its SHA-256 is \w+, was \w+$"):
        loaded.at(10.0)
    (tmp_path / "map.npz").unlink()
    with pytest.raises(ValueError, match=r"cell.stuck.map: file .*map.npz cannot be read"):
        mho.load(tmp_path / "chip").at(10.0)
    with pytest.raises(ValueError, match=r"cell.stuck.map.* cannot be read"):
        hardware(cell__stuck={"map": str(tmp_path / "map.npz")})


@pytest.mark.parametrize(
    ("stuck", "message"),
    [
        ({"map": {"fc": [[0]]}}, "cell.stuck.map: fc is no layer on tiles; they are 0"),
        ({"map": {"0": [[0, 1]]}}, r"layer '0': cell.stuck.map must have the shape \(1, 1, 2, 48, 20\) of its cells"),
    ],
)
def test_a_map_that_fits_no_layer_is_an_error(stuck: dict[str, Any], message: str) -> None:
    net, x = network()
    with pytest.raises(MappingError, match=message):
        mho.map(net, hardware(cell__stuck=stuck), calibrate=x)


@pytest.mark.parametrize(
    ("stuck", "message"),
    [
        ({"word_lines": 1.1}, "cell.stuck.word_lines"),
        ({"bit_lines": -1}, "cell.stuck.bit_lines"),
        ({"bit_lines": float("nan")}, "cell.stuck.bit_lines"),
        ({"map": "cells.csv"}, "cell.stuck.map = 'cells.csv': expected a file .npz or .npy, or lists by layer"),
        ({"map": 3}, "cell.stuck.map"),
        ({"map": {"a": [[0, 3]]}}, r"map of layer 'a': entries must be 0 \(works\), 1 \(at g_min\) and 2 \(at g_max\)"),
        ({"map": {"a": [[0.5]]}}, "map of layer 'a': entries must be 0"),
        ({"map": {"a": []}}, "map of layer 'a': entries must be 0"),
        ({"map": {"a": [[0], [1, 2]]}}, "map of layer 'a': must be an array, all rows of one length"),
        ({"map": {"file": "a.npz", "digest": "x"}}, "cell.stuck.map"),
        ({"map": {"file": "a.npz", "sha256": "x"}}, "sha256 must be 64 hexadecimal digits"),
        ({"word_lines": 1.0}, "cell.stuck: word_lines and bit_lines must be below 1, or no cell works"),
    ],
)
def test_impossible_faults_are_refused_in_one_line(stuck: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        hardware().replace({"cell.stuck": stuck})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 broken"])
def test_a_file_without_arrays_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "map.npz").write_bytes(content)
    net, x = network()
    with pytest.raises(MappingError, match=r"layer '0': cell.stuck.map: file .*map.npz"):
        mho.map(net, hardware(cell__stuck={"map": str(tmp_path / "map.npz")}), calibrate=x)
