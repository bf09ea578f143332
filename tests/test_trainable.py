"""Training through a fresh chip each step: statistics of the forward, gradients, and what a trained network keeps."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware
from scipy import stats
from test_chain import PARTS as CHAIN
from torch import nn
from torch.utils.checkpoint import checkpoint

import mho
from mho.mapping.errors import MappingError
from mho.mapping.trainable.layer import TrainedLayer
from mho.mapping.trainable.trainable import trainable

NO_CONVERTERS: dict[str, Any] = {"dac.bits": None, "dac.range": None, "adc.bits": None, "adc.full_scale": None}
CHAINS = (  # of those that are not refused, what differs in the arithmetic of cells
    "time",
    "two phases",
    "charge, repeated",
    "pairs apart",
    "voltage, one line",
    "voltage, two lines",
    "curved cells, digits",
    "devices",
    "slices of shares",
    "joined shares",
    "joined digits of time",
    "slices apart",
)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{name: {key.replace("__", "."): value for key, value in CHAIN[name].items()} for name in CHAINS},
    "two-sided": {"tile.encoding": "differential_two_sided"},
    "offset slices": {"tile.encoding": "offset", "tile.slices": 2, "cell.levels": 16},
    "bias on the array": {"tile.bias": "array"},
    "one scale a tile": {"tile.scale": "tile"},
    "full scale a tile": {"adc.per": "tile"},
    "full scale a layer": {"adc.per": "layer", "tile.slices": 2, "cell.levels": 16},
    "stuck cells": {"cell.stuck.at_g_min": 0.1, "cell.stuck.at_g_max": 0.05},
    "supply and gain": {"sensing.supply_noise": 0.05, "sensing.gain_noise": 0.05},
    "noise of outputs": {f"output_noise.{k}": 0.1 for k in ("sigma_add", "sigma_mult", "frozen_add", "frozen_mult")},
}
CHIPS = 100


def case(fields: dict[str, Any], seed: int = 0) -> tuple[nn.Module, torch.Tensor, mho.Hardware]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(20, 6)).eval()
    return net, 2 * torch.rand(4, 20) - 1, hardware().replace({"tile.rows": 12, "tile.columns": 8, **fields})


def with_ranges_of(made: nn.Module, chip: mho.Chip) -> None:
    """Full scales as the chip has them: each calibration is one of its own cells."""
    for name, layer in made.named_modules():
        if isinstance(layer, TrainedLayer) and layer.full_scale is not None and layer.design is not None:
            tiles = chip.layers[name].tiles
            full, middle = tiles.ranges.full_scale, tiles.ranges.middle
            ends = np.stack([full + middle, full - middle] if middle.size else [full], axis=-1)
            scale = torch.tensor(ends if full.ndim > 1 else ends[:, None], dtype=torch.float32).transpose(0, 1)[:, None]
            assert (layer.full_scale / scale.repeat_interleave(2 if layer.design.apart else 1, 2) - 1).abs().max() < 0.3
            layer.full_scale = scale.repeat_interleave(2 if layer.design.apart else 1, dim=2)
            assert layer.limit is None or float(layer.limit) == pytest.approx(tiles.design.drive.limit)


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of means, variances and shapes of so many reads each, in sigmas."""
    n = len(a)
    means = np.abs(a.mean(0) - b.mean(0)) / np.maximum(np.sqrt((a.var(0) + b.var(0)) / n), 1e-9)
    spreads = np.abs(np.log((a.var(0) + 1e-12) / (b.var(0) + 1e-12))) / np.sqrt(4 / n)
    rounded = [np.round(x / np.abs(b).max(), 4) for x in (a, b)]  # codes that are equal but for rounding are equal
    pairs = zip(*map(np.transpose, rounded), strict=True)
    shapes = [-stats.norm.ppf(max(stats.ks_2samp(p, q).pvalue, 1e-300) / 2) for p, q in pairs]
    return float(max(means.max(), spreads.max(), max(shapes)))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_forward_has_the_statistics_of_mapped_chips(name: str) -> None:
    net, x, hw = case(SETTINGS[name])
    chip, made = mho.map(net, hw, calibrate=x), trainable(net, hw, calibrate=x, momentum=0)
    with_ranges_of(made, chip)
    with torch.no_grad():
        a = torch.stack([made(x) for _ in range(CHIPS)]).flatten(1).double().numpy()
    b = torch.stack([chip.copy(i).read(x, read=i) for i in range(CHIPS)]).flatten(1).double().numpy()
    assert apart(a, b) < 5.5
    middle = b.mean(0)
    for other in (b + b.std(0), middle + 1.7 * (b - middle)):  # negative controls: a sigma aside, and wider
        assert apart(a, other) > 5.5


