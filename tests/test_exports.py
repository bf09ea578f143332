"""Tables of layers, tiles and costs, and AccelForge's description: what they hold, and that they are whole or absent.

A file of this form was read by accelforge 1.0.467, whose mapper gave each component the energy that Mho counts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import mho
from mho.cli import app, run
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.chip import Chip

KEYS = {  # of accelforge 1.0.467
    "!Memory": {"name", "size", "leak_power", "area", "tensors", "values_per_action", "actions"},
    "!Toll": {"name", "tensors", "direction", "leak_power", "area", "values_per_action", "actions"},
    "!Container": {"name", "spatial"},
    "!Compute": {"name", "leak_power", "area", "actions"},
}


class Named(nn.Module):
    """Layers whose names are no identifiers of other programs."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("Schicht-µ", nn.Conv2d(3, 8, 3, padding=1))
        self.add_module("Schicht-ß", nn.Conv2d(8, 8, 3, groups=2))
        self.head = nn.Linear(8 * 6 * 6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.get_submodule("Schicht-µ")(x))
        return self.head(self.get_submodule("Schicht-ß")(x).flatten(1))


@pytest.fixture(scope="module")
def chip() -> Chip:
    torch.manual_seed(0)
    x = torch.rand(5, 3, 8, 8)
    hardware = mho.Hardware.preset("reram").replace({"tile.rows": 64, "tile.columns": 32, "name": "Gerät"})
    return mho.map(Named().eval(), hardware, calibrate=x)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.DataFrame(json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("ending", ["csv", "json", "JSON"])
def test_layers(chip: Chip, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"layers.{ending}"
    chip.export(path)
    table = read(path)
    assert list(table["layer"]) == ["Schicht-µ", "Schicht-ß", "head"]
    assert list(table["macs"]) == [27 * 8 * 64, 36 * 4 * 2 * 36, 288 * 10]
    assert list(table["tiles"]) == [1, 2, 5]
    report = chip.report().table
    assert list(table["cells"]) == list(report["cells"])
    assert list(table["kind"]) == ["convolution", "convolution", "linear"]
    assert table["levels"].isna().all()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing is left beside it


def test_a_loaded_chip_gives_the_same_table(chip: Chip, tmp_path: Path) -> None:
    chip.save(tmp_path / "chip")
    for name, one in (("a", chip), ("b", mho.load(tmp_path / "chip", model=Named().eval()))):
        one.export(tmp_path / f"{name}.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_zeros_beside_groups_are_no_multiplications(tmp_path: Path) -> None:
    shared = mho.Hardware.preset("reram").replace({"tile.groups": "diagonal"})
    x = torch.rand(2, 4, 6, 6)
    mho.map(torch.nn.Conv2d(4, 4, 3, groups=4).eval(), shared, calibrate=x).export(tmp_path / "layers.csv")
    assert list(read(tmp_path / "layers.csv")["macs"]) == [4 * 9 * 16]


def test_tiles_cover_the_matrices(chip: Chip, tmp_path: Path) -> None:
    chip.export(tmp_path / "tiles.json", "tiles")
    table = read(tmp_path / "tiles.json")
    held = (table["last_row"] - table["first_row"]) * (table["last_output"] - table["first_output"])
    assert list(held.groupby(table["layer"], sort=False).sum()) == [27 * 8, 2 * 36 * 4, 288 * 10]
    assert table.groupby("layer")["tile"].nunique().to_dict() == {"Schicht-µ": 1, "Schicht-ß": 2, "head": 5}
    assert (table["cells"] == 2 * held).all()


def test_costs_are_those_of_the_schedule(chip: Chip, tmp_path: Path) -> None:
    chip.export(tmp_path / "costs.csv", "costs")
    pd.testing.assert_frame_equal(read(tmp_path / "costs.csv"), layer_costs(chip), check_dtype=False)


class Loader(yaml.SafeLoader):
    pass


Loader.add_multi_constructor(
    "!", lambda loader, tag, node: {"tag": f"!{tag}", **loader.construct_mapping(node, deep=True)}
)


def described(chip: Chip, folder: Path) -> dict[str, Any]:
    chip.export(folder / "chip.yaml", "accelforge")
    return yaml.load((folder / "chip.yaml").read_text("utf-8"), Loader)


def test_the_workload_of_accelforge(chip: Chip, tmp_path: Path) -> None:
    einsums = described(chip, tmp_path)["workload"]["einsums"]
    assert [einsum["name"] for einsum in einsums] == ["Schicht", "Schicht_1", "head"]
    macs = [math.prod(einsum["rank_sizes"].values()) for einsum in einsums]
    assert macs == [27 * 8 * 64, 36 * 4 * 2 * 36, 288 * 10]
    for einsum in einsums:
        assert set(einsum) == {"name", "rank_sizes", "tensor_accesses", "renames"}
        names = [access["name"] for access in einsum["tensor_accesses"]]
        assert set(einsum["renames"].values()) == set(names)
        assert all(name.isascii() and name.isidentifier() for name in names)
        used = {rank.upper() for access in einsum["tensor_accesses"] for rank in access["projection"]}
        assert used == set(einsum["rank_sizes"])
        assert [access.get("output", False) for access in einsum["tensor_accesses"]] == [False, False, True]


def test_the_architecture_of_accelforge(chip: Chip, tmp_path: Path) -> None:
    nodes = described(chip, tmp_path)["arch"]["nodes"]
    for node in nodes:
        assert set(node) - {"tag"} <= KEYS[node["tag"]]
    by_name = {node["name"]: node for node in nodes}
    assert by_name["Tile"]["spatial"] == [{"name": "tiles", "fanout": 8}]
    assert [axis["fanout"] for axis in by_name["Array"]["spatial"]] == [16, 64]
    costs = layer_costs(chip)
    # as often as AccelForge lets each act, where every layer has tiles of its own
    products = 27 * 8 * 64 + 36 * 4 * 2 * 36 + 288 * 10
    inputs = 27 * 64 + 36 * 2 * 36 + 288
    for name, part, count in (("Cells", "array", products), ("DAC", "dac", inputs), ("Driver", "driver", inputs)):
        energy = by_name[name]["actions"][0]["energy"]
        assert energy * count == pytest.approx(costs[f"energy_{part}_j"].sum(), rel=1e-5)
    copies = {"Tile": 8, "Array": 8 * 16 * 64}
    area = sum(
        node["area"] * (8 if node["tag"] == "!Toll" else copies["Array"] if node["name"] == "Cells" else 1)
        for node in nodes
        if "area" in node
    )
    assert area == pytest.approx(costs["area_m2"].sum())
    assert by_name["Buffer"]["leak_power"] == pytest.approx(costs["leakage_w"].sum())


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("layers.txt", "layers", "expected a file that ends in .csv or .json, got 'layers.txt'"),
        ("layers", "layers", "expected a file that ends in"),
        ("chip.csv", "accelforge", "ends in .yaml, got 'chip.csv'"),
        ("chip.csv", "weights", "expected one of layers, tiles, costs, accelforge, got 'weights'"),
    ],
)
def test_other_files_are_refused(chip: Chip, tmp_path: Path, name: str, what: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chip.export(tmp_path / name, what)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")) as error:
        chip.export(tmp_path / "none" / "layers.csv")
    assert ".part" not in str(error.value)


def test_hardware_without_converters_has_layers_but_no_costs(tmp_path: Path) -> None:
    ideal = mho.map(nn.Linear(4, 3).eval(), mho.Hardware.preset("ideal"), calibrate=torch.rand(5, 4))
    ideal.export(tmp_path / "layers.json")
    assert read(tmp_path / "layers.json")["adc_bits"].isna().all()
    for what, ending in (("costs", "csv"), ("accelforge", "yaml")):
        with pytest.raises(ValueError, match="bits"):
            ideal.export(tmp_path / f"chip.{ending}", what)
    assert [file.name for file in tmp_path.iterdir()] == ["layers.json"]


def test_commands(chip: Chip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear = mho.map(nn.Linear(4, 3).eval(), mho.Hardware.preset("reram"), calibrate=torch.rand(5, 4))
    linear.save(tmp_path / "chip")
    out = str(tmp_path / "costs.csv")
    assert run(app, ["export", str(tmp_path / "chip"), "--to", "costs", "--out", out]) == 0
    assert f"costs in {out}" in capsys.readouterr().out
    assert run(app, ["export", str(tmp_path / "chip"), "--to", "costs"]) == 2
    assert "--to costs needs --out FILE" in capsys.readouterr().err

    (tmp_path / "params.json").write_text('{"core": {"rows_max": 96, "speed": 3}, "xbar": {}}')
    target, table = tmp_path / "found.yaml", tmp_path / "fields.json"
    words = ["import", str(tmp_path / "params.json"), "--from", "crosssim", "--out", str(target), "--table", str(table)]
    assert run(app, words) == 0
    said = capsys.readouterr().out
    assert "core.rows_max = 96 -> tile.rows = 96" in said
    assert "not known to this importer: left out:\n  core.speed = 3" in said
    assert mho.Hardware.load(target).tile.rows == 96
    assert {row["theirs"]: row["status"] for row in json.loads(table.read_text())}["core.speed"] == "unknown"

    (tmp_path / "NetWork.csv").write_text("4,4,1,3,3,2,0,1\n1,1,32,1,1,3,0,1\n")
    assert run(app, ["import", str(tmp_path / "NetWork.csv"), "--from", "neurosim"]) == 0
    assert "384 multiply-accumulates a sample" in capsys.readouterr().out
    words = ["import", str(tmp_path / "NetWork.csv"), "--from", "neurosim", "--out", str(target)]
    assert run(app, words) == 2
    assert "give NeuroSim's Param.cpp with --param" in capsys.readouterr().err
