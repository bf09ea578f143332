"""Training through chips of settings that not all chips have: statistics of the forward, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware
from test_trainable import CHIPS, NO_CONVERTERS, apart, case, with_ranges_of
from test_trainable_options import QUIET
from torch import nn

import mho
from mho.mapping.errors import MappingError
from mho.mapping.trainable.ranges import ranges_of, set_ranges, with_ranges
from mho.mapping.trainable.trainable import trainable

MAP = np.random.default_rng(0).choice(3, (2, 20, 6), p=[0.7, 0.15, 0.15])
NU = {"slope": 0.0, "low": 0.0, "high": 0.1}
DRIFT = {
    "kind": "power_law",
    "t_0": 20.0,
    "g_ref": 4e-5,
    "mean": {"offset": 0.02, **NU},
    "spread": {"offset": 0.01, **NU},
}
MIRRORS = {"tile.slices": 2, "tile.join": "mirror", "tile.mirror_mismatch": 0.1}
WIRES = {"wires.r_word_line": 300.0, "wires.r_bit_line": 300.0}
FEW = {"cost.adcs_per_tile": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "offsets of ADCs": {"adc.offset": 2.0, **FEW},
    "gains of ADCs, apart": {"adc.gain": 0.05, "adc.polarity": "apart", **FEW},
    "known errors of ADCs": {"adc.offset": 2.0, "adc.gain": 0.05, "adc.calibrated": True, **FEW},
    "SAR": {"adc.kind": {"kind": "sar", "mismatch": 0.05}, "tile.encoding": "offset", **FEW},
    "fitted": {"adc.span": "fitted", "tile.encoding": "offset"},
    "fitted by tile, apart": {"adc.span": "fitted", "adc.per": "tile", "adc.polarity": "apart"},
    **{
        f"slow noise, {name}": {
            "cell.read_noise": {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"},
            "sensing.read_interval": "200 ns",
            **fields,
        }
        for name, fields in {"pairs": {}, "offset": {"tile.encoding": "offset"}, "devices": {"tile.devices": 2}}.items()
    },
    "slow noise, joined slices": {
        "cell.read_noise": {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"},
        "sensing.read_interval": "200 ns",
        "tile.slices": 2,
        "cell.levels": 8,
        "tile.join": "mirror",
        "adc.polarity": "apart",
    },
    "open lines": {"cell.stuck.word_lines": 0.1, "cell.stuck.bit_lines": 0.1},
    "open lines, offset": {"cell.stuck.word_lines": 0.1, "cell.stuck.bit_lines": 0.1, "tile.encoding": "offset"},
    "open lines, shared": {"cell.stuck.word_lines": 0.1, "cell.stuck.bit_lines": 0.1, "wires.pairs": "shared"},
    "stuck by map": {"cell.stuck.map": {"0": MAP.tolist()}, "cell.stuck.bit_lines": 0.3},
    "stuck by map, floating": {
        "cell.stuck.map": {"0": MAP.tolist()},
        "sensing.mode": "voltage",
        "wires.pairs": "shared",
    },
    "floating, two lines": {"sensing.mode": "voltage", "adc.polarity": "apart"},
    "floating, one line": {"sensing.mode": "voltage", "wires.pairs": "shared"},
    "residual": {"tile.slices": 2, "tile.slicing": "residual", "tile.significance": 4.0},
    "residual, three of levels, offset": {
        "tile.slices": 3,
        "tile.slicing": "residual",
        "tile.significance": 3.0,
        "tile.encoding": "offset",
        "cell.levels": 16,
        "tile.devices": 2,
    },
    "residual, joined, apart, later": {
        "tile.slices": 2,
        "tile.slicing": "residual",
        "tile.significance": 6.0,
        "tile.join": "mirror",
        "adc.polarity": "apart",
        "cell.drift": DRIFT,
        "time_s": 1e4,
    },
    "mirrors": {**MIRRORS, "tile.slicing": "shares", "tile.significance": 2.0},
    "mirrors of digits, apart": {**MIRRORS, "cell.levels": 8, "adc.polarity": "apart"},
    "mirrors, offset": {**MIRRORS, "tile.encoding": "offset", "tile.slicing": "residual", "tile.significance": 3.0},
    "wires": {**WIRES, "tile.bias": "array"},
    "wires, time, apart": {**WIRES, "dac.coding": "time", "adc.polarity": "apart", "wires.sense": "both"},
    "wires, one bit line": {**WIRES, "wires.pairs": "shared", "wires.order": "conductance", "tile.devices": 2},
    "wires, offset, digits": {**WIRES, "tile.encoding": "offset", "dac.bits_per_pulse": 2, "dac.phases": 2},
    "scales of tokens": {"dac.scaling": "token"},
    "scales of tokens, percentile": {"dac.scaling": "token", "dac.percentile": 90.0, "dac.bits_per_pulse": 4},
    "equalised channels": {"dac.equalise": 0.5},
    "equalised, bias on the array": {"dac.equalise": 0.8, "tile.bias": "array"},
    "scales of samples": {"dac.scaling": "sample"},
    "fitted by layer, bowed": {"adc.span": "fitted", "adc.per": "layer", "adc.kind": {"kind": "ramp", "bow": 0.5}},
}


def chips_alike(net: nn.Module, x: torch.Tensor, hw: mho.Hardware) -> None:
    """Reads of mapped chips have the means, variances and shapes of forward passes; those that differ are told."""
    chip, made = mho.map(net, hw, calibrate=x), trainable(net, hw, calibrate=x, momentum=0)
    with_ranges_of(made, chip)
    with torch.no_grad():
        a = torch.stack([made(x) for _ in range(CHIPS)]).flatten(1).double().numpy()
    b = torch.stack([chip.copy(i).read(x, read=i) for i in range(CHIPS)]).flatten(1).double().numpy()
    assert apart(a, b) < 5.5
    middle = b.mean(0)
    for other in (b + b.std(0), middle + 1.7 * (b - middle)):  # negative controls: a sigma aside, and wider
        assert apart(a, other) > 5.5


def output_and_slopes(made: nn.Module, x: torch.Tensor, net: nn.Module) -> list[torch.Tensor]:
    """Of a sum of squares, with inputs and parameters."""
    z = x.clone().requires_grad_()
    y = made(z)
    return [y, *torch.autograd.grad(y.square().sum(), [z, *net.parameters()])]


def assert_those_of(chip: mho.Chip, x: torch.Tensor, found: list[list[torch.Tensor]]) -> None:
    """Both ways of computing give what a chip gives, and slopes of its inputs, and agree in the rest."""
    z = x.clone().requires_grad_()
    y = chip.read(z, read=0)
    (gradient,) = torch.autograd.grad(y.square().sum(), z)
    for a, b in ((y, found[0][0]), (gradient, found[0][1]), *zip(*found, strict=True)):
        assert (a - b).norm() < 0.01 * b.norm()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_forward_has_the_statistics_of_mapped_chips(name: str) -> None:
    chips_alike(*case(SETTINGS[name]))


@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if not name.startswith(("open", "stuck", "floating", "wires"))]
)
def test_gradients_pass_straight(name: str) -> None:
    """Those of a plain layer, but for errors, noise and steps of the converters."""
    net, x, hw = case(SETTINGS[name])
    made, found = trainable(net, hw, calibrate=x, momentum=0), []
    for _ in range(20):
        z = (0.7 * x).requires_grad_()
        found.append(torch.autograd.grad((made(z) * torch.linspace(-1, 1, 6)).sum(), [z, *net.parameters()]))
    z = (0.7 * x).requires_grad_()
    wanted = torch.autograd.grad((net(z) * torch.linspace(-1, 1, 6)).sum(), [z, *net.parameters()])
    for given, right in zip(zip(*found, strict=True), wanted, strict=True):
        mean = torch.stack(given).mean(0)
        assert float((mean - right).norm()) < 0.25 * float(right.norm())


GROUPED = {
    "groups on one tile": {"tile.groups": "diagonal", "tile.rows": 40, "tile.columns": 12},
    "groups in two rows of tiles, with a bias": {"tile.groups": "diagonal", "tile.rows": 19, "tile.bias": "array"},
    "groups by tile": {"tile.groups": "diagonal", "tile.rows": 40, "tile.columns": 16, "tile.scale": "tile"},
}


def grouped(fields: dict[str, Any]) -> tuple[nn.Module, torch.Tensor, mho.Hardware]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(8, 8, (1, 3), groups=4), nn.Flatten()).eval()
    return net, 2 * torch.rand(3, 8, 1, 4) - 1, hardware().replace(fields)


@pytest.mark.parametrize("name", GROUPED)
def test_groups_that_share_tiles_have_the_statistics_of_mapped_chips(name: str) -> None:
    net, x, hw = grouped(GROUPED[name])
    chips_alike(net, x, hw)


@pytest.mark.parametrize("through_variance", [False, True])
@pytest.mark.parametrize("name", GROUPED)
def test_groups_that_share_tiles_have_the_gradients_of_others(name: str, through_variance: bool) -> None:
    """Without errors, zeros beside the groups change nothing."""
    net, x, hw = grouped({**GROUPED[name], **QUIET, "adc.bits": None, "adc.full_scale": None})
    found = []
    for groups in ("diagonal", "apart"):
        own = hw.replace({"tile.groups": groups, "tile.scale": "column"})
        made = trainable(net, own, calibrate=x, momentum=0, through_variance=through_variance)
        z = x.clone().requires_grad_()
        y = made(z)
        found.append([y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.shape[1])).sum(), [z, *net.parameters()])])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("through_variance", [False, True])
def test_slow_noise_is_the_same_for_all_inputs_of_a_step(through_variance: bool) -> None:
    """As in one read of a chip: the difference of two equal inputs has fresh noise alone."""
    net, x, hw = case({**SETTINGS["slow noise, pairs"], "adc.bits": None, "adc.full_scale": None})
    x = x[:1].expand(2, -1)
    made = trainable(net, hw, calibrate=x, momentum=0, through_variance=through_variance)
    chip = mho.map(net, hw, calibrate=x)
    with torch.no_grad():
        a = torch.stack([made(x) for _ in range(2 * CHIPS)]).double().numpy()
    b = torch.stack([chip.copy(i).read(x, read=i) for i in range(2 * CHIPS)]).double().numpy()
    assert apart(a[:, 0], b[:, 0]) < 5.5
    assert apart(a[:, 0] - a[:, 1], b[:, 0] - b[:, 1]) < 5.5
    assert (a[:, 0] - a[:, 1]).var(0).mean() < (a[:, 0] + a[:, 1]).var(0).mean() / 2


class Tokens(nn.Module):
    """Samples of tokens (n, 3, 8), or tokens of samples."""

    def __init__(self, first: bool = True) -> None:
        super().__init__()
        self.layer, self.first = nn.Linear(8, 5), first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x if self.first else x.transpose(0, 1).contiguous()).flatten(1)


@pytest.mark.parametrize("scaling", ["sample", "token"])
@pytest.mark.parametrize("net", [Tokens(), nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten())])
def test_scales_are_those_of_mapped_chips(net: nn.Module, scaling: str) -> None:
    """Without errors and noise, outputs and gradients are those of a chip whose inputs are of very different sizes."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8) if isinstance(net, Tokens) else torch.randn(6, 3, 8, 8)
    x = x * torch.logspace(-2, 1, 6).reshape(-1, *[1] * (x.ndim - 1))
    hw = hardware().replace({**QUIET, "dac.scaling": scaling, "adc.bits": 12})
    if scaling == "token" and not isinstance(net, Tokens):
        with pytest.raises(ValueError, match=r"^layer '0': dac.scaling must be 'layer' or 'sample' for a kernel of"):
            trainable(net, hw, calibrate=x)
        return
    chip, found = mho.map(net.eval(), hw, calibrate=x, backend="torch"), []
    for through_variance in (False, True):
        made = trainable(net, hw, calibrate=x, through_variance=through_variance)
        found.append(output_and_slopes(made, x, net))
    assert_those_of(chip, x, found)
    small = found[0][0][0] - net(x)[0]
    assert small.norm() < 0.1 * net(x)[0].norm()  # a sample whose inputs are a thousandth of the largest


