"""The backend of torch operations reads what the kernels read: each preset, encoding and part of the chain."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hardware, on_tiles, pictures, small_cnn
from test_backends import CASES
from test_chain import PARTS as CHAIN
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mho
from mho.crossbar.backend import Job
from mho.crossbar.backends import BACKENDS
from mho.crossbar.backends.compiled import Compiled
from mho.crossbar.backends.conformance import PARTS, differences
from mho.crossbar.backends.plain import philox4x32
from mho.crossbar.calibration import calibrate
from mho.crossbar.cells import Drawn
from mho.crossbar.kernels.philox import Rows, round_keys
from mho.crossbar.keys import stream_key
from mho.crossbar.matrix import Matrix
from mho.crossbar.patches import Patches
from mho.crossbar.programmed import Programmed
from mho.crossbar.reader import Seeds
from mho.mapping.torch_backend import backend as torch_backend
from mho.mapping.torch_backend.backend import Torch
from mho.mapping.torch_backend.philox import Counted, words

DOCS = Path(__file__).parents[1] / "docs" / "torch-backend.md"
PRETENDED = "lazy"  # a kind of device that needs no build of torch of its own
CLOSE = 2e-5  # of an output, relative to the largest: what rounding in 32 bits makes
MORE: dict[str, dict[str, Any]] = {
    "full scale for each tile": {"adc.per": "tile"},
    "fitted range": {"adc.span": "fitted"},
    "offsets and gains": {"adc.offset": 0.5, "adc.gain": 0.01},
    "offsets and gains, known, offset encoding": {
        "adc.offset": 0.5,
        "adc.gain": 0.01,
        "adc.calibrated": True,
        "tile.encoding": "offset",
    },
    "sar": {"adc.kind": {"kind": "sar", "mismatch": 0.02}},
    "cyclic": {"adc.kind": {"kind": "cyclic", "mismatch": 0.02}},
    "flash of 5 bits": {"adc.kind": {"kind": "flash", "offset": 0.2}, "adc.bits": 5},
    "table": {"adc.kind": {"kind": "table", "inl": [0.0, 1.5, -0.5, 0.0]}},
    "mirrors that differ": {
        "tile.slices": 2,
        "tile.slicing": "shares",
        "tile.significance": 4.0,
        "tile.join": "mirror",
        "tile.mirror_mismatch": 0.02,
    },
    "curved cells without a DAC": {
        "cell.nonlinearity": {"kind": "sinh", "v_0": "0.15 V"},
        "dac.bits": None,
        "dac.range": None,
    },
    "many row tiles": {"tile.rows": 3},
    "unsigned, whose squares are halved": {"signed": False, "preset": "reram", "sensing.v_read": "0.05 V"},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **CASES,
    **{name: {key.replace("__", "."): value for key, value in fields.items()} for name, fields in CHAIN.items()},
    **MORE,
}
READS: list[dict[str, Any]] = [
    {"noisy": False},
    {"read": 3, "first_sample": 5, "call": 2},
    {"read": 7, "reads": 3, "shared": True},
    {"reads": 2},
]


def tiled(fields: dict[str, Any]) -> tuple[Programmed, Any]:
    """A matrix of 20 x 9 on the kernels' backend, and 240 inputs."""
    fields = {"tile.rows": 12, "tile.columns": 12, **fields}
    preset, compensation, signed = (fields.pop(key, None) for key in ("preset", "compensation", "signed"))
    hw = (hardware() if preset is None else mho.Hardware.preset(preset)).replace(fields)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 20, 9)).astype(np.float32)
    if fields.get("tile.encoding") == "single":
        weights = np.abs(weights)
    bias = rng.uniform(0.1, 0.5, (1, 9)).astype(np.float32)
    x = rng.uniform(0, 1, (240, 1, 1, 1, 20)).astype(np.float32)
    x[0, ..., 0] = 0.5 if signed is False else -0.5
    return on_tiles(weights, hw, bias=bias, inputs=x, wire_compensation=compensation), x


