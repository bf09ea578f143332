"""Networks by name and arguments; chips that remember how their network was built."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from helpers import pictures
from torch import nn

import mho
from mho.cli import app, run
from mho.mapping.checkpoints import factories, hub
from mho.mapping.checkpoints.factories import Factory, build_model, factory_of, parse_arguments
from mho.mapping.errors import CheckpointError
from mho.mapping.saved import store

MODULE = """
import torch
from torch import nn
class Odd(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.sum()) > -1e9 else x  # nothing that torch.fx can trace
def make(width=4, *, depth=1, odd=False):
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(432, width), *(nn.Linear(width, width) for _ in range(depth))]
    return nn.Sequential(*layers, *([Odd()] if odd else []))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_of_factories.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.delitem(sys.modules, "nets_of_factories", raising=False)
    return "nets_of_factories:make"


def test_arguments_are_json_or_text():
    texts = ["a=1", "b=0.5", "c=false", "d=None", "e=[1, 2]", "f=resnet=18", 'g="7"', "h=", "i=True"]
    found = {"a": 1, "b": 0.5, "c": False, "d": None, "e": [1, 2], "f": "resnet=18", "g": "7", "h": "", "i": True}
    assert parse_arguments(texts) == found


@pytest.mark.parametrize(
    ("texts", "said"), [(["a"], "name=value"), (["a b=1"], "name=value"), (["a=1", "a=2"], "twice")]
)
def test_what_is_no_argument(texts, said):
    with pytest.raises(CheckpointError, match=said):
        parse_arguments(texts)


def test_a_factory_is_called_with_its_arguments(nets):
    model = build_model(nets, {"width": 6, "depth": 2})
    assert [layer.out_features for layer in model[1:]] == [6, 6, 6]
    assert factory_of(model) == Factory(nets, {"width": 6, "depth": 2})
    assert factory_of(nn.Linear(1, 1)) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"wdith": 3}, r"with these arguments \(TypeError: got an unexpected keyword argument 'wdith'\)"),
        ([1], "arguments of a model must be a dict by name"),
        ({1: 2}, "arguments of a model must be a dict by name"),
    ],
)
def test_arguments_that_a_factory_does_not_take(nets, arguments, said):
    with pytest.raises(CheckpointError, match=said):
        build_model(nets, arguments)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    for name, extra in (("timm", "timm"), ("transformers", "hub")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            CheckpointError, match=rf"needs the package {name}; install it with pip install 'mho.{extra}"
        ):
            build_model(f"{name}:resnet18")


def test_a_package_that_lacks_torchvision_says_so(monkeypatch):
    def fails(name):
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr(hub.importlib, "import_module", fails)
    with pytest.raises(CheckpointError, match=r"the package timm needs torchvision; pip install torchvision"):
        hub.optional("timm", "model 'timm:resnet18'")


def test_a_chip_remembers_its_factory_and_runs_no_code_of_its_own_accord(nets, tmp_path):
    x = pictures()
    chip = mho.map(build_model(nets, {"width": 3, "odd": True}), mho.Hardware.preset("ideal"), calibrate=x)
    chip.copy(1).save(tmp_path / "chip")  # a copy remembers it too
    with pytest.raises(
        CheckpointError, match=r"it was built by 'nets_of_factories:make': if you trust that code, pass"
    ):
        mho.load(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip", model=nets)  # the arguments stand in the chip
    assert torch.equal(loaded.read(x, read=0), chip.copy(1).read(x, read=0))
    loaded.save(tmp_path / "again")
    assert torch.equal(mho.load(tmp_path / "again", model=nets).read(x, read=0), loaded.read(x, read=0))


def test_a_chip_whose_structure_is_known_needs_no_factory(nets, tmp_path):
    x = pictures()
    mho.map(build_model(nets), mho.Hardware.preset("ideal"), calibrate=x).save(tmp_path / "chip")
    text = json.loads((tmp_path / "chip" / store.TEXT).read_text().partition("\n")[2])
    assert "factory" not in text
    assert mho.load(tmp_path / "chip")(x).shape == (len(x), 4)


def test_a_model_of_a_known_package_is_built_again(nets, tmp_path, monkeypatch):
    """As one of timm is: the arguments that it was built with are those of the chip."""
    built = []

    def build(name, arguments):
        built.append((name, dict(arguments)))
        return build_model(nets, {"odd": True})

    monkeypatch.setattr(factories, "_timm", build)
    x = pictures()
    chip = mho.map(build_model("timm:odd", {"depth": 3}), mho.Hardware.preset("ideal"), calibrate=x)
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=0), chip.read(x, read=0))
    assert built == [("odd", {"depth": 3})] * 2


def test_the_commands(nets, tmp_path, capsys):
    import numpy as np

    model = build_model(nets, {"width": 5, "odd": True})
    torch.save({"a": {f"net.{k}": v for k, v in model.state_dict().items()}, "b": net_like(model)}, "a.ckpt")
    np.savez("x.npz", images=pictures().numpy(), labels=np.zeros(len(pictures())))
    given = ["map", "a.ckpt", "--model", nets, "--arg", "width=5", "--arg", "odd=true", "--calibrate", "x.npz"]
    given += ["--hardware", "ideal", "--out", "chip"]
    assert run(app, given) == 2
    assert "under the keys 'a', 'b'; choose one with key= (--key)" in capsys.readouterr().err
    assert run(app, [*given, "--key", "a", "--strip-prefix", "net."]) == 0
    assert "weights: a, prefix 'net.' taken off" in capsys.readouterr().out
    assert run(app, ["vote", "chip", "--data", "x.npz", "--votes", "1"]) == 2
    assert "if you trust that code" in capsys.readouterr().err
    assert run(app, ["vote", "chip", "--data", "x.npz", "--votes", "1", "--model", nets]) == 0
    assert run(app, ["map", "a.ckpt", "--model", nets, "--arg", "width"]) == 2
    assert run(app, ["map", "a.ckpt", "--calibrate", "x.npz"]) == 2
    assert "which network do its weights belong to" in capsys.readouterr().err


def net_like(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value + 1 for name, value in model.state_dict().items()}
