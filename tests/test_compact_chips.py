"""Chips that are saved without their cells, which are drawn again and must be the same; and what saved chips take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, pictures, small_cnn
from torch import nn

import mho
from mho.cli import app, run
from mho.crossbar import faults
from mho.crossbar.cells import Drawn
from mho.crossbar.kept import arrays_of, digest_of
from mho.crossbar.stacked import apart, filled, stacked
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.saved import store
from mho.mapping.saved.store import TENSORS, TEXT

WIRED = {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm"}
TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}


def same_bits(one: mho.Chip, other: mho.Chip, x: torch.Tensor) -> bool:
    return all(torch.equal(one.read(x, read=read), other.read(x, read=read)) for read in (0, 3))


def inputs(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 40, generator=torch.Generator().manual_seed(4))


def linear(wire_compensation: Any = None, backend: str = "numba", **fields: object) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    options: dict[str, Any] = {"wire_compensation": wire_compensation, "backend": backend, "seed": 3}
    return mho.map(net, hardware(**fields), calibrate=inputs(8), **options)


def convolutions(**fields: object) -> mho.Chip:
    return mho.map(small_cnn(), hardware(**fields), calibrate=pictures())


def preset(name: str, **fields: object) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    return mho.map(net, mho.Hardware.preset(name).replace(dict(fields)), calibrate=inputs(8))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def lstm() -> mho.Chip:
    torch.manual_seed(0)
    return mho.map(Recurrent().eval(), hardware(), calibrate=inputs(8)[None])


SLICED = {"tile__slices": 2, "cell__levels": 16}
KINDS: dict[str, Callable[[], mho.Chip]] = {
    "convolutions": convolutions,
    "groups of slices": lambda: convolutions(**SLICED, tile__encoding="offset"),
    "bias on the array": lambda: linear(tile__bias="array"),
    "residual slices": lambda: linear(tile__slices=2, tile__slicing="residual", tile__significance=8.0),
    "joined slices": lambda: linear(**SLICED, tile__join="mirror", tile__mirror_mismatch=0.02, adc__per="tile"),
    "bit lines apart": lambda: linear(adc__polarity="apart"),
    "no converters": lambda: linear(dac__bits=None, dac__range=None, adc__bits=None, adc__full_scale=None),
    "slow noise": lambda: linear(cell__read_noise=TELEGRAPH, sensing__read_interval="0.2 us"),
    "gains of a copy": lambda: linear("gain", **WIRED).copy(3),
    "programmed for wires": lambda: linear("program", **WIRED),
    "own seeds": lambda: linear(seeds__program=5, seeds__read=6),
    "stuck cells": lambda: linear(cell__stuck={"at_g_min": 0.05, "bit_lines": 0.1}),
    "equalised": lambda: linear(dac__equalise=0.5),
    "a scale for each sample": lambda: linear(dac__scaling="sample"),
    "numpy": lambda: linear(backend="numpy"),
    "aged and compensated": lambda: preset("pcm").at(86400.0, drift_compensation=True),
    "recalibrated": lambda: preset("pcm").at(1e4).recalibrate(inputs(64)),
    "reduced": lambda: mho.reduce(linear(), inputs(8), reads=2).model(5),
    "nand": lambda: preset("nand"),
    "recurrent": lstm,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_compact_chip_is_the_chip_that_was_saved(make, tmp_path):
    chip = make()
    x = inputs(8)[None] if make is lstm else pictures() if "3" in chip.layers else inputs()
    chip.save(tmp_path / "compact", compact=True)
    chip.save(tmp_path / "whole")
    assert not any(".mean" in name for name in store.load_file(tmp_path / "compact" / TENSORS))
    other = mho.load(tmp_path / "compact", mmap=make is convolutions, backend=chip.backend)
    other.save(tmp_path / "again")
    assert same_bits(chip, other, x)
    assert same_bits(chip.copy(1), other.copy(1), x)
    for name, layer in chip.layers.items():
        for mine, its in zip(arrays_of(layer.tiles), arrays_of(other.layers[name].tiles), strict=True):
            assert all(np.array_equal(mine[key], its[key]) and mine[key].dtype == its[key].dtype for key in mine)
    for file in (TEXT, TENSORS):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    mho.load(tmp_path / "whole").save(tmp_path / "again", compact=True)
    assert (tmp_path / "again" / TENSORS).read_bytes() == (tmp_path / "compact" / TENSORS).read_bytes()


def test_cells_are_drawn_by_the_backend_that_drew_them(tmp_path):
    """Its random numbers may be others than those of the backend that reads."""
    chip = linear(backend="numpy")
    assert chip.layers["0"].tiles.digest() != linear().layers["0"].tiles.digest()
    chip.save(tmp_path, compact=True)
    other = mho.load(tmp_path)
    assert type(other.backend) is type(linear().backend)
    assert other.layers["0"].tiles.digest() == chip.layers["0"].tiles.digest()


def taken(chip: mho.Chip, folder: Path, **options: bool) -> float:
    """Bytes a weight."""
    chip.save(folder, **options)
    weights = sum(layer.matrix.weights.size for layer in chip.layers.values())
    return sum(file.stat().st_size for file in folder.iterdir()) / weights


def test_bytes_a_weight(tmp_path):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(512, 500), nn.ReLU(), nn.Linear(500, 512)), torch.rand(2, 512)
    for name in ("reram", "pcm", "nand", "ideal"):
        chip = mho.map(net, mho.Hardware.preset(name), calibrate=x, check=False)
        assert taken(chip, tmp_path) < 8.5
        assert taken(chip, tmp_path, compact=True) < 4.5
    sliced = mho.map(net, mho.Hardware.preset("reram").replace({"tile.slices": 2, "cell.levels": 16}), calibrate=x)
    assert 12 < taken(sliced, tmp_path) < 12.5  # 4 for each pair of cells, and 4 for the weight
    assert taken(sliced, tmp_path, compact=True) < 4.5


def test_a_depthwise_convolution_takes_little_more_than_its_cells(tmp_path):
    """A group for each channel: 9 cells, and what was a name, panels and counts for each before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, groups=128), nn.ReLU(), nn.Conv2d(128, 512, 1)).eval()
    x = torch.rand(1, 128, 4, 4)
    chip = mho.map(net, mho.Hardware.preset("reram"), calibrate=x)
    assert taken(chip, tmp_path) < 8.65  # 14 with arrays for each group
    assert len(store.load_file(tmp_path / TENSORS)) < 50
    assert same_bits(chip, mho.load(tmp_path), x)
    assert taken(chip, tmp_path, compact=True) < 4.3
    assert same_bits(chip, mho.load(tmp_path), x)


