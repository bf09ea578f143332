"""Gradients through the backend of torch operations: those of the mean response of a chip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, on_tiles
from test_chain import PARTS as CHAIN
from torch import nn

import mho
from mho.mapping.torch_backend.backend import Torch
from mho.mapping.torch_backend.philox import Counted
from mho.mapping.torch_backend.reading import readings

NO_ADC: dict[str, Any] = {"adc.bits": None, "adc.full_scale": None}
NO_DAC: dict[str, Any] = {"dac.bits": None, "dac.range": None}
QUIET: dict[str, Any] = {"adc.kind": None, "sensing.gain_noise": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "offset": {"tile.encoding": "offset", "tile.slices": 2, "cell.levels": 16},
    "bias on the array": {"tile.bias": "array"},
    **{name: {key.replace("__", "."): value for key, value in fields.items()} for name, fields in CHAIN.items()},
}
ROWS, OUTPUTS = 20, 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def chip_of(fields: dict[str, Any], x: torch.Tensor) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(ROWS, OUTPUTS)).eval()
    return mho.map(net, hardware().replace({"tile.rows": 12, **fields}), calibrate=x, backend="torch")


def gradient(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    along = torch.linspace(-1, 1, y.shape[-1])
    return torch.autograd.grad((y * along).sum(), x)[0]


def slope(chip: mho.Chip, x: torch.Tensor, by: float, **options: Any) -> torch.Tensor:
    """Differences of the response, input by input, to a step either way."""
    along, found = torch.linspace(-1, 1, OUTPUTS), torch.zeros_like(x)
    for i in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, i] = by
        up, down = (chip.read(z, read=0, **options).reshape(-1, len(x), OUTPUTS).mean(0) for z in (x + step, x - step))
        found[:, i] = ((up - down) * along).sum(1) / (2 * by)
    return found


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "curved cells, digits"])  # which are jagged
def test_gradients_are_slopes_of_the_response(name: str) -> None:
    """Without an ADC the response is linear in the codes of the DAC, and a step of one of them is exact."""
    x = 2 * random(8, ROWS) - 1
    x[0, 0] = 1.0
    chip = chip_of({**SETTINGS[name], **NO_ADC}, x)
    drive = chip.layers["0"].tiles.design.drive
    lsb = drive.limit / drive.full_code
    z = ((0.9 * x / lsb).round() * lsb).requires_grad_()
    found = gradient(chip.read(z, read=0, noisy=False), z)
    with torch.no_grad():
        wanted = slope(chip, z, lsb, noisy=False)
    close = 0.1 if "curved" in name else 1e-3  # a law is not straight between two codes
    assert (found - wanted).abs().max() < close * wanted.abs().max()


def test_a_law_without_a_dac_has_its_own_slope() -> None:
    x = 2 * random(8, ROWS) - 1
    fields = {"cell.nonlinearity": {"kind": "sinh", "v_0": "0.15 V"}, **NO_DAC, **NO_ADC}
    chip = chip_of(fields, x)
    z = (0.9 * x).requires_grad_()
    found = gradient(chip.read(z, read=0, noisy=False), z)
    wanted = slope(chip, z.detach(), 1e-2, noisy=False)
    assert (found - wanted).abs().max() < 0.01 * wanted.abs().max()
    straight = gradient(chip_of({**NO_DAC, **NO_ADC}, x).read(z, read=0, noisy=False), z)
    assert (straight - wanted).abs().max() > 0.1 * wanted.abs().max()  # negative control


def test_a_noisy_adc_has_the_slope_of_its_mean() -> None:
    """Noise of more than a step dithers an ADC, whose mean response is straight then."""
    x = random(6, ROWS)
    chip = chip_of({**NO_DAC, "adc.bits": 5, "cell.read_noise": {"kind": "constant", "std_g": "8 uS"}}, x)
    z = x.clone().requires_grad_()
    reads = 500
    found = gradient(chip.read(z, read=0, reads=reads).reshape(reads, 6, OUTPUTS).mean(0), z)
    wanted = slope(chip, x, 0.2, reads=reads)
    assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_what_is_clipped_has_no_gradient() -> None:
    x = random(40, ROWS)
    chip = chip_of({"dac.range": 0.5, "adc.percentile": 80.0}, x)
    z = x.clone().requires_grad_()
    gradient(chip.read(z, read=0, noisy=False), z)
    found = gradient(chip.read(z, read=0, noisy=False), z)
    assert not found[x > 0.51].any()
    assert found[x < 0.49].any()
    assert chip.layers["0"].counts.readings_clipped > 0
    wide = chip_of({"dac.range": 0.5, "adc.percentile": 100.0}, x)
    assert not torch.equal(gradient(wide.read(z, read=0, noisy=False), z), found)


def given(fields: dict[str, Any]) -> tuple[Any, ...]:
    """Codes, cells, converters and circuit of a matrix without converters."""
    weights = np.random.default_rng(0).normal(size=(1, ROWS, OUTPUTS)).astype(np.float32)
    x = np.random.default_rng(1).uniform(-1, 1, (5, 1, 1, 1, ROWS)).astype(np.float32)
    hw = hardware().replace({"tile.rows": 12, **NO_DAC, **NO_ADC, **fields})
    reader = on_tiles(weights, hw, inputs=x, backend=Torch()).reader
    (prepared,), circuit, cpu = reader.prepared, reader.circuit(), torch.device("cpu")
    return torch.from_numpy(x.reshape(5, ROWS)), prepared.cells(cpu), prepared.converters(circuit, cpu), circuit


def draws() -> Counted:
    return Counted.of(list(range(20)), 0, torch.zeros(1, dtype=torch.int64), (0, 5), 0)


@pytest.mark.parametrize("fields", [{}, {"sensing.gain_noise": 0.05, "sensing.supply_noise": 0.05}])
@pytest.mark.parametrize("what", ["codes", "mean", "variance", "scale"])
def test_noise_has_gradients_where_they_are_asked_for(what: str, fields: dict[str, Any]) -> None:
    """The same normals again: outputs are a smooth function of codes and cells, noise and all."""
    codes, cells, converters, circuit = given(fields)
    along = torch.linspace(-1, 1, 5 * OUTPUTS).reshape(1, 5, OUTPUTS)

    def response(value: torch.Tensor, **options: Any) -> torch.Tensor:
        held = cells if what == "codes" else cells._replace(**{what: value})
        y, _ = readings(value if what == "codes" else codes, held, converters, circuit, draws(), **options)
        return (y * along).sum()

    start = codes if what == "codes" else getattr(cells, what)
    value = start.clone().requires_grad_()
    (whole,) = torch.autograd.grad(response(value, through_variance=True), value)
    direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) * start.abs().mean()
    direction = direction.abs() * (start > 0) if what == "variance" else direction
    by = 3e-3
    wanted = (response(start + by * direction) - response(start - by * direction)) / (2 * by)
    found = (whole * direction).sum()
    assert abs(float(found - wanted)) < 0.02 * float((whole * direction).abs().sum())
    if what == "variance":
        y, _ = readings(codes, cells._replace(variance=value), converters, circuit, draws())
        assert not y.requires_grad
    elif what == "codes" or (what == "mean" and fields):
        (mean,) = torch.autograd.grad(response(value), value)
        assert not torch.allclose(mean, whole)


def test_what_a_read_without_gradients_leaves_serves_one_with_them() -> None:
    x = random(8, ROWS)
    chip = chip_of({"cell.read_noise": {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"},
                    "sensing.read_interval": "200 ns"}, x)  # fmt: skip
    with torch.inference_mode():
        first = chip.read(x, read=0)
    z = x.clone().requires_grad_()
    y = chip.read(z, read=0)
    assert torch.allclose(y, first, atol=1e-4)
    assert gradient(y, z).any()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gradients_pass_time(kind: Any) -> None:
    torch.manual_seed(0)
    net, x = kind(5, 8, batch_first=True).eval(), random(6, 4, 5)
    hw = mho.Hardware.preset("ideal").replace(NO_ADC)
    chip = mho.map(net, hw, calibrate=x, backend="torch")
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = gradient(chip.read(z, read=0)[0], z)
    wanted = gradient(net(w)[0], w)
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_convolutions_in_parts_have_one_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.Tanh()).eval(), random(5, 2, 7, 7)
    chip = mho.map(net, hardware(), calibrate=x, backend="torch")
    found = []
    for most in (2**16, 60):
        monkeypatch.setattr("mho.mapping.torch_backend.backend.CHUNK", most)
        z = x.clone().requires_grad_()
        chip.read(z, read=0, reads=2).square().sum().backward()
        found.append(z.grad)
    assert torch.allclose(found[0], found[1], atol=1e-4)
    assert found[0].abs().max() > 0.01
