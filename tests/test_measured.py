"""Cells as measured on a chip, in the place of those that are drawn: `Chip.conductances` and `Chip.with_cells`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from torch import nn

import mho
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
    given = chip.with_cells(chip.conductances())
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
    double = chip.with_cells({LAYER: [table]})
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
    given = chip.with_cells(chip.conductances(LAYER))
    with pytest.raises(ValueError, match=r"^layer '7': its cells are known of one chip alone, .* no copy 1$"):
        given.copy(1)
    with pytest.raises(ValueError, match=r"there is no copy 1$"):
        mho.vote(given, pictures(), 2, copies=2)
    with pytest.raises(ValueError, match=r"^time_s must be 0, when the cells were measured, got 3600$"):
        given.at(3600.0)
    assert same(given.copy(0), given)
    assert same(given.at(0.0), given)
    other = chip.copy(1)
    assert same(other.with_cells(other.conductances()).copy(1), other)
    assert mho.vote(given, pictures(), 2).counts.sum() == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"seven": [g]}, "layer 'seven': is not on tiles; layers on tiles are 0, 3, 7$"),
        (lambda g: {7: [g]}, "layer 7: is not on tiles"),
        (lambda g: [g], "conductances must be given by layer, got list$"),
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
        chip.with_cells(change(table))
    assert "\n" not in str(caught.value)
    with pytest.raises(MappingError, match="layer 'no': is not on tiles"):
        chip.conductances("no")


def test_shared_layers_are_given_once() -> None:
    shared = nn.Linear(6, 6)
    chip = mho.map(nn.Sequential(shared, nn.ReLU(), shared).eval(), hardware(), calibrate=torch.rand(8, 6))
    assert list(chip.conductances()) == ["0"]
    x = torch.rand(4, 6)
    assert torch.equal(chip.with_cells(chip.conductances()).read(x, read=1), chip.read(x, read=1))


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "docs" / "mapping.md").read_text(encoding="utf-8")
    example = text.split("## Measured cells\n")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "mapping.md", "exec"), {})
