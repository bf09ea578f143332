"""`mho.map`: what goes onto tiles, what stays digital, and that nothing changes what it should not."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, pictures, small_cnn
from scipy import stats
from torch import nn

import mho
from mho.crossbar.reader import Counts
from mho.devices.data import ExtrapolationWarning
from mho.mapping.errors import MappingError


def close(chip, net, x) -> bool:
    with torch.no_grad():
        return torch.allclose(chip(x), net(x), atol=1e-5, rtol=1e-4)


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 11)),
    (nn.Conv1d(4, 6, 2, padding="valid", dilation=3, bias=False), (4, 11)),
    (nn.Conv1d(4, 4, 3, padding=2, padding_mode="circular", groups=4), (4, 11)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (4, 9, 7)),
    (nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2), (4, 9, 7)),
    (nn.Conv2d(4, 6, (2, 4), padding="same"), (4, 9, 7)),
    (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (4, 9, 7)),
    (nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="replicate", stride=3), (4, 9, 7)),
    (nn.Conv2d(4, 6, (3, 2), padding=(2, 1), padding_mode="circular", dilation=(1, 2)), (4, 9, 7)),
    (nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 2)), (2, 5, 6, 4)),
    (nn.Conv3d(2, 4, 2, padding=1, padding_mode="replicate", groups=2, dilation=(2, 1, 1)), (2, 5, 6, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=lambda value: str(value)[:60])
def test_convolutions_of_every_kind(layer, shape):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    chip = mho.map(layer, ideal(tile__rows=7))
    assert chip(x).shape == layer(x).shape
    assert close(chip, layer, x)
    assert close(chip, layer, x[0])  # without a batch dimension, as torch


def test_linear_layers_with_any_leading_dimensions():
    layer = nn.Linear(5, 4)
    chip = mho.map(layer, ideal())
    for shape in ((5,), (3, 5), (2, 3, 5)):
        assert close(chip, layer, torch.randn(shape))


def test_a_network_with_batch_norm_is_folded_and_exact():
    net, x = small_cnn(), pictures()
    before = copy.deepcopy(net.state_dict())
    chip = mho.map(net, ideal(tile__rows=16, tile__columns=10))
    assert close(chip, net, x)
    assert list(chip.layers) == ["0", "3", "7"]
    assert ("1", "BatchNorm2d", "folded into 0") in chip.digital
    assert {d.name for d in chip.digital} == {"1", "2", "4", "5", "6"}
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert isinstance(net[1], nn.BatchNorm2d)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.norm_a = nn.BatchNorm2d(3)
        self.b = nn.Conv2d(3, 3, 3, padding=1)
        self.norm_b = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.norm_b(self.b(torch.relu(self.norm_a(y)))) + y  # y is used twice: a can't take norm_a in


class Undecided(nn.Module):
    """torch.fx cannot trace a branch on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return self.head(y) if y.sum() > -1 else y


def test_batch_norm_is_folded_only_where_that_is_exact():
    torch.manual_seed(0)
    net = Residual().eval()
    for norm in (net.norm_a, net.norm_b):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    chip = mho.map(net, ideal())
    assert close(chip, net, pictures())
    reasons = {d.name: d.reason for d in chip.digital}
    assert reasons["norm_b"] == "folded into b"
    assert reasons["norm_a"] == "batch norm of a, which is used elsewhere too"


def test_a_model_that_cannot_be_traced_maps_too():
    net = Undecided().eval()
    net.body[1].running_mean.uniform_(-1, 1)
    chip = mho.map(net, ideal())
    assert close(chip, net, torch.randn(4, 6))
    reason = "batch norm of a model that torch.fx cannot trace, so that nothing shows what else reads its input"
    assert ("body.1", "BatchNorm1d", reason) in chip.digital


def test_a_shared_layer_is_one_layer():
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    chip = mho.map(net, hardware(), calibrate=torch.randn(50, 6))
    assert list(chip.layers) == ["0"]
    assert chip.layers["0"].aliases == ["0", "2"]
    assert chip.model[0] is chip.model[2]
    quiet = mho.map(net, ideal(output_noise__sigma_add=0.1))
    x = torch.zeros(1, 6)
    first, exact = quiet.read(x, read=0), net(x)
    middle = quiet.layers["0"].digital(torch.tanh(quiet.layers["0"].digital(x)))
    assert torch.allclose(middle, exact)
    assert not torch.allclose(first, exact)


