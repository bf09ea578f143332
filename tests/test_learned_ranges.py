"""Ranges of converters that are trained: their gradients, where they are kept, and how chips get them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware
from test_train_through import Stop
from test_trainable import CHIPS, apart
from test_trainable_options import PATHS, QUIET
from torch import nn
from torch.utils.checkpoint import checkpoint

import mho
from mho.mapping.trainable.layer import TrainedLayer
from mho.mapping.trainable.ranges import ranges_of, set_ranges, with_ranges
from mho.models.train import Recipe, train

LOGS = "log_limit", "log_full_scale"


def learned(net: nn.Module, hw: mho.Hardware, x: torch.Tensor, log: float = 0.0, **options: Any) -> nn.Module:
    made = mho.trainable(net, hw, calibrate=x, ranges="learned", **options)
    for name, parameter in made.named_parameters():
        if name.endswith(LOGS):
            parameter.data.fill_(log)
    return made


@pytest.mark.parametrize("name", PATHS)
def test_kernels_have_the_gradients_of_torch(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(54, 5)).train()
    x = torch.randn(7, 4, 5, 6)
    hw = hardware().replace({**QUIET, "tile.rows": 10, **PATHS[name]})
    found = []
    for through_variance in (False, True):  # kernels, and operations of torch
        made = learned(net, hw, x, -0.6, through_variance=through_variance)
        z = x.clone().requires_grad_()
        y = made(z)
        gradients = torch.autograd.grad((y * torch.linspace(-1, 1, 5)).sum(), [z, *made.parameters()])
        found.append([y.detach(), *gradients])
    assert len(found[0]) == 2 + 4 + 4
    for a, b in zip(*found, strict=True):
        assert float(b.abs().max()) > 0
        assert float((a - b).abs().max()) <= 2e-3 * float(b.abs().max())


def linear(fields: dict[str, Any], samples: int = 40) -> tuple[nn.Module, torch.Tensor, mho.Hardware]:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(20, 6)).eval(), 2 * torch.rand(samples, 20) - 1
    return net, x, hardware().replace({"tile.rows": 12, **fields})


@pytest.mark.parametrize("through_variance", [False, True])
@pytest.mark.parametrize("bias", ["digital", "array"])
@pytest.mark.parametrize("what", LOGS)
def test_what_is_clipped_has_the_slope_of_its_range(what: str, bias: str, through_variance: bool) -> None:
    """Steps are too fine to matter, and the noise is the same again, so outputs are a smooth function of a range."""
    fields: dict[str, Any] = {"dac.bits": 14, "adc.bits": 20, "tile.bias": bias, "cell.levels": None}
    net, x, hw = linear(fields if what == "log_full_scale" else {**fields, "adc.bits": None, "adc.full_scale": None})
    made = learned(net, hw, x, -0.5, through_variance=through_variance)
    parameter = getattr(made[0], what)  # type: ignore[index]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return made(x).double().square().sum()

    (found,) = torch.autograd.grad(loss(), parameter)
    values, largest = (20, 2**13 - 1) if what == "log_limit" else (2 * 6, 2**19 - 1)
    sums = []
    for by in (0.002, -0.002):
        parameter.data.fill_(-0.5 + by)
        sums.append(float(loss().detach()))
    wanted = (sums[0] - sums[1]) / 0.004 / (values * largest) ** 0.5  # LSQ's factor
    assert float(found) == pytest.approx(wanted, rel=0.03)
    assert abs(wanted) > 0


@pytest.mark.parametrize("through_variance", [False, True])
def test_a_coarse_dac_has_the_slope_of_the_mean_response(through_variance: bool) -> None:
    """Over inputs that are spread evenly, a coarse DAC is straight, and clips at its range."""
    net, x, hw = linear({**QUIET, "dac.bits": 4, "adc.bits": None, "adc.full_scale": None}, samples=4000)
    made = learned(net, hw, x, -0.4, through_variance=through_variance)
    parameter, along = made[0].log_limit, (net(x) - net[0].bias).sign().double().detach()  # type: ignore[index, operator, union-attr]
    (found,) = torch.autograd.grad((made(x).double() * along).sum(), parameter)
    sums = []
    for by in (0.1, -0.1):
        parameter.data.fill_(-0.4 + by)
        sums.append(float((made(x).double() * along).sum().detach()))
    assert float(found) * (20 * 7) ** 0.5 == pytest.approx((sums[0] - sums[1]) / 0.2, rel=0.02)  # LSQ's factor


@pytest.mark.parametrize("transfer", ["mid_tread", "mid_rise"])
@pytest.mark.parametrize("through_variance", [False, True])
def test_a_coarse_step_has_the_slope_of_the_mean_response(transfer: str, through_variance: bool) -> None:
    """Noise of more than a step dithers an ADC, whose mean response is straight then, and clipped at its range."""
    noise = {"cell.read_noise": {"kind": "constant", "std_g": "8 uS"}, "cell.programming": {"kind": "none"}}
    fields = {"tile.rows": 32, "adc.transfer": transfer, "adc.bits": 4, "dac.bits": None, "dac.range": None}
    net, x, hw = linear({**noise, **fields}, samples=2000)
    made = learned(net, hw, x, -1.2, through_variance=through_variance)
    parameter, along = made[0].log_full_scale, (net(x) - net[0].bias).sign().double().detach()  # type: ignore[index, operator, union-attr]

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return sum(((made(x).double() * along).sum() for _ in range(10)), torch.zeros(()))

    (found,) = torch.autograd.grad(loss(), parameter)
    sums = []
    for by in (0.1, -0.1):
        parameter.data.fill_(-1.2 + by)
        sums.append(float(loss().detach()))
    assert float(found) * (6 * 7) ** 0.5 == pytest.approx((sums[0] - sums[1]) / 0.2, rel=0.02)  # LSQ's factor


def test_ranges_are_parameters_and_the_state_is_that_of_the_plain_network() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LSTM(8, 3), nn.Identity()), torch.randn(16, 6)
    made = learned(net, hardware(), x, clip=2.5)
    names = [name for name, _ in made.named_parameters() if name.endswith(LOGS)]
    assert len(names) == 2 * len([m for m in made.modules() if isinstance(m, TrainedLayer)]) == 4
    assert list(made.state_dict()) == list(net.state_dict())
    net.load_state_dict(made.state_dict())
    optimiser = torch.optim.SGD(made.parameters(), 10.0)
    made(x)[0].square().sum().backward()
    optimiser.step()
    moved = {name: value.detach().clone() for name, value in made.named_parameters()}
    assert all(float(moved[name]) != 0 for name in names)
    made.load_state_dict(net.state_dict())  # ranges stay
    for other in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert all(torch.equal(value, moved[name]) for name, value in other.named_parameters())
    fixed = with_ranges(hardware(), made)
    assert fixed.for_layer("0").dac.range != "calibrated"
    joint = next(m.name for m in made.modules() if isinstance(m, TrainedLayer) and m.name != "0")
    assert fixed.for_layer(joint) == hardware()  # `mho.map` balances input and state
    assert joint in mho.map(net.eval(), fixed, calibrate=x).layers


class Again(nn.Module):
    """A layer that is called twice; the second call is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.again = nn.Linear(6, 6), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return checkpoint(self.layer, y, use_reentrant=False) if self.again else self.layer(y)


