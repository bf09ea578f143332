"""Hooks of torch on layers that go to tiles: they go on, observe, or are refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from helpers import hardware, ideal, relative_error
from test_faithful import equals, mlp, vectors
from torch import nn

import mho
from mho.mapping.errors import CheckpointError, MappingError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")


def keywords(module, args, kwargs):
    return (args[0] - 0.5,), kwargs


HOOKS = {
    "hook": lambda m: m.register_forward_hook(lambda m, i, o: 2 * o),
    "pre-hook": lambda m: m.register_forward_pre_hook(lambda m, i: (i[0] + 1,)),
    "keyword pre-hook": lambda m: m.register_forward_pre_hook(keywords, with_kwargs=True),
    "keyword hook": lambda m: m.register_forward_hook(lambda m, i, k, o: o - i[0].mean(1, True), with_kwargs=True),
    "hook for linear layers": lambda m: m.register_forward_hook(
        lambda m, i, o: o + m.weight.mean() * m.in_features if isinstance(m, nn.Linear) else None
    ),
    "two hooks": lambda m: [m.register_forward_hook(lambda m, i, o, k=k: o * k + 1) for k in (2, 3)],
}


@pytest.mark.parametrize("hook", [*HOOKS.values()], ids=[*HOOKS])
def test_hooks_of_layers_go_on(hook):
    net = mlp()
    hook(net[0])
    chip = equals(net, vectors(), on_tiles=2)
    assert relative_error(chip.copy(1)(vectors()), net(vectors()).detach()) < 1e-5  # a copy has them too
    assert not mlp()[0]._forward_hooks  # nothing leaks into torch's own


def test_a_saved_chip_with_hooks_takes_them_from_the_model(tmp_path):
    net = mlp()
    net[0].register_forward_hook(lambda m, i, o: 2 * o)
    chip = mho.map(net, hardware(), calibrate=vectors(20))
    chip.save(tmp_path / "chip")
    with pytest.raises(CheckpointError, match="module '0' has hooks"):
        mho.load(tmp_path / "chip")
    other = mho.load(tmp_path / "chip", model=net)
    assert torch.equal(other.read(vectors(), read=3), chip.read(vectors(), read=3))


def test_a_hook_that_observes_sees_each_read():
    net, seen = mlp(), []
    net[2].register_forward_hook(lambda m, i, o: seen.append((m, o)))
    chip = mho.map(net, hardware(), calibrate=vectors(20))
    seen.clear()
    y = chip(vectors())
    ((module, output),) = seen
    assert type(module) is nn.Linear
    assert torch.equal(output, y)


def doubles(module, args):
    module.weight.data.mul_(2)


def test_a_hook_that_changes_weights_is_refused():
    net = mlp()
    net[0].register_forward_pre_hook(doubles)
    chip = mho.map(net, ideal())
    with pytest.raises(MappingError, match="layer '0': a hook changes its weights"):
        chip(vectors())
    net[0].register_forward_pre_hook(lambda m, i: setattr(m, "forward", m.forward))
    with pytest.raises(MappingError, match="layer '0': a hook changes its weights"):
        mho.map(net, ideal(), check=vectors())
    chip = mho.map(net, ideal(), exclude=["0"])
    assert list(chip.layers) == ["2"]


def test_hooks_of_recurrent_layers_go_on():
    torch.manual_seed(0)
    net = nn.Sequential(nn.LSTM(3, 4, batch_first=True)).eval()
    net[0].register_forward_pre_hook(lambda m, i: (2 * i[0],))
    net[0].register_forward_hook(lambda m, i, o: o[0] + m.hidden_size)
    equals(net, torch.randn(2, 5, 3), on_tiles=1)


def test_hooks_on_all_modules_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: None)
    try:
        with pytest.raises(MappingError, match="hooks on all modules"):
            mho.map(mlp(), ideal())
    finally:
        handle.remove()