def one_code(programmed: Programmed) -> float:
    """What a step of an ADC is at most, in outputs."""
    found = 0.0
    for prepared in programmed.reader.prepared:
        planes, circuit = prepared.planes, programmed.reader.circuit()
        steps = planes.adc_step if planes.adc_step.size else circuit.step.reshape(-1, 1, 1)
        if steps.size:
            found = max(found, float((steps * np.abs(planes.scale)).max()))
    weights = [1.0] if programmed.design.drive.joined else programmed.design.drive.weights
    return found * max(weights)


def compare(programmed: Programmed, x: Any, **options: Any) -> None:
    """Reads by the kernels and in torch: nearly all readings have the same code, the others are one step apart."""
    other = programmed.on(Torch())
    (y, counts), (found, others) = (one.reader.read(x, **options) for one in (programmed, other))
    z = other.backend.to_numpy(found)
    off = np.abs(y - z)
    largest, step = np.abs(y).max(), one_code(programmed)
    moved = off > CLOSE * largest
    each = programmed.design.drive.conversions * programmed.design.readings * programmed.design.placement.row_tiles
    one = y.shape[1] if programmed.packed[0].planes.reference.size else 1  # outputs that a reading is taken off
    allowed = max(one, 0.001 * each * y.size) if step else 0
    assert moved.sum() <= allowed, f"{moved.sum()} of {y.size}"
    assert (off <= step + CLOSE * largest).all()
    assert counts[:3] == tuple(map(int, others[:3]))
    assert abs(counts.readings_clipped - int(others.readings_clipped)) <= 2  # on the edge, as the largest current is


@pytest.mark.parametrize("name", SETTINGS)
def test_readings_are_those_of_the_kernels(name: str) -> None:
    programmed, x = tiled(SETTINGS[name])
    scaled = {"scales": np.linspace(0.5, 2, len(x), dtype=np.float32)} if programmed.design.scaled else {}
    for options in READS:
        compare(programmed, x, **options, **scaled)


def test_chains_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    script, compared = importlib.import_module("fuzz_chain"), 0
    for number in range(40):
        try:
            hw = script.Hardware.model_validate(script.NOISY).replace(script.chain(number, 0))
            weights, bias, x = script.layer(number, 0, hw.tile.encoding == "single")
            programmed = calibrate(Matrix("layer", weights, bias, hw), (x,), Drawn(hw, 5), Seeds(5), Compiled())
        except ValueError:
            continue
        x, compared = np.concatenate([0.9 * x, 0.5 * x]), compared + 1
        compare(programmed, x, read=3, first_sample=2)
        compare(programmed, x, read=1, reads=3, shared=True)
    assert compared > 12


def test_another_chip_is_not_the_same() -> None:
    """Negative control of the comparison: other cells, and other noise."""
    programmed, x = tiled({})
    for other in (programmed.copied(1), programmed):
        y = programmed.reader.read(x, read=1)[0]
        z = Torch().to_numpy(other.on(Torch()).reader.read(x, read=2)[0])
        assert (np.abs(y - z) > CLOSE * np.abs(y).max()).mean() > 0.5


