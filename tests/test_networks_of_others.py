"""Networks that change what they are given, what they keep, or what their layers hold: equal to torch, or refused."""

from __future__ import annotations

import copy
import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.errors import MappingError

IDEAL, RERAM = mho.Hardware.preset("ideal"), mho.Hardware.preset("reram")


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def error(wanted, got):
    return float((wanted - got).norm() / wanted.norm())


class Two(nn.Module):
    """Two layers that a function calls."""

    def __init__(self, function, first=None, **kept):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.function = first or nn.Linear(8, 8), nn.Linear(8, 3), function
        for name, value in kept.items():
            setattr(self, name, value)
        self.eval().requires_grad_(False)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def written(net, x):
    return net.last(net.first(x.sub_(0.5).mul_(2)))


@pytest.mark.parametrize("given", [{}, {"calibrate": drawn(6, 8)}, {"calibrate": drawn(6, 8), "check": False}])
def test_inputs_that_a_model_writes_to(given):
    net, x = Two(written), drawn(6, 8)
    chip = mho.map(net, IDEAL, **given)
    assert all(torch.equal(value, drawn(6, 8)) for value in given.values() if value is not False)  # the caller's
    assert error(net(x.clone()), chip(x.clone())) < 1e-5
    both = chip.read(x.clone(), read=0, reads=2)
    chip.session.one_by_one = True
    assert torch.equal(chip.read(x.clone(), read=0, reads=2), both)


def counted(net, x):
    net.count = net.count + 1
    return net.last(net.first(x)) * net.count


@pytest.mark.parametrize("count", [0, torch.zeros(())])
def test_a_model_starts_as_the_caller_left_it(count):
    net, x = Two(counted, count=count), drawn(6, 8)
    chip = mho.map(net, IDEAL, calibrate=x)
    caller = copy.deepcopy(net)
    for _ in range(3):
        assert error(caller(x), chip(x)) < 1e-5


def kept(net, x):
    net.state = net.first(x) if net.state is None or len(net.state) != len(x) else net.state + net.first(x)
    return net.last(net.state)


def test_a_state_as_large_as_the_batch():
    net = Two(kept, state=None)
    chip = mho.map(net, IDEAL, calibrate=drawn(6, 8))
    assert error(copy.deepcopy(net)(drawn(5, 8)), chip(drawn(5, 8))) < 1e-5


def removed(net, x):
    if "weight" in net.first._parameters:
        del net.first.weight
    net.first.weight = net.other
    return net.last(net.first(x))


def pointed(net, x):
    net.first.weight.data = net.other
    return net.last(net.first(x))


def hidden(net, x):
    vars(net.first)["weight"] = net.other
    return net.last(net.first(x))


@pytest.mark.parametrize("function", [removed, pointed, hidden])
def test_weights_that_a_model_sets_are_refused(function):
    chip = mho.map(Two(function, other=drawn(8, 8)), IDEAL)
    with pytest.raises(MappingError, match=r"layer 'first'.* (replaced in a call|cannot be written to)"):
        chip(drawn(6, 8))


def in_turn(net, x):
    for layer in net.all:
        x = torch.relu(layer(x))
    return x


@pytest.mark.parametrize("kind", [list, tuple, lambda layers: dict(enumerate(layers)).values()])
def test_layers_that_are_kept_in_lists_too(kind):
    net = Two(in_turn)
    net.all = [*kind([net.first, net.last])] if kind not in (list, tuple) else kind([net.first, net.last])
    chip = mho.map(net, RERAM, calibrate=drawn(6, 8))
    x = drawn(4, 8)
    assert not torch.equal(chip.read(x, read=0), chip.read(x, read=1))
    assert error(net(x), mho.map(net, IDEAL)(x)) < 1e-5


def test_an_inference_that_reads_no_tile_says_so():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
    net.forward = lambda x: net[2](net[0](x))
    chip = mho.map(net, IDEAL)
    with pytest.warns(UserWarning, match="read no layer on tiles"):
        chip(drawn(4, 8))