def test_equalised_channels_are_those_of_mapped_chips() -> None:
    """Without errors and noise, factors, outputs and gradients are those of a chip; a channel in ten is large."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 5)).eval()
    x = torch.randn(6, 4, 5, 5) * torch.tensor([1.0, 0.1, 10.0, 1.0])[:, None, None]
    hw, found = hardware().replace({**QUIET, "dac.equalise": 0.5, "adc.bits": 12}), []
    chip = mho.map(net, hw, calibrate=x, backend="torch")
    for through_variance in (False, True):
        made = trainable(net, hw, calibrate=x, through_variance=through_variance)
        for name in ("0", "2"):
            assert torch.allclose(made.get_submodule(name).equaliser, chip.layers[name].equaliser)  # type: ignore[arg-type]
        found.append(output_and_slopes(made, x, net))
    assert_those_of(chip, x, found)
    again = trainable(net, hw, calibrate=3 * x)
    set_ranges(again, ranges_of(made))
    assert torch.equal(again[0].equaliser, made[0].equaliser)  # type: ignore[arg-type, index]
    assert with_ranges(hw, made) == hw
    with pytest.raises(ValueError, match=r"dac\.equalise must be null for inputs and states side by side"):
        trainable(nn.LSTM(4, 3), hw, calibrate=torch.rand(2, 3, 4))


def test_samples_along_another_dimension_are_refused() -> None:
    net, by = Tokens(first=False), hardware().replace({"dac.scaling": "sample"})
    for samples in (6, 3):  # as many samples as tokens do not hide it
        with pytest.raises(ValueError, match=r"^layer 'layer': dac.scaling must be 'layer' or 'token', or samples lie"):
            trainable(net, by, calibrate=torch.rand(samples, 3, 8))
    trainable(net, by.replace({"dac.scaling": "token"}), calibrate=torch.rand(3, 3, 8))


def test_recurrent_steps_have_scales_of_their_samples() -> None:
    torch.manual_seed(0)
    net, x = nn.LSTM(5, 6, batch_first=True), torch.randn(4, 3, 5)
    made = trainable(net, hardware().replace({**QUIET, "dac.scaling": "sample"}), calibrate=x)
    y, _ = made(x)
    exact, _ = net(x)
    assert (y - exact).norm() < 0.05 * exact.norm()
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("through_variance", [False, True])
@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if name.startswith(("open", "stuck", "floating", "residual", "mirrors, offset"))]
)
def test_gradients_are_slopes_of_these_cells(name: str, through_variance: bool) -> None:
    """Without converters and noise: the same faults and errors again, outputs are a smooth function of weights."""
    errors = {"cell.programming": hardware().cell.programming.model_dump()}
    net, x, hw = case({**QUIET, **SETTINGS[name], **NO_CONVERTERS, **errors, "cell.levels": None})
    made, along = trainable(net, hw, calibrate=x, through_variance=through_variance), torch.linspace(-1, 1, 6)
    weight = made[0].weight  # type: ignore[index, union-attr]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return (made(x).double() * along).sum()

    (found,) = torch.autograd.grad(loss(), weight)  # type: ignore[arg-type]
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type, union-attr]
    sums, start = [], weight.detach().clone()  # type: ignore[operator, union-attr]
    for by in (1e-3, -1e-3):
        weight.data.copy_(start + by * direction)  # type: ignore[operator, union-attr]
        sums.append(float(loss().detach()))
    assert float((found * direction).sum()) == pytest.approx((sums[0] - sums[1]) / 2e-3, rel=0.02)


@pytest.mark.parametrize("fields", [{"tile.bias": "array"}, {"tile.encoding": "offset"}])
def test_gradients_through_wires_are_nearly_slopes(fields: dict[str, Any]) -> None:
    """What is lost in wires is taken as fixed: better than as if nothing was lost."""
    errors = {"cell.programming": hardware().cell.programming.model_dump()}
    net, x, hw = case({**QUIET, **WIRES, **fields, **NO_CONVERTERS, **errors})
    made, along = trainable(net, hw, calibrate=x), torch.linspace(-1, 1, 6)
    weight: Any = made[0].weight  # type: ignore[index]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return (made(x).double() * along).sum()

    (found,) = torch.autograd.grad(loss(), weight)
    start, wanted = weight.detach().clone(), torch.zeros(6, 20)
    for i in range(6):
        for j in range(0, 20, 3):
            for sign in (1, -1):
                weight.data.copy_(start)
                weight.data[i, j] += sign * 3e-3
                wanted[i, j] += sign * float(loss().detach()) / 6e-3
    there = wanted != 0
    off, plain = ((g[there] - wanted[there]).norm() for g in (found, along[:, None] * x.sum(0)))
    assert off < 0.2 * wanted.norm()
    assert off < 0.6 * plain


@pytest.mark.parametrize("through_variance", [False, True])
def test_cells_that_a_map_has_as_stuck_have_no_gradient(through_variance: bool) -> None:
    net, x, hw = case({"cell.stuck.map": {"0": np.full((2, 20, 6), [1, 1, 0, 0, 0, 2]).tolist()}})
    made = trainable(net, hw, calibrate=x, through_variance=through_variance)
    made(x).sum().backward()
    weight = made[0].weight.grad  # type: ignore[index, union-attr]
    columns = (weight != 0).sum(1)  # type: ignore[operator, union-attr]
    assert (columns[2:5] > 15).all()
    assert (columns[[0, 1, 5]] <= 2).all()  # the largest of each tile, by which the column is scaled


def test_maps_of_other_layers_are_refused() -> None:
    net, x, hw = case({"cell.stuck.map": {"fc": [[0]]}})
    with pytest.raises(MappingError, match=r"^cell.stuck.map: fc is no layer on tiles; they are 0$"):
        trainable(net, hw, calibrate=x)
    with pytest.raises(ValueError, match=r"^layer '0': cell.stuck.map must have the shape"):
        trainable(net, hw.replace({"cell.stuck.map": {"0": [[0]]}}), calibrate=x)


def test_adcs_are_those_of_a_chip_in_all_calls_of_a_step() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8)), torch.rand(4, 8)
    made = trainable(net, hardware().replace({**QUIET, "adc.offset": 3.0, "seeds.program": 5}), calibrate=x)
    layer, steps = made[0], made[0].steps  # type: ignore[index, union-attr]
    steps(made, ())  # type: ignore[operator]
    first, second = layer(x), layer(x)
    assert torch.equal(first, second)
    steps(made, ())  # type: ignore[operator]
    assert not torch.equal(layer(x), first)


def test_fitted_ranges_follow_the_data() -> None:
    net, x, hw = case({"adc.span": "fitted", "tile.encoding": "offset"})
    made = trainable(net.train(), hw, calibrate=x, momentum=1.0)
    before = made[0].full_scale.clone()  # type: ignore[index, operator, union-attr]
    made(3 * x)
    made(3 * x)
    assert before.shape == (1, 1, 1, 2)
    assert (made[0].full_scale > 1.2 * before).all()  # type: ignore[index, operator]


@pytest.mark.parametrize("through_variance", [False, True])
def test_learned_ranges_of_adcs_that_differ_have_the_slope_of_the_mean_response(through_variance: bool) -> None:
    noise = {"cell.read_noise": {"kind": "constant", "std_g": "8 uS"}, "cell.programming": {"kind": "none"}}
    fields = {"tile.rows": 32, "adc.bits": 4, "adc.gain": 0.1, "adc.offset": 0.5, "dac.bits": None, "dac.range": None}
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(20, 6)).eval(), 2 * torch.rand(1000, 20) - 1
    hw = hardware().replace({**noise, **fields})
    made = trainable(net, hw, calibrate=x, ranges="learned", through_variance=through_variance)
    parameter: Any = made[0].log_full_scale  # type: ignore[index, union-attr]
    parameter.data.fill_(-1.2)
    along: Any = (net(x) - net[0].bias).sign().double().detach()  # type: ignore[operator]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return sum(((made(x).double() * along).sum() for _ in range(20)), torch.zeros(()))

    (found,) = torch.autograd.grad(loss(), parameter)
    sums = []
    for by in (0.1, -0.1):
        parameter.data.fill_(-1.2 + by)
        sums.append(float(loss().detach()))
    assert float(found) * (6 * 7) ** 0.5 == pytest.approx((sums[0] - sums[1]) / 0.2, rel=0.03)


def test_learned_ranges_are_symmetric() -> None:
    net, x, hw = case({"adc.span": "fitted"})
    with pytest.raises(ValueError, match=r"^layer '0': ranges must not be 'learned' where adc.span is 'fitted'"):
        trainable(net, hw, calibrate=x, ranges="learned")
