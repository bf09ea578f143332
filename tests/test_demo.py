"""The demonstration at a small size: what it prints, its tables, reports and figures hold what it promises."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

import mho
from mho import demo
from mho.cli import app, run
from mho.mapping.voting.intervals import Accuracy
from mho.mapping.voting.votes import vote
from mho.models import mnist_cnn
from mho.models.data import mnist

IMAGES, VOTED, VOTES = 150, 60, 5
HARDWARE = ["ideal", "reram", "pcm", "nand", "paper 0.6"]


class Ran:
    """A demonstration's folder and what it printed."""

    def __init__(self, out: Path, printed: str) -> None:
        self.out, self.printed = out, printed

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.out / f"{name}.csv")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    out = tmp_path_factory.mktemp("demo") / "run"
    options = ["--images", str(IMAGES), "--vote-images", str(VOTED), "--votes", str(VOTES), "--jobs", "1"]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        assert run(app, ["demo", *options, "--out", str(out)]) == 0
    return Ran(out, printed.getvalue())


def test_each_finished_step_is_a_line(ran: Ran) -> None:
    lines = [line for line in ran.printed.splitlines() if line.startswith("networks and chips: ")]
    assert [line.split(",")[0] for line in lines] == [f"networks and chips: {n} of 12" for n in range(1, 13)]
    for line, name in zip(lines, 2 * ["digital", *HARDWARE], strict=True):
        assert name in line
        assert "%" in line


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    rows = [("digital", "exact", 10_000), ("paper 0.6", "1 read", 10_000), ("paper 0.6", "20 votes", 10_000)]
    accuracy = pd.DataFrame(rows, columns=["hardware", "inference", "images"])
    accuracy = accuracy.assign(weights="sigma-0.5", accuracy=1.0, low=0.9996, high=1.0)
    console = Console(width=80, record=True, file=io.StringIO())
    demo.show(SimpleNamespace(reports={}, accuracy=accuracy), console)
    assert "│ paper 0.6 │ 100.00 % [99.96, 100.00] │ 100.00 % [99.96, 100.00] │" in console.export_text()


def test_every_network_is_measured_on_every_hardware(ran: Ran) -> None:
    accuracy = ran.table("accuracy")
    assert list(accuracy.columns) == ["weights", "hardware", "inference", "images", "accuracy", "low", "high"]
    rows = list(accuracy[["weights", "hardware", "inference", "images"]].itertuples(index=False, name=None))
    assert rows == [
        row
        for weights in ("sigma-0.0", "sigma-0.5")
        for row in [
            (weights, "digital", "exact", IMAGES),
            *((weights, name, *kind) for name in HARDWARE for kind in (("1 read", IMAGES), ("5 votes", VOTED))),
        ]
    ]
    assert (accuracy["low"] <= accuracy["accuracy"]).all()
    assert (accuracy["accuracy"] <= accuracy["high"]).all()
    width = accuracy["high"] - accuracy["low"]
    assert width.between(0.01, 0.25).all()


def test_the_accuracies_are_those_of_the_network(ran: Ran) -> None:
    images, labels = mnist("test")
    digital = ran.table("accuracy").query("inference == 'exact'").set_index("weights")["accuracy"]
    for weights in ("sigma-0.0", "sigma-0.5"):
        with torch.no_grad():
            right = (mnist_cnn(weights=weights).eval()(images[:IMAGES]).argmax(1) == labels[:IMAGES]).double().mean()
        assert digital[weights] == pytest.approx(float(right))
    one = ran.table("accuracy").query("inference == '1 read'").set_index(["hardware", "weights"])["accuracy"]
    assert (one.loc["ideal"] == digital).all()
    for name in ("reram", "pcm", "nand"):
        assert (one.loc[name] > 0.97).all()
    assert one["paper 0.6", "sigma-0.0"] < 0.92  # without votes or training it is too much noise
    assert one["paper 0.6", "sigma-0.5"] > one["paper 0.6", "sigma-0.0"]


def test_votes_win_back_what_noise_takes(ran: Ran) -> None:
    votes = ran.table("votes").set_index(["weights", "hardware", "votes"])["accuracy"].sort_index()
    assert len(votes) == 2 * len(HARDWARE) * VOTES
    for weights in ("sigma-0.0", "sigma-0.5"):
        curve = votes[weights, "paper 0.6"]
        assert curve[VOTES] > curve[1] + (0.05 if weights == "sigma-0.0" else 0)
        assert votes[weights, "ideal"].nunique() == 1
    assert (votes.xs(VOTES, level="votes") > 0.9).all()


