"""Training through a chip: recurrent layers and attention, options, torch's tools, and how gradients are computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import hardware
from test_trainable import CHIPS, apart
from torch import nn
from torch.optim.swa_utils import AveragedModel

import mho
from mho.mapping.trainable.layer import TrainedLayer
from mho.mapping.trainable.trainable import trainable

QUIET: dict[str, Any] = {  # without noise and errors
    "cell.programming": {"kind": "none"},
    "cell.read_noise": {"kind": "none"},
    "sensing.thermal": False,
    "sensing.shot": False,
    "sensing.amplifier_noise": 0,
}


class Last(nn.Module):
    """The last output of a recurrent layer, or all of attention."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module
        self.cell = isinstance(module, nn.RNNCellBase)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cell:
            return self.inner(x[:, 0])
        attention = hasattr(self.inner, "out_proj")
        y: torch.Tensor = (self.inner(x, x, x) if attention else self.inner(x))[0]
        return y[:, -1]


MODULES = {
    "lstm": lambda: nn.LSTM(5, 6, batch_first=True),
    "gru, two directions": lambda: nn.GRU(5, 4, 2, batch_first=True, bidirectional=True),
    "rnn cell": lambda: nn.RNNCell(5, 6),
    "projected lstm": lambda: nn.LSTM(5, 6, batch_first=True, proj_size=3, bias=False),
    "attention": lambda: nn.MultiheadAttention(6, 2, batch_first=True, add_bias_kv=True),
    "attention of other sizes": lambda: nn.MultiheadAttention(6, 2, kdim=6, vdim=6, batch_first=True, bias=False),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Last(MODULES[name]()).eval(), torch.rand(4, 3, 6 if "attention" in name else 5) - 0.3


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODULES)
def test_without_errors_they_are_torchs(name: str) -> None:
    net, x = network(name)
    no_converters = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
    made = trainable(net, hardware().replace({**QUIET, **no_converters}), calibrate=x)
    assert list(made.state_dict()) == list(net.state_dict())
    found = []
    for model in (net, made):
        model.train()
        z = x.clone().requires_grad_()
        y = model(z)
        net.zero_grad()
        y.square().sum().backward()
        found.append([y.detach(), z.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["lstm", "attention"])
def test_they_have_the_statistics_of_mapped_chips(name: str) -> None:
    net, x = network(name)
    made, chip = trainable(net, hardware(), calibrate=x, momentum=0), mho.map(net, hardware(), calibrate=x)
    with torch.no_grad():
        a = torch.stack([made(x) for _ in range(CHIPS)]).flatten(1).double().numpy()
    b = torch.stack([chip.copy(i).read(x, read=i) for i in range(CHIPS)]).flatten(1).double().numpy()
    assert apart(a, b) < 5.5
    assert apart(a, b + 1.3 * b.std(0)) > 5.5


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.layer(x), self.layer(x)], dim=1)


def test_calls_of_a_step_share_cells_and_not_noise() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 8)
    errors = {"cell.programming": {"kind": "polynomial", "coefficients": ["5 uS"], "g_ref": "1 uS"}}
    for fields, same in (({**QUIET, **errors}, True), ({}, False)):
        made = trainable(Twice(), hardware().replace(fields), calibrate=x)
        a, b = made(x).chunk(2, dim=1)
        assert torch.equal(a, b) is same
        assert not torch.equal(a, made(x)[:, :8])


def test_noise_ramps_up_in_training_alone() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(12, 40)), torch.rand(30, 12)
    fields = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
    made = trainable(net.train(), hardware().replace(fields), calibrate=x, ramp=4)
    with torch.no_grad():
        errors = [float((made(x) - net(x)).std()) for _ in range(6)]
        made.eval()
        errors.append(float((made(x) - net(x)).std()))
    whole = sum(errors[3:]) / 4
    for step, error in enumerate(errors):
        assert error == pytest.approx(whole * min(1, (step + 1) / 4), rel=0.25)


