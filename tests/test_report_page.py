"""The page of a chip: its numbers are those of the chip, it is complete or not there, and small for any network."""

from __future__ import annotations

import base64
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from torch import nn

import mho
from mho.cli import app, run
from mho.mapping.errors import MappingError
from mho.mapping.reports.measured import measure
from mho.mapping.reports.network import Node, network_figure, nodes_of, places_of
from mho.mapping.reports.page import Page, engineering, packed
from mho.mapping.reports.tile_maps import MOST_CELLS, chosen, figure_of, maps_of


def data_in(text: str) -> dict[str, Any]:
    """The data of a page, by name."""
    found = re.findall(r'<script type="application/json" id="data-(\w+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(value) for name, value in found}


def unpacked(part: dict[str, Any]) -> np.ndarray[Any, Any]:
    whole = np.frombuffer(base64.b64decode(part["q"]), "<i2").reshape(part["shape"])
    return np.where(whole == -32768, np.nan, part["offset"] + part["scale"] * whole.astype(float))


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [[-3e-6, 0.0], [np.nan, 1e-6]], [[5.0]], [np.nan]])
def test_packed_numbers_come_back(values: Any) -> None:
    wanted = np.array(values)
    span = np.nanmax(wanted) - np.nanmin(wanted) if np.isfinite(wanted).any() else 0
    assert np.allclose(unpacked(packed(wanted)), wanted, rtol=0, atol=span / 60_000, equal_nan=True)


def test_maps_show_the_cells_of_the_chip(small_chip: mho.Chip) -> None:
    places = chosen(small_chip.layers, [])
    assert {name for name, _ in places} == set(small_chip.layers)
    table = small_chip.conductances().table()
    for tile in maps_of(small_chip.layers, places):
        mine = table[(table["layer"] == tile.layer) & (table["tile"] == tile.tile)]
        grid = mine.pivot(index="word_line", columns="bit_line", values="siemens").to_numpy()
        assert np.array_equal(tile.siemens, grid)
        z = figure_of(tile)["data"][0]["z"]
        assert np.allclose(unpacked(z), 1e6 * grid, atol=1e6 * np.ptp(grid) / 60_000)
        error = small_chip.hardware.cell.programming
        assert 0 < np.std(tile.error) < 0.2 * small_chip.hardware.cell.g_max, error


def test_cells_without_errors_are_off_nothing() -> None:
    chip = mho.map(small_cnn(), mho.Hardware.preset("ideal"), calibrate=pictures())
    assert all(np.abs(tile.error).max() == 0 for tile in maps_of(chip.layers, chosen(chip.layers, [])))


def test_tiles_asked_for_come_first_and_the_worst_follow(small_chip: mho.Chip) -> None:
    name = list(small_chip.layers)[-1]
    assert chosen(small_chip.layers, [(name, 0)])[0] == (name, 0)
    other, last = next((name, layer) for name, layer in small_chip.layers.items() if layer.placement.tiles > 1)
    asked = [(other, last.placement.tiles - 1), (name, 0), (other, 0)]
    shown = re.findall(r"<option[^>]*>(.*?), tile (\d+) \(", str(small_chip.report().page(tiles=asked)))
    assert shown[:3] == [(layer, str(tile)) for layer, tile in asked]
    with pytest.raises(MappingError, match=f"tiles: layer '{name}' has tiles 0 to .*, got tile 99"):
        small_chip.report().page(tiles=[(name, 99)])
    with pytest.raises(MappingError, match="tiles: layer 'nothing' is not on tiles"):
        small_chip.report().page(tiles=[("nothing", 0)])


def test_measured_errors_and_clipping_are_those_of_the_chip() -> None:
    net, x = nn.Sequential(nn.Linear(20, 10)).eval(), torch.rand(50, 20)
    narrow = hardware().replace({"dac.range": 0.5})
    chip = mho.map(net, narrow, calibrate=x, seed=1)
    before = chip.layers["0"].counts
    found = measure(chip, [mho.mapping.inputs.batches.Batch((x,))])["0"]
    assert chip.layers["0"].counts == before
    wanted = net(x).detach()
    error = (chip.read(x, read=0) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert found.error == pytest.approx(float(error), rel=1e-5)
    assert found.inputs is not None
    assert found.readings is not None
    assert found.inputs.clipped == pytest.approx(float((x > 0.5).float().mean()))
    assert (found.inputs.high, found.inputs.counts.sum()) == (0.5, x.numel())
    assert found.readings.counts.sum() == 50 * 10 * chip.layers["0"].placement.row_tiles


def test_the_picture_has_all_layers_and_what_they_need(small_chip: mho.Chip) -> None:
    nodes = nodes_of(small_chip.trace, tuple(small_chip.layers))
    assert [node.name for node in nodes if node.on_tiles] == list(small_chip.layers)
    assert all(node.after for node in nodes[1:])
    levels = [level for _, level in places_of(nodes)]
    assert all(levels[k] < levels[n] for n, node in enumerate(nodes) for k in node.after)
    assert len(set(places_of(nodes))) == len(nodes)


def test_branches_stand_beside_each_other() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(x) + self.b(x))

    chip = mho.map(Branching().eval(), hardware(), calibrate=torch.rand(20, 4))
    nodes = nodes_of(chip.trace, tuple(chip.layers))
    places = dict(zip([node.name if node.on_tiles else "sum" for node in nodes], places_of(nodes), strict=True))
    assert places["a"][1] == places["b"][1]
    assert places["a"][0] != places["b"][0]
    assert places["sum"][1] < places["c"][1]