def test_cells_of_groups_are_counted_together(tmp_path):
    chip = convolutions()
    chip.save(tmp_path)
    loaded = mho.load(tmp_path)
    for name, layer in chip.layers.items():
        mine, its = ([p.histogram for p in each.tiles.packed] for each in (layer, loaded.layers[name]))
        assert np.array_equal(sum(mine), sum(its))
        assert digest_of(layer.tiles) == digest_of(loaded.layers[name].tiles)
    loaded.save(tmp_path, compact=True)
    digests = {name: digest_of(layer.tiles, apart=True) for name, layer in chip.layers.items()}
    assert digests["3"] != digest_of(chip.layers["3"].tiles)
    forged(tmp_path, lambda text, _: [text["layers"][name]["cells"].update(digest=d) for name, d in digests.items()])
    assert same_bits(chip, mho.load(tmp_path), pictures())  # a file that was written before


def test_groups_of_which_some_have_no_weights(tmp_path):
    """Cells that are all alike have no array of variances: arrays of other shapes in other groups."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)).eval()
    with torch.no_grad():
        net[0].weight[::2] = 0
        net[0].weight[-1] = 0
    quiet = {"cell__programming": {"kind": "none"}, "cell__stuck": {}}
    chip, x = mho.map(net, hardware(**quiet), calibrate=torch.rand(2, 8, 6, 6)), torch.rand(2, 8, 6, 6)
    sizes = {group.planes.variance.size for group in chip.layers["0"].tiles.packed}
    assert len(sizes) == 2  # it is such a chip
    for compact in (False, True):
        chip.save(tmp_path, compact=compact)
        assert same_bits(chip, mho.load(tmp_path), x)


def test_stacked_arrays_come_apart_as_they_were():
    generator = np.random.default_rng(0)
    groups = [
        {
            "counts": generator.integers(0, 300, 7),
            "histogram": generator.integers(0, 200, 4),
            "large": np.array([2**40, g]),
            "below": np.array([-1, g]),
            "padded": np.pad(generator.random((2, 3), np.float32), [(0, 0), (0, 5)]),
            "zero": np.zeros((2, 6), np.float32),
            "signed": np.array([1.0, 0.0, 0.0, 0.0, -0.0 if g == 1 else 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
            "empty": np.empty((0, 3, 4), np.float32),
            "other": np.ones(g + 1),
            "bias": np.ones(2, np.float32),
        }
        for g in range(3)
    ]
    made = stacked(groups)
    assert made["all.counts"].dtype == np.uint16
    assert np.array_equal(made["all.histogram"], sum(group["histogram"] for group in groups))
    assert made["all.padded"].shape == (3, 2, 3)
    assert made["all.zero"].shape == (3, 2, 1)
    assert made["all.signed"].shape == (3, 5)
    assert {"0.other", "1.other", "2.other"} < made.keys()
    assert not any(name.endswith("bias") for name in made)
    found, used = apart(made, list(groups[0]), 3)
    assert used == made.keys()
    told = {**made, "all.histogram": np.stack([group["histogram"] for group in groups])}  # of each, as it was once
    for mine, its in zip(groups, apart(told, list(groups[0]), 3)[0], strict=True):
        assert np.array_equal(mine["histogram"], its["histogram"])
    groups[0]["histogram"] = made["all.histogram"].astype(np.int64)
    groups[1]["histogram"], groups[2]["histogram"] = np.zeros((2, 4), np.int64)
    for mine, its in zip(groups, found, strict=True):
        assert mine.keys() - its.keys() == {"bias"}
        for key, array in its.items():
            back = filled(array, mine[key].shape, mine[key].dtype)
            assert back.tobytes() == mine[key].tobytes()
            assert back.dtype == mine[key].dtype
    with pytest.raises(KeyError, match=r"1\.other"):
        apart({name: array for name, array in made.items() if name != "1.other"}, list(groups[0]), 3)
    assert stacked(groups[:1]).keys() == {f"0.{key}" for key in groups[0]}


@pytest.mark.parametrize("change", ["cells", "seed"])
def test_other_cells_are_refused(change, tmp_path, monkeypatch):
    chip = linear()
    chip.save(tmp_path, compact=True)
    settled = Drawn.settled

    def other(self: Drawn, design: Any, targets: Any, place: Any, backend: Any) -> Any:
        g = settled(self, design, targets, place, backend)
        if design.matrix.name == "2":
            g[0] *= np.float32(1 + 2**-20)
        return g

    if change == "cells":
        monkeypatch.setattr(Drawn, "settled", other)
        monkeypatch.setattr(store.metadata, "version", lambda name: f"9.9 {name}")
    else:
        text = json.loads((tmp_path / TEXT).read_bytes().partition(b"\n")[2])
        store.write(tmp_path, {**text, "seed": 4}, store.load_file(tmp_path / TENSORS))
    with pytest.raises(CheckpointError) as caught:
        mho.load(tmp_path)
    said = str(caught.value)
    layer = "2" if change == "cells" else "0"
    assert said.startswith(f"chip {tmp_path}: layer '{layer}': its cells, drawn again, are not those that were saved")
    assert "map the model again" in said
    assert ("now by backend numba of mho 9.9 mho" in said) is (change == "cells")
    assert "\n" not in said


def test_measured_cells_are_not_saved_compact(tmp_path):
    chip = linear()
    chip.save(tmp_path / "chip")
    given = chip.with_conductances({"2": chip.conductances("2")["2"]})
    with pytest.raises(MappingError, match=r"^chip cannot be saved compact: layer '2': its cells are given one by one"):
        given.save(tmp_path / "chip", compact=True)
    assert same_bits(chip, mho.load(tmp_path / "chip"), inputs())
    assert [file.name for file in tmp_path.iterdir()] == ["chip"]
    with pytest.raises(MappingError, match="compact must be True or False, got 'yes'"):
        chip.save(tmp_path / "other", compact="yes")


def forged(folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    text = json.loads((folder / TEXT).read_bytes().partition(b"\n")[2])
    tensors = store.load_file(folder / TENSORS)
    change(text, tensors)
    store.write(folder, text, tensors)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text, tensors: text.pop("programming"), "programming: missing, and cells are to be drawn again"),
        (lambda text, tensors: text["programming"].update(backend=1), "programming.backend = 1"),
        (lambda text, tensors: text["layers"]["0"]["cells"].update(digest="0" * 31), "cells.digest = '0+'"),
        (lambda text, tensors: text["layers"]["0"]["cells"].update(digest="0" * 32), r"layer '0': .* was 0{32};"),
        (lambda text, tensors: text["layers"]["0"]["cells"].update(kind="given"), "of kind given are not drawn again"),
        (lambda text, tensors: text["layers"]["0"]["cells"].pop("digest"), "layer '0': its tensor '0.mean' is missing"),
        (lambda text, tensors: text["programming"].update(backend="other"), None),
        (lambda text, tensors: tensors.pop("layer.0.0.scale"), "layer '0': its tensor '0.scale' is missing"),
        (lambda text, tensors: tensors["layer.0.0.scale"].fill_(torch.nan), "layer '0': 0.scale must be from"),
        (lambda text, tensors: tensors["layer.0.0.scale"].mul_(2), "its cells, drawn again, are not those"),
        (lambda text, tensors: tensors["layer.0.weights"].neg_(), "its cells, drawn again, are not those"),
        (lambda text, tensors: tensors.update({"layer.0.0.mean": torch.zeros(2)}), "layer '0': it has no 0.mean"),
        (
            lambda text, tensors: tensors.update({"layer.0.all.scale": tensors["layer.0.0.scale"][None].clone()}),
            "layer '0': it has no all.scale",
        ),
    ],
)
def test_compact_chips_that_do_not_fit_themselves(change, match, tmp_path):
    chip = linear()
    chip.save(tmp_path, compact=True)
    forged(tmp_path, change)
    if match is None:  # a backend that is not here: that which is asked for draws the cells
        assert same_bits(chip, mho.load(tmp_path), inputs())
        return
    with pytest.raises(CheckpointError, match=match) as caught:
        mho.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t[:2], r"layer '3': all.mean must be an array for each of 4 groups, got shape \(2, "),
        (lambda t: t[..., :3], "its hardware is not that which its cells were programmed on"),  # filled with zeros
        (lambda t: t[..., :-1, :], "does not fit the tiles of its hardware"),
        (lambda t: t.to(torch.float32), "does not fit the tiles of its hardware"),
        (lambda t: t[0], "all.mean must be an array for each of 4 groups"),
        (lambda t: torch.tensor(1, dtype=torch.int16), "layer '3': all.mean must be an array for each of 4 groups"),
    ],
)
def test_stacked_arrays_of_another_shape_are_refused(change, match, folder):
    def spoil(text: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["layer.3.all.mean"] = change(tensors["layer.3.all.mean"]).contiguous()

    forged(folder, spoil)
    with pytest.raises(CheckpointError, match=match):
        mho.load(folder)


def test_a_map_of_stuck_cells_that_is_gone_is_told(tmp_path):
    stuck = np.zeros((1, 1, 2, 40, 20), np.int8)
    stuck[..., 3] = 2
    np.savez(tmp_path / "map.npz", **{"0": stuck})
    chip = linear(cell__stuck={"map": str(tmp_path / "map.npz")})
    chip.save(tmp_path / "chip", compact=True)
    assert same_bits(chip, mho.load(tmp_path / "chip"), inputs())
    (tmp_path / "map.npz").unlink()
    faults._maps.cache_clear()  # as another process finds it
    with pytest.raises(CheckpointError, match=r"map\.npz") as caught:
        mho.load(tmp_path / "chip")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compact", [False, True])
def test_each_layer_is_told(compact, tmp_path):
    linear().save(tmp_path, compact=compact)
    told: list[tuple[int, int]] = []
    mho.load(tmp_path, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_commands_save_and_read_them(shop, refused, capsys):
    assert run(app, [*shop.map(), "--compact"]) == 0
    assert mho.load("out/chip").layers
    assert not any(".mean" in name for name in store.load_file(Path("out/chip") / TENSORS))
    capsys.readouterr()
    for _ in range(2):
        assert run(app, ["vote", "out/chip", "--data", "data.npz", "--votes", "2", "--images", "20"]) == 0
        run(app, shop.map())
    said = [line for line in capsys.readouterr().out.splitlines() if "votes" in line]
    assert len(set(said)) == 1
    given = shop.map()
    at = given.index("--out")
    refused([*given[:at], *given[at + 2 :], "--compact"], "--compact is about the chip that is saved")
