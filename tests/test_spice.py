"""Netlists of tiles: solved here by nodal analysis, and by ngspice where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from numpy.testing import assert_allclose
from scipy.sparse import coo_array
from scipy.sparse.linalg import spsolve
from torch import nn

import mho
from mho.cli import app, run
from mho.crossbar.lines import Lines
from mho.crossbar.spice import TileCircuit
from mho.mapping.errors import MappingError
from mho.mapping.tile_circuit import tile_circuit

LAYER = "7"  # linear, 72 to 10


def solved(netlist: str) -> np.ndarray[Any, Any]:
    """The currents into the sources `Vbit<j>` of a netlist of resistors and sources to ground: nodal analysis."""
    resistors = re.findall(r"^R\S+ (\S+) (\S+) (\S+)$", netlist, re.MULTILINE)
    sources = {
        node: (name, float(v)) for name, node, v in re.findall(r"^(V\S+) (\S+) 0 DC (\S+)$", netlist, re.MULTILINE)
    }
    nodes = list(dict.fromkeys(node for one, other, _ in resistors for node in (one, other)) | dict.fromkeys(sources))
    number = {node: k for k, node in enumerate(nodes)}
    a, b = (np.array([number[r[k]] for r in resistors]) for k in (0, 1))
    g = 1 / np.array([float(r[2]) for r in resistors])
    rows, columns = np.concatenate([a, b, a, b]), np.concatenate([a, b, b, a])
    matrix = coo_array((np.concatenate([g, g, -g, -g]), (rows, columns)), (len(nodes), len(nodes))).tocsr()
    known = np.array([number[node] for node in sources])
    free = np.setdiff1d(np.arange(len(nodes)), known)
    volts = np.zeros(len(nodes))
    volts[known] = [v for _, v in sources.values()]
    if len(free):
        volts[free] = spsolve(matrix[free][:, free].tocsc(), -(matrix[free][:, known] @ volts[known]))
    current = dict(zip([name for name, _ in sources.values()], -(matrix @ volts)[known], strict=True))
    return np.array([current[f"Vbit{j}"] for j in range(sum(name.startswith("Vbit") for name in current))])


WIRES = [
    {},
    {"r_word_line": 2.0, "r_bit_line": 3.0, "r_driver": 50.0, "r_sense": 20.0},
    {"r_word_line": 2.0, "r_bit_line": 3.0, "r_driver": 50.0, "drivers": "both", "sense": "both"},
    {"r_word_line": 2.0},
    {"r_bit_line": 2.0},
    {"r_word_line": 2.0, "r_sense": 30.0, "sense": "both"},
    {"r_driver": 100.0, "drivers": "both"},
    {"r_sense": 100.0},
    {"r_driver": 100.0, "r_sense": 100.0},
]


@pytest.mark.parametrize("wires", WIRES)
@pytest.mark.parametrize("shape", [(2, 9, 7), (1, 1, 5), (1, 6, 1)])
def test_a_netlist_has_the_currents_of_the_array(wires: dict[str, Any], shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    g = rng.uniform(1e-6, 1e-4, shape) * (rng.random(shape) > 0.2)
    circuit = TileCircuit(g, rng.uniform(-0.2, 0.2, shape[1]), Lines(**wires))
    scale = np.abs(circuit.currents).max() or 1.0
    assert_allclose(solved(circuit.netlist("test")), circuit.currents, rtol=1e-9, atol=1e-12 * scale)


def test_a_netlist_with_another_resistance_has_other_currents() -> None:
    """The check above can fail."""
    g = np.random.default_rng(0).uniform(1e-6, 1e-4, (1, 9, 7))
    circuit = TileCircuit(g, np.full(9, 0.2), Lines(r_word_line=2.0, r_bit_line=2.0))
    netlist = circuit.netlist("test").replace("b7_0 b8_0 2.0", "b7_0 b8_0 2.1")
    assert not np.allclose(solved(netlist), circuit.currents, rtol=1e-7, atol=0)


CHIPS = [
    {},
    {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm"},
    {
        "wires__r_word_line": "2 ohm",
        "wires__r_bit_line": "2 ohm",
        "wires__pairs": "shared",
        "wires__order": "conductance",
    },
    {"tile__encoding": "offset", "tile__bias": "array", "wires__r_bit_line": "2 ohm"},
    {"cell__levels": 4, "tile__slices": 2, "wires__pairs": "apart", "wires__r_word_line": "2 ohm"},
    {"tile__devices": 2, "wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm", "wires__r_sense": "50 ohm"},
]


@pytest.mark.parametrize("fields", CHIPS)
def test_a_tile_of_a_chip_has_the_currents_that_its_reads_are_made_of(fields: dict[str, Any]) -> None:
    """The currents of pairs, in amperes, are what the packed planes give for the same codes."""
    chip = mho.map(small_cnn(), hardware(**fields), calibrate=pictures(), check=False, seed=3)
    tiles = chip.layers[LAYER].tiles
    placement, design = tiles.design.placement, tiles.design
    x = np.random.default_rng(1).uniform(0, design.drive.limit, 72)
    for tile in range(placement.tiles):
        circuit = tile_circuit(chip, LAYER, tile, x)
        assert_allclose(solved(circuit.netlist("test")), circuit.currents, rtol=1e-9)
    table = chip.conductances(LAYER).table()
    total = np.zeros(placement.tile.slices)
    for tile in range(placement.tiles):
        line = table[table["tile"] == tile].drop_duplicates("bit_line").sort_values("bit_line")
        taken_off = (line["polarity"] == 1) & (fields.get("wires__pairs") != "shared")
        found = tile_circuit(chip, LAYER, tile, x).currents * np.where(taken_off, -1, 1)
        total += np.bincount(line["slice"], found)
    codes = np.rint(x / design.drive.limit * design.drive.full_code) / design.drive.full_code
    codes = np.append(codes, 1.0) if design.matrix.bias_on_array else codes
    columns = placement.outputs + placement.column_tiles * placement.tile.reference_columns // placement.tile.slices
    kept = tiles.packed[0].conductances[:, :, :columns].astype(float) * 40e-6 * 0.2
    assert_allclose(total, (codes @ kept).sum(axis=-1), rtol=2e-3, atol=2e-3 * np.abs(codes @ kept).max())


def test_inputs_are_driven_as_the_chip_drives_them() -> None:
    fields = {"dac__bits": 4, "dac__phases": 2, "dac__bits_per_pulse": 1}
    net = nn.Linear(6, 4)
    chip = mho.map(net, hardware(**fields), calibrate=torch.linspace(-1, 1, 48).reshape(8, 6))
    x = np.array([1.0, -1.0, 3 / 7, 0.0, 5.0, -2 / 7])
    driven = [[tile_circuit(chip, "", 0, x, pulse=q, phase=p).volts / 0.2 for q in range(3)] for p in range(2)]
    assert_allclose(driven[0], [[1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0]])
    assert_allclose(driven[1], [[0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]])
    assert_allclose(tile_circuit(chip, "", 0).volts, 0.2)
    scaled = mho.map(net, hardware(dac__scaling="sample"), calibrate=torch.rand(8, 6) - 0.5)
    assert_allclose(tile_circuit(scaled, "", 0, 1e-6 * x).volts, tile_circuit(scaled, "", 0, x).volts)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("no", 0), "layer 'no': is not on tiles; layers on tiles are 0, 3, 7$"),
        ((LAYER, 3), "layer '7': tile must be 0 to 2, got 3$"),
        ((LAYER, -1), "layer '7': tile must be 0 to 2, got -1$"),
        ((LAYER, 0, np.ones(71)), r"layer '7': inputs must be 72 finite numbers, .* got shape \(71,\) of float64$"),
        ((LAYER, 0, np.full(72, np.nan)), r"layer '7': inputs must be 72 finite numbers"),
    ],
)
def test_what_is_no_tile_is_one_line(args: Any, message: str) -> None:
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures(), check=False)
    with pytest.raises(MappingError, match=f"^{message}"):
        tile_circuit(chip, *args)
    with pytest.raises(MappingError, match=r"^layer '7': pulse must be 0 to 0, got 1$"):
        tile_circuit(chip, LAYER, 0, pulse=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell__nonlinearity": {"kind": "cubic", "c_3": 1.0}}, "cell.nonlinearity is 'cubic', and cells of a netlist"),
        ({"sensing__mode": "voltage", "wires__pairs": "shared"}, "sensing.mode is 'voltage', and a netlist measures"),
    ],
)
def test_what_is_no_circuit_of_resistors_is_one_line(fields: dict[str, Any], message: str) -> None:
    chip = mho.map(nn.Linear(6, 4), hardware(**fields), calibrate=torch.rand(8, 6), check=False, backend="numpy")
    with pytest.raises(MappingError, match=f"^layer '': {message}"):
        tile_circuit(chip, "", 0)


def test_the_command_writes_tables_and_netlists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chip = mho.map(small_cnn(), hardware(wires__r_bit_line="2 ohm"), calibrate=pictures(), check=False)
    chip.save(tmp_path / "chip")
    x = np.random.default_rng(1).uniform(0, 1, 72)
    np.save(tmp_path / "x.npy", x)
    folder, out = str(tmp_path / "chip"), tmp_path / "tile.cir"
    asked = ["export", folder, "--spice", "--layer", LAYER, "--tile", "1", "--inputs", str(tmp_path / "x.npy")]
    assert run(app, [*asked, "--out", str(out)]) == 0
    circuit = tile_circuit(chip, LAYER, 1, x)
    assert out.read_text("utf-8") == circuit.netlist("custom, layer 7, tile 1")
    assert_allclose(solved(out.read_text("utf-8")), circuit.currents, rtol=1e-9)
    capsys.readouterr()
    assert run(app, asked) == 0
    assert capsys.readouterr().out == out.read_text("utf-8")
    assert run(app, ["export", folder, "--out", str(tmp_path / "cells.parquet")]) == 0
    assert capsys.readouterr().out.startswith("<conductances of ")
    again = chip.with_conductances(tmp_path / "cells.parquet")
    assert torch.equal(again.read(pictures(), read=1), chip.read(pictures(), read=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --out FILE.parquet, FILE.npz or FILE.csv for conductances, or --spice for a netlist"),
        (["--spice"], "give --layer NAME, the layer whose tile the netlist is of"),
        (["--spice", "--layer", "no"], "layer 'no': is not on tiles; layers on tiles are 0, 3, 7"),
        (["--out", "cells.txt"], "conductances are written to .parquet, .npz or .csv, got cells.txt"),
        (
            ["--spice", "--layer", "7", "--inputs", "chip/chip.yaml"],
            "inputs chip/chip.yaml: is no .npy file of numbers",
        ),
    ],
)
def test_what_is_wrong_on_the_command_line_is_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    mho.map(small_cnn(), hardware(), calibrate=pictures(), check=False).save("chip")
    assert run(app, ["export", "chip", *options]) == 2
    assert capsys.readouterr().err == f"mho: error: {message}\n"


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
@pytest.mark.parametrize("fields", CHIPS)
def test_ngspice_finds_the_same_currents(fields: dict[str, Any], tmp_path: Path) -> None:
    chip = mho.map(small_cnn(), hardware(**fields), calibrate=pictures(), check=False, seed=3)
    circuit = tile_circuit(chip, LAYER, 0, np.random.default_rng(1).uniform(0, 1, 72))
    (tmp_path / "tile.cir").write_text(circuit.netlist("test"), encoding="utf-8")
    done = subprocess.run(["ngspice", "-b", "tile.cir"], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = re.findall(r"^i\(vbit\d+\) = (\S+)$", done.stdout, re.MULTILINE)
    assert_allclose(np.array(found, float), circuit.currents, rtol=1e-9)
