"""Cells as measured on a chip, in the place of drawn ones: `Chip.conductances` and `Chip.with_conductances`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from numpy.testing import assert_allclose
from torch import nn

import mho
from mho.crossbar.wires import effective_conductance
from mho.mapping.errors import MappingError

DRIFT = {
    "kind": "power_law",
    "t_0": "20 s",
    "g_ref": "40 uS",
    "mean": {"offset": 0.05, "slope": 0.0, "low": 0.0, "high": 1.0},
    "spread": {"offset": 0.01, "slope": 0.0, "low": 0.0, "high": 1.0},
}
LAYER = "7"  # linear, 72 to 10


def chip_of(**fields: Any) -> mho.Chip:
    return mho.map(small_cnn(), hardware(**fields), calibrate=pictures(), check=False, seed=3)


def same(one: mho.Chip, other: mho.Chip) -> bool:
    return torch.equal(one.read(pictures(), read=2), other.read(pictures(), read=2))


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({}, lambda chip: chip),
        ({"tile__encoding": "offset", "tile__bias": "array"}, lambda chip: chip),
        ({"cell__levels": 4, "tile__slices": 2}, lambda chip: chip),
        ({}, lambda chip: chip.copy(2)),
        ({"cell__drift": DRIFT}, lambda chip: chip.at(3600.0)),
        ({"cell__drift": DRIFT}, lambda chip: chip.at(3600.0, drift_compensation=True)),
        ({"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm"}, lambda chip: chip),
    ],
    ids=["plain", "offset", "slices", "copy", "drift", "compensated", "wires"],
)
def test_its_own_cells_read_the_same_bits(fields: dict[str, Any], change: Any, tmp_path: Path) -> None:
    chip = change(chip_of(**fields))
    given = chip.with_conductances(chip.conductances())
    assert same(given, chip)
    assert given.copy_index == chip.copy_index
    given.save(tmp_path / "chip")
    again = mho.load(tmp_path / "chip")
    assert same(again, chip)
    for name, tables in chip.conductances().items():
        assert all(np.array_equal(a, b) for a, b in zip(again.conductances(name)[name], tables, strict=True))


def test_tables_have_a_place_for_each_cell() -> None:
    chip = chip_of()
    found = chip.conductances()
    assert list(found) == list(chip.layers)
    placement = chip.layers["3"].placement
    assert [table.shape for table in found["3"]] == [(1, 2, placement.rows, 2)] * 4
    assert all(table.dtype == np.float32 and (table >= 0).all() for table in found["3"])
    assert list(chip.conductances(LAYER)) == [LAYER]


def test_one_layer_is_given_and_the_others_stay() -> None:
    chip = chip_of()
    (table,) = chip.conductances(LAYER)[LAYER]
    table *= 2
    double = chip.with_conductances({LAYER: [table]})
    exact, twice = (c.layers[LAYER].weight.double() for c in (chip, double))
    assert torch.allclose(twice, 2 * exact, rtol=1e-3, atol=1e-3)
    assert double.layers["0"].tiles is chip.layers["0"].tiles
    table[:] = 0  # which is the caller's
    assert np.array_equal(double.conductances(LAYER)[LAYER][0].max(), double.layers[LAYER].tiles.cells.table[0].max())
    assert double.calls == 0
    assert not same(double, chip)
    assert same(chip, chip_of())  # nothing of the first has changed


def test_given_cells_belong_to_one_chip_at_one_time() -> None:
    chip = chip_of(cell__drift=DRIFT)
    given = chip.with_conductances(chip.conductances(LAYER))
    with pytest.raises(ValueError, match=r"^layer '7': its cells are known of one chip alone, .* no copy 1$"):
        given.copy(1)
    with pytest.raises(ValueError, match=r"there is no copy 1$"):
        mho.vote(given, pictures(), 2, copies=2)
    with pytest.raises(ValueError, match=r"^time_s must be 0, when the cells were measured, got 3600$"):
        given.at(3600.0)
    assert same(given.copy(0), given)
    assert same(given.at(0.0), given)
    other = chip.copy(1)
    assert same(other.with_conductances(other.conductances()).copy(1), other)
    assert mho.vote(given, pictures(), 2).counts.sum() == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"seven": [g]}, "layer 'seven': is not on tiles; layers on tiles are 0, 3, 7$"),
        (lambda g: {7: [g]}, "layer 7: is not on tiles"),
        (lambda g: [g], "conductances must be given by layer, or as a table .* got list$"),
        (lambda g: {LAYER: g}, r"layer '7': conductances must be a list of arrays .* got ndarray$"),
        (lambda g: {LAYER: [g, g]}, r"layer '7': conductances must have shape \(1, 2, 72, 10\) for each of 1 group"),
        (lambda g: {LAYER: [g[0]]}, r"layer '7': conductances must have shape .* got \[\(2, 72, 10\)\]$"),
        (lambda g: {LAYER: []}, r"layer '7': conductances must have shape .* got \[\]$"),
        (lambda g: {LAYER: [g - 1]}, "layer '7': conductances must be finite and at least 0$"),
        (lambda g: {LAYER: [g * np.nan]}, "layer '7': conductances must be finite and at least 0$"),
        (lambda g: {LAYER: [g.astype(float) * 1e300]}, "layer '7': conductances must be finite and at least 0$"),
        (lambda g: {LAYER: [g * 1e6]}, "layer '7': conductances must be siemens, at most 10,000 g_max = 0.4, got "),
        (lambda g: {LAYER: ["40 uS"]}, "layer '7': conductances must be arrays of numbers"),
    ],
)
def test_what_is_no_table_is_one_line(change: Any, message: str) -> None:
    chip = chip_of()
    (table,) = chip.conductances(LAYER)[LAYER]
    with pytest.raises(MappingError, match=f"^{message}") as caught:
        chip.with_conductances(change(table))
    assert "\n" not in str(caught.value)
    with pytest.raises(MappingError, match="layer 'no': is not on tiles"):
        chip.conductances("no")


def test_shared_layers_are_given_once() -> None:
    shared = nn.Linear(6, 6)
    chip = mho.map(nn.Sequential(shared, nn.ReLU(), shared).eval(), hardware(), calibrate=torch.rand(8, 6))
    assert list(chip.conductances()) == ["0"]
    x = torch.rand(4, 6)
    assert torch.equal(chip.with_conductances(chip.conductances()).read(x, read=1), chip.read(x, read=1))


@pytest.fixture(scope="module")
def given_chip() -> mho.Chip:
    return chip_of()


HARD = [
    {},
    {"tile__encoding": "offset", "tile__bias": "array"},
    {"cell__levels": 4, "tile__slices": 2, "wires__pairs": "apart"},
    {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm", "wires__order": "conductance"},
    {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm", "wires__pairs": "shared"},
    {"tile__devices": 2, "tile__rows": 20, "tile__columns": 8},
]


FORMS = [(fields, form) for fields in HARD for form in ("parquet", "npz", "csv")]
FORMS += [(HARD[1], "frame"), (HARD[2], "arrow"), (HARD[5], "shuffled")]


@pytest.mark.parametrize(("fields", "form"), FORMS)
def test_the_table_reads_the_same_bits(fields: dict[str, Any], form: str, tmp_path: Path) -> None:
    chip = chip_of(**fields)
    found = chip.conductances()
    if form in ("parquet", "npz", "csv"):
        given: Any = tmp_path / f"cells.{form}"
        found.save(given)
        assert [path.name for path in tmp_path.iterdir()] == [given.name]
    else:
        given = found.table()
        assert len(given) == sum(layer.placement.cells for layer in chip.layers.values()) * (
            1 + ("tile__devices" in fields)
        )
        given = pa.Table.from_pandas(given) if form == "arrow" else given
        given = given.sample(frac=1, random_state=0) if form == "shuffled" else given
    again = chip.with_conductances(given)
    assert same(again, chip)
    for name, arrays in found.items():
        assert all(np.array_equal(a, b) for a, b in zip(arrays, again.conductances()[name], strict=True))


def test_a_line_of_the_table_is_a_place_on_a_tile() -> None:
    chip = chip_of(tile__rows=40, tile__columns=8)
    table = chip.conductances().table(LAYER)
    names = ["layer", "slice", "polarity", "tile", "word_line", "bit_line", "siemens"]
    assert list(table.columns) == names
    assert len(table) == 72 * 20
    assert set(table["tile"]) == set(range(6))  # 2 row tiles of 36 by 3 of 4 outputs
    (cells,) = chip.conductances(LAYER)[LAYER]
    at = table.set_index(["tile", "word_line", "bit_line"])["siemens"]
    assert at[0, 5, 3] == cells[0, 1, 5, 1]  # pairs are side by side: the second cell of output 1
    assert at[4, 7, 6] == cells[0, 0, 36 + 7, 4 + 3]
    assert table.equals(chip.conductances().table(LAYER))
    everything = chip.conductances().table()
    assert list(dict.fromkeys(everything["layer"])) == list(chip.layers)
    with pytest.raises(MappingError, match=r"^layer 'no': is not among 7$"):
        chip.conductances(LAYER).table("no")


def test_wires_and_table_have_the_same_places() -> None:
    """Currents through the wires of a tile, cell by cell as the table has them, are those of the effective cells."""
    wires = {"wires__r_word_line": "5 ohm", "wires__r_bit_line": "3 ohm"}
    for more in ({}, {"wires__pairs": "shared"}, {"wires__pairs": "apart"}, {"wires__order": "conductance"}):
        chip = chip_of(**wires, **more, tile__rows=80)
        tiles, table = chip.layers[LAYER].tiles, chip.conductances().table(LAYER)
        grid = table.pivot(index="word_line", columns="bit_line", values="siemens").to_numpy()
        kinds = table.pivot(index="word_line", columns="bit_line", values="polarity").to_numpy()
        found = effective_conductance(grid, r_word_line=5.0, r_bit_line=3.0)
        signed = np.where(kinds == 1, -found, found).sum()
        assert_allclose(signed, tiles.packed[0].conductances.sum(dtype=float) * 40e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:0], r"conductances: the table has no lines$"),
        (lambda t: t.iloc[1:], r"layer '7': tile 0, word line 0, bit line 0: this cell is missing$"),
        (lambda t: t[t["word_line"] != 3], r".*word line 3, bit line 0: this cell is missing, as are 19 more of this"),
        (lambda t: pd.concat([t, t.iloc[30:31]]), r".* word line 1, bit line 10: this cell is there 2 times$"),
        (lambda t: t.assign(tile=7), r"layer '7': tile 7 is none of its 3 tiles, which are numbered from 0$"),
        (
            lambda t: t.assign(bit_line=t["bit_line"] + 1),
            r".* bit line 20: there is no such cell, .* 24 word lines and 20 ",
        ),
        (lambda t: t.assign(word_line=-1), r".* word line -1, bit line 0: there is no such cell"),
        (lambda t: t.assign(siemens=-1e-6), r".* bit line 0: siemens must be finite and at least 0, got -1e-06$"),
        (lambda t: t.assign(siemens=np.nan), r".* bit line 0: siemens must be finite and at least 0, got nan$"),
        (lambda t: t.assign(siemens="40 uS"), r"layer '7': the column siemens must hold numbers, got "),
        (lambda t: t.assign(siemens=40.0), r"layer '7': conductances must be siemens, at most 10,000 g_max"),
        (lambda t: t.assign(word_line=0.5), r"layer '7': the column word_line must hold whole numbers$"),
        (lambda t: t.assign(polarity=0), r".* word line 0, bit line 1: its polarity must be 1, got 0$"),
        (lambda t: t.assign(slice=1), r".* word line 0, bit line 0: its slice must be 0, got 1$"),
        (lambda t: t.drop(columns="tile"), r"layer '7': the table must have the columns .*, got none named tile$"),
        (lambda t: t.drop(columns="layer"), "conductances: .* no column 'layer'"),
        (lambda t: t.assign(layer="nine"), r"layer 'nine': is not on tiles; layers on tiles are 0, 3, 7$"),
        (lambda t: t.assign(layer=None), r"conductances: the column 'layer' must name the layer of each cell"),
    ],
)
def test_a_table_of_other_cells_is_one_line(change: Any, message: str, given_chip: mho.Chip, tmp_path: Path) -> None:
    table = change(given_chip.conductances().table(LAYER).astype({"layer": object}))
    table.to_parquet(tmp_path / "cells.parquet", index=False)
    for given in (table, tmp_path / "cells.parquet"):
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            given_chip.with_conductances(given)
        assert "\n" not in str(caught.value)


def test_files_that_are_no_tables_are_one_line(tmp_path: Path) -> None:
    chip = chip_of()
    for name in ("a.parquet", "a.npz", "a.csv"):
        (tmp_path / name).write_bytes(b'"nothing of the kind')
        with pytest.raises(ValueError, match=rf"^conductances: file .*{name} holds no ") as caught:
            chip.with_conductances(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(FileNotFoundError):
            chip.with_conductances(tmp_path / f"no{name}")
    with pytest.raises(ValueError, match=r"^conductances are written to .parquet, .npz or .csv, got .*a.txt$"):
        chip.conductances().save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"^conductances are read from .parquet, .npz or .csv, got a.txt$"):
        chip.with_conductances("a.txt")
    np.savez(tmp_path / "b.npz", **{LAYER: np.zeros(3)})
    with pytest.raises(MappingError, match=r"^layer '7': conductances must be "):
        chip.with_conductances(tmp_path / "b.npz")


def test_a_chip_of_one_layer_without_a_name_is_written_too(tmp_path: Path) -> None:
    chip = mho.map(nn.Linear(6, 4), hardware(), calibrate=torch.rand(8, 6))
    x = torch.rand(3, 6)
    for name in ("a.parquet", "a.npz", "a.csv"):
        chip.conductances().save(tmp_path / name)
        assert torch.equal(chip.with_conductances(tmp_path / name).read(x, read=1), chip.read(x, read=1))


def test_the_old_name_says_the_new_one() -> None:
    with pytest.raises(AttributeError, match=r"^Chip.with_cells is Chip.with_conductances since version 0.3$"):
        chip_of().with_cells  # noqa: B018