@pytest.mark.parametrize("place", ["model", "part"])
def test_an_overridden_forward_is_not_saved_as_that_of_the_class(tmp_path, place):
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
    if place == "model":
        net.forward = types.MethodType(lambda net, x: net[2](net[0](x)), net)
    else:
        net[1].forward = lambda x: 2 * x
    x = drawn(4, 8)
    chip = mho.map(net, RERAM, calibrate=x)
    chip.save(tmp_path / "chip")
    with pytest.raises(mho.mapping.errors.CheckpointError, match="overridden on the instance"):
        mho.load(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", model=net).read(x, read=1), chip.read(x, read=1))


def test_layers_called_sample_by_sample_are_told():
    net = Two(lambda net, x: torch.stack([net.last(net.first(row)) for row in x]))
    with pytest.warns(UserWarning, match="belong to no single sample"):
        mho.map(net, RERAM, calibrate=drawn(6, 8)).read(drawn(4, 8), read=0)


def test_rows_chosen_by_their_values_are_read_and_told():
    def routed(net, x):
        y = torch.zeros(len(x), 8)
        for chosen in (x[:, 0] > 0, x[:, 0] <= 0):
            if chosen.any():
                y[chosen] = net.first(x[chosen])
        return net.last(y)

    net, x = Two(routed), drawn(7, 8)
    x[:3, 0], x[3:, 0] = 1, -1
    chip = mho.map(net, RERAM, calibrate=x)
    with pytest.warns(UserWarning, match="belong to no single sample"):
        chip(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(chip.read(x, read=0, reads=2)[7:], chip.read(x, read=1))
        assert error(net(x), mho.map(net, IDEAL, calibrate=x)(x)) < 1e-5


def test_a_second_input_as_long_as_the_batch():
    net = Two(lambda net, x, other: net.first(x) @ other.T)
    chip = mho.map(net, RERAM, calibrate=(drawn(4, 8), drawn(4, 8)), exclude=["last"])
    given = drawn(4, 8), drawn(4, 8)
    both = chip.read(*given, read=3, reads=2)
    assert torch.equal(both, torch.cat([chip.read(*given, read=3), chip.read(*given, read=4)]))


def test_a_number_before_the_samples():
    net = Two(lambda net, scale, x: net.last(net.first(x * scale)))
    scale, x = torch.tensor(2.0), drawn(8, 8)
    chip = mho.map(net, RERAM, calibrate=(scale, x))
    halves = [chip.read(scale, x[:4], read=3), chip.read(scale, x[4:], read=3, first_sample=4)]
    assert torch.equal(chip.read(scale, x, read=3), torch.cat(halves))


def test_a_model_of_one_batch_size():
    net = Two(lambda net, x: net.last(net.first(x).view(4, 8)))
    chip = mho.map(net, IDEAL, calibrate=drawn(4, 8))
    assert error(net(drawn(4, 8)), chip(drawn(4, 8))) < 1e-5


@pytest.mark.parametrize(
    "after",
    [
        lambda x: functional.dropout(x, 0.5, training=True),
        lambda x: x + torch.randn_like(x),
        lambda x: torch.bernoulli(torch.sigmoid(x)),
        lambda x: torch.as_strided(x, (4, x[0].numel()), (x[0].numel(), 1)),
        lambda x: torch.view_as_complex(x.reshape(4, 4, 2, 4, 2)).abs(),
    ],
)
def test_what_depends_on_the_order_in_memory(after):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)
            self.requires_grad_(False)

        def forward(self, x):
            return after(self.conv(x))

    net, x = Net().eval(), drawn(4, 3, 6, 6)
    for given in ({}, {"calibrate": x}):
        chip = mho.map(net, IDEAL, **given)
        torch.manual_seed(1)
        wanted = net(x)
        chip(x)
        torch.manual_seed(1)
        assert error(wanted, chip(x)) < 1e-5


def test_attributes_set_on_a_layer(tmp_path):
    net, x = Two(lambda net, x: net.last(net.first(x)) * net.first.gain), drawn(4, 8)
    net.first.gain = 2.0
    chip = mho.map(net, IDEAL, calibrate=x)
    assert error(net(x), chip(x)) < 1e-5
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", model=net)(x), chip(x))


@pytest.mark.parametrize("what", ["attribute", "buffer", "parameter", "module"])
def test_a_layer_that_holds_more_stays_digital(what):
    more = {"attribute": lambda net, x: len(net.first.name), "module": lambda net, x: net.first.more(x)}
    net = Two(lambda net, x: net.last(net.first(x) + more.get(what, lambda net, x: net.first.more)(net, x)))
    if what == "attribute":
        net.first.name = "four"
    elif what == "buffer":
        net.first.register_buffer("more", drawn(8))
    else:
        net.first.more = nn.Parameter(drawn(8)) if what == "parameter" else nn.LayerNorm(8)
    net.requires_grad_(False)
    chip, x = mho.map(net, IDEAL), drawn(4, 8)
    assert list(chip.layers) == ["last"]
    assert error(net(x), chip(x)) < 1e-5


@pytest.mark.parametrize("given", [{"reads": 0}, {"reads": 1.5}, {"first_sample": -1}, {"first_sample": 2**64}])
def test_numbers_of_reads_and_samples(given):
    chip = mho.map(Two(written), IDEAL)
    with pytest.raises(ValueError, match=next(iter(given))):
        chip.read(drawn(4, 8), read=0, **given)


def test_inputs_with_a_negative_bit():
    net, x = Two(lambda net, x: net.last(net.first(x))), drawn(4, 8)
    assert torch.equal(mho.map(net, IDEAL)(torch._neg_view(-x)), mho.map(net, IDEAL)(x))


def test_products_of_attention_and_of_digital_layers_are_counted():
    def attend(net, x):
        x = net.first(x)
        y = functional.scaled_dot_product_attention(x, x, x)
        return net.last(net.pair(net.rnn(y)[0], y))

    net = Two(attend, rnn=nn.LSTM(8, 8, batch_first=True), pair=nn.Bilinear(8, 8, 8))
    found = mho.map(net, IDEAL, calibrate=drawn(4, 5, 8), exclude=["rnn"]).cover.check
    assert found.macs_on_tiles // found.samples == 5 * (64 + 24)
    assert (found.macs - found.macs_on_tiles) // found.samples == 2 * 5 * 5 * 8 + 5 * 2 * 4 * 64 + 5 * 512