@pytest.mark.parametrize("name", ["plain", "offset slices", "voltage, one line", "time", "bias on the array"])
@pytest.mark.parametrize("what", ["weight", "bias", "x"])
def test_gradients_are_slopes_with_the_same_numbers(name: str, what: str) -> None:
    """Without converters and levels: the same errors and noise again, outputs are a smooth function."""
    fields = {**SETTINGS[name], **NO_CONVERTERS, "cell.levels": None, "tile.slices": 1}
    if name == "time":
        fields |= {"dac.range": "calibrated"}
    net, x, hw = case(fields)
    made = trainable(net, hw, calibrate=x, momentum=0, through_variance=True)
    layer, along = made[0], torch.linspace(-1, 1, 24).reshape(4, 6)  # type: ignore[index]
    x = 0.8 * x

    def loss(z: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return (made(z) * along).sum()

    values = x.clone().requires_grad_() if what == "x" else getattr(layer, what)
    (found,) = torch.autograd.grad(loss(values if what == "x" else x), values)
    direction = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    by, sums = 1e-3, []
    for sign in (1, -1):
        with torch.no_grad():
            moved = values + sign * by * direction
            if what == "x":
                sums.append(loss(moved))
                continue
            before = values.clone()
            values.copy_(moved)
            sums.append(loss(x))
            values.copy_(before)
    wanted = float(sums[0] - sums[1]) / (2 * by)
    assert float((found * direction).sum()) == pytest.approx(wanted, rel=0.03, abs=0.03 * float(found.norm()))


def test_gradients_pass_levels_and_converters_straight() -> None:
    net, x, hw = case({"cell.levels": 16, "tile.slices": 2, "dac.bits_per_pulse": 4})
    made = trainable(net, hw, calibrate=x)
    z = (0.5 * x).requires_grad_()
    made(z).sum().backward()
    exact = z.detach().sum(0).expand(6, 20)
    weight = made[0].weight.grad  # type: ignore[index, union-attr]
    assert torch.corrcoef(torch.stack([weight.flatten(), exact.flatten()]))[0, 1] > 0.9
    assert z.grad is not None
    wanted = net[0].weight.sum(0).expand(4, 20)  # type: ignore[index, union-attr, operator]
    assert torch.corrcoef(torch.stack([z.grad.flatten(), wanted.flatten()]))[0, 1] > 0.9


class Net(nn.Module):
    """A convolution with a batch norm, a layer called twice, and one that is called by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Linear(36, 36)
        self.aside = nn.Linear(36, 36)
        self.head = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor, *, save: bool = False) -> torch.Tensor:
        y = self.norm(self.conv(x)).relu().flatten(1)
        both = lambda y: self.twice(self.twice(y).relu()).relu()  # noqa: E731
        y = checkpoint(both, y, use_reentrant=False) if save else both(y)
        return self.head(nn.functional.linear(y, self.aside.weight))


def made_net(**options: Any) -> tuple[Net, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net, x = Net().train(), torch.rand(16, 2, 3, 3)
    with pytest.warns(UserWarning, match="layer 'aside' stays digital, as the model does not call it"):
        return net, trainable(net, hardware(), calibrate=x, **options), x


def test_it_is_the_plain_network_but_for_its_layers() -> None:
    net, made, x = made_net()
    assert made is not net
    assert made.training
    assert list(made.state_dict()) == list(net.state_dict())
    for (name, a), b in zip(net.named_parameters(), made.parameters(), strict=True):
        assert a is b, name
    assert isinstance(net.conv, nn.Conv2d)  # the caller's model is as it was
    assert [name for name, m in made.named_modules() if isinstance(m, TrainedLayer)] == ["conv", "twice", "head"]
    first, second = made(x), made(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    again = copy.deepcopy(made)
    torch.manual_seed(3)
    y = made(x)
    torch.manual_seed(3)
    assert torch.equal(again(x), y)
    restored = pickle.loads(pickle.dumps(made))
    torch.manual_seed(3)
    assert restored(x).shape == y.shape
    chip = mho.map(net.eval(), hardware(), calibrate=x)
    assert set(chip.layers) >= {"conv", "twice", "head"}


def test_checkpoints_compute_the_same_chip_again() -> None:
    _, made, x = made_net(momentum=0)
    found = []
    for save in (False, True):
        made.zero_grad()
        torch.manual_seed(1)
        made(x, save=save).square().sum().backward()
        found.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_ranges_follow_training_and_stay_in_evaluation() -> None:
    _, made, x = made_net(momentum=0.5)
    layer = made.get_submodule("conv")
    before = float(layer.limit)  # type: ignore[arg-type]
    with torch.no_grad():
        made(3 * x)
        assert float(layer.limit) == before  # type: ignore[arg-type]
        made(3 * x)  # the next step takes what the last has seen
        assert float(layer.limit) == pytest.approx(2 * before)  # type: ignore[arg-type]
        made(x)
        made.eval()
        made(9 * x)  # what the last step of training has seen is in
        held = float(layer.limit)  # type: ignore[arg-type]
        made(9 * x)
        made(9 * x)
    assert float(layer.limit) == pytest.approx(held)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tile.encoding": "single"}, "tile.encoding must not be 'single', which takes no negative weights"),
    ],
)
def test_what_is_not_differentiated_is_refused(fields: dict[str, Any], said: str) -> None:
    net, x, hw = case(fields)
    with pytest.raises(ValueError, match=f"^layer '0': {said} for mho.trainable"):
        trainable(net, hw, calibrate=x)


def test_mistakes_are_said() -> None:
    net, x, hw = case({})
    with pytest.raises(MappingError, match=r"^exclude: 'fc' matches no layer for tiles$"):
        trainable(net, hw, calibrate=x, exclude=["fc"])
    with pytest.raises(MappingError, match=r"^the model, a ReLU, has no linear layer or convolution to put on tiles$"):
        trainable(nn.ReLU(), hw, calibrate=x)
    with pytest.raises(MappingError, match=r"^layer '0' takes 20 features in dimension -1, got an input of"):
        trainable(net, hw, calibrate=x[:, :19])
    with pytest.raises(MappingError, match=r"^hardware must be a mho.Hardware \(see Hardware.preset\), got str$"):
        trainable(net, "reram", calibrate=x)  # type: ignore[arg-type]
    with pytest.raises(MappingError, match=r"^model must be a torch.nn.Module, got function$"):
        trainable(lambda given: given, hw, calibrate=x)  # type: ignore[arg-type, return-value]
    for momentum in (2, "0.1"):
        with pytest.raises(ValueError, match=rf"^momentum must be from 0 to 1, got {momentum!r}$"):
            trainable(net, hw, calibrate=x, momentum=momentum)  # type: ignore[arg-type]


def test_training_through_a_bad_chip_wins() -> None:
    """Blobs of 16 classes, on cells that err by half of their range."""
    torch.manual_seed(0)
    centres = torch.randn(16, 24)
    labels = torch.arange(16).repeat(32)
    x = centres[labels] + 0.3 * torch.randn(len(labels), 24)
    bad = hardware().replace({"cell.programming": {"kind": "polynomial", "coefficients": ["30 uS"], "g_ref": "1 uS"}})
    accuracy = {}
    for way in ("plain", "through"):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 16))
        made = net if way == "plain" else trainable(net, bad, calibrate=x)
        optimiser = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(150):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(x), labels).backward()
            optimiser.step()
        chips = [mho.map(net.eval(), bad, calibrate=x, seed=seed) for seed in range(5)]
        accuracy[way] = np.mean([float((c.read(x, read=0).argmax(1) == labels).float().mean()) for c in chips])
    assert accuracy["through"] > accuracy["plain"] + 0.02
