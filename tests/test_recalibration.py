"""Chips whose ranges and batch norms are measured again after their cells have changed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import hardware, pictures, relative_error, small_cnn
from numpy.testing import assert_allclose, assert_array_equal
from test_scaling import scaled
from torch import nn

import mho
from mho import Hardware
from mho.crossbar.expected import expected_errors
from mho.mapping.errors import MappingError
from mho.models.cnn import mnist_cnn
from mho.models.data.mnist_images import mnist

LATE = 1e6
pytestmark = pytest.mark.filterwarnings("ignore::mho.devices.data.ExtrapolationWarning")


def pcm(**fields: Any) -> Hardware:
    return Hardware.preset("pcm").replace({name.replace("__", "."): value for name, value in fields.items()})


def two_norms() -> nn.Sequential:
    """All its matrix layers are followed by a batch norm, so that all outputs can be corrected."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1, stride=2),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(200, 12),
        nn.BatchNorm1d(12, momentum=None),
    )
    for norm in (net[1], net[5]):
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.uniform_(-0.5, 0.5)
    net.train()
    with torch.no_grad():
        for seed in range(30):  # statistics of the inputs that it will see
            net(pictures(64, seed))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("exclude", [(), ("1", "5")], ids=["folded", "digital"])
def test_outputs_have_their_means_and_variances_again(exclude: tuple[str, ...]) -> None:
    net, x, other = two_norms(), pictures(256, 5), pictures(256, 6)
    chip = mho.map(net, pcm(), calibrate=x, exclude=exclude)
    late = chip.at(LATE)
    again = late.recalibrate(x)
    assert not any(layer.counts.readings for layer in again.layers.values())
    exact = net(other)
    assert relative_error(late.read(other, read=0), exact) > 0.3  # the negative control
    assert relative_error(again.read(other, read=0), exact) < 2 * relative_error(chip.read(other, read=0), exact)
    for name, layer in again.layers.items():
        before = late.layers[name]
        assert_array_equal(layer.tiles.packed[0].planes.mean, before.tiles.packed[0].planes.mean)  # the same cells
        assert layer.tiles.design.drive == before.tiles.design.drive
        assert layer.tiles.ranges.full_scale[0] < 0.9 * before.tiles.ranges.full_scale[0]
        assert (layer.tiles.ranges.outputs is None) == bool(exclude)
    y, exact_y = again.read(x, read=0, noisy=False), net(x)
    off = 0.25 if exclude else 0.02  # statistics of a batch norm are those of all inputs that it was trained on
    assert torch.allclose(y.mean(dim=0), exact_y.mean(dim=0), atol=off)
    assert torch.allclose(y.std(dim=0), exact_y.std(dim=0), rtol=off)


def test_the_chip_itself_stays_and_ages_keep_what_was_measured() -> None:
    net, x = small_cnn(), pictures(64)
    chip = mho.map(net, pcm(), calibrate=x)
    before, late = chip.read(x, read=0), chip.at(LATE)
    again = late.recalibrate(x)
    assert torch.equal(chip.read(x, read=0), before)
    assert torch.equal(late.read(x, read=0), chip.at(LATE).read(x, read=0))
    assert torch.equal(again.at(LATE).read(x, read=0), again.read(x, read=0))
    assert (again.seed, again.hardware, again.copy_index) == (late.seed, late.hardware, 0)
    assert again.copy(1).layers["0"].tiles.ranges.outputs is None  # another chip has measured nothing
    twice = again.recalibrate(x)
    assert torch.allclose(twice.read(x, read=0), again.read(x, read=0), rtol=1e-3, atol=1e-3)
    both = chip.at(LATE, drift_compensation=True).recalibrate(x)
    assert relative_error(both.read(x, read=0), net(x)) < relative_error(late.read(x, read=0), net(x))


def test_digital_batch_norms_get_the_statistics_of_the_chip() -> None:
    net, x = two_norms(), pictures(256, 5)
    chip = mho.map(net, hardware(), calibrate=x, exclude=("1", "5"))
    again = chip.recalibrate(x)
    seen: list[torch.Tensor] = []
    again.model[5].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    again.read(x, read=0, noisy=False)
    norm = again.model[5]
    assert torch.allclose(norm.running_mean, seen[0].mean(dim=0), atol=1e-4)
    assert torch.allclose(norm.running_var, seen[0].var(dim=0), rtol=1e-3)
    assert torch.equal(chip.model[5].running_mean, net[5].running_mean)


def test_saved_chips_keep_it(tmp_path: Path) -> None:
    net, x = small_cnn(), pictures(64)
    chip = mho.map(net, pcm(), calibrate=x).at(1e4).recalibrate(x)
    chip.save(tmp_path / "chip")
    loaded = mho.load(tmp_path / "chip")
    assert torch.equal(loaded.read(x, read=3), chip.read(x, read=3))
    assert torch.equal(loaded.at(2e4).read(x, read=3), chip.at(2e4).read(x, read=3))
    assert_array_equal(loaded.layers["0"].tiles.ranges.outputs, chip.layers["0"].tiles.ranges.outputs)
    twice = chip.recalibrate(pictures(64, 2))
    twice.save(tmp_path / "twice")
    assert torch.equal(mho.load(tmp_path / "twice").read(x, read=3), twice.read(x, read=3))