def test_weights_are_clipped_when_an_optimiser_has_moved_them() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(12, 40), nn.LSTM(40, 4)).train(), torch.rand(30, 12)
    made = trainable(net, hardware(), calibrate=x, clip=1.5)
    weights = [net[0].weight, net[1].weight_hh_l0]  # type: ignore[union-attr]
    before = [(w.detach().clone(), net[0].bias.detach().clone()) for w in weights]  # type: ignore[union-attr]
    made(x)
    for w, (old, bias) in zip(weights, before, strict=True):
        most = 1.5 * float(old.std(correction=0))  # type: ignore[arg-type]
        assert torch.equal(w, old.clamp(-most, most))  # type: ignore[arg-type]
        assert torch.equal(net[0].bias, bias)  # type: ignore[arg-type, union-attr]
    held = weights[0].detach().clone()  # type: ignore[union-attr]
    first, second = made(x)[0], made(x)[0]  # no optimiser in between: the weights stay, and both have gradients
    assert torch.equal(weights[0], held)  # type: ignore[arg-type]
    (first.sum() + second.sum()).backward()
    made.eval()
    with torch.no_grad():
        net[0].weight.mul_(3)  # type: ignore[union-attr, operator]
        moved = net[0].weight.clone()  # type: ignore[union-attr, operator]
        made(x)
    assert torch.equal(net[0].weight, moved)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ramp": -1}, "ramp must be a whole number of steps from 0 on, got -1"),
        ({"ramp": 0.5}, "ramp must be a whole number of steps from 0 on, got 0.5"),
        ({"ramp": None}, "ramp must be a whole number of steps from 0 on, got None"),
        ({"ramp": float("inf")}, "ramp must be a whole number of steps from 0 on, got inf"),
        ({"clip": "2"}, "clip must be above 0 standard deviations, or None, got '2'"),
        ({"clip": 0.0}, "clip must be above 0 standard deviations, or None, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        trainable(nn.Linear(3, 3), hardware(), calibrate=torch.rand(4, 3), **options)


PATHS: dict[str, dict[str, Any]] = {
    "one pulse": {},
    "digits": {"dac.bits_per_pulse": 2},
    "two phases": {"dac.phases": 2},
    "charge": {"dac.bits_per_pulse": 2, "dac.accumulate": "scaled"},
    "offset": {"tile.encoding": "offset", "tile.slices": 2, "cell.levels": 16},
    "bias on the array": {"tile.bias": "array", "tile.scale": "tile"},
    "pairs apart": {"adc.polarity": "apart"},
    "clipped": {"dac.percentile": 90, "adc.percentile": 90, "adc.per": "tile"},
}


@pytest.mark.parametrize("name", PATHS)
def test_kernels_compute_what_torch_does(name: str) -> None:
    """Forward and all gradients of a grouped convolution on several row tiles, without random numbers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(54, 5)).train()
    x = torch.randn(7, 4, 5, 6)
    hw = hardware().replace({**QUIET, "tile.rows": 10, **PATHS[name]})
    found = []
    for through_variance in (False, True):  # kernels, and operations of torch
        made = trainable(net, hw, calibrate=x, momentum=0, through_variance=through_variance)
        z = x.clone().requires_grad_()
        net.zero_grad()
        y = made(z)
        (y * torch.linspace(-1, 1, 5)).sum().backward()
        found.append([y.detach(), z.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert float((a - b).abs().max()) <= 2e-3 * float(b.abs().max())


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 2, stride=2, groups=2)]
)
def test_inputs_in_any_layout_have_the_same_slopes(layer: nn.Module) -> None:
    x = torch.rand(3, 4, 6, 6)
    made, found = trainable(nn.Sequential(layer), hardware(), calibrate=x, momentum=0), []
    for given in (x, x.contiguous(memory_format=torch.channels_last), torch.stack([x, x], -1)[..., 0]):
        torch.manual_seed(3)
        leaf = given.detach().requires_grad_()
        made(leaf).square().sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad.clone(memory_format=torch.contiguous_format))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(1, 4, (1, 5)), nn.RNN(5, 4, batch_first=True)])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_read_changes_neither_parameters_nor_inputs(layer: nn.Module, rows: int) -> None:
    torch.manual_seed(0)
    shape = {nn.Linear: (5,), nn.Conv2d: (1, 1, 5), nn.RNN: (1, 5)}[type(layer)]
    made, x = trainable(layer, hardware(), calibrate=torch.randn(8, *shape), momentum=0), torch.randn(rows, *shape)
    before = [part.detach().clone() for part in (x, *layer.parameters())]
    for mode in (True, False):
        y = made.train(mode)(x)
        (y[0] if isinstance(y, tuple) else y).sum().backward()
    torch.testing.assert_close([part.detach() for part in (x, *layer.parameters())], before, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_on_any_threads() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(2, 64, 3, padding=1)).train(), torch.rand(9, 2, 32, 32)
    made, found, before = trainable(net, hardware(), calibrate=x, momentum=0), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(1)
            found.append(made(x).detach())
    finally:
        torch.set_num_threads(before)
    assert float((found[0] - found[1]).abs().max()) <= 1e-5 + 0.02 * float(found[0].abs().max())
    assert float((found[0] != found[1]).float().mean()) < 0.01  # a code that a sum of torch moved by one


def test_torchs_tools_take_it() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(16, 6)
    made = trainable(net, hardware(), calibrate=x).train()
    average = AveragedModel(made, multi_avg_fn=None)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
        nn.functional.cross_entropy(y, torch.arange(16) % 3).backward()
    assert net[0].weight.grad is not None
    average.update_parameters(made)
    assert average(x).shape == (16, 3)
    assert list(average.module.state_dict()) == list(net.state_dict())
    again = copy.deepcopy(made)
    assert again[0].weight is not net[0].weight  # type: ignore[index]
    layer = again[0]  # type: ignore[index]
    assert isinstance(layer, TrainedLayer)
    assert layer.steps is not made[0].steps  # type: ignore[index, union-attr]
    net.load_state_dict(made.state_dict())
    (gradient,) = torch.autograd.grad(made(x).square().sum(), net[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_weights_that_change_before_the_backward_pass_are_refused() -> None:
    net, x = nn.Sequential(nn.Linear(6, 8)), torch.randn(4, 6)
    y = trainable(net, hardware(), calibrate=x)(x)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="weights were changed between the forward and the backward pass"):
        y.sum().backward()


def test_layers_whose_weights_are_computed_stay_digital_and_are_named() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3))
    with pytest.warns(UserWarning, match=r"layer '0', an \w+ whose weight or bias is computed before each use"):
        made = trainable(net, hardware(), calibrate=torch.rand(4, 6))
    assert [name for name, module in made.named_modules() if isinstance(module, TrainedLayer)] == ["1"]


def test_inputs_that_are_not_finite_are_refused_and_none_are_taken() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4))
    made = trainable(net, hardware(), calibrate=torch.rand(4, 2, 4, 4))
    for odd in (float("nan"), float("inf")):
        x = torch.rand(4, 2, 4, 4)
        x[1, 0, 2, 2] = odd
        with pytest.raises(ValueError, match=r"^layer '0': its inputs are not finite \(NaN or infinite\)$"):
            made(x)
    y = made(torch.rand(0, 2, 4, 4))
    assert y.shape == (0, 4)
    y.sum().backward()


def test_transformers_of_torch_are_on_tiles_in_evaluation_too() -> None:
    """Their fused kernels take weights past the layers that hold them."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1), 2)
    x = torch.randn(4, 3, 8)
    made = trainable(net, hardware(), calibrate=x).eval()
    with torch.no_grad():
        assert not torch.equal(made(x), made(x))
    made.train()(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert len([m for m in made.modules() if isinstance(m, TrainedLayer)]) == 12


def test_a_recurrent_network_takes_packed_sequences_and_drops_out() -> None:
    torch.manual_seed(0)
    net = nn.LSTM(5, 6, 2, batch_first=True, dropout=0.5).train()
    x = torch.rand(4, 6, 5)
    made = trainable(net, hardware().replace(QUIET), calibrate=x, momentum=0)
    packed = nn.utils.rnn.pack_padded_sequence(x, [6, 4, 3, 1], batch_first=True)
    y, (h, c) = made(packed)
    assert isinstance(y, nn.utils.rnn.PackedSequence)
    assert y.data.shape == (14, 6)
    assert h.shape == c.shape == (2, 4, 6)
    assert not torch.equal(made(packed)[0].data, y.data)  # another dropout
    made.eval()
    assert torch.equal(made(packed)[0].data, made(packed)[0].data)
    assert made.hidden_size == 6
