"""Explanations: planted causes are found, of nothing wrong nothing is claimed, and what is switched off is off."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ideal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mho
from mho.cli import app, run
from mho.mapping.explaining.bench import Bench
from mho.mapping.explaining.differences import Scores
from mho.mapping.explaining.groups import split
from mho.mapping.explaining.partly import Variant, View
from mho.mapping.explaining.picture import draw
from mho.mapping.explaining.sources import Present, without

ROOT = Path(__file__).parents[1]
SAMPLES = 300
HARDWARE = ideal(
    dac__bits=8,
    dac__range="calibrated",
    adc__bits=8,
    adc__full_scale="calibrated",
    cell__programming={"kind": "saturating", "s_max": 5e-7, "g_0": 1e-5},
    cell__read_noise={"kind": "relative", "fraction": 0.01},
    tile__rows=64,
    tile__columns=64,
)


def network() -> nn.Sequential:
    """Random linear layers 0, 2 and 4 with ReLU between, from 12 values to 5 classes."""
    torch.manual_seed(0)
    sizes = [12, 24, 24, 5]
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b)
        linear.weight.data.normal_(0, (2 / a) ** 0.5)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def data(net: nn.Module, samples: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of which the network is surest, and its answers, which are right."""
    x = torch.rand(20 * samples, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        y = net(x)
    best = y.topk(2).values
    keep = ((best[:, 0] - best[:, 1]) / best[:, 0].abs()).argsort(descending=True)[:samples].sort().values
    return x[keep], y[keep].argmax(1)


def explained(planted: dict, hardware: mho.Hardware = HARDWARE, **options) -> mho.Explanation:
    """Of a network of three layers whose layer `2` has other hardware."""
    net = network()
    x, y = data(net)
    chip = mho.map(net, hardware.replace({"layers": {"2": planted} if planted else {}}), calibrate=x)
    return mho.explain(chip, x, y, **options)


SLICED = {"tile.slices": 2, "tile.slicing": "shares", "tile.significance": 1.0}
PLANTED = {
    "ADC rounding": {"adc.bits": 2},
    "ADC clipping": {"adc.full_scale": 3e-7},
    "DAC rounding": {"dac.bits": 1},
    "DAC clipping": {"dac.range": 0.05},
    "stuck cells": {"cell.stuck": {"at_g_max": 0.2}},
    "programming error": {"cell.programming": {"kind": "saturating", "s_max": 4e-5, "g_0": 1e-5}},
    "amplifier": {"sensing.amplifier_noise": 3e-8},
    "read noise of cells": {"cell.read_noise": {"kind": "relative", "fraction": 1.5}},
    "gain": {"sensing.gain_noise": 1.0},
    "output noise": {"output_noise.sigma_add": 3.0},
    "wires": {"wires": {"r_word_line": 2000.0, "r_bit_line": 2000.0}},
    "levels of conductance": SLICED | {"cell.levels": 2},
}


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_cause_is_named(source):
    found = explained(PLANTED[source], most=26)
    assert found.lost
    assert found.worst_layer == "2"
    assert found.worst_source == source
    assert found.worst_place == (source, "2")
    rows = found.layers.set_index("layer")
    assert not rows.loc["0", "gain_sure"]
    assert not rows.loc["0", "cost_sure"]


def test_where_nothing_is_wrong_nothing_is_claimed():
    found = explained({})
    assert not found.lost
    assert (found.worst_layer, found.worst_source, found.worst_place) == (None, None, None)
    assert not found.layers["gain_sure"].any()
    assert not found.sources["gain_sure"].any()
    assert not len(found.tries)
    assert len(found.findings) == 1
    assert "no loss is shown" in found.findings[0]


@pytest.fixture(scope="module")
def drifted():
    """A network on cells that have drifted, its inputs and answers."""
    net = network()
    x, y = data(net)
    drift = {
        "kind": "power_law",
        "t_0": 20.0,
        "g_ref": 1e-4,
        "mean": {"offset": 0.1, "slope": 0.0, "low": 0.05, "high": 0.2},
        "spread": {"offset": 0.1, "slope": 0.0, "low": 0.05, "high": 0.2},
    }
    chip = mho.map(net, HARDWARE.replace({"cell.drift": drift}), calibrate=x).at(1e6)
    return chip, x, y, mho.explain(chip, x, y, calibrate=x)


def test_drift_is_named_and_what_is_tried_is_what_it_says(drifted, tmp_path):
    chip, x, y, found = drifted
    assert found.worst_source == "drift"
    tries = found.tries.set_index("try")
    helped = chip.at(1e6, drift_compensation=True)
    right = lambda chip: (mho.vote(chip, x, 1).classes == y).double().mean()  # noqa: E731
    assert tries.loc["drift compensation", "gain"] == pytest.approx(float(right(helped) - right(chip)))
    assert float(found.chip) == pytest.approx(float(right(chip)))
    assert tries.loc["mapped anew, nothing changed", "gain"] == 0  # the same inputs, the same seed
    assert tries.loc["programmed anew", "gain_sure"]
    assert tries.loc["5 times the votes", "energy_ratio"] == pytest.approx(5)
    assert tries.loc["reads four times as long", "time_ratio"] > 1
    found.save(tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "tries.csv")) == len(found.tries)
    assert (tmp_path / "out" / "explanation.png").stat().st_size > 10_000
    figure = draw(found.layers, found.sources, found.tries, classes=True, title="why")
    assert not any(axes.get_legend() for axes in figure.axes)  # it would lie on intervals
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["gain without it, or of what was tried", "cost alone", "not sure: may be chance"]
    assert "drift" in (tmp_path / "out" / "explanation.txt").read_text("utf-8")
    table = found.table()
    assert set(table["about"]) == {"layer", "source", "try"}
    assert len(table) == len(found.layers) + len(found.sources) + len(found.tries)


