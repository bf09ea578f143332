"""Calibration over more inputs than are kept: ranges of all of them, in memory for few."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import mho
from mho.crossbar.magnitudes import Magnitudes

RERAM = mho.Hardware.preset("reram")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


def inputs(count: int = 3000, size: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def limits(chip: mho.Chip) -> list[float]:
    return [float(layer.tiles.design.drive.limit) for layer in chip.layers.values()]


@pytest.mark.parametrize("percentile", [0, 10, 50, 99, 99.9, 100])
def test_percentiles_of_a_histogram_are_those_of_the_values(percentile):
    rng = np.random.default_rng(0)
    parts = [np.float32(rng.normal(size=(50, 7)) * 10 ** rng.uniform(-5, 5)) for _ in range(30)]
    parts += [np.zeros((2, 30), np.float32), np.zeros(0, np.float32)]
    found = Magnitudes()
    for part in parts:
        found.add(part)
    flat = np.abs(np.concatenate([part.reshape(-1) for part in parts]))
    wanted = np.percentile(flat, percentile)
    # the order statistics on both sides, where neighbours lie far apart
    low, high = (np.percentile(flat, percentile, method=way) for way in ("lower", "higher"))
    assert 0.998 * low <= found.percentile(percentile) <= 1.002 * high
    assert percentile < 100 or found.percentile(100) == wanted
    assert (found.count, found.negative, found.finite) == (flat.size, True, True)
    doubled = found.with_scaled(2.0, Magnitudes())
    assert doubled.percentile(percentile) == pytest.approx(2 * found.percentile(percentile), rel=2e-3)
    assert doubled.largest == 2 * found.largest
    assert doubled.count == found.count


def test_magnitudes_of_nothing_and_of_no_numbers():
    found = Magnitudes()
    assert (found.percentile(50), found.percentile(100), found.count) == (0.0, 0.0, 0)
    found.add(np.zeros(3))
    assert (found.percentile(99), found.negative) == (0.0, False)
    found.add(np.array([np.nan, np.inf, 1.0]))
    assert not found.finite


@pytest.mark.parametrize("percentile", [100, 99])
def test_a_loader_sets_the_ranges_that_all_its_samples_do(percentile):
    x = inputs()
    x[2500:] *= 3  # behind the first 1,024
    hardware = RERAM.replace({"dac.percentile": percentile})
    whole, first = (mho.map(net(), hardware, calibrate=given) for given in (x, x[:1024]))
    for form in (DataLoader(x, batch_size=64), [x[i : i + 70] for i in range(0, 3000, 70)]):
        chip = mho.map(net(), hardware, calibrate=form)
        assert limits(chip)[0] == pytest.approx(limits(whole)[0], rel=0.0 if percentile == 100 else 2e-3)
        assert limits(chip)[1] == pytest.approx(limits(whole)[1], rel=0.2)  # computed digitally, or on tiles
        assert limits(first)[0] < 0.8 * limits(chip)[0]
        for layer, other in zip(chip.layers.values(), whole.layers.values(), strict=True):
            assert layer.tiles.ranges.full_scale == pytest.approx(other.tiles.ranges.full_scale, rel=0.3)


def test_up_to_1024_samples_are_what_they_were():
    x = inputs(1024)
    chips = [mho.map(net(), RERAM, calibrate=given) for given in (x, list(x.split(64)), DataLoader(x, batch_size=32))]
    for chip in chips[1:]:
        assert torch.equal(chip.read(x[:8], read=0), chips[0].read(x[:8], read=0))
    endless = (inputs(100, seed=seed) for seed in iter(int, 1))
    first = mho.map(net(), RERAM, calibrate=torch.cat([inputs(100)] * 11))
    assert limits(mho.map(net(), RERAM, calibrate=endless)) == limits(first)


def test_batches_go_when_they_were_looked_at():
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    class Loader:
        def __len__(self) -> int:
            return 200

        def __iter__(self):
            nonlocal most
            for seed in range(200):
                made = inputs(100, seed=seed)
                alive.add(made)
                gc.collect(0)
                most = max(most, len(alive))
                yield made

    mho.map(net(), RERAM, calibrate=Loader())
    assert most < 40  # of 200


def test_equalisation_looks_at_all_of_them():
    x = inputs()
    x[2000:, 2] *= 20
    hardware = RERAM.replace({"dac.equalise": 0.5})
    found, whole, first = (
        mho.map(net(), hardware, calibrate=given).layers["0"].equaliser
        for given in (DataLoader(x, batch_size=100), x, x[:1024])
    )
    assert torch.equal(found, whole)
    assert found[2] > 2 * first[2]


def test_input_and_state_of_a_step_share_one_range():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    x = 30 * inputs(6000, 3).reshape(-1, 2, 3)
    chip, whole = (mho.map(Last().eval(), RERAM, calibrate=given) for given in (list(x.split(50)), x))
    assert limits(chip) == pytest.approx(limits(whole), rel=0.05)


def test_what_only_some_batches_reach_is_on_tiles():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(self.one(x)) if float(x[0, 0]) > 50 else self.one(x)[:, :3]

    x = inputs()
    x[2345] = 60
    batches = list(x.split(5))
    chip = mho.map(Sometimes().eval(), RERAM, calibrate=batches)
    assert list(chip.layers) == ["one", "two"]
    assert chip.layers["two"].tiles.design.drive.limit > 0


def test_a_batch_that_is_none_is_named():
    x = inputs()
    x[2999, 1] = torch.nan
    with pytest.raises(mho.mapping.errors.MappingError, match="layer '0': calibration inputs must be finite"):
        mho.map(net(), RERAM, calibrate=list(x.split(100)))
    with pytest.raises(mho.mapping.errors.MappingError, match=r"calibrate: batch 12: expected a tensor, .* got str"):
        mho.map(net(), RERAM, calibrate=[*x.split(100)[:12], "x", *x.split(100)[:12]])
    with pytest.raises(
        mho.mapping.errors.MappingError, match=r"layer '0' takes 6 features .* got an input of shape \(4, 7\)"
    ):
        mho.map(net(), RERAM, calibrate=[*x.split(100)[:12], torch.rand(4, 7)])
