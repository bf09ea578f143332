"""Sense amplifiers and DACs: counted once, and noise, energy and area say the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import ideal
from test_cost import fake_chip, fake_layer
from test_matrix import inputs, matrix

from mho.crossbar.components import adc_energy
from mho.crossbar.expected import expected_errors
from mho.crossbar.lines import Wires
from mho.crossbar.periphery import Periphery
from mho.crossbar.placement import Placement
from mho.crossbar.tile import Tile
from mho.mapping.architecture.cost import layer_costs

PAIR = "differential"
# encoding, pairs, amplifiers, sensed ends, driven ends: amplifiers of a reading, DACs of a word line
CASES = [
    (PAIR, "adjacent", "bit_line", "bottom", "left", 2, 1),
    (PAIR, "apart", "bit_line", "bottom", "left", 2, 1),
    (PAIR, "shared", "bit_line", "bottom", "left", 1, 2),
    (PAIR, "adjacent", "pair", "bottom", "left", 1, 1),
    (PAIR, "shared", "pair", "bottom", "left", 1, 2),
    ("differential_two_sided", "adjacent", "bit_line", "bottom", "left", 2, 1),
    ("differential_two_sided", "shared", "bit_line", "bottom", "left", 1, 2),
    ("offset", "adjacent", "bit_line", "bottom", "left", 1, 1),
    ("offset", "shared", "pair", "bottom", "left", 1, 1),
    ("single", "adjacent", "bit_line", "bottom", "left", 1, 1),
    (PAIR, "adjacent", "bit_line", "both", "both", 4, 2),
    (PAIR, "shared", "bit_line", "both", "both", 2, 4),
    ("offset", "adjacent", "bit_line", "both", "left", 2, 1),
]


def arrangement(encoding, pairs, amplifiers, sense, drivers):
    tile = {"encoding": encoding, "amplifiers": amplifiers, "rows": 16, "columns": 16}
    return tile, {"pairs": pairs, "sense": sense, "drivers": drivers}


@pytest.mark.parametrize("case", CASES)
def test_noise_is_that_of_the_amplifiers_counted(case):
    """A Monte Carlo of the amplifiers one by one: each adds i_n^2 B + k T C / t_read^2 to the current of its line."""
    tile, wires = arrangement(*case[:5])
    sensing = {"amplifier_noise": 1e-11, "capacitance": 5e-14, "thermal": False, "shot": False}
    hw = ideal(tile=tile, wires=wires, **{f"sensing__{name}": value for name, value in sensing.items()})
    tiled = matrix(hw, rows=20, outputs=6, positive=case[0] == "single")
    reads, x = 4000, inputs(1, rows=20)
    got = tiled.reader.read(x, reads=reads, shared=True)[0].reshape(reads, -1).astype(np.float64)
    assert Periphery.of(hw.tile, hw.wires).amplifiers == case[5]

    rng, placement, encoding = np.random.default_rng(3), tiled.design.placement, tiled.design.encodings[0]
    each = np.sqrt(hw.sensing.column_variance) / hw.sensing.v_read
    drawn = np.zeros((reads, placement.outputs))
    for t in range(placement.row_tiles):
        current = each * rng.normal(size=(reads, encoding.columns, case[5])).sum(axis=2)
        taken = current[:, encoding.reference] if encoding.reference.size else 0.0
        drawn += (current[:, : placement.outputs] - taken) * encoding.scale[0, t, : placement.outputs]
    bound = 5 * np.sqrt(4 / reads)
    assert np.abs(got.var(axis=0) / drawn.var(axis=0) - 1).max() < bound
    assert np.abs(got.var(axis=0) / (2 * drawn.var(axis=0)) - 1).min() > bound  # negative control: one too many
    expected = expected_errors(tiled, x, 8).fresh["amplifier"][0]
    assert np.abs(got.var(axis=0) / expected - 1).max() < 5 * np.sqrt(2 / reads)


@pytest.mark.parametrize("case", CASES)
def test_energy_and_area_are_those_of_the_amplifiers_and_drivers_counted(case):
    fields, wires = arrangement(*case[:5])
    tile, wires = Tile(**fields), Wires(**wires)
    ends = Periphery.of(tile, wires)
    assert (ends.amplifiers, ends.drivers) == case[5:]
    placement = Placement.of(tile, 20, 6)
    row = layer_costs(fake_chip(fc=fake_layer(placement=placement, wires=wires))).iloc[0]
    readings = placement.row_tiles * (6 + placement.column_tiles * (case[0] == "offset"))
    each = 9.7e-9 * row["read_interval_s"] + 0.3625e-12
    assert row["energy_sense_j"] == pytest.approx(10 * readings * case[5] * each, rel=1e-9, abs=0)
    assert row["energy_dac_j"] == pytest.approx(10 * 20 * placement.column_tiles * case[6] * 8 * 0.39e-12)
    lines = 8 if tile.paired and wires.pairs == "shared" else 16
    driven = (lines * 0.517e-15 + 11.8e-15) * 0.9**2
    assert row["energy_driver_j"] == pytest.approx(10 * 20 * placement.column_tiles * case[6] * driven, abs=0)
    pairs = 2 if tile.paired else 1  # columns of cells to a reading
    assert row["area_sense_m2"] == pytest.approx(placement.tiles * 16 // pairs * case[5] * 174e-12)
    assert row["area_dac_m2"] == pytest.approx(placement.tiles * 16 * case[6] * (8 * 0.166 + 256 * 2.13) * 1e-12)
    assert row["area_driver_m2"] == pytest.approx(placement.tiles * (2 * 16 * case[6] + lines) * 79e-12)
    of_ends = 16 * case[6] * 0.39e-6 + 16 // pairs * case[5] * 0.97e-9
    rest = 0.1 * adc_energy(8, 1.28e9) * 1.28e9 + 5.2e-6
    assert row["leakage_w"] == pytest.approx(placement.tiles * (of_ends + rest) + 92e-6 + 20 * 8 * 0.88e-9)