def test_a_layer_without_a_source_is_the_layer_of_a_chip_that_never_had_it():
    net = network()
    x, y = data(net, 50)
    fixed = {"adc.full_scale": 1e-4, "dac.range": 3.0}
    stuck = HARDWARE.replace({**fixed, "cell.stuck": {"at_g_max": 0.1}})
    bench = _bench(mho.map(net, stuck), x, y)
    chip = mho.map(net, HARDWARE.replace(fixed))
    assert (
        bench.off({name: ["stuck cells"] for name in bench.names}).sums.tolist()
        == _bench(chip, x, y).of().sums.tolist()
    )
    made = without(bench.chip.layers["2"], ["stuck cells"], bench.inputs)
    assert np.array_equal(made.tiles.conductances()[0], chip.conductances("2")["2"][0])


def test_mirrors_are_a_source_of_their_own():
    net = network()
    fixed = SLICED | {"tile.join": "mirror", "adc.full_scale": 1e-4, "dac.range": 3.0}
    chip = mho.map(net, HARDWARE.replace({**fixed, "tile.mirror_mismatch": 0.3}))
    exact = mho.map(net, HARDWARE.replace(fixed)).layers["2"].tiles.weights
    present = Present.of(chip.layers, {name: layer.counts for name, layer in chip.layers.items()})
    assert all("mirrors" in sources for sources in present.layers.values())
    layer = chip.layers["2"]
    assert np.array_equal(without(layer, ["mirrors"], lambda _: ()).tiles.weights, exact)
    assert not np.array_equal(without(layer, ["stuck cells"], lambda _: ()).tiles.weights, exact)


def test_what_dacs_take_is_all_that_is_missing():
    net = network()
    x, _ = data(net, 50)
    chip = mho.map(net, ideal(dac__bits=3, dac__range=0.4, tile__rows=7))
    all_of_it = dict.fromkeys(chip.layers, frozenset({"DAC rounding", "DAC clipping"}))
    spared = View(chip, Variant(inputs=all_of_it)).read(x, read=0)
    with torch.no_grad():
        assert torch.allclose(spared, net(x), atol=1e-4)
    assert not torch.allclose(chip.read(x, read=0), net(x), atol=1e-1)


