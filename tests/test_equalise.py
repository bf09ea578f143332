"""Channels of inputs equalised: factors as SmoothQuant has them, folded into the weights, and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, pictures, relative_error, small_cnn
from torch import nn

import mho
from mho.mapping import equalise as module
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.errors import CheckpointError, MappingError

CALIBRATED = {"dac__range": "calibrated"}


def outliers(n: int = 64) -> torch.Tensor:
    """Inputs (n, 40) of which two channels are a hundred times the others."""
    x = torch.randn(n, 40, generator=torch.Generator().manual_seed(1))
    x[:, [3, 17]] *= 100
    return x


def linear(bias: bool = True) -> nn.Sequential:
    """One whose weights of these two channels are as small as their inputs are large."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 16, bias)).eval().requires_grad_(False)
    net[0].weight[:, [3, 17]] /= 100
    return net


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1])
def test_factors_are_those_of_the_formula(alpha: float) -> None:
    """max|x_j|^alpha / max|w_j|^(1 - alpha), of Eq. 4 of Xiao et al. 2023; 1 for a channel that is always 0."""
    net, x = linear(), outliers()
    x[:, 5], net[0].weight[:, 7] = 0, 0
    layer = mho.map(net, ideal(**CALIBRATED, dac__equalise=alpha), calibrate=x).layers["0"]
    wanted = x.abs().amax(0) ** alpha / net[0].weight.abs().amax(0) ** (1 - alpha)
    wanted[[5, 7]] = 1
    assert torch.allclose(layer.equaliser, wanted, rtol=1e-5)
    assert np.allclose(layer.matrix.weights[0].T, net[0].weight * wanted, rtol=1e-5)
    assert torch.allclose(layer.weight + 0, net[0].weight, rtol=1e-4, atol=1e-6)  # as the model sees it


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("scaling", ["layer", "sample"])
def test_without_errors_a_chip_is_the_network(scaling: str, backend: str) -> None:
    """Groups, dilation, padding with zeros and by reflection, batch norm, and steps of recurrent layers."""
    hw = ideal(**CALIBRATED, dac__scaling=scaling)
    cnn, x = small_cnn(), pictures()
    x[:, 1] *= 50
    chip = mho.map(cnn, hw.replace({"dac.equalise": 0.5}), calibrate=x, backend=backend)
    assert torch.allclose(chip(x), cnn(x), rtol=1e-4, atol=1e-4)
    assert all(layer.equaliser is not None for layer in chip.layers.values())
    torch.manual_seed(0)
    lstm = nn.LSTM(8, 5, batch_first=True, proj_size=3).eval().requires_grad_(False)
    steps = torch.randn(6, 4, 8) * torch.tensor([1.0, 30, 1, 1, 1, 1, 0.1, 1])
    chip = mho.map(lstm, hw.replace({"dac.equalise": 0.5}), calibrate=steps, backend=backend)
    assert torch.allclose(chip(steps)[0], lstm(steps)[0], atol=1e-5)
    assert torch.allclose(chip.model.weight_ih_l0 + 0, lstm.weight_ih_l0, rtol=1e-4, atol=1e-5)


def test_several_batches_and_shared_layers_count_all_their_inputs() -> None:
    net, x = linear(), outliers()
    whole = mho.map(net, ideal(**CALIBRATED, dac__equalise=0.5), calibrate=x)
    parts = mho.map(net, ideal(**CALIBRATED, dac__equalise=0.5), calibrate=[x[:10], x[10:]])
    assert torch.equal(whole.layers["0"].equaliser, parts.layers["0"].equaliser)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(10 * self.layer(x).tanh())

    twice, z = Twice().eval().requires_grad_(False), torch.rand(8, 12)
    layer = mho.map(twice, ideal(**CALIBRATED, dac__equalise=1.0), calibrate=z).layers["layer"]
    inner = 10 * twice.layer(z).tanh()
    assert torch.allclose(layer.equaliser, torch.maximum(z.abs().amax(0), inner.abs().amax(0)), rtol=1e-5)


