"""Names of versions before 0.3: one line that says the new one."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import mho
from mho.cli import app, run
from mho.moved import MOVED


def chip() -> mho.Chip:
    return mho.map(nn.Linear(4, 3), mho.Hardware.preset("ideal"), calibrate=torch.rand(4, 4))


def test_arguments_and_methods() -> None:
    with pytest.raises(TypeError, match=r"^map: compensate= is wire_compensation= since version 0.3$"):
        mho.map(nn.Linear(4, 3), mho.Hardware.preset("ideal"), compensate="gain")
    found = chip()
    with pytest.raises(TypeError, match=r"^Chip.at: compensate= is drift_compensation= since version 0.3$"):
        found.at(10.0, compensate=True)
    with pytest.raises(AttributeError, match=r"^Chip.replica is Chip.copy since version 0.3$"):
        found.replica(1)
    assert not hasattr(found, "replicas")


@pytest.mark.parametrize("old", MOVED)
def test_modules(old: str) -> None:
    assert importlib.import_module(f"mho.{MOVED[old]}")
    for statement in (f"import mho.{old}", "from mho.{} import {}".format(*old.split("."))):
        with pytest.raises(ImportError, match=rf"^mho.{old} is mho.{MOVED[old]} since version 0.3$"):
            exec(statement)
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mho.mapping.balanced'"):
        importlib.import_module("mho.mapping.balanced")


def test_classes() -> None:
    with pytest.raises(ImportError, match=r"^mho.crossbar.tile.Plan is mho.crossbar.placement.Placement since"):
        exec("from mho.crossbar.tile import Plan")
    with pytest.raises(ImportError, match=r"^mho.models.attacks.StraightThrough is mho.mapping.straight_through.Str"):
        exec("from mho.models.attacks import StraightThrough")
    with pytest.raises(AttributeError, match="has no attribute 'Tiles'"):
        exec("import mho.crossbar.tile as tile\ntile.Tiles")


def test_the_option_of_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["map", "weights.pt", "--model", "nets:net", "--compensate", "gain"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--wire-compensation" in said