def test_convolutions_with_equalised_channels_and_scaled_tokens_are_spared_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(96, 3)).eval()
    x = torch.randn(20, 4, 4, 4)
    layers = {"0": {"dac.equalise": 0.5}, "2": {"dac.scaling": "token"}}
    hw = ideal(dac__bits=4, dac__range="calibrated", dac__percentile=90.0, layers=layers)
    chip = mho.map(net, hw, calibrate=x)
    spared = dict.fromkeys(chip.layers, frozenset({"DAC rounding", "DAC clipping"}))
    with torch.no_grad():
        assert torch.allclose(View(chip, Variant(inputs=spared)).read(x, read=0), net(x), atol=1e-4)


def test_all_digital_is_the_network_and_nothing_digital_is_the_chip():
    net = network()
    x, y = data(net, 50)
    chip = mho.map(net, HARDWARE, calibrate=x)
    assert torch.equal(View(chip, Variant()).read(x, read=3), chip.read(x, read=3))
    with torch.no_grad():
        digital = View(chip, Variant(digital=frozenset(chip.layers))).read(x, read=0)
        assert torch.allclose(digital, net(x), atol=1e-5)
    quiet = View(chip, Variant(quiet=frozenset(chip.layers))).read(x, read=3)
    assert torch.equal(quiet, chip.read(x, read=3, noisy=False))
    before = mho.vote(chip, x, 1).classes
    mho.explain(chip, x, y, most=20)
    assert chip.calls == 0
    assert torch.equal(mho.vote(chip, x, 1).classes, before)


def test_the_bad_layer_of_many_is_found_without_measuring_each():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 12), *(nn.Linear(12, 12) for _ in range(28)), nn.Linear(12, 5)).eval()
    for layer in net:
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    x, y = data(net, 100)
    chip = mho.map(net, ideal(adc__bits=12, adc__full_scale="calibrated", layers={"20": {"adc.bits": 2}}), calibrate=x)
    said: list[str] = []
    found = mho.explain(chip, x, y, most=60, progress=lambda done, total, text: said.append(f"{done}/{total} {text}"))
    single = found.layers[found.layers["layers"] == 1].set_index("layer")
    assert single["gain"].idxmax() == "20"
    assert single.loc["20", "gain_sure"]
    assert len(single) < 6
    assert found.worst_place == ("ADC rounding", "20")
    assert found.measured <= 60
    assert said[0].startswith("1/")


@pytest.mark.parametrize("most", [2, 8, 12])
def test_what_was_measured_until_it_must_stop_is_said(most, tmp_path):
    found = explained({"adc.bits": 2}, most=most)
    assert found.lost
    assert not len(found.tries)
    assert (found.worst_layer is None) == (most == 2)
    assert f"left out: what follows: {most} accuracies were measured" in str(found)
    found.save(tmp_path)
    assert pd.read_csv(tmp_path / "tries.csv").empty


def test_layers_by_pattern_numbers_tokens_and_loaders():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    x = torch.randn(120, 6, 12)
    with torch.no_grad():
        targets = net(x)
    labels = targets.argmax(-1)
    labels[:, 5] = -100
    chip = mho.map(net, HARDWARE.replace({"layers": {"2": {"adc.bits": 2}}}), calibrate=x)
    loader = DataLoader(TensorDataset(x, labels), batch_size=50, shuffle=True)
    tokens = mho.explain(chip, loader, layers=["[0-1]", "2"], samples=80, most=14)
    assert tokens.samples == 80
    assert list(tokens.layers["layer"]) == ["[0-1]", "2"]
    assert float(tokens.digital) == 1
    assert tokens.layers.set_index("layer").loc["2", "gain"] > tokens.layers.set_index("layer").loc["[0-1]", "gain"]
    numbers = mho.explain(chip, x, targets, samples=200)
    assert not numbers.classes
    assert float(numbers.digital) == pytest.approx(0, abs=1e-9)
    assert numbers.worst_layer == "2"
    assert numbers.worst_source == "ADC rounding"
    assert "mean squared error" in str(numbers)


