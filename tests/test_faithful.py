"""A mapped network is the network: hooks, overridden methods, computed weights, batch norm, functional use, types."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from helpers import hardware, ideal, relative_error
from test_fold import settled
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

import mho
from mho.mapping.errors import MappingError
from mho.mapping.modules import copied

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.nn.utils import spectral_norm, weight_norm


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


def vectors(n: int = 5, features: int = 8) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(1))


def images(n: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.randn(n, channels, 6, 6, generator=torch.Generator().manual_seed(1))


def equals(net: nn.Module, *inputs: torch.Tensor, on_tiles: int, **options) -> mho.Chip:
    """Maps without a check and with one; both must equal torch, with so many layers on tiles."""
    with torch.no_grad():
        want = copied(net)(*inputs)
    for check in (False, inputs):
        chip = mho.map(net, ideal(), check=check, **options)
        assert torch.allclose(chip(*inputs), want, atol=1e-5 * float(want.abs().max()), rtol=1e-5)
        assert len(chip.layers) == on_tiles
    return chip


OVERRIDES = {
    "forward": lambda m: setattr(m, "forward", lambda x: torch.relu(functional.linear(x, m.weight))),
    "part of it": lambda m: setattr(m, "extra_repr", lambda: "mine"),
}


@pytest.mark.parametrize(("override", "name"), [*zip(OVERRIDES.values(), ("forward", "extra_repr"), strict=True)])
def test_what_is_overridden_on_the_instance_stays_digital(override, name):
    net = mlp()
    override(net[0])
    chip = equals(net, vectors(), on_tiles=1)
    assert ("0", "Linear", f"its {name} is overridden on the instance") in chip.digital
    with pytest.raises(MappingError, match=r"no layer to map: layer '' .its forward is overridden"):
        mho.map(_with_forward(nn.Linear(3, 2)), ideal())


def _with_forward(layer):
    layer.forward = lambda x: x
    return layer


def test_a_forward_replaced_for_a_whole_type_stays_digital(monkeypatch):
    plain = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: plain(self, x) + 1)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(4, 3)).eval()
    chip = equals(net, torch.randn(2, 2, 6), on_tiles=1)
    assert list(chip.layers) == ["0"]


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Drawn(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * torch.rand_like(weight).round()


WEIGHTS = {
    "old weight norm": lambda m: weight_norm(m),
    "old spectral norm": lambda m: spectral_norm(m),
    "weight norm": lambda m: parametrizations.weight_norm(m),
    "spectral norm": lambda m: parametrizations.spectral_norm(m),
    "orthogonal": lambda m: parametrizations.orthogonal(m),
    "parametrisation": lambda m: parametrize.register_parametrization(m, "weight", Doubled()),
    "bias": lambda m: parametrize.register_parametrization(m, "bias", Doubled()),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "pruned twice": lambda m: [prune.random_unstructured(m, "weight", 0.3) for _ in range(2)],
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("make", [*WEIGHTS.values()], ids=[*WEIGHTS])
def test_weights_that_are_computed_are_those_of_the_next_forward(make, fresh):
    """Before any forward, after one in training, and with a state dict loaded."""
    nets = [mlp(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()]
    for net, x in zip(nets, (vectors(), images()), strict=True):
        settled(net)
        make(net[0])
        if not fresh:
            net.train()(x).sum().backward()  # its weight is a tensor that was computed, and no leaf
            net.eval()
        count = 1 + isinstance(net[0], nn.Linear)
        chip = equals(net, x, on_tiles=count)
        net.load_state_dict({k: v * 1.5 + 0.1 if v.is_floating_point() else v for k, v in net.state_dict().items()})
        again = equals(net, x, on_tiles=count)
        assert relative_error(again(x), chip(x)) > 1e-3
        mho.map(net, hardware(), calibrate=x)


def test_a_weight_that_is_drawn_anew_stays_digital():
    net = mlp()
    parametrize.register_parametrization(net[0], "weight", Drawn())
    chip = mho.map(net, ideal())
    assert ("0", "Linear", "its weight is drawn anew at each use") in chip.digital
    mho.map(net, ideal(), check=vectors())  # both passes draw the same


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_computed_weights_of_recurrent_layers(kind):
    torch.manual_seed(0)
    cell = kind.__name__.endswith("Cell")
    x = torch.randn(3, 4) if cell else torch.randn(3, 5, 4)
    for make in (
        lambda m: weight_norm(m, "weight_hh" if cell else "weight_hh_l0"),
        lambda m: prune.l1_unstructured(m, "weight_ih" if cell else "weight_ih_l0", 0.5),
        lambda m: parametrize.register_parametrization(m, "weight_hh" if cell else "weight_hh_l0", Doubled()),
    ):
        layer = kind(4, 4)
        make(layer)
        layer.load_state_dict({k: 1.5 * v + 0.1 for k, v in layer.state_dict().items()})

        class Net(nn.Module):
            def __init__(self, layer: nn.Module) -> None:
                super().__init__()
                self.rnn = layer

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.rnn(x)
                return y[0] if isinstance(y, tuple) else y

        equals(Net(layer).eval(), x, on_tiles=3 if kind in (nn.GRU, nn.GRUCell) else 1)


class Act(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def spoiled(spoil) -> nn.Module:
    norm = nn.BatchNorm2d(4)
    spoil(norm)
    return norm


NORMS = {
    "subclass": lambda: Act(4),
    "hook": lambda: spoiled(lambda n: n.register_forward_hook(lambda m, i, o: -o)),
    "pre-hook": lambda: spoiled(lambda n: n.register_forward_pre_hook(lambda m, i: (i[0] + 1,))),
    "forward": lambda: spoiled(lambda n: setattr(n, "forward", lambda x: 3 * x)),
    "no statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "parametrised": lambda: spoiled(lambda n: parametrize.register_parametrization(n, "weight", Doubled())),
}


@pytest.mark.filterwarnings("ignore:.* belong to no single sample:UserWarning")  # norms of the batch's own statistics
@pytest.mark.parametrize("norm", [*NORMS.values()], ids=[*NORMS])
@pytest.mark.parametrize("before", [False, True])
def test_only_plain_batch_norm_is_folded(norm, before):
    conv = nn.Conv2d(4, 4, 3)
    net = settled(nn.Sequential(*((norm(), conv) if before else (conv, norm())), nn.ReLU()))
    chip = equals(net, images(4, 4), on_tiles=1)
    assert not any(d.reason.startswith("folded") for d in chip.digital)


def test_a_hook_between_forbids_the_fold():
    for place in (lambda n: n[0], lambda n: n[0][0], lambda n: n[1], lambda n: n):
        net = settled(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.BatchNorm2d(4))))
        place(net).register_forward_hook(lambda m, i, o: o.relu())
        chip = equals(net, images(), on_tiles=1)
        assert any(d.reason.startswith("folded") for d in chip.digital) == (place(net) is net)


class Body(nn.Module):
    """Conv, batch norm and ReLU used in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.b = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x, tap=None):
        if self.how.endswith("untraceable") and float(x.sum()) == 1e9:
            return x
        way = self.how.split(",")[0]
        if way == "taps":
            taps = []
            for part in self.b:
                x = part(x)
                taps.append(x)
            return torch.cat(taps, 1)
        if way == "slices":
            y = self.b[:1](x)
            return self.b[1:](y) + y
        if way == "index":
            y = self.b[0](x)
            return self.b[2](self.b[1](y)) * y.mean()
        if way == "again":
            return self.b(x) + self.b[1](x)
        if way == "skipped":
            return self.b[2](self.b[0](x))
        if way == "isinstance":
            y = self.b[0](x)
            return self.b[1](y) + (y if isinstance(y, torch.Tensor) else 0)
        if way == "optional":
            y = self.b[0](x)
            return self.b[1](y) + y if tap is None else self.b[1](y)
        if way == "shape":
            y = self.b[0](x)
            return self.b[2](self.b[1](y)) * y.shape[1]
        return self.b(x)