def test_long_names_of_branches_do_not_lie_on_the_next_one() -> None:
    names = [f"encoder.layers.0.self_attention.{part}_proj" for part in "qkv"]
    nodes = [Node("encoder.embedding.of_the_whole_sequence", True), *(Node(name, True, after=[0]) for name in names)]
    figure = network_figure(nodes, dict.fromkeys([node.name for node in nodes], 1.0), "error", {})
    shown = {text for trace in figure["data"] for text in trace.get("text", ())}
    assert nodes[0].name in shown
    assert {text[:3] for text in shown - {nodes[0].name}} == {"..."}
    assert all(len(text) <= 23 and text[3:] in "".join(names) for text in shown - {nodes[0].name})
    hovers = [text for trace in figure["data"] for text in trace.get("hovertext", ())]
    assert all(any(name in text for text in hovers) for name in names)


def test_a_recurrent_layer_is_one_node() -> None:
    chip = mho.map(nn.LSTM(4, 3, batch_first=True).eval(), hardware(), calibrate=torch.rand(8, 6, 4))
    nodes = nodes_of(chip.trace, tuple(chip.layers))
    assert sorted(node.name for node in nodes if node.on_tiles) == sorted(chip.layers)
    places_of(nodes)
    chip.report().page(torch.rand(4, 6, 4))


def test_the_page_is_whole(small_chip: mho.Chip, tmp_path: Path) -> None:
    x = pictures()
    votes = mho.vote(small_chip, x, 3)
    curve = votes.accuracy_over_votes(votes.classes)
    small_chip.report().save(tmp_path / "report.html", x, votes=curve, reduction=mho.reduce(small_chip, x))
    text = (tmp_path / "report.html").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?!#|data:)|@import|url\(', own)  # nothing is fetched
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles[1:] == [
        "The network", "Conductances", "Tiles", "Converters", "Errors of layers", "Errors by source",
        "Energy, area and time", "Votes",
    ]  # fmt: skip
    cells = [
        f for f in data_in(text).values() if f["data"][0].get("type") == "bar" and "conductance" in str(f["layout"])
    ]
    assert sum(cells[0]["data"][0]["y"]) == int(small_chip.report().table["cells"].sum())


@pytest.mark.parametrize("name", ["reram", "pcm", "nand", "ideal"])
def test_all_presets_have_pages(name: str) -> None:
    chip = mho.map(small_cnn(), mho.Hardware.preset(name), calibrate=pictures())
    assert "Energy, area and time" in str(chip.report().page(pictures()))


def test_settings_that_change_what_is_read() -> None:
    changes: list[dict[str, Any]] = [
        {"tile.slices": 2, "cell.levels": 4},
        {"tile.encoding": "offset"},
        {"tile.devices": 2},
        {"adc.per": "tile", "tile.rows": 8},
        {"adc.polarity": "apart"},
        {"dac.scaling": "sample"},
        {"adc.bits": None, "adc.full_scale": None},
        {"dac.bits": None, "dac.range": None},
    ]
    for change in changes:
        chip = mho.map(small_cnn(), hardware().replace(change), calibrate=pictures())
        assert "Converters" in str(chip.report().page(pictures())), change


def test_a_large_network_has_a_small_page() -> None:
    net = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(600, 600), nn.ReLU())]).eval()
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=torch.rand(8, 600))
    assert sum(tile.siemens.size for tile in maps_of(chip.layers, chosen(chip.layers, []))) <= MOST_CELLS
    assert len(str(chip.report().page())) < 15e6


def test_names_are_shown_as_they_are() -> None:
    page = Page("</script><b>", "<i>")
    page.section("a < b", "x & y")
    page.figure({"data": [{"name": "</script><script>alert(1)</script>"}], "layout": {"nan": float("nan")}})
    text = str(page)
    assert "<script>alert" not in text
    assert "<b>" not in text.split("</header>")[0].replace('<div class="card"><b>', "")
    assert data_in(text)["f0"] == {
        "data": [{"name": "</script><script>alert(1)</script>"}], "layout": {"nan": None}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "said"),
    [(3.2e-6, "3.2 uJ"), (0.0, "0 J"), (1.0, "1 J"), (2.5e-10, "250 pJ"), (4e4, "40 kJ"), (1e-20, "0.01 aJ")],
)
def test_quantities_have_prefixes(value: float, said: str) -> None:
    assert engineering(value, "J") == said


def test_bad_names_and_lost_chips(small_chip: mho.Chip, tmp_path: Path) -> None:
    report = small_chip.report()
    with pytest.raises(ValueError, match=r"a page is written to a file that ends in \.html, got .*report\.txt"):
        report.save(tmp_path / "report.txt")
    with pytest.raises(ValueError, match="path: expected a path, got int"):
        report.save(3)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="nowhere"):
        report.save(tmp_path / "nowhere" / "report.html")
    copy = pickle.loads(pickle.dumps(report))
    assert str(copy) == str(report)
    with pytest.raises(ValueError, match=r"this report was pickled and has lost its chip: take chip\.report\(\) anew"):
        copy.save(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder.parent)
    x = pictures()
    labels = mho.load("chip")(x).argmax(1)
    np.savez("data.npz", images=x.numpy(), labels=labels.numpy())
    asked = ["report", "chip", "--data", "data.npz", "--votes", "2", "--out", "page.html"]
    name = next(iter(mho.load("chip").layers))
    assert run(app, [*asked, "--tile", f"{name}:0"]) == 0
    assert capsys.readouterr().out == f"to look at in a browser: {Path('page.html').resolve()}\n"
    assert "<h2>Votes</h2>" in Path("page.html").read_text()
    for wrong in ("conv1", ":1", "conv1:x"):
        assert run(app, [*asked, "--tile", wrong]) == 2
        assert "--tile must be a layer and the number of a tile, as conv1:0" in capsys.readouterr().err