def test_calls_that_are_computed_again_have_the_same_gradients() -> None:
    torch.manual_seed(0)
    net, x = Again(), torch.randn(16, 6)
    made, found = learned(net, hardware().replace({**QUIET, "tile.bias": "array"}), x, -0.4), []
    for again in (False, True):
        made.again = again  # type: ignore[assignment]
        found.append(torch.autograd.grad(made(x).square().sum(), list(made.parameters())))
    assert len(found[0]) == 4
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_has_them_and_optimisers_keep_them() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3)), torch.randn(16, 6)
    made, other = learned(net, hardware(), x, -0.2), learned(net, hardware(), 3 * x)
    before = list(other.parameters())
    set_ranges(other, ranges_of(made))
    assert all(torch.equal(value, ranges_of(made)[name]) for name, value in ranges_of(other).items())
    assert all(a is b for a, b in zip(before, other.parameters(), strict=True))
    averaged = mho.trainable(net, hardware(), calibrate=x)
    with pytest.raises(ValueError, match="ranges: those of another network or hardware"):
        set_ranges(averaged, ranges_of(made))


def test_a_run_that_trains_ranges_goes_on_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.arange(64) % 3
    recipe = Recipe(epochs=2, batch_size=16, augment="none", average_decay=0.0)
    made: list[nn.Module] = []

    def through(net: nn.Module) -> nn.Module:
        made.append(mho.trainable(net, hardware(), calibrate=x, ranges="learned"))
        return made[-1]

    build = lambda: nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))  # noqa: E731
    train(build, (x, y), (x, y), recipe, tmp_path / "whole", through=through)
    whole = ranges_of(made[0])
    assert all(float(value) != 0 for name, value in whole.items() if "log" in name)

    def stop(progress: Any) -> None:
        if (progress.epoch, progress.step) == (1, 1):
            raise Stop

    with pytest.raises(Stop):
        train(build, (x, y), (x, y), recipe, tmp_path / "parts", stop, save_every_s=0, through=through)
    train(build, (x, y), (x, y), recipe, tmp_path / "parts", through=through)
    assert all(torch.equal(value, whole[name]) for name, value in ranges_of(made[-1]).items())