def test_the_check_proves_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not multiplied by what inputs are divided by are found out by `mho.map` itself."""
    monkeypatch.setattr(module, "by_row", lambda factors, shape: np.ones((1, 1, 1), np.float32))
    with pytest.raises(MappingError, match=r"layer '0': its output differs by .* from the caller's network"):
        mho.map(linear(), hardware(dac__equalise=0.5), calibrate=outliers())


@pytest.mark.parametrize("scaling", ["layer", "token"])
def test_outliers_leave_other_channels_their_codes(scaling: str) -> None:
    """The outputs need all channels alike; a DAC of 6 bits sees the two large ones and little else."""
    net, x = linear(), outliers()
    hw = ideal(**CALIBRATED, dac__bits=6, dac__scaling=scaling)
    errors = [
        relative_error(mho.map(net, hw.replace({"dac.equalise": alpha}), calibrate=x).read(x, read=0), net(x))
        for alpha in (None, 0.5)
    ]
    assert errors[1] < 0.1 < errors[0]


def test_saved_chips_read_the_same_and_reports_tell(tmp_path: Path) -> None:
    net, x = linear(), outliers()
    chip = mho.map(net, hardware(dac__scaling="token", dac__equalise=0.5), calibrate=x)
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded.read(x, read=1), chip.read(x, read=1))
    assert torch.equal(chip.copy(1).layers["0"].equaliser, chip.layers["0"].equaliser)
    factors = chip.layers["0"].equaliser
    said = f"equalised: 0: input channels divided by {factors.min():.3g} to {factors.max():.3g}, weights multiplied"
    assert said in str(chip.report())
    assert said in str(loaded.report())
    assert "equalised" not in str(mho.map(net, hardware(), calibrate=x).report())
    assert layer_costs(chip).attrs["scaling_operations"] == {"0": 40 + 2 * 40 + 16}
    loaded.layers["0"].equaliser = torch.ones(39)
    with pytest.raises(CheckpointError, match=r"layer '0': equaliser of shape \(39,\)"):
        saved_and_loaded(loaded, tmp_path)
    loaded.layers["0"].equaliser = torch.zeros(40)
    with pytest.raises(CheckpointError, match=r"layer '0': equaliser must be from 1e-30 to 1e\+30, got 0"):
        saved_and_loaded(loaded, tmp_path)


def saved_and_loaded(chip: mho.Chip, folder: Path) -> mho.Chip:
    chip.save(folder / "other")
    return mho.load(folder / "other")


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), True, "half", float("inf")])
def test_alpha_is_from_0_to_1(alpha: Any) -> None:
    with pytest.raises(ValueError, match=r"^dac\.equalise") as error:
        hardware(dac__equalise=alpha)
    assert "\n" not in str(error.value)


def test_what_cannot_be_equalised_is_refused() -> None:
    with pytest.raises(MappingError, match=r"^dac\.equalise: pass calibrate=, a batch of real inputs"):
        mho.map(linear(), ideal(**CALIBRATED, dac__equalise=0.5))
    with pytest.raises(ValueError, match=r"dac\.range must be 'calibrated' when dac\.equalise is set, got 100"):
        hardware(dac__range=100.0, dac__equalise=0.5)
    hw = hardware(dac__equalise=0.5)
    with pytest.raises(
        MappingError, match=r"^layer '0' takes 40 features in dimension -1, got an input of shape \(8, 39\)"
    ):
        mho.map(linear(), hw, calibrate=torch.rand(8, 39), check=False)
    bad = outliers()
    bad[0, 0] = torch.nan
    with pytest.raises(MappingError, match=r"layer '0': calibration inputs must be finite"):
        mho.map(linear(), hw, calibrate=bad, check=False)


def test_layers_of_their_own_choice() -> None:
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)).eval()
    hw = hardware().replace({"layers": {"0": {"dac.equalise": 0.5}}})
    layers = mho.map(net, hw, calibrate=outliers()).layers
    assert layers["0"].equaliser is not None
    assert layers["2"].equaliser is None