def test_cells_as_they_were_measured_are_one_source():
    net = network()
    x, y = data(net)
    chip = mho.map(net, HARDWARE, calibrate=x)
    (table,) = chip.conductances("2")["2"]
    table[np.random.default_rng(0).random(table.shape) < 0.2] = 1e-4  # stuck at g_max
    found = mho.explain(chip.with_conductances({"2": [table]}), x, y)
    assert found.worst_place == ("cells as given", "2")
    assert not found.tries["try"].str.contains("mapped").any()


def test_differences_are_those_of_bonett_and_price():
    ones, zeros = np.ones(10), np.zeros(10)
    a, b = Scores(ones, ones, classes=True), Scores(np.array([0.0] * 3 + [1.0] * 7), ones, classes=True)
    found = a.better_than(b)
    p12, p21 = 4 / 12, 1 / 12
    half = 1.959964 * ((p12 + p21 - (p12 - p21) ** 2) / 12) ** 0.5
    assert found.value == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((p12 - p21 - half, p12 - p21 + half), abs=1e-6)
    same = a.better_than(a)
    assert same.low < 0 < same.high
    worse = Scores(zeros + 2, ones, classes=False).better_than(Scores(zeros + 1, ones, classes=False))
    assert worse == (-1, -1, -1)


def test_groups_are_named_by_patterns():
    names = [f"encoder.layer.{i}.{part}" for i in range(12) for part in ("attention", "mlp")] + ["head"]
    top = split(names)
    assert [group.name for group in top] == ["encoder.layer.*", "head"]
    assert [group.name for group in split(top[0].layers)][:2] == ["encoder.layer.0.*", "encoder.layer.1.*"]
    assert [len(group.layers) for group in split([f"l{i}" for i in range(100)])] == [8, 8, 9, 8, 8, 9, 8, 8, 9, 8, 8, 9]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": ["nothing*"]}, "matches no layer"),
        ({"layers": "2"}, "list of names or patterns"),
        ({"labels": torch.zeros(49)}, "labels must be those of 50 samples"),
        ({"labels": None}, "labels are missing"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"votes": 1.5}, "votes must be a whole number"),
        ({"most": 1}, "most must be at least 2"),
        ({"labels": torch.full((50,), -100)}, "no answer counts"),
    ],
)
def test_what_cannot_be_is_refused(options, said):
    net = network()
    x, y = data(net, 50)
    chip = mho.map(net, HARDWARE, calibrate=x)
    with pytest.raises(ValueError, match=said):
        mho.explain(chip, x, **{"labels": y, **options})


def test_no_chip_is_refused():
    with pytest.raises(ValueError, match="chip must be a mapped network"):
        mho.explain(network(), torch.rand(3, 12), torch.zeros(3))


def test_the_command_prints_and_saves(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network()
    x, y = data(net, 100)
    mho.map(net, HARDWARE.replace({"layers": {"2": {"adc.bits": 2}}}), calibrate=x).save("chip")
    np.savez("data.npz", images=x.numpy(), labels=y.numpy())
    assert run(app, ["explain", "chip", "--data", "data.npz", "--out", "out", "--most", "30"]) == 0
    said = capsys.readouterr().out
    assert "the source that costs most: ADC rounding" in said
    assert len(pd.read_csv("out/layers.csv")) == 3
    assert run(app, ["explain", "chip", "--data", "data.npz", "--out", "data.npz"]) == 2


def _bench(chip: mho.Chip, x: torch.Tensor, y: torch.Tensor) -> Bench:
    return Bench(chip, x, y, samples=len(x), votes=1, output=None, most=100, tell=lambda done, total, text: None)