@pytest.mark.parametrize("ranges", ["learned", "averaged"])
def test_chips_take_the_ranges(ranges: Any) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(20, 6)), 2 * torch.rand(4, 20) - 1
    hw = hardware().replace({"tile.rows": 12, "layers": {"*": {"adc.bits": 9}}, "adc.per": "tile"})
    made = mho.trainable(net, hw, calibrate=x, ranges=ranges, momentum=1)
    if ranges == "learned":
        made[0].log_limit.data.fill_(-0.3)  # type: ignore[index, union-attr]
        made[0].log_full_scale.data.fill_(0.4)  # type: ignore[index, union-attr]
    made(x)
    made.eval()
    fixed = with_ranges(hw, made)
    chip = mho.map(net, fixed, calibrate=x)
    tiles = chip.layers["0"].tiles
    layer = made[0]  # type: ignore[index]
    limit, full = float(layer.limit), float(layer.full_scale.amax())
    if ranges == "learned":
        limit, full = limit * np.exp(-0.3), full * np.exp(0.4)
    assert tiles.design.drive.limit == pytest.approx(limit)
    assert tiles.design.drive.signed
    assert tiles.ranges.full_scale == pytest.approx(full)
    assert fixed.for_layer("0").adc.bits == 9
    if ranges == "learned":
        with torch.no_grad():
            a = torch.stack([made(x) for _ in range(CHIPS)]).flatten(1).double().numpy()
        b = torch.stack([chip.copy(i).read(x, read=i) for i in range(CHIPS)]).flatten(1).double().numpy()
        assert apart(a, b) < 5.5
        assert apart(a, b + b.std(0)) > 5.5


def test_ranges_that_hardware_sets_stay() -> None:
    torch.manual_seed(0)
    net, x = nn.ModuleDict({"a[0]": nn.Linear(20, 6)}), torch.rand(4, 20)
    model = nn.Sequential()
    model.add_module("a[0]", net["a[0]"])
    made = learned(model, hardware().replace({"dac.range": 1.5}), x)
    assert [name for name, _ in made.named_parameters() if name.endswith(LOGS)] == ["a[0].log_full_scale"]
    fixed = with_ranges(hardware().replace({"dac.range": 1.5}), made)
    assert fixed.for_layer("a[0]").adc.full_scale != "calibrated"
    assert fixed.for_layer("a0").adc.full_scale == "calibrated"
    layer = made.get_submodule("a[0]")
    chip = mho.map(model.eval(), fixed, calibrate=x)
    assert layer.design.drive.signed is chip.layers["a[0]"].tiles.design.drive.signed is False  # type: ignore[union-attr]


def test_what_cannot_be_trained_is_said() -> None:
    net, x, hw = linear({"sensing.mode": "voltage", "wires.pairs": "shared"})
    with pytest.raises(ValueError, match=r"^layer '0': ranges must not be 'learned' where sensing.mode is 'voltage'"):
        learned(net, hw, x)
    with pytest.raises(ValueError, match=r"^ranges must be 'calibrated', 'averaged' or 'learned', got 'free'$"):
        mho.trainable(net, hardware(), calibrate=x, ranges="free")  # type: ignore[arg-type]


def test_ranges_that_are_calibrated_stay() -> None:
    net, x, hw = linear({})
    made = mho.trainable(net.train(), hw, calibrate=x, ranges="calibrated")
    before = ranges_of(made)
    made(9 * x)
    made(9 * x)
    assert all(torch.equal(value, before[name]) for name, value in ranges_of(made).items() if name != "steps")


def test_training_mends_a_range_that_is_ten_times_too_wide() -> None:
    """An ADC of 4 bits that was set for ten times the voltage it is read at."""
    torch.manual_seed(0)
    centres = torch.randn(8, 16)
    labels = torch.arange(8).repeat(32)
    x = centres[labels] + 0.5 * torch.randn(len(labels), 16)
    bad = hardware().replace({"adc.bits": 4, "adc.calibrated_at": 10 * hardware().sensing.v_read})
    accuracy = {}
    for ranges in ("calibrated", "learned"):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))
        made = mho.trainable(net, bad, calibrate=x, ranges=ranges)  # type: ignore[arg-type]
        optimiser = torch.optim.Adam(made.parameters(), 2e-2)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(x), labels).backward()
            optimiser.step()
        fixed = with_ranges(bad, made)
        chips = [mho.map(net.eval(), fixed, calibrate=x, seed=seed) for seed in range(3)]
        accuracy[ranges] = np.mean([float((c.read(x, read=0).argmax(1) == labels).float().mean()) for c in chips])
    assert accuracy["learned"] > 0.95
    assert accuracy["calibrated"] < 0.8