PATCHES = {
    "pixels": Patches(),
    "along a line": Patches((1, 1, 3), (1, 1, 2)),
    "pictures": Patches((1, 2, 3), (1, 2, 1), (1, 2, 1)),
    "volumes": Patches((2, 2, 1), (1, 2, 1), (2, 1, 1)),
}


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("fields", [{}, {"tile.bias": "array", "tile.rows": 7, "tile.encoding": "offset"}])
def test_patches_of_groups(name: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is made together: all rows, planes or lines of a sample, or few rows."""
    patches, rng = PATCHES[name], np.random.default_rng(0)
    weights = rng.normal(size=(2, 2 * int(np.prod(patches.kernel)), 5)).astype(np.float32)
    bias = rng.uniform(0.1, 0.5, (2, 5)).astype(np.float32)
    hw = hardware().replace({"tile.rows": 6, "tile.columns": 12, **fields})
    x = rng.uniform(0, 1, (4, 3 if name == "volumes" else 1, 6, 5, 4)).astype(np.float32)
    programmed = calibrate(Matrix("layer", weights, bias, hw, patches), (x,), Drawn(hw, 0), Seeds(0), Compiled())
    for most in (2**16, 1000, 200, 30):
        monkeypatch.setattr(torch_backend, "CHUNK", most)
        compare(programmed, x, read=3, first_sample=5)
        compare(programmed, x, read=7, reads=3, shared=True)
        compare(programmed, x, reads=2)


@pytest.mark.parametrize("part", PARTS)
def test_it_conforms(part: str) -> None:
    assert differences(Torch(), [part]) == []


def test_words_are_those_of_the_kernels() -> None:
    rng = np.random.default_rng(0)
    counter = rng.integers(0, 2**32, (500, 4), dtype=np.uint32)
    counter[:4] = [[0] * 4, [2**32 - 1] * 4, [0, 2**32 - 1, 0, 2**32 - 1], [2**31] * 4]
    for key in (0, 2**64 - 1, 0xA4093822299F31D0):
        found = words([torch.from_numpy(c.astype(np.int64)) for c in counter.T], round_keys(key).tolist())
        low = np.stack([(w & 0xFFFFFFFF).numpy().astype(np.uint32) for w in found], axis=1)
        assert (low == philox4x32(counter, round_keys(key))).all()


def test_normals_are_those_of_the_kernels() -> None:
    key = stream_key(7, "program", "a layer")
    got = Counted.of(key.tolist(), 3, torch.zeros(1, dtype=torch.int64), (0, 40), 0).readings(2, (1, 1, 40, 1, 70))
    wanted = Compiled().normals((40, 70), (3, 2), key)
    assert np.abs(got[0, 0, :, 0].numpy() - wanted).max() < 2e-6
    many = Counted.of(key.tolist(), 0, torch.zeros(1, dtype=torch.int64), (0, 2000), 0).readings(0, (1, 1, 2000, 1, 64))
    assert torch.isfinite(many).all()
    assert abs(float(many.square().mean()) - 1) < 5 * (2 / many.numel()) ** 0.5


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 8, num_layers=2, bidirectional=True, batch_first=True).eval()
    wide = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)).eval()
    return {
        "convolutions": (small_cnn(), pictures(40)),
        "recurrent": (lstm, torch.rand(40, 6, 5)),
        "linear": (wide, torch.rand(40, 7, 40)),
    }


def result(y: Any) -> torch.Tensor:
    return y if isinstance(y, torch.Tensor) else y[0]


@pytest.mark.parametrize("name", ["convolutions", "recurrent", "linear"])
@pytest.mark.parametrize("fields", [{}, {"tile.slices": 2, "cell.levels": 16, "dac.bits_per_pulse": 4}])
def test_networks_read_alike(name: str, fields: dict[str, Any]) -> None:
    """A code that is one step off goes on to the next layers; else all is equal."""
    net, x = networks()[name]
    a, b = (mho.map(net, hardware().replace(fields), calibrate=x, backend=which) for which in ("numba", "torch"))
    for options in ({"read": 0}, {"read": 3, "reads": 3}, {"read": 0, "noisy": False}):
        y, z = (result(chip.read(x, **options)) for chip in (a, b))
        assert float(((y - z).abs() > 1e-3 * y.abs().max()).float().mean()) < 0.05
        again = result(b.read(x[20:], first_sample=20, **options)) if "reads" not in options else z[20:40]
        assert float(((again - z[20:40]).abs() > 1e-3 * y.abs().max()).float().mean()) < 0.05
    other = result(a.copy(1).read(x, read=0))
    assert float(((result(a.read(x, read=0)) - other).abs() > 1e-3 * other.abs().max()).float().mean()) > 0.5
    told = [(layer.counts.inputs, layer.counts.readings) for layer in b.layers.values()]
    assert all(isinstance(count, int) for layer in b.layers.values() for count in layer.counts)
    assert all(readings > 0 for _, readings in told)


def test_scales_of_tokens() -> None:
    net, x = networks()["linear"]
    a, b = (mho.map(net, hardware(dac__scaling="token"), calibrate=x, backend=which) for which in ("numba", "torch"))
    y, z = (chip.read(x, read=0, reads=5) for chip in (a, b))
    assert float(((y - z).abs() > 1e-3 * y.abs().max()).float().mean()) < 0.05


def test_votes() -> None:
    net, x = networks()["linear"]
    a, b = (mho.map(net, hardware(), calibrate=x[:, 0], backend=which) for which in ("numba", "torch"))
    y, z = (mho.vote(chip, x[:, 0], k=5).softmax for chip in (a, b))
    assert float(((y - z).abs() > 1e-2).float().mean()) < 0.05


def test_a_saved_chip_is_read_by_either(tmp_path: Path) -> None:
    net, x = networks()["linear"]
    chip = mho.map(net, hardware(), calibrate=x, backend="torch")
    chip.save(tmp_path / "chip")
    found = mho.load(tmp_path / "chip", backend="torch")
    assert torch.equal(found.read(x, read=0), chip.read(x, read=0))
    usual = mho.load(tmp_path / "chip").read(x, read=0)
    assert float(((usual - found.read(x, read=0)).abs() > 1e-3 * usual.abs().max()).float().mean()) < 0.05


class NoNumpy(TorchDispatchMode):
    """Fails where a tensor is looked at by the program: what waits for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was asked for"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["preset reram", "serial, slices, offset", "slow noise", "voltage of charge", "sar"])
def test_reads_stay_on_the_device_of_the_inputs(name: str) -> None:
    """On a device that is only pretended, operations that mix devices fail, and so does all that waits for a value."""
    programmed, x = tiled({**SETTINGS[name], **{f"output_noise.{kind}": 0.1 for kind in ("sigma_add", "sigma_mult")}})
    other, torch_ = programmed.on(Torch()), Torch()
    reader = other.reader
    ((_, _, (prepared, *_)), *_) = reader._planes(3, 1, True)
    with FakeTensorMode(allow_non_fake_inputs=False):
        given = torch.empty(x.shape, device=PRETENDED)
        codes = torch_.empty(given.shape, given, integers=True)
        scale = np.float32(255), np.float32(0), np.float32(255), True
        counts = torch_.codes(given.reshape(-1), scale, codes.reshape(-1), 1)
        job = Job(codes, reader.geometry(x.shape, 0), prepared, reader.circuit())
        out = torch_.empty((1, len(x), 9), codes)
        whose = Rows(np.uint64(0), np.zeros(1, np.uint32))
        key = stream_key(7, "read", "layer")
        clipped = torch_.read(job, key, whose, 3, 1, out)
        torch_.add_output_noise(out[0], (0.1, 0.1), whose, 3, key, 1)
    assert {t.device.type for t in (codes, out, clipped, *counts)} == {PRETENDED}


def test_reads_make_no_array_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = networks()["convolutions"]
    fields = {"cell.read_noise": CASES["slow noise"]["cell.read_noise"], "sensing.read_interval": "200 ns"}
    chip = mho.map(net, hardware().replace(fields), calibrate=x, backend="torch")
    chip.read(x, read=0)

    def refused(self: torch.Tensor, *_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor became an array of numpy")

    for name in ("numpy", "__array__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refused)
    chip.read(x, read=1)


def test_codes_wait_for_nothing() -> None:
    x, out = torch.rand(100), torch.empty(100)
    with NoNumpy():
        Torch().codes(x, (np.float32(255), np.float32(0), np.float32(255), True), out, 1)
    with NoNumpy(), pytest.raises(AssertionError, match="a value was asked for"):  # negative control
        float(x.sum())


def test_mixed_precision_around_it_changes_nothing() -> None:
    net, x = networks()["linear"]
    chip = mho.map(net, hardware(), calibrate=x, backend="torch")
    layer = chip.layers["0"]
    wanted = layer.tiles.reader.read(Torch().array(x.reshape(-1, 1, 1, 1, 40)), read=0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x[0] @ x[0].T).dtype == torch.bfloat16
        found = layer.tiles.reader.read(Torch().array(x.reshape(-1, 1, 1, 1, 40)), read=0)[0]
    assert torch.equal(found, wanted)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(layer.tiles.reader.read(Torch().array(x.reshape(-1, 1, 1, 1, 40)), read=0)[0], wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_backend_has_a_name() -> None:
    assert BACKENDS["torch"] is Torch
    net, x = networks()["linear"]
    chip = mho.map(net, hardware(), calibrate=x, backend="torch").to("cpu")
    assert isinstance(chip.backend, Torch)
    assert isinstance(chip.copy(1).backend, Torch)