def test_expected_errors_know_the_gains_and_offsets() -> None:
    net, x = two_norms(), pictures(256, 5)
    quiet = {"cell.programming": {"kind": "none"}, "cell.drift.spread": {"offset": 0, "slope": 0, "low": 0, "high": 0}}
    chip = mho.map(net, pcm(**quiet), calibrate=x).at(LATE).recalibrate(x)
    layer = chip.layers["4"]
    inputs = chip.model[:4](x).reshape(len(x), 1, 1, 1, -1).numpy()
    expected = expected_errors(layer.tiles, inputs, 2)
    got = layer.tiles.reader.read(inputs, noisy=False)[0] - layer.tiles.design.bias_of(0)
    assert relative_error(torch.from_numpy(got), torch.from_numpy(expected.mean)) < 0.03
    bias = layer.tiles.design.bias_of(0)
    moved = layer.tiles.corrected(np.full((1, 12), 1.5), np.full((1, 12), 2.0))
    assert_allclose(
        expected_errors(moved, inputs, 2).mean + bias, 1.5 * (expected.mean + bias) + 2, rtol=1e-4, atol=1e-4
    )
    read = moved.reader.read(inputs, noisy=False)[0]
    assert_allclose(read, 1.5 * (got + bias) + 2, rtol=1e-4, atol=1e-4)


class Twice(nn.Module):
    """A layer and a batch norm that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.last = nn.Linear(12, 12), nn.BatchNorm1d(12, momentum=None), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.linear(x)))
        return self.last(torch.relu(self.norm(self.linear(x))))


def test_what_is_called_several_times_and_recurrent_layers() -> None:
    torch.manual_seed(0)
    net, x = Twice().train().requires_grad_(False), torch.rand(128, 12)
    net(x)
    net.eval()
    chip = mho.map(net, pcm(), calibrate=x).at(LATE)
    with pytest.warns(UserWarning, match="batch norm 'norm' is called several times: its statistics stay as they are"):
        again = chip.recalibrate(x)
    assert torch.equal(again.model.norm.running_mean, net.norm.running_mean)
    for name, layer in again.layers.items():
        assert layer.tiles.ranges.full_scale[0] < 0.9 * chip.layers[name].tiles.ranges.full_scale[0]
    lstm = nn.LSTM(5, 6, batch_first=True).eval()
    steps = torch.rand(32, 4, 5)
    late = mho.map(lstm, pcm(), calibrate=steps).at(LATE)
    scales = [c.layers[name].tiles.ranges.full_scale[0] for c in (late, late.recalibrate(steps)) for name in c.layers]
    assert scales[1] < scales[0]


def test_inputs_that_do_not_fit_are_named() -> None:
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures())
    with pytest.raises(MappingError, match="layer '0' takes 3 channels in dimension -3"):
        chip.recalibrate(torch.rand(6, 5, 12, 12))
    with pytest.raises(MappingError, match="inputs: expected a tensor"):
        chip.recalibrate("pictures")
    with pytest.raises(MappingError, match="inputs: must be one batch, or batches of one tensor each"):
        chip.recalibrate([pictures(2), torch.rand(2, 3, 14, 14)])


def test_the_benchmark_writes_a_row_for_each_time_and_chip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    script = importlib.import_module("recalibration")
    monkeypatch.setattr(script, "mnist", lambda split: mnist("test"))
    monkeypatch.setattr(script, "TIMES", (0.0, LATE))
    assert script.main(["--out", str(tmp_path), "--images", "12", "--chips", "1", "--inputs", "16"]) == 0
    table = pd.read_csv(tmp_path / "recalibration.csv")
    assert list(table) == ["time_s", "seed", "as it is", "compensated", "recalibrated", "both"]
    assert list(table["time_s"]) == [0, LATE]
    assert table.iloc[:, 2:].to_numpy().min() >= 0


def test_pcm_after_a_million_seconds_reads_digits_again() -> None:
    """The paper's CNN with its committed weights, on 200 digits of the test set that comes along."""
    images, labels = mnist("test")
    net = mnist_cnn("sigma-0.0").eval()
    chip = mho.map(net, pcm(), calibrate=images[5000:5128], check=False)
    late = chip.at(LATE)
    x, y = images[:200], labels[:200]

    def accuracy(c: mho.Chip) -> float:
        return float((c.read(x, read=0).argmax(dim=1) == y).float().mean())

    assert accuracy(chip) > 0.98
    assert accuracy(late) < 0.7
    assert accuracy(late.recalibrate(images[5000:5128])) > 0.98


