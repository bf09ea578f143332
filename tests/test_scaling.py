"""Inputs scaled in each read, by sample or by token: readings are those of the scaled inputs, times the scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, ideal, on_tiles, pictures, relative_error, small_cnn
from test_tensor_arrays import tensors  # noqa: F401  (the backend of the docs)
from torch import nn

import mho
from mho.crossbar.cells import Drawn
from mho.crossbar.expected import expected_errors
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Counts, Seeds
from mho.mapping.architecture.cost import layer_costs
from mho.mapping.architecture.stages import chip_plan
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.scaling import range_of

KINDS = ("sample", "token")
CALIBRATED = {"dac__range": "calibrated"}


class Mixed(nn.Module):
    """Tokens (samples, steps, 12) through a layer, then with the steps first through another."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(12, 10, bias), nn.Linear(10, 4, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(x).transpose(0, 1)).transpose(0, 1)


class Chosen(nn.Module):
    """Tokens that a layer takes where their sum is positive."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[x.sum(-1) > 0] = self.layer(x[x.sum(-1) > 0])
        return y


def net(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return Mixed(bias).eval().requires_grad_(False)


def tokens(n: int = 6, steps: int = 3) -> torch.Tensor:
    """Signed inputs whose tokens differ by factors of some hundred, one of them zero."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(n, steps, 12, generator=rng) * torch.exp(2 * torch.randn(n, steps, 1, generator=rng))
    x[1, 2] = 0
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_without_errors_a_chip_is_the_network(kind: str, backend: str) -> None:
    hw, x = ideal(**CALIBRATED, dac__scaling=kind), tokens()
    assert torch.allclose(mho.map(net(), hw, calibrate=x, backend=backend)(x), net()(x), rtol=1e-4, atol=1e-5)


