"""Groups of a layer that share tiles: the same layer, and cells off the diagonal that are as real as others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cell_by_cell import simulate
from torch import nn

import mho
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.conformance import compared
from mho.crossbar.backends.plain import Plain
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.expected import expected_errors
from mho.crossbar.matrix import Matrix
from mho.crossbar.patches import Patches
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds

SHARED = {"tile.groups": "diagonal"}
NO_CONVERTERS = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
RERAM = mho.Hardware.preset("reram")

LAYERS = {
    "depthwise": (lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24), (24, 9, 9), 24),
    "grouped": (lambda: nn.Conv2d(12, 24, 3, stride=2, dilation=2, groups=4), (12, 9, 9), 4),
    "transposed": (lambda: nn.ConvTranspose2d(12, 8, 3, stride=2, groups=4), (12, 5, 5), 4),
    "1d, no bias": (lambda: nn.Conv1d(6, 6, 5, groups=6, bias=False), (6, 20), 6),
    "3d": (lambda: nn.Conv3d(4, 8, (2, 3, 1), groups=2), (4, 5, 5, 5), 2),
}


def matrix(fields: dict, shape: tuple[int, int, int] = (4, 6, 2), copy: int = 0, backend: object = None) -> Programmed:
    """Groups that share one tile, for inputs that are their rows, group by group."""
    rng, hardware = np.random.default_rng(1), RERAM.replace({**SHARED, **fields})
    weights = rng.normal(size=shape).astype(np.float32)
    bias = rng.normal(size=(shape[0], shape[2])).astype(np.float32) if hardware.tile.bias == "array" else None
    x = rng.uniform(-1, 1, (50, 1, 1, 1, shape[0] * shape[1])).astype(np.float32)
    seeds = Seeds(0, copy)
    return calibrate(
        Matrix("layer", weights, bias, hardware), (x,), Drawn(hardware, *seeds), seeds, backend or Compiled()
    )


@pytest.mark.parametrize("fields", [{}, {"tile.bias": "array"}], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_ideal_cells_compute_the_same_on_shared_tiles(name, fields):
    made, shape, many = LAYERS[name]
    torch.manual_seed(0)
    net, x = made().eval(), torch.rand(3, *shape)
    hardware = mho.Hardware.preset("ideal").replace(fields)
    apart, shared = (mho.map(net, hw, calibrate=x) for hw in (hardware, hardware.replace(SHARED)))
    assert torch.allclose(shared(x), apart(x), atol=1e-5)
    layer = shared.layers[""]
    assert (layer.placement.tiles, apart.layers[""].placement.tiles) == (1, many)
    assert torch.allclose(layer.weight, net.weight, atol=1e-6)
    assert layer.bias is None or torch.allclose(layer.bias, net.bias, atol=1e-6)
    assert layer.placement.rows == many * layer.matrix.weights.shape[1] + layer.matrix.bias_on_array


@pytest.mark.parametrize(
    ("fields", "sharing"),
    [
        ({}, 12),
        ({"tile.rows": 26}, 2),  # 9 word lines each
        ({"tile.rows": 27, "tile.bias": "array"}, 2),
        ({"tile.columns": 10}, 4),  # 5 outputs would fit, and do not divide 12
        ({"tile.columns": 9, "tile.encoding": "offset", "cell.levels": 16}, 6),
        ({"tile.rows": 8}, 1),  # larger than a tile: row tiles
        ({"tile.groups": "apart"}, 1),
    ],
    ids=str,
)
def test_as_many_groups_share_a_tile_as_fit_and_divide_their_number(fields, sharing):
    hardware = RERAM.replace({**SHARED, **fields})
    made = Matrix("layer", np.ones((12, 9, 1), np.float32), np.ones((12, 1), np.float32), hardware, Patches((1, 3, 3)))
    assert made.sharing == sharing
    assert made.placement.groups == 12 // sharing
    assert sum(float(made.rows_of(g).sum()) for g in range(made.placement.groups)) == 12 * 9
    placed = np.stack([made.rows_of(g) for g in range(made.placement.groups)])
    assert np.array_equal(made.diagonal(placed), made.weights)


def test_cells_off_the_diagonal_are_programmed_and_read():
    """What is read, and its variance, from the single cells of the tile: nothing else is known here than its table."""
    fields = {**NO_CONVERTERS, "cell.stuck.at_g_max": 0.05, "time_s": 3600.0, "sensing.amplifier_noise": 0.0}
    tiled = matrix(fields)
    (table,) = tiled.conductances()
    g, cell = table[0].astype(np.float64), tiled.hardware.cell
    own = np.kron(np.eye(4), np.ones((6, 2))) > 0
    assert g.shape == (2, 24, 8)
    assert (g[:, ~own] > 0.9 * cell.g_max).mean() == pytest.approx(0.05, abs=0.035)  # stuck, of 288 cells
    assert np.ptp(g[:, ~own]) > 0.5 * cell.g_max
    x = np.random.default_rng(2).uniform(0, 1, 24)
    weights = tiled.design.matrix.weights
    scale = np.abs(weights).max(axis=1).reshape(-1) / (cell.g_max - cell.g_min)
    wanted = x @ (g[0] - g[1]) * scale
    given = x.astype(np.float32).reshape(1, 1, 1, 1, -1)
    assert tiled.reader.read(given, noisy=False)[0][0] == pytest.approx(
        wanted, rel=2e-4, abs=2e-4 * np.abs(wanted).max()
    )
    diagonal = x @ np.where(own, g[0] - g[1], 0) * scale
    assert np.abs(wanted - diagonal).max() > 0.1 * np.abs(diagonal).max()  # leak of the others
    std = cell.read_noise.std(g, tiled.hardware.conditions, np)
    variance = np.square(x) @ (np.square(std[0]) + np.square(std[1])) * scale**2
    few = tiled.reader.read(given, reads=4000, shared=True)[0]
    assert (few.var(axis=0) > 0.9 * variance).all()  # amplifiers, thermal and shot noise come on top
    assert (variance > 1.5 * np.square(x) @ np.where(own, np.square(std).sum(axis=0), 0) * scale**2).any()


@pytest.mark.parametrize(
    "fields",
    [{}, {"cell.stuck.at_g_min": 0.1, "cell.stuck.at_g_max": 0.1, "time_s": 1e5}, {"tile.devices": 2}],
    ids=str,
)
def test_reads_of_a_shared_tile_are_those_of_its_single_cells(fields):
    tiled = matrix({**NO_CONVERTERS, **fields})
    x = np.random.default_rng(3).uniform(-1, 1, 24)
    reads = 4000
    found = tiled.reader.read(x.astype(np.float32).reshape(1, 1, 1, 1, -1), reads=reads, shared=True)[0]
    single = simulate(tiled, x, reads, np.random.default_rng(4))
    spread = np.sqrt((found.var(axis=0) + single.var(axis=0)) / reads)
    assert (np.abs(found.mean(axis=0) - single.mean(axis=0)) < 5 * spread).all()
    assert found.var(axis=0) == pytest.approx(single.var(axis=0), rel=5 * np.sqrt(4 / reads))


def test_expected_errors_are_those_of_chips_whose_groups_share_tiles():
    chips = [matrix({}, copy=copy) for copy in range(60)]
    x = np.random.default_rng(5).uniform(-1, 1, (6, 1, 1, 1, 24)).astype(np.float32)
    expected = expected_errors(chips[0], x, reads=2)
    exact = np.einsum("ngr,gro->ngo", x.reshape(6, 4, 6), chips[0].design.matrix.weights).reshape(6, 8)
    errors = np.stack([chip.reader.read(x)[0] - exact for chip in chips])
    wanted = sum(expected.total(part) for part in ("frozen", "slow", "fresh")).mean()
    assert np.square(errors).mean() == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize(
    "fields",
    [{}, {"tile.bias": "array"}, {"tile.slices": 2, "cell.levels": 16, "tile.encoding": "offset"}, {"tile.rows": 12}],
    ids=str,
)
def test_twin_reads_shared_tiles_alike(fields):
    both = [matrix(fields, backend=backend) for backend in (Compiled(), Plain())]
    x = np.random.default_rng(6).uniform(-1, 1, (200, 1, 1, 1, 24)).astype(np.float32)
    assert compared(*both, x) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"wires.r_word_line": 5.0, "wires.r_bit_line": 5.0},
        {"wires.pairs": "shared", "wires.r_bit_line": 20.0, "cell.stuck.at_g_min": 0.05, "time_s": 1e4},
        {"tile.slices": 2, "cell.levels": 16, "tile.encoding": "offset", "cell.stuck.bit_lines": 0.1},
    ],
    ids=str,
)
def test_a_shared_tile_is_that_of_a_dense_layer_with_zeros(fields):
    """Down to the bit, costs included: whatever wires, faults and time do to the one they do to the other."""
    torch.manual_seed(0)
    grouped, dense = nn.Conv2d(4, 4, 3, padding=1, groups=4).eval(), nn.Conv2d(4, 4, 3, padding=1).eval()
    with torch.no_grad():
        dense.weight.copy_(torch.eye(4)[:, :, None, None] * grouped.weight)
        dense.bias.copy_(grouped.bias)
    x, hardware = torch.rand(4, 4, 6, 6), RERAM.replace(fields)
    shared, plain = (
        mho.map(nn.Sequential(net), hw, calibrate=x, seed=5)
        for net, hw in ((grouped, hardware.replace(SHARED)), (dense, hardware))
    )
    assert torch.equal(shared.read(x, read=1), plain.read(x, read=1))
    assert all(np.array_equal(a, b) for a, b in zip(*(c.conductances()["0"] for c in (shared, plain)), strict=True))
    assert str(mho.schedule(shared)) == str(mho.schedule(plain))


@pytest.fixture(scope="module")
def chip() -> tuple[mho.Chip, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    x = torch.rand(6, 8, 6, 6)
    return mho.map(net, RERAM.replace(SHARED), calibrate=x), x


def test_bits_do_not_depend_on_the_batch_or_on_threads(chip):
    chip, x = chip
    whole = chip.read(x, read=0)
    assert torch.equal(torch.cat([chip.read(x[k : k + 2], read=0, first_sample=k) for k in (0, 2, 4)]), whole)
    torch.set_num_threads(2)
    assert torch.equal(chip.read(x, read=0), whole)


def test_shared_tiles_are_saved_aged_copied_and_measured_again(chip, tmp_path):
    chip, x = chip
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded.read(x, read=3), chip.read(x, read=3))
    for change in (lambda c: c.copy(2), lambda c: c.at(86400.0), lambda c: c.recalibrate(x)):
        assert torch.equal(change(loaded).read(x, read=3), change(chip).read(x, read=3))


def test_report_tells_what_cells_hold(chip):
    chip, _ = chip
    report = chip.report()
    row = report.table.set_index("layer").loc["0"]
    assert (row["groups"], row["groups_per_tile"], row["tiles"], row["word_lines"]) == (8, 8, 1, 72)
    assert row["cells"] == 72 * 16
    assert row["holding"] == pytest.approx(row["utilisation"] / 8)
    assert "hold weights" in str(report)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match=r"tile\.groups = 'beside': .*'apart' or 'diagonal'"):
        RERAM.replace({"tile.groups": "beside"})
