"""`mho train` through a chip, and of networks of the user's own."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import hardware
from safetensors.torch import load_file
from torch import nn

import mho
from mho.cli import app, run
from mho.mapping.trainable.ranges import ranges_of, set_ranges
from mho.models.train import Recipe, train

NETS = """
import torch
from torch import nn

def net(hidden=12):
    return nn.Sequential(nn.Linear(8, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3))

def odd():
    return nn.Sequential(nn.Linear(8, 2))

def data():
    torch.manual_seed(0)
    labels = torch.arange(90) % 3
    return torch.randn(3, 8)[labels] + 0.3 * torch.randn(90, 8), labels

def wrong():
    return torch.zeros(3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(NETS, scope)
    x, y = scope["data"]()
    np.savez(tmp_path / "data.npz", images=x.numpy(), labels=y.numpy())
    np.savez(tmp_path / "inputs.npz", inputs=x.numpy(), labels=y.numpy())
    np.savez(tmp_path / "two.npz", a=x.numpy(), b=x.numpy(), labels=y.numpy())
    np.savez(tmp_path / "bare.npz", images=x.numpy())
    np.savez(tmp_path / "real.npz", images=x.numpy(), labels=x[:, 0].numpy())
    hardware().save(tmp_path / "chip.yaml")
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)
    sys.modules.pop("own_nets", None)


def command(*arguments: str) -> int:
    return run(app, ["train", "--threads", "1", *arguments])


OWN = ("--model", "own_nets:net", "--data", "data.npz", "--epochs", "6", "--batch-size", "20")


def test_an_own_network_is_trained_through_a_chip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*OWN, "--hardware", "chip.yaml", "--arg", "hidden=20", "--learning-rate", "0.05") == 0
    out = folder / "runs" / "train" / "net" / f"through-{hardware().name}"
    made = yaml.safe_load((out / f"{out.name}.yaml").read_text())
    assert len(made["on_chips"]) == 3
    assert min(made["on_chips"]) > 0.5
    said = capsys.readouterr().out
    assert "on 3 chips, 9 test samples: " in said
    assert made["recipe"]["model"] == "own_nets:net --arg hidden=20"
    assert made["recipe"]["hardware"].startswith(hardware().name)
    state = load_file(out / f"{out.name}.safetensors")
    assert state["0.weight"].dtype == torch.float32
    assert state["0.weight"].shape == (20, 8)
    hardware().replace({"adc.bits": 5}).save(folder / "chip.yaml")  # the same name, another chip
    assert command(*OWN, "--hardware", "chip.yaml", "--arg", "hidden=20", "--learning-rate", "0.05") == 2
    assert "holds a run with other settings (hardware)" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["inputs.npz", "own_nets:data"])
def test_data_come_from_files_and_functions(folder: Path, data: str) -> None:
    options = [*OWN[:2], "--data", data, "--epochs", "1", "--out", "here"]
    assert command(*options, "--test-data", "data.npz") == 0
    assert (folder / "here" / "plain.safetensors").exists()
    start = ("--start", "here/plain.safetensors", "--learning-rate", "1e-9", "--out", "on")
    assert command(*options[:-2], *start) == 0
    first, second = (load_file(folder / name / "plain.safetensors")["0.weight"] for name in ("here", "on"))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "train: name either a network (mnist-cnn, mnist-cnn4"),
        (["mnist-cnn", *OWN], "train: name either a network"),
        (["mnist-cnn", "--data", "data.npz"], "--data, --test-data and --arg are for networks of your own"),
        (OWN[:2], "--model needs --data"),
        ([*OWN[:3], "nowhere.npz"], "data must be 'mnist', 'cifar10', 'strokes' or a .npy or .npz file"),
        ([*OWN[:3], "two.npz"], "data two.npz: training takes one array of inputs"),
        ([*OWN[:3], "bare.npz"], "data bare.npz: has no labels"),
        ([*OWN[:3], "real.npz"], "data real.npz: labels must be classes (n,) from 0 on"),
        ([*OWN[:3], "own_nets:wrong"], "data 'own_nets:wrong': its function must give inputs and labels"),
        ([*OWN[:3], "own_nets:gone"], "data 'own_nets:gone': its function must give inputs and labels"),
        (["--model", "own_nets:odd", *OWN[2:4]], "model: must give scores (samples, 3 or more classes)"),
        (["--model", "own_nets:gone", *OWN[2:4]], "own_nets:gone"),
        ([*OWN, "--sigma-train", "0.5"], "--sigma-train is for Mho's own networks"),
        ([*OWN, "--like", "reram"], "--like is for Mho's own networks"),
        ([*OWN, "--hardware", "nowhere.yaml"], "hardware must be a preset (ideal"),
        (["mnist-cnn", "--hardware", "reram", "--sigma-train", "0.5"], "hardware: its chip brings the noise"),
        ([*OWN, "--start", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_mistakes_get_one_line(folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    assert command(*options) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (folder / "runs").exists()


class Stop(Exception):
    """A training that is interrupted."""


def test_it_goes_on_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.arange(64) % 3
    recipe = Recipe(epochs=2, batch_size=16, augment="none")
    through = partial(mho.trainable, hardware=hardware(), calibrate=x)
    build = lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))  # noqa: E731
    whole = train(build, (x, y), (x, y), recipe, tmp_path / "whole", through=through)
    plain = train(build, (x, y), (x, y), recipe, tmp_path / "plain")

    def stop(progress: Any) -> None:
        if progress.epoch == 1 and progress.step == 1:
            raise Stop

    with pytest.raises(Stop):
        train(build, (x, y), (x, y), recipe, tmp_path / "part", stop, save_every_s=0.0, through=through)
    resumed = train(build, (x, y), (x, y), recipe, tmp_path / "part", through=through)
    for a, b, c in zip(*(net.parameters() for net in (whole, resumed, plain)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_ranges_are_kept_and_those_of_others_refused() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)), torch.randn(16, 6)
    made, other = (mho.trainable(net, hardware(), calibrate=factor * x) for factor in (1, 3))
    made(9 * x)
    ranges = ranges_of(made)
    set_ranges(other, ranges)
    assert all(torch.equal(value, ranges[name]) for name, value in ranges_of(other).items())
    assert float(ranges["0:limit"]) > float(x.abs().max())
    with pytest.raises(ValueError, match=r"^ranges: those of another network or hardware \(0:full_scale\)$"):
        set_ranges(made, {name: value for name, value in ranges.items() if name != "0:full_scale"})