def of_all_sizes(x: torch.Tensor) -> torch.Tensor:
    """Samples that differ in size, by up to some hundred."""
    rng = torch.Generator().manual_seed(8)
    return x * torch.exp(1.5 * torch.randn(len(x), *[1] * (x.ndim - 1), generator=rng))


def norm_of_vectors() -> nn.Sequential:
    torch.manual_seed(3)
    norms = [nn.BatchNorm1d(12, momentum=None), nn.BatchNorm1d(5, momentum=None)]
    net = nn.Sequential(nn.Linear(40, 12), norms[0], nn.ReLU(), nn.Linear(12, 5), norms[1]).train()
    with torch.no_grad():
        net(of_all_sizes(torch.randn(4000, 40)))
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("kind", ["sample", "token"])
def test_layers_with_a_scale_for_each_sample_or_token_are_measured_again(
    kind: str, backend: str, tmp_path: Path
) -> None:
    net, torch_rng = norm_of_vectors(), torch.Generator().manual_seed(4)
    x, other = (of_all_sizes(torch.randn(400, 40, generator=torch_rng)) for _ in range(2))
    chip = mho.map(net, pcm(dac__scaling=kind), calibrate=x, backend=backend)
    late = chip.at(LATE)
    again = late.recalibrate(x)
    exact = net(other)
    errors = [relative_error(c.read(other, read=0), exact) for c in (chip, late, again)]
    assert errors[1] > 0.3  # the negative control
    assert errors[2] < 2 * errors[0]
    for name in ("0", "3"):
        old, new = late.layers[name].tiles, again.layers[name].tiles
        assert new.ranges.full_scale[0] < 0.9 * old.ranges.full_scale[0]
    first, firsts = again.layers["0"], net[:2](x)
    y = torch.from_numpy(reads_alone(first, x))
    assert torch.allclose(y.mean(dim=0), firsts.mean(dim=0), atol=1e-3)
    assert torch.allclose(y.std(dim=0), firsts.std(dim=0), rtol=1e-3)
    again.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip", backend=backend).read(other, read=3), again.read(other, read=3))
    assert first.tiles.digest() != late.layers["0"].tiles.digest()


def reads_alone(layer: Any, x: torch.Tensor) -> np.ndarray[Any, Any]:
    """Outputs of a linear layer without noise, before what follows."""
    values, scales = scaled(layer, x)
    return layer.tiles.reader.read(values.numpy(), scales=scales.numpy(), noisy=False)[0]


def test_gains_and_offsets_of_outputs_come_after_the_scales() -> None:
    x = of_all_sizes(torch.randn(30, 40, generator=torch.Generator().manual_seed(4)))
    layer = mho.map(norm_of_vectors(), pcm(dac__scaling="sample"), calibrate=x).layers["0"]
    y, plain = reads_alone(layer, x), layer.tiles
    moved = plain.corrected(np.full((1, 12), 1.5), np.full((1, 12), 2.0))
    layer.programmed = moved
    assert_allclose(reads_alone(layer, x), 1.5 * y + 2, rtol=1e-4, atol=1e-4)
    values, scales = (part.numpy() for part in scaled(layer, x))
    bias = plain.design.bias_of(0)
    before, after = (expected_errors(tiles, values, 2, scales) for tiles in (plain, moved))
    assert_allclose(after.mean + bias, 1.5 * (before.mean + bias) + 2, rtol=1e-4, atol=1e-4)
    assert_array_equal(moved.packed[0].planes.bias, 0)
    assert moved.digest() != plain.corrected(np.full((1, 12), 1.5), np.full((1, 12), 1.0)).digest()


def test_a_convolution_whose_samples_have_scales_gets_its_statistics_back() -> None:
    net, x, other = two_norms(), pictures(256, 5), pictures(256, 6)
    chip = mho.map(net, pcm(dac__scaling="sample"), calibrate=x)
    late, exact = chip.at(LATE), net(other)
    again = late.recalibrate(x)
    assert relative_error(late.read(other, read=0), exact) > 0.3
    assert relative_error(again.read(other, read=0), exact) < 2 * relative_error(chip.read(other, read=0), exact)
    tensor = mho.map(net, pcm(dac__scaling="sample"), calibrate=x, exclude=("1", "5")).at(LATE).recalibrate(x)
    assert relative_error(tensor.read(other, read=0), exact) < 0.5 * relative_error(late.read(other, read=0), exact)


def test_a_layer_of_scaled_steps_is_measured_over_all_its_calls() -> None:
    lstm = nn.LSTM(5, 6, batch_first=True).eval().requires_grad_(False)
    steps = of_all_sizes(torch.rand(32, 4, 5, generator=torch.Generator().manual_seed(2)))
    late = mho.map(lstm, pcm(dac__scaling="sample"), calibrate=steps).at(LATE)
    again = late.recalibrate(steps)
    for name, layer in again.layers.items():
        assert layer.tiles.ranges.full_scale[0] < 0.9 * late.layers[name].tiles.ranges.full_scale[0]