def test_what_a_layer_overrides_and_what_is_excluded():
    hw = hardware().replace({"layers": {"*": {"adc.bits": 7}, "7": {"tile.rows": 8, "tile.bias": "array"}}})
    chip = mho.map(small_cnn(), hw, calibrate=pictures(), exclude=["3"])
    assert list(chip.layers) == ["0", "7"]
    assert chip.layers["0"].hardware.adc.bits == chip.layers["7"].hardware.adc.bits == 7
    assert chip.layers["7"].placement.row_tiles == -(-73 // 8)
    assert ("3", "Conv2d", "excluded by name") in chip.digital
    with pytest.raises(MappingError, match=r"exclude: pattern 'conv\*' matches no layer; layers are 0, 3, 7"):
        mho.map(small_cnn(), ideal(), exclude=["conv*"])
    with pytest.raises(MappingError, match=r"hardware.layers: pattern 'head'"):
        mho.map(small_cnn(), ideal().replace({"layers": {"head": {"tile.rows": 8}}}))
    with pytest.raises(ValueError, match="adc"):
        ideal().replace({"layers": {"head": {"adc.bits": 8}}})


def per_cell_errors(weight, x, rng, chips, *, programming, read, g_min, g_max) -> np.ndarray:
    """Errors (chips, samples, outputs) of a differential matrix, with a normal number for every cell and read."""
    top = np.abs(weight).max(axis=0)
    span = (g_max - g_min) / top
    target = g_min + span * np.stack([np.maximum(weight, 0), np.maximum(-weight, 0)])
    g = np.maximum(target + programming * rng.standard_normal((chips, *target.shape)), 0)
    noisy = g[:, None] * (1 + read * rng.standard_normal((chips, len(x), *target.shape)))
    return np.einsum("si,csio->cso", x, noisy[:, :, 0] - noisy[:, :, 1]) / span - x @ weight


@pytest.mark.parametrize("factor", [1.0, 1.15])
def test_a_chip_errs_as_its_cells_do(factor):
    """Programming error and read noise of whole chips against a simulation of each cell; 15 % more is told apart."""
    torch.manual_seed(4)
    layer, x = nn.Linear(40, 30, bias=False), torch.rand(8, 40)
    exact = layer(x).detach().double().numpy()
    hw = hardware(dac__bits=None, dac__range=None, adc__bits=None, adc__full_scale=None, sensing__amplifier_noise=0.0)
    hw = hw.replace({"sensing.thermal": False, "sensing.shot": False})
    chips = [mho.map(layer, hw, seed=seed) for seed in range(60)]
    found = np.stack([chip.read(x, read=0).double().numpy() - exact for chip in chips])
    weight, cells = layer.weight.detach().double().numpy().T, {"g_min": 1e-6, "g_max": 40e-6}
    kinds = {"programming": factor * 0.5e-6, "read": factor * 0.02}
    expected = per_cell_errors(weight, x.double().numpy(), np.random.default_rng(1), 400, **kinds, **cells)
    spreads = [np.square(errors).mean(axis=(1, 2)) for errors in (found, expected)]  # a number a chip
    off = spreads[0].mean() - spreads[1].mean()
    sure = 5 * float(np.sqrt(sum(spread.var() / len(spread) for spread in spreads)))
    assert (abs(off) < sure) == (factor == 1)


@pytest.mark.parametrize(
    "fields", [{}, {"tile__encoding": "offset"}, {"tile__slices": 2, "cell__levels": 16}, {"dac__bits_per_pulse": 4}]
)
def test_what_noisy_hardware_reads_is_what_its_cells_hold(fields):
    """Without its noise, a read is the product with the programmed weights, up to half a step of each converter."""
    torch.manual_seed(4)
    layer, x = nn.Linear(40, 30), torch.rand(50, 40)
    chip = mho.map(layer, hardware(**fields), calibrate=x)
    tiled, errors = chip.layers[""].tiles, chip.read(x, read=0, noisy=False).numpy()
    drive = tiled.design.drive
    codes = np.rint(x.numpy() / drive.limit * drive.full_code) / drive.full_code
    stored = codes.astype(np.float64) @ tiled.weights[0] * drive.limit
    errors = errors - (stored + layer.bias.detach().numpy())
    planes, circuit = tiled.packed[0].planes, tiled.reader.circuit()
    a_step = (planes.scale[:, :, :30] * circuit.step[:, None, None]).sum(axis=(0, 1))
    columns = 2 if planes.reference.size else 1  # a step of the output's own reading, and one of its reference's
    pulses = sum(2.0 ** (circuit.digit_bits * q) for q in range(circuit.pulses))
    pulses *= (2**circuit.digit_bits - 1) / circuit.full_code if circuit.pulses > 1 else 1
    bound = columns * pulses * a_step / 2
    inside = np.abs(errors) <= 1.001 * bound + 1e-5
    assert inside.mean() > 0.995  # the largest currents are clipped
    assert (np.abs(errors) > 0.3 * bound).any()  # and the bound is not a generous one


def test_reads_are_numbered():
    net, x = small_cnn(), pictures()
    make = lambda seed=0: mho.map(net, hardware(), calibrate=x, seed=seed)  # noqa: E731
    a, b = make(), make()
    first, second = a(x), a(x)
    assert not torch.equal(first, second)
    assert torch.equal(b(x), first)
    assert torch.equal(b(x), second)
    assert torch.equal(b.read(x, read=0), first)
    assert not torch.equal(make(1)(x), first)
    assert torch.equal(make().read(x, read=5, noisy=False), make().read(x, read=6, noisy=False))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(make()(x), first)
    finally:
        torch.set_num_threads(threads)


def test_a_copy_is_another_chip_of_the_same_design():
    chip = mho.map(small_cnn(), hardware(), calibrate=pictures())
    other = chip.copy(1)
    x = pictures()
    assert not torch.equal(other.read(x, read=0, noisy=False), chip.read(x, read=0, noisy=False))
    assert torch.equal(chip.copy(0).read(x, read=0), chip.read(x, read=0))
    assert other.layers["0"].tiles.design.drive == chip.layers["0"].tiles.design.drive


@pytest.mark.parametrize(("sigma_add", "sigma_mult"), [(0.3, 0.0), (0.0, 0.5), (0.2, 0.4)])
def test_the_papers_noise_exactly(sigma_add, sigma_mult):
    """Eq. (2) and (3): mean, standard deviation and distribution over 10^6 reads of one output."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(20, 4), nn.BatchNorm1d(4)).eval()
    net[1].running_mean.uniform_(-1, 1)
    one = torch.randn(1, 20)
    chip = mho.map(net, mho.Hardware.paper(sigma_add=sigma_add, sigma_mult=sigma_mult))
    with torch.no_grad():
        y = chip(one.expand(1_000_000, 20)).double().numpy()
        exact = net(one)[0].double().numpy()
    n = len(y)
    for j in range(4):
        sigma = (sigma_add**2 + (sigma_mult * exact[j]) ** 2) ** 0.5
        assert abs(y[:, j].mean() - exact[j]) < 5 * sigma / n**0.5 + 1e-6
        assert abs(y[:, j].std() / sigma - 1) < 5 / (2 * n) ** 0.5
        z = (y[:, j] - exact[j]) / sigma
        assert stats.kstest(z, "norm", method="asymp").pvalue > 1e-3
        assert stats.kstest(1.01 * z, "norm", method="asymp").pvalue < 1e-3  # negative control


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda net: net[0].weight.data.fill_(float("nan")), "layer '0': weights must be finite"),
        (lambda net: net[7].bias.data.fill_(float("inf")), "layer '7': bias must be finite, got 10"),
    ],
)
def test_broken_weights_are_refused(spoil, message):
    net = small_cnn()
    spoil(net)
    with pytest.raises(MappingError, match=message):
        mho.map(net, ideal())


def test_calibration_inputs_are_checked():
    net = small_cnn()
    with pytest.raises(MappingError, match=r"layer '0': dac.range is 'calibrated': pass calibrate="):
        mho.map(net, hardware())
    with pytest.raises(MappingError, match=r"takes 3 channels .* got an input of shape \(6, 1, 12, 12\)"):
        mho.map(net, hardware(), calibrate=pictures()[:, :1])
    with pytest.raises(MappingError, match="layer '7' takes 72 features"):
        mho.map(net, hardware(), calibrate=torch.rand(2, 3, 20, 20))
    with pytest.raises(MappingError, match="do not go through the model"):
        mho.map(
            nn.Sequential(nn.Unflatten(1, (3, 4)), nn.Flatten(), nn.Linear(12, 2)),
            hardware(),
            calibrate=torch.rand(2, 13),
        )
    with pytest.raises(MappingError, match="NaN"):
        mho.map(net, hardware(), calibrate=torch.full((2, 3, 12, 12), float("nan")))
    with pytest.raises(MappingError, match="no linear, convolution or recurrent layer"):
        mho.map(nn.ReLU(), ideal())
    with pytest.raises(MappingError, match=r"must be a torch.nn.Module"):
        mho.map("net", ideal())
    with pytest.raises(MappingError, match=r"must be a mho.Hardware"):
        mho.map(net, "reram")


def test_a_shared_layer_is_calibrated_for_all_its_calls():
    torch.manual_seed(0)
    shared = nn.Linear(6, 6, bias=False)
    shared.weight.data = 3 * torch.eye(6)
    net = nn.Sequential(shared, nn.Hardtanh(-100, 100), shared)
    x = torch.rand(100, 6)
    chip = mho.map(net, hardware(), calibrate=x)
    layer = chip.layers["0"]
    assert layer.positions == 2
    largest = float(layer(x).max())  # the second call's inputs: about 3, where the first has 1
    assert layer.tiles.design.drive.limit == pytest.approx(3 * float(x.max()), rel=0.01)
    assert largest > 2.5
    shares = []
    for _ in range(2):
        layer.counter.counts = Counts()
        chip(x)
        shares.append(layer.counts.readings_clipped / layer.counts.readings)
        ranges = layer.tiles.ranges  # negative control: as of the first call alone
        layer.programmed = layer.tiles.with_ranges(replace(ranges, full_scale=ranges.full_scale / 3))
    assert shares[0] < 0.01
    assert shares[1] > 0.03


def test_a_shared_layer_takes_overrides_by_any_of_its_names():
    shared = nn.Linear(6, 6)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    chip = mho.map(net, ideal().replace({"layers": {"2": {"tile.rows": 4}}}))
    assert chip.layers["0"].placement.row_tiles == 2


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(400, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head(y.view(y.shape[0], -1))


def test_views_of_a_convolution_work_as_in_torch():
    net = Views()
    chip = mho.map(net, ideal())
    assert not chip.channels_last
    assert close(chip, net, pictures())
    assert mho.map(small_cnn(), ideal()).channels_last
    alone = mho.map(net.conv, ideal())  # a layer by itself asks for none either
    assert alone(pictures()).is_contiguous(memory_format=torch.channels_last)
    assert close(alone, net.conv, pictures())


def test_positions_do_not_depend_on_a_batch_dimension():
    conv = nn.Conv2d(3, 4, 3)
    chip = mho.map(conv, ideal())
    for x in (pictures(), pictures()[0]):
        chip(x)
        assert chip.layers[""].positions == 100


def test_an_empty_batch_gives_an_empty_output():
    assert mho.map(small_cnn(), ideal())(pictures()[:0]).shape == (0, 10)


def test_a_chip_ages_and_its_drift_can_be_compensated():
    cell = mho.Hardware.preset("pcm").cell.model_dump()
    hw = hardware(cell={**cell, "read_noise": {"kind": "none"}}, sensing__v_read=0.2)
    net, x = small_cnn(), pictures(32)
    chip = mho.map(net, hw, calibrate=x, seed=3)
    with pytest.warns(ExtrapolationWarning, match=r"time_s = 1e\+07 s is outside the data of cell.drift, 0 to 86400 s"):
        old, mended = chip.at(1e7), chip.at(1e7, drift_compensation=True)
    assert old.hardware.time_s == 1e7
    assert chip.hardware.time_s == 0
    sizes = [float(c.read(x, read=0, noisy=False).std()) for c in (chip, old, mended)]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[2] == pytest.approx(sizes[0], rel=0.1)
    assert torch.equal(old.at(0).read(x, read=0), chip.read(x, read=0))
    with pytest.raises(ValueError, match="time_s"):
        chip.at(-1)
