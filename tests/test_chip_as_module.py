"""A chip is a module of torch: modes, state, copies, attributes and weights of its layers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from test_reads import mlp, on_reram
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.errors import MappingError

RERAM = mho.Hardware.preset("reram")


IDEAL = mho.Hardware.preset("ideal")


def test_train_is_ignored_with_the_reason():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 3))
    x = torch.rand(5, 8)
    chip = mho.map(net, IDEAL)
    with pytest.warns(UserWarning, match="inference device"):
        assert chip.train() is chip
    assert torch.allclose(chip(x), net.eval()(x), atol=1e-6)
    chip.model.train()
    with pytest.warns(UserWarning, match="eval"):
        y = chip(x)
    assert torch.allclose(y, net(x), atol=1e-6)
    assert chip.eval() is chip


def test_a_state_dict_belongs_to_its_chip():
    x = torch.rand(5, 12)
    chip, again, other = on_reram(mlp(), x), on_reram(mlp(), x), on_reram(mlp(), x, seed=1)
    again.load_state_dict(chip.state_dict())
    for wrong in (chip.state_dict(), {f"model.{key}": value for key, value in mlp().state_dict().items()}):
        for strict in (True, False):
            with pytest.raises(MappingError, match="layer '0'") as caught:
                other.load_state_dict(wrong, strict=strict)
            assert "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="another chip"):
        other.model.load_state_dict(chip.model.state_dict())
    aged = chip.at(1000.0)
    with pytest.raises(MappingError, match="another chip"):
        aged.load_state_dict(chip.state_dict())


def test_copies_and_pickles_are_the_same_chip():
    x = torch.rand(5, 12)
    chip = on_reram(mlp(), x)
    wanted = chip.read(x, read=7)
    for twin in (copy.deepcopy(chip), pickle.loads(pickle.dumps(chip))):
        assert torch.equal(twin.read(x, read=7), wanted)
        twin.load_state_dict(chip.state_dict())
        assert twin.layers["0"].weight.layer is twin.layers["0"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 3),
        nn.Linear(8, 3, bias=False),
        nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(1, 2), groups=2),
        nn.Conv1d(4, 6, 4, padding="same", padding_mode="circular"),
        nn.Conv3d(2, 2, 1),
        nn.Linear(8, 3).half(),
    ],
)
def test_tile_layers_have_the_attributes_of_what_they_replace(layer):
    tiled = mho.map(layer, IDEAL).layers[""]
    plain = {name for name in vars(layer) if not name.startswith("_")} - {"training"}
    for name in plain - {"padding"}:
        assert getattr(tiled, name) == getattr(layer, name), name
    if "padding" in plain and layer.padding != "same":
        assert tiled.padding == layer.padding
    for kind in ("weight", "bias"):
        mine, theirs = getattr(tiled, kind), getattr(layer, kind)
        if theirs is None:
            assert mine is None
            continue
        assert (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device)
        assert torch.allclose(mine + 0, theirs, atol=1e-3)
    assert next(tiled.parameters()).dtype == layer.weight.dtype
    assert sum(p.numel() for p in tiled.parameters()) == sum(p.numel() for p in layer.parameters())
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        tiled.colour  # noqa: B018


def test_a_weight_read_gives_the_programmed_weights():
    x = torch.rand(5, 12)
    net = mlp()
    chip = on_reram(net, x)
    off = chip.model[0].weight - net[0].weight
    assert 0.01 < off.square().mean().sqrt() / net[0].weight.square().mean().sqrt() < 0.5
    stored = chip.layers["0"].tiles.weights[0, :12]
    assert np.array_equal(chip.model[0].weight.clone().numpy(), stored.T)


def test_weights_on_tiles_cannot_be_written():
    chip = mho.map(mlp(), IDEAL)
    with pytest.raises(MappingError, match="cannot be written"), torch.no_grad():
        chip.model[0].weight.mul_(2)
    with pytest.raises(MappingError, match="cannot be set"):
        chip.model[0].weight = nn.Parameter(torch.zeros(9, 12))


def test_a_weight_used_beside_the_tiles_is_an_error():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if y.shape[0] > 1:  # no graph can be traced
                y = functional.linear(y, self.a.weight)
            return self.b(y.to(self.b.weight.dtype))

    chip = mho.map(Functional(), IDEAL, check=False)
    with pytest.raises(MappingError, match="layer 'a': its weight is on tiles"):
        chip(torch.rand(2, 4))