def test_convolutions_and_recurrent_layers_are_scaled_too() -> None:
    cnn, x = small_cnn(), pictures() * torch.tensor([1.0, 100.0, 0.01, 1, 1, 0]).reshape(-1, 1, 1, 1)
    chip = mho.map(cnn, ideal(**CALIBRATED, dac__scaling="sample"), calibrate=x)
    assert torch.allclose(chip(x), cnn(x), rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    lstm = nn.LSTM(12, 5, num_layers=2, bidirectional=True, batch_first=True).eval().requires_grad_(False)
    for kind in KINDS:
        chip = mho.map(lstm, ideal(**CALIBRATED, dac__scaling=kind), calibrate=tokens())
        assert torch.allclose(chip(tokens())[0], lstm(tokens())[0], atol=1e-5)
    pointwise = nn.Sequential(nn.Conv2d(3, 4, 1)).eval().requires_grad_(False)
    chip = mho.map(pointwise, ideal(**CALIBRATED, dac__scaling="token"), calibrate=x)
    assert torch.allclose(chip(x), pointwise(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_an_input_give_copies_of_its_readings(kind: str) -> None:
    """All that is done to them, noise included, is the same but for the scale: of 4 exactly, of others to rounding."""
    x = tokens()
    chip = mho.map(net(bias=False), hardware(dac__scaling=kind), calibrate=x)
    y = chip.read(x, read=3)
    assert torch.equal(chip.read(4 * x, read=3), 4 * y)
    assert torch.equal(chip.read(2.0**-40 * x, read=3), 2.0**-40 * y)
    layer = chip.layers["inner"]
    read = [
        layer.tiles.reader.read(v.numpy(), scales=s.numpy())[0] for v, s in (scaled(layer, f * x) for f in (1, 7.3))
    ]
    assert np.abs(read[1] - 7.3 * read[0]).max() < 0.02 * np.abs(read[1]).max()  # a code may fall on the other side
    assert np.median(np.abs(read[1] / 7.3 - read[0])) < 1e-6
    usual = mho.map(net(bias=False), hardware(), calibrate=x)  # negative control
    assert not torch.allclose(usual.read(4 * x, read=3), 4 * usual.read(x, read=3), rtol=0.1)


def scaled(layer: Any, x: torch.Tensor) -> Any:
    """Inputs (samples, steps, features) of a linear layer as its DACs take them, and their scales."""
    from mho.mapping.inputs.order import FIRST, order_of

    given = layer.arranged(x)
    return layer.scaled(given.values, order_of(given.leading, FIRST, len(x)))


def test_a_read_is_that_of_a_range_of_one_times_the_scale() -> None:
    """By a chip of one range for the layer, with the same cells, ranges and noise, that is given the scaled inputs."""
    x, module = tokens(), net().head
    inputs = tokens()[..., :10]
    chip = mho.map(nn.Sequential(module), hardware(dac__scaling="token"), calibrate=inputs)
    tiles = chip.layers["0"].tiles
    values, scales = (part.numpy() for part in scaled(chip.layers["0"], inputs))
    assert np.abs(values).max() == 1
    assert np.array_equal(scales, np.abs(inputs.numpy()).max(axis=2).reshape(-1))
    one = hardware(dac__range=1.0)
    matrix = type(tiles.design.matrix)("0", tiles.design.matrix.weights, None, one)
    design = type(tiles.design)(matrix, tiles.design.drive)
    plain = Programmed.of(design, Drawn(one, 0), Seeds(0), tiles.backend, tiles.ranges)
    y, counts = tiles.reader.read(values, read=2, scales=scales)
    z, counted = plain.reader.read(values, read=2)
    assert np.array_equal(y, z * scales[:, None] + module.bias.numpy())
    assert counts == counted
    assert len(x) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_give_the_bias_and_nothing_else(kind: str) -> None:
    """The digital side knows that the scale is 0, whatever noise and offsets the array has."""
    chip = mho.map(net(), hardware(dac__scaling=kind), calibrate=tokens())
    layer = chip.layers["inner"]
    assert torch.equal(layer(torch.zeros(3, 2, 12)), net().inner.bias.expand(3, 2, 10))
    x = tokens()
    x[2] = 0
    y = layer(x)
    assert torch.equal(y[2], net().inner.bias.expand(3, 10))
    assert torch.equal(y[1, 2], net().inner.bias) == (kind == "token")
    assert y.isfinite().all()
    assert chip(torch.empty(0, 3, 12)).shape == (0, 3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_knows_samples_not_batches(kind: str) -> None:
    x = tokens()
    chip = mho.map(net(), hardware(dac__scaling=kind, output_noise__sigma_add=0.1), calibrate=x)
    whole = chip.read(x, read=5)
    assert torch.equal(torch.cat([chip.read(x[:2], read=5), chip.read(x[2:], read=5, first_sample=2)]), whole)
    assert torch.equal(chip.read(x, read=4, reads=3)[6:12], whole)
    assert not torch.equal(chip.read(x, read=6), whole)
    unchecked = mho.map(net(), chip.hardware, calibrate=x, check=False)  # finds out where samples are for its ranges
    assert torch.equal(unchecked.read(x, read=5), whole)


def test_noise_grows_with_the_scale_as_cells_drawn_one_by_one() -> None:
    """Read noise of the cells alone: readings beside sums over cells that are drawn anew for each read."""
    rng, reads, std = np.random.default_rng(0), 3000, 0.5e-6
    weights = rng.normal(size=(1, 12, 3)).astype(np.float32)
    x = (rng.normal(size=(4, 12)) * np.array([[1e-3], [1], [30], [1e4]])).astype(np.float32)
    scales = np.abs(x).max(axis=1)
    noisy = {"cell__read_noise": {"kind": "constant", "std_g": std}, "dac__scaling": "token"}
    hw = ideal(**CALIBRATED, **noisy)
    driven = (x / scales[:, None])[:, None, None, None]
    tiles = on_tiles(weights, hw, inputs=driven)
    got = tiles.reader.read(driven, reads=reads, shared=True, scales=scales)[0].reshape(reads, 4, 3)
    unit = np.abs(weights[0]).max(axis=0) / (hw.cell.g_max - hw.cell.g_min)
    cells = rng.normal(0, std, (reads, 2, 12, 3))
    drawn = np.einsum("ri,nij->nrj", x.astype(float), cells[:, 0] - cells[:, 1]) * unit
    ratio = got.std(axis=0) / drawn.std(axis=0)
    assert np.abs(ratio - 1).max() < 6 / reads**0.5
    assert np.abs(got.mean(axis=0) - x @ weights[0]).max() / scales.max() < 0.02
    expected = expected_errors(tiles, driven, 8, scales)
    assert np.allclose(np.sqrt(expected.total("fresh")), got.std(axis=0), rtol=6 / (2 * reads) ** 0.5)
    assert np.allclose(expected.y, x @ weights[0], rtol=1e-4)


def test_expected_errors_are_those_of_reads() -> None:
    """With converters, programming errors and a bias: mean squares over all rows, those of each scale by themselves."""
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(1, 40, 30)).astype(np.float32), rng.normal(size=(1, 30)).astype(np.float32)
    scales = np.repeat([0.01, 1, 50], 40).astype(np.float32)
    driven = rng.uniform(-1, 1, (120, 1, 1, 1, 40)).astype(np.float32)
    tiles = on_tiles(weights, hardware(dac__scaling="token"), bias=bias, inputs=driven)
    got = tiles.reader.read(driven, reads=40, shared=True, scales=scales)[0].reshape(40, 120, 30).astype(float)
    expected = expected_errors(tiles, driven, 40, scales)
    for rows in np.split(np.arange(120), 3):
        errors = (got - expected.y)[:, rows]
        fresh = np.mean(expected.total("fresh")[rows]) / errors.var(axis=0, ddof=1).mean()
        frozen = np.mean(expected.total("frozen")[rows]) / np.square(errors.mean(axis=0)).mean()
        assert fresh == pytest.approx(1, abs=0.1)
        assert frozen == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("kind", KINDS)
def test_reduction_copies_and_ages_take_scales(kind: str) -> None:
    x = tokens(24)
    chip = mho.map(net(), hardware(dac__scaling=kind, dac__equalise=0.5), calibrate=x)
    reduction = mho.reduce(chip, x, reads=4)
    table = reduction.table.query("part == 'total'")
    assert relative_error(reduction.model().read(x, read=0), net()(x)) < 0.3
    assert (table["rms"] / table["predicted_rms"]).between(0.5, 2).all()
    assert torch.equal(chip.at(1e3).read(x, read=0), chip.read(x, read=0))  # no drift
    assert not torch.equal(chip.copy(1).read(x, read=0), chip.read(x, read=0))
    assert (
        mho.vote(mho.map(nn.Sequential(net().inner), chip.hardware, calibrate=x[:, 0]), x[:, 0], k=3).counts.sum() == 72
    )


@pytest.mark.parametrize("kind", KINDS)
def test_saved_chips_read_the_same(kind: str, tmp_path: Path) -> None:
    x = tokens()
    chip = mho.map(net(), hardware(dac__scaling=kind), calibrate=x)
    chip.save(tmp_path / "chip")
    assert torch.equal(mho.load(tmp_path / "chip").read(x, read=1), chip.read(x, read=1))
    text = (tmp_path / "chip" / "chip.yaml").read_bytes().replace(b'"limit": 1.0', b'"limit": 2.0')
    body = text.split(b"\n", 1)[1]
    from hashlib import sha256

    first = b"# mho chip, format 4, sha256 " + sha256(body).hexdigest().encode()
    (tmp_path / "chip" / "chip.yaml").write_bytes(first + b"\n" + body)
    with pytest.raises(CheckpointError, match=r"drive = 2, signed True: its hardware has 1, True"):
        mho.load(tmp_path / "chip")


def test_gradients_pass_scales(tensors: Any) -> None:  # noqa: F811
    x = tokens()
    for kind in KINDS:
        chip = mho.map(net(), ideal(**CALIBRATED, dac__scaling=kind), calibrate=x, backend="tensors")
        z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, wanted = chip.read(z, read=0, noisy=False), net()(w)
        assert torch.allclose(y, wanted, rtol=1e-4, atol=1e-5)
        along = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
        found, exact = (torch.autograd.grad((v * along).sum(), t)[0] for v, t in ((y, z), (wanted, w)))
        there = x.abs().sum(-1) > 0 if kind == "token" else torch.ones(x.shape[:2], dtype=torch.bool)
        assert torch.allclose(found[there], exact[there], atol=1e-4)
        assert not found[~there].any()  # what is scaled by 0


@pytest.mark.parametrize("percentile", [100.0, 99.0, 73.0, 50.0])
def test_the_range_is_numpys_percentile(percentile: float) -> None:
    x = np.random.default_rng(0).normal(size=(7, 33)).astype(np.float32)
    x[3, :20] = 0  # more than half of it
    wanted = np.percentile(np.abs(x), percentile, axis=1)
    wanted = np.where(wanted > 0, wanted, np.abs(x).max(axis=1))
    assert np.allclose(range_of(torch.from_numpy(x), percentile), wanted, rtol=1e-6)


def test_inputs_above_the_percentile_are_clipped_and_counted() -> None:
    x = torch.rand(50, 12)
    hw = ideal(**CALIBRATED, dac__scaling="token", dac__percentile=70.0)
    chip = mho.map(nn.Sequential(net().inner), hw, calibrate=x)
    chip.layers["0"].counter.counts = Counts()
    y = chip(x)
    counts, top = chip.layers["0"].counts, np.percentile(x.numpy(), 70, axis=1, keepdims=True)
    assert counts.inputs_clipped == (x.numpy() > top * (1 + 1e-6)).sum() == 50 * 4
    assert torch.allclose(y, net().inner(torch.minimum(x, torch.from_numpy(top.astype(np.float32)))), atol=1e-5)


def test_values_that_are_not_finite_are_counted() -> None:
    x = tokens()
    chip = mho.map(net(), hardware(dac__scaling="token"), calibrate=x)
    for value in (torch.nan, torch.inf):
        bad = x.clone()
        bad[0, 0, :2] = value
        with pytest.raises(ValueError, match=r"layer 'inner': inputs must be finite, got 2 NaN or infinite of 216"):
            chip(bad)


def test_operations_are_counted() -> None:
    """A comparison and a multiplication for each input, and a multiplication for each output."""
    x, cost, heads = tokens(), {}, {}
    for kind in ("layer", *KINDS):
        chip = mho.map(net(), hardware(dac__scaling=kind), calibrate=x)
        cost[kind] = layer_costs(chip)
        heads[kind] = next(work.head_s for work in chip_plan(chip).work)
        if kind != "layer":
            assert f"inputs scaled in each read, by {kind}: inner, head" in str(chip.report())
    operations = {kind: np.array(list(c.attrs["scaling_operations"].values())) for kind, c in cost.items()}
    assert list(operations["layer"]) == [0, 0]
    for kind in KINDS:
        assert list(operations[kind]) == [3 * (2 * 12 + 10), 3 * (2 * 10 + 4)]
        more = cost[kind]["energy_digital_j"] - cost["layer"]["energy_digital_j"]
        each = hardware().cost.digital_energy
        assert np.allclose(more, operations[kind] * each)
        assert heads[kind] - heads["layer"] == pytest.approx(102 / hardware().cost.digital_rate)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dac.range": 1.0}, r"dac: dac.range must be 'calibrated' when dac.scaling is 'token', got 1"),
        (
            {"dac.bits": None, "dac.bits_per_pulse": None, "dac.range": None},
            r"'calibrated' when dac.scaling is 'token', got null",
        ),
        ({"tile.bias": "array"}, r"tile.bias must be 'digital' when dac.scaling is 'token', got 'array'"),
        ({"dac.scaling": "row"}, r"dac.scaling = 'row': Input should be 'layer', 'sample' or 'token'"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        hardware(dac__scaling="token").replace(fields)


def test_what_has_no_token_or_no_sample_is_refused() -> None:
    said = r"layer '0': dac.scaling must be 'layer' or 'sample' for a kernel of several places"
    with pytest.raises(MappingError, match=said):
        mho.map(small_cnn(), hardware(dac__scaling="token"), calibrate=pictures())
    mho.map(
        small_cnn(), hardware(dac__scaling="token", layers={"[03]": {"dac.scaling": "sample"}}), calibrate=pictures()
    )
    tiles = mho.map(net(), hardware(dac__scaling="token"), calibrate=tokens()).layers["inner"].tiles
    x = np.ones((5, 1, 1, 1, 12), np.float32)
    with pytest.raises(ValueError, match=r"dac.scaling is 'token': scales must have the shape \(5,\), got None"):
        tiles.reader.read(x)
    with pytest.raises(ValueError, match=r"dac.scaling is 'layer': scales must have the shape None, got \(5,\)"):
        on_tiles(np.ones((1, 12, 2), np.float32), hardware(), limit=1.0).reader.read(x, scales=x[:, 0, 0, 0, 0])
    with pytest.raises(
        MappingError, match=r"layer 'layer': dac.scaling is 'sample', and its rows, of shape \(\d+,\), bel"
    ):
        mho.map(Chosen().eval(), hardware(dac__scaling="sample"), calibrate=tokens())
    chip = mho.map(Chosen().eval(), ideal(**CALIBRATED, dac__scaling="token"), calibrate=tokens())
    with pytest.warns(UserWarning, match="chooses its rows by their values"):
        assert torch.allclose(chip(tokens()), Chosen()(tokens()), atol=1e-4)
    with pytest.raises(MappingError, match="its calibration inputs are all zero"):
        mho.map(nn.Sequential(net().inner), hardware(dac__scaling="token"), calibrate=torch.zeros(4, 12))