WAYS = ("taps", "slices", "index", "again", "skipped", "whole", "shape")


@pytest.mark.parametrize("how", [f"{way}{end}" for way in WAYS for end in ("", ",untraceable")])
def test_parts_of_a_container_that_are_used_in_any_way(how):
    chip = equals(settled(Body(how)), images(), on_tiles=1)
    reasons = {d.name: d.reason for d in chip.digital}
    assert reasons["b.1"].startswith("folded") == (how in ("whole", "shape"))


@pytest.mark.parametrize("how", ["isinstance", "optional"])
def test_a_model_that_takes_another_way_than_in_its_trace_is_refused(how):
    """torch.fx goes another way through these than tensors do."""
    net = settled(Body(how))
    with pytest.raises(MappingError, match=r"layer 'b.0': batch norm 'b.1' is folded into it.*exclude 'b.1'"):
        mho.map(net, ideal())(images())
    with pytest.raises(MappingError, match=r"layer 'b.0': batch norm 'b.1' is folded into it"):
        mho.map(net, ideal(), check=images())
    equals(net, images(), on_tiles=1, exclude=["b.1"])


def test_batch_norm_over_steps_is_not_over_features():
    net = settled(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    equals(net, vectors(5, 3), on_tiles=1)
    with pytest.raises(MappingError, match="layer '0': batch norm '1' is folded into it and takes 2 dimensions"):
        mho.map(net, ideal())(torch.randn(2, 4, 3))
    equals(net, torch.randn(2, 4, 3), on_tiles=1, exclude=["1"])


class Uses(nn.Module):
    """Takes the weight of a layer itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.l, self.other = how, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.other(x)
        if "branch" in self.how and float(x.sum()) == 1e9:
            return x
        if "alone" in self.how:
            return functional.linear(x, self.l.weight)
        return self.l(x) + x @ self.l.weight.T


@pytest.mark.parametrize("how", ["alone", "beside", "alone, branch", "beside, branch"])
def test_a_weight_that_the_model_takes_itself_stays_digital(how):
    net, x = Uses(how).eval(), vectors()
    with torch.no_grad():
        want = net(x)
    for check in (x, False) if "branch" not in how else (x,):
        chip = mho.map(net, ideal(), check=check)
        assert torch.allclose(chip(x), want, atol=1e-5)
        assert ("l", "Linear", "the model uses its weights itself, past the layer") in chip.digital


def test_fused_kernels_of_transformers_leave_the_layers_to_the_tiles():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    chip = equals(nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 8), on_tiles=12)
    assert torch.equal(chip(torch.zeros(1, 5, 8)), chip(torch.zeros(1, 5, 8)))
    noisy = mho.map(layer.eval(), hardware(), calibrate=torch.randn(8, 5, 8))
    x = torch.randn(2, 5, 8)
    assert not torch.equal(noisy(x), noisy(x))


TYPES = {
    "complex": (nn.Linear(4, 3, dtype=torch.complex64), "its weight is complex"),
    "a subclass": (
        type("Mine", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)})(4, 3),
        "a subclass of Linear with its own forward, which may compute something else",
    ),
    "cut": (nn.Linear(6, 3), "its weight has the shape (3, 4), its attributes say (3, 6)"),
}
TYPES["cut"][0].weight = nn.Parameter(TYPES["cut"][0].weight[:, :4].detach())


@pytest.mark.parametrize(("layer", "reason"), [*TYPES.values()], ids=[*TYPES])
def test_weights_that_tiles_cannot_hold_stay_digital(layer, reason):
    chip = mho.map(nn.ModuleList([layer, nn.Linear(4, 3)]), ideal())
    assert [d.reason for d in chip.digital] == [reason]
    with pytest.raises(MappingError, match="no layer to map"):
        mho.map(layer, ideal())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_map(dtype):
    net, x = mlp().to(dtype), vectors().to(dtype)
    chip = mho.map(net, ideal(), check=x)
    with torch.no_grad():
        assert relative_error(chip(x), net(x)) < 4 * torch.finfo(dtype).eps + 1e-6
    assert chip(x).dtype == dtype


def test_padding_attributes_that_lie():
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    conv.padding = (2, 2)  # torch goes on padding by 1
    chip = equals(nn.Sequential(conv, nn.Conv2d(4, 2, 1)).eval(), images(), on_tiles=1)
    assert chip.digital[0].reason == "it pads by (1, 1, 1, 1), its attributes say (2, 2, 2, 2)"


def test_models_that_cannot_be_mapped_say_so_in_one_line():
    with torch.device("meta"):
        meta = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(mlp())
    lock, sparse = mlp(), mlp()
    lock.lock = threading.Lock()
    sparse[0].weight = nn.Parameter(sparse[0].weight.detach().to_sparse())
    for model, message in (
        (meta, r"0.weight is on the device 'meta'"),
        (nn.Sequential(nn.LazyLinear(3)), "layer '0': weight has no shape yet"),
        (script, "TorchScript"),
        (sparse, r"model cannot be copied \(RuntimeError: "),
        (lock, r"model cannot be copied \(TypeError: cannot pickle"),
    ):
        with pytest.raises(MappingError, match=message) as caught:
            mho.map(model, ideal())
        assert "\n" not in str(caught.value)


def test_tensors_that_were_computed_are_copied():
    net = mlp()
    net.kept = [net[0].weight * 2, {"a": net[0].weight.sum()}]
    chip = mho.map(net, hardware(), calibrate=vectors(20))
    assert torch.equal(chip.model.kept[0], net.kept[0])
    assert torch.equal(chip.copy(1).model.kept[0], net.kept[0])
    assert not chip.model.kept[0].requires_grad


class Keeps(nn.Module):
    """Appends to a list in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.norm, self.kept = nn.Linear(8, 8), nn.BatchNorm1d(8), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.append(self.norm(self.l(x)))
        return torch.stack(self.kept[-2:]).mean(0)


def test_neither_trace_nor_check_leaves_anything_in_the_chip():
    net, x = settled(Keeps()), vectors()
    chip = mho.map(net, ideal(), check=x)
    assert all(type(value) is torch.Tensor for value in chip.model.kept)
    assert not net.kept


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, as it imports what compiles
def test_a_compiled_model_is_refused_in_a_line():
    with pytest.raises(MappingError, match=r"compiled by torch\.compile; .*_orig_mod"):
        mho.map(torch.compile(mlp()), ideal())
    net = mlp()
    net[0] = torch.compile(net[0])
    with pytest.raises(MappingError, match=r"model\.0 was compiled by torch\.compile; .*model\.0\._orig_mod"):
        mho.map(net, ideal())


def test_a_name_with_the_signs_of_a_pattern_is_matched_as_it_is():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "[a]": nn.Linear(4, 4)})
    layers = nn.Sequential(net["a"], nn.Sequential())
    layers[1].add_module("[a]", net["[a]"])
    chip = mho.map(layers, ideal(), exclude="1.[a]")
    assert [d.name for d in chip.digital if d.reason == "excluded by name"] == ["1.[a]"]