def test_layers_errors_and_cells(ran: Ran) -> None:
    layers, errors, cells = (ran.table(name) for name in ("layers", "errors", "conductance"))
    names = ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2"]
    assert len(layers) == 2 * len(HARDWARE) * len(names)
    assert set(layers["layer"]) == set(names)
    assert len(errors) == 2 * 3 * len(names)
    assert errors["error"].between(0.005, 0.5).all()
    assert set(errors["hardware"]) == {"reram", "pcm", "nand"}
    for key, group in cells.groupby(["weights", "hardware"]):
        mine = layers[(layers["weights"] == key[0]) & (layers["hardware"] == key[1])]
        assert group["cells"].sum() == mine["cells"].sum()
        assert (group["cells"] > 0).sum() > 20


def test_the_report_and_the_settings(ran: Ran) -> None:
    report = (ran.out / "report.txt").read_text(encoding="utf-8")
    for weights in ("sigma-0.0", "sigma-0.5"):
        for name in ("ideal", "reram", "pcm", "nand"):
            assert f"weights {weights}, chip: {name}, seed 0" in report
    for word in ("conv1", "fc2", "tiles", "ADC clip"):
        assert word in report
        assert word in ran.printed
    assert "accuracy on MNIST test images" in ran.printed
    assert f"1 read ({IMAGES} images)" in ran.printed
    assert f"{VOTES} votes ({VOTED} images)" in ran.printed
    settings = yaml.safe_load((ran.out / "run.yaml").read_text(encoding="utf-8"))
    assert settings["images"] == IMAGES
    assert settings["hardware"] == HARDWARE
    for name in HARDWARE:
        saved = mho.Hardware.load(ran.out / f"hardware-{name.replace(' ', '-')}.yaml")
        assert saved.dump() == demo.HARDWARE[name].dump()


@pytest.mark.parametrize("name", ["accuracy_over_votes", "conductances", "layer_errors"])
def test_the_figures_show_something(ran: Ran, name: str) -> None:
    picture = matplotlib.image.imread(ran.out / f"{name}.png")[..., :3]
    assert picture.shape[0] > 300
    assert len(np.unique(picture @ np.array([1.0, 1e3, 1e6]))) > 50  # colours
    assert 0.02 < float((picture < 0.99).any(axis=2).mean()) < 0.9


def test_pictures_are_read_once_and_the_votes_are_those_of_a_vote() -> None:
    """The votes of the first pictures hold their one inference; the ideal chip's votes are one inference."""
    images, labels = mnist("test")
    images, labels = images[:50], labels[:50]
    settings = demo.Settings(images=50, vote_images=20, votes=3)
    net = mnist_cnn(weights="sigma-0.0").eval()
    for name in ("paper 0.6", "ideal"):
        chip = mho.map(net, demo.HARDWARE[name], calibrate=images, seed=0)
        once, curve = demo._votes(chip, images, labels, settings, noisy=name != "ideal")
        assert str(once) == str(vote(chip, images, 1).accuracy(labels))
        whole = vote(chip, images[:20], 3)
        assert list(map(str, curve)) == list(map(str, whole.accuracy_over_votes(labels[:20])))
        alike = torch.equal(chip.read(images, read=0), chip.read(images, read=1))
        assert alike == (name == "ideal")
    assert isinstance(once, Accuracy)


def test_two_processes_give_the_same_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WEIGHTS", ("sigma-0.5",))
    monkeypatch.setattr(demo, "HARDWARE", {name: demo.HARDWARE[name] for name in ("paper 0.6", "reram")})
    settings = demo.Settings(images=12, vote_images=6, votes=2, seed=3)
    told: list[tuple[int, int]] = []
    two = demo.run(settings, 2, lambda done, total, said: told.append((done, total)))
    assert told == [(n, 3) for n in range(4)]
    one = demo.run(settings, 1)
    for name in ("accuracy", "votes", "layers", "errors", "conductance"):
        pd.testing.assert_frame_equal(getattr(two, name), getattr(one, name))
    assert list(map(str, two.reports.values())) == list(map(str, one.reports.values()))
