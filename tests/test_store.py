"""Saved chips: the same bits after, plain data only, and nothing half-written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from helpers import hardware, ideal, pictures, small_cnn
from torch import nn
from torch.nn import functional

import mho
from mho.mapping import store
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.store import TENSORS, TEXT


def same_bits(one: mho.Chip, other: mho.Chip, x: torch.Tensor) -> bool:
    return all(torch.equal(one.read(x, read=read), other.read(x, read=read)) for read in (0, 3))


def saved(chip: mho.Chip, path: Path, **model: nn.Module) -> mho.Chip:
    chip.save(path)
    return mho.load(path, **model)


@pytest.fixture(scope="module")
def small_chip() -> mho.Chip:
    return mho.map(small_cnn(), hardware(), calibrate=pictures(), seed=3)


@pytest.fixture
def folder(small_chip: mho.Chip, tmp_path: Path) -> Path:
    """A saved chip, to be spoiled."""
    small_chip.save(tmp_path / "chip")
    return tmp_path / "chip"


def opened(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """What the files of a chip say, unchecked."""
    text = json.loads((folder / TEXT).read_bytes().partition(b"\n")[2])
    return text, {name: value.clone() for name, value in store.load_file(folder / TENSORS).items()}


def rewrite(folder: Path, change, tensors=None) -> None:
    """Change a chip's files as one would who knows the format, its digests too."""
    text, values = opened(folder)
    change(text)
    if tensors is not None:
        tensors(values)
    store.write(folder, text, values)


HARDWARE = {
    "groups and batch norm": {},
    "offset": {"tile__encoding": "offset", "tile__columns": 13},
    "slices": {"tile__slices": 2, "cell__levels": 16},
    "bias on the array": {"tile__bias": "array"},
    "bit-serial": {"dac__bits_per_pulse": 3},
    "fixed full scale": {"adc__full_scale": "20 uA"},
    "no converters": {"dac__bits": None, "dac__range": None, "adc__bits": None, "adc__full_scale": None},
    "output noise": {"output_noise__sigma_mult": 0.1, "sensing__gain_noise": 0.01},
    "seeds of its own": {"seeds__program": 5, "seeds__read": 6},
    "overrides": {"layers": {"0": {"tile.rows": 8, "adc.bits": 5}, "[37]": {"tile.bias": "array"}}},
}


@pytest.mark.parametrize("fields", HARDWARE.values(), ids=HARDWARE)
def test_a_loaded_chip_gives_the_same_bits(fields, tmp_path):
    chip, x = mho.map(small_cnn(), hardware(**fields), calibrate=pictures(), seed=3), pictures(9, seed=2)
    chip(x)
    other = saved(chip, tmp_path / "chip")
    assert same_bits(chip, other, x)
    assert torch.equal(mho.vote(chip, x, 5).softmax, mho.vote(other, x, 5).softmax)
    assert (other.hardware, other.digital, other.seed, other.calls) == (chip.hardware, chip.digital, 3, 0)
    still = ["weight_rmse", "g_mean", "tiles", "cells", "array_energy_j", "positions", "word_lines", "row_tiles"]
    assert other.report().table[still].equals(chip.report().table[still])


TELEGRAPH = {"kind": "telegraph", "amplitude": 0.2, "capture": "1 us", "emission": "1 us"}
SLOW = {"cell__read_noise": TELEGRAPH, "sensing__read_interval": "0.2 us"}
WIRED = {"wires__r_word_line": "2 ohm", "wires__r_bit_line": "2 ohm"}


def linear_chip(compensate: str | None = None, **fields: object) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    return mho.map(net, hardware(**fields), calibrate=torch.rand(8, 40), compensate=compensate)


CHIPS = {
    "slow noise": lambda: linear_chip(**SLOW),
    "slow noise in slices": lambda: linear_chip(**SLOW, tile__slices=2, cell__levels=4, tile__encoding="offset"),
    "wires": lambda: linear_chip(**WIRED),
    "gains": lambda: linear_chip("gain", **WIRED),
    "gains of a replica": lambda: linear_chip("gain", **WIRED, **SLOW).replica(3),
    "programmed for wires": lambda: linear_chip("program", **WIRED),
    "aged": lambda: aged().at(3600.0),
    "aged and compensated": lambda: aged().at(86400.0, compensate=True),
    "reduced": lambda: mho.reduce(linear_chip(), torch.rand(8, 40), reads=2).model(5),
}


def aged() -> mho.Chip:
    return linear_chip(cell=mho.Hardware.preset("reram").cell.model_dump())


@pytest.mark.parametrize("make", CHIPS.values(), ids=CHIPS)
def test_chips_of_every_kind(make, tmp_path):
    """The same bits, and the same chips made from them."""
    chip, x = make(), torch.rand(5, 40, generator=torch.Generator().manual_seed(4))
    other = saved(chip, tmp_path / "chip")
    assert same_bits(chip, other, x)
    assert same_bits(chip.replica(1), other.replica(1), x)
    if chip.hardware.cell.drift.kind != "none":
        assert same_bits(chip.at(7200.0), other.at(7200.0), x)
    if not chip.hardware.wires.ideal:
        assert same_bits(chip.at(0.0), other.at(0.0), x)


def test_a_model_with_numbers_of_its_own_type_keeps_them(tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.PReLU(4)).double()
    chip = mho.map(net, ideal(), calibrate=torch.rand(4, 6).double())
    other, x = saved(chip, tmp_path / "chip"), torch.rand(4, 6).double()
    assert other.model.get_parameter("1.weight").dtype == torch.float64
    assert same_bits(chip, other, x)


def test_an_inference_without_samples_is_no_trace(tmp_path):
    chip = mho.map(nn.Linear(6, 3), ideal())
    chip(torch.rand(0, 6))
    other, x = saved(chip, tmp_path / "chip"), torch.rand(4, 6)
    assert other.trace == []
    assert torch.equal(other(x), chip.read(x, read=0))


def test_a_chip_saved_again_is_the_same_file(small_chip, tmp_path):
    other = saved(small_chip, tmp_path / "a")
    assert same_bits(small_chip, saved(other, tmp_path / "b"), pictures())
    assert (tmp_path / "a" / TEXT).read_bytes() == (tmp_path / "b" / TEXT).read_bytes()
    assert (tmp_path / "a" / TENSORS).read_bytes() == (tmp_path / "b" / TENSORS).read_bytes()


def test_replicas_before_and_after(small_chip, tmp_path):
    x = pictures()
    second = saved(small_chip.replica(2), tmp_path / "second")
    assert second.copy_index == 2
    assert same_bits(small_chip.replica(2), second, x)
    assert same_bits(small_chip.replica(1), saved(small_chip, tmp_path / "first").replica(1), x)
    assert not same_bits(small_chip, second, x)


def test_two_files_of_plain_data_and_nothing_beside_them(folder):
    assert {file.name for file in folder.iterdir()} == {TEXT, TENSORS}
    assert opened(folder)[0]["format"] == 3
    assert {file.name for file in folder.parent.iterdir()} == {"chip"}


class Net(nn.Module):
    """A convolution and a linear layer on (n, 3, 12, 12), with something between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)
        self.build()

    def build(self) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.between(self.conv(x)))

    def between(self, y: torch.Tensor) -> torch.Tensor:
        return y.mean((2, 3))


class Functional(Net):
    def between(self, y):
        y = functional.max_pool2d(functional.relu(y), 2) + 0.5 * functional.avg_pool2d(y, 2)
        y = torch.cat([y[:, :2, ::2], y[:, 2:, 1::2]], dim=1)
        y = y.masked_fill(y > 0.5, -float("inf")).clamp(min=-1) - abs(y)
        y, where = y.view(y.size(0), y.shape[1], -1).max(dim=2)
        return torch.flatten(functional.softmax(y, dim=1) * where.to(torch.float32) / 7, 1)


class Residual(Net):
    def forward(self, x):
        y = self.conv(x)
        z = self.conv(functional.pad(y[:, 1:], (0, 0, 0, 0), value=0.0))  # the same layer twice in one inference
        return self.fc((y + z).mean((2, 3)))


class Tensors(Net):
    """Parameters, buffers and constants of every kind that the graph reads by name."""

    def build(self):
        self.gain = nn.Parameter(torch.rand(4))
        self.register_buffer("shift", torch.rand(4))
        self.register_buffer("passing", torch.rand(4), persistent=False)
        self.plain = torch.rand(4)
        self.norm = nn.LayerNorm(4)

    def between(self, y):
        y = self.norm(y.mean((2, 3)))
        y = y * self.gain + self.shift + self.passing * self.plain * self.norm.weight
        return y + torch.tensor([1.0, 2.0, 3.0, 4.0])


class Shared(Net):
    """A layer and digital modules with two names each."""

    def build(self):
        self.middle = self.again = nn.Linear(4, 4)
        self.norm = self.norm_again = nn.LayerNorm(4)

    def between(self, y):
        return self.norm_again(torch.tanh(self.again(torch.tanh(self.middle(self.norm(y.mean((2, 3))))))))


class Digital(Net):
    """Modules of torch.nn that stay digital, with state of their own."""

    def build(self):
        self.parts = nn.ModuleDict({"a-b": nn.PReLU(), "up": nn.ConvTranspose2d(4, 4, 2), "norm": nn.BatchNorm2d(4)})
        self.parts["norm"].running_mean.uniform_(-1, 1)
        self.tail = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.GELU(approximate="tanh"))
        self.unused = nn.Bilinear(2, 2, 2)

    def between(self, y):
        y = self.parts["norm"](self.parts["up"](self.parts["a-b"](y)))
        return self.tail(functional.adaptive_avg_pool2d(y, 1))


class Several(Net):
    """Several outputs."""

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return {"logits": self.fc(y), "features": [y, y.T.T]}["logits"]


class Recurrent(Net):
    def build(self):
        self.lstm = nn.LSTM(4, 4)

    def between(self, y):
        return self.lstm(y.mean((2, 3)))[0]


@pytest.mark.parametrize("kind", [Net, Functional, Residual, Tensors, Shared, Digital, Several, Recurrent])
@pytest.mark.parametrize("given", [False, True], ids=["structure from the file", "model given"])
def test_models_of_every_kind(kind, given, tmp_path):
    net, x = kind().eval(), pictures()
    chip = mho.map(net, hardware(), calibrate=x)
    other = saved(chip, tmp_path / "chip", **({"model": kind()} if given and kind is not Tensors else {}))
    assert same_bits(chip, other, x)
    if not given:
        assert same_bits(chip, saved(other, tmp_path / "again"), x)


def test_a_view_of_a_convolution(tmp_path):
    """Code that flattens with `view` runs on a chip as it does in torch."""

    class Viewing(Net):
        def build(self):
            self.fc = nn.Linear(4 * 144, 5)

        def between(self, y):
            return functional.relu(y).view(y.size(0), -1)

    chip = mho.map(Viewing().eval(), hardware(), calibrate=pictures())
    assert same_bits(chip, saved(chip, tmp_path / "chip"), pictures())


def test_a_single_layer_is_a_model_too(tmp_path):
    net, x = nn.Linear(6, 3), torch.rand(4, 6)
    chip = mho.map(net, hardware(), calibrate=x)
    assert same_bits(chip, saved(chip, tmp_path / "chip"), x)
    assert same_bits(chip, mho.load(tmp_path / "chip", model=nn.Linear(6, 3)), x)


def test_the_papers_network(tmp_path):
    net, x = mho.models.mnist_cnn(), torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    chip = mho.map(net, mho.Hardware.preset("pcm"), calibrate=x)
    assert same_bits(chip, saved(chip, tmp_path / "chip"), x)


class Branching(Net):
    """torch.fx cannot trace a branch on values."""

    def between(self, y):
        return y.mean((2, 3)) if y.sum() > -1e9 else y


class InPlace(Net):
    def between(self, y):
        return torch.relu_(y.mean((2, 3)) + 1)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Branching, "torch.fx cannot trace it"),
        (Recurrent, "LSTM cannot be rebuilt from its attributes"),
        (InPlace, "it calls relu_, which is no"),
    ],
)
def test_a_model_that_is_no_plain_data_is_asked_for(kind, reason, tmp_path):
    net, x = kind().eval(), pictures()
    chip = mho.map(net, hardware(), calibrate=x, exclude=["lstm"] if kind is Recurrent else [])
    chip.save(tmp_path / "chip")
    with pytest.raises(CheckpointError, match=rf"its structure was not saved: {reason}.*; pass mho.load\(path, model="):
        mho.load(tmp_path / "chip")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert same_bits(chip, mho.load(tmp_path / "chip", model=net), x)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert same_bits(chip, mho.load(tmp_path / "chip", model=kind()), x)  # its own weights do not matter


def test_a_model_that_does_not_fit_is_refused(small_chip, folder):
    with pytest.raises(CheckpointError, match=r"chip: model does not fit: it has no 3, 7, 1$"):
        mho.load(folder, model=nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(CheckpointError, match=r"model does not fit: .*Missing key.*8.weight"):
        mho.load(folder, model=nn.Sequential(*small_cnn(), nn.LayerNorm(10)))
    with pytest.raises(CheckpointError, match=r"model must be a torch.nn.Module, got str"):
        mho.load(folder, model="net")


def test_what_is_no_chip_is_refused(tmp_path, folder):
    for path in (tmp_path / "nowhere", tmp_path, folder / TEXT):
        with pytest.raises(CheckpointError, match=f"chip {path}: no saved chip there"):
            mho.load(path)
    (folder / TENSORS).unlink()
    with pytest.raises(CheckpointError, match="no saved chip there"):
        mho.load(folder)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_truncated_tensors_are_refused(folder, length):
    content = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(content[:length])
    refused(folder, "damaged")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"a: [1", b"- list", b"text", b"format: 2", b"format: 3", b"!!python/none"]
)
def test_foreign_text_is_refused(folder, content):
    (folder / TEXT).write_bytes(content)
    refused(folder, "damaged|expected format 3, got 2, which has no digests")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        mho.load(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"chip {folder}: ")


def test_truncated_text_is_refused_wherever_it_ends(folder):
    content = (folder / TEXT).read_bytes()
    for end in range(0, len(content), 997):
        (folder / TEXT).write_bytes(content[:end])
        refused(folder, "damaged")


def nested(depth: int) -> list:
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text["hardware"]["tile"].update(rows=8), "layer '0': .* does not fit the tiles of its hardware"),
        (lambda text: text["hardware"]["tile"].update(encoding="offset"), "does not fit the tiles of its hardware"),
        (lambda text: text["hardware"]["adc"].update(bits=None, full_scale=None), "full_scale of shape"),
        (lambda text: text["hardware"]["tile"].update(rows=0), "tile.rows"),
        (lambda text: text["hardware"].update(colour="red"), "Hardware has no field colour"),
        (lambda text: text["layers"]["0"]["spec"].update(kernel=[1, 5, 5]), "layer '0': weights of shape"),
        (lambda text: text["layers"]["0"]["spec"].update(dilation=[1, 1, -9]), "spec.dilation.2 = -9: "),
        (lambda text: text["layers"]["0"]["spec"].update(stride=[1, 2**70, 1]), f"spec.stride.1 = {2**70}: "),
        (lambda text: text["layers"]["0"]["spec"].update(stride=[1, 1.5, 1]), "spec.stride.1 = 1.5: "),
        (lambda text: text["layers"]["0"]["spec"].update(stride=[2, 2, 2]), "must be 1 beyond the 2 dimensions"),
        (lambda text: text["layers"]["0"]["spec"].update(padding=[10**6] * 4), "padding = .* makes more than"),
        (lambda text: text["layers"]["0"]["spec"].update(padding=[1]), "padding must be 4 numbers or none, got 1"),
        (lambda text: text["layers"]["0"]["spec"].update(groups=5), "groups = 5 must divide 3 and 8"),
        (lambda text: text["layers"]["0"]["spec"].update(colour="red"), "spec.colour"),
        (lambda text: text["layers"]["0"]["spec"].update(padding_mode="wrap"), "spec.padding_mode"),
        (lambda text: text["layers"]["0"]["drive"].pop("limit"), "drive.limit: Field required"),
        (lambda text: text["layers"]["0"]["drive"].update(limit=0.0), "drive.limit = 0.0: "),
        (lambda text: text["layers"]["0"]["drive"].update(limit=1e-300), "layer '0': drive.limit = 1e-300 is outside"),
        (lambda text: text["layers"]["0"]["drive"].update(full_code=0), "drive.full_code"),
        (lambda text: text["layers"]["0"]["drive"].update(pulses=10**10), "drive.pulses"),
        (lambda text: text["layers"]["0"].update(positions=-1), "positions = -1"),
        (lambda text: text["layers"]["0"].update(aliases=["7"]), "layers: two have the same name"),
        (lambda text: text["layers"]["0"].update(aliases=["a"]), "layers: '0' is not among its own names a"),
        (lambda text: text["layers"]["0"].update(compensate="gain"), "compensate = 'gain', and its wires have no"),
        (lambda text: text["layers"]["0"].update(array_energy_j=-1.0), "array_energy_j"),
        (lambda text: text["layers"].pop("0"), "trace.0.layer = '0' is no layer"),
        (lambda text: text.update(layers={}, trace=[]), "it has no place for its tensor layer."),
        (lambda text: text["trace"][1].update(after=[1]), "trace.1.after must hold calls before it, got 1"),
        (lambda text: text["trace"][0].update(needs=[10**9]), "trace.0.needs must be rows below rows_in"),
        (lambda text: text["trace"][0].update(positions=0), "trace.0.positions must be at least 1"),
        (lambda text: text.pop("seed"), "seed: Field required"),
        (lambda text: text.update(seed="red"), "seed = 'red'"),
        (lambda text: text.update(copy=True), "copy = True"),
        (lambda text: text.update(format=2), "format = 2"),
        (lambda text: text.update(colour="red"), "colour"),
        (lambda text: text.update(hardware=[]), "hardware"),
        (lambda text: text["structure"].update(nodes=nested(400)), "damaged"),
    ],
)
def test_text_that_does_not_fit_its_tensors_is_refused(folder, change, match):
    """The kernels trust their arrays, so nothing that is another size may reach them."""
    rewrite(folder, change)
    refused(folder, match)


def test_missing_and_surplus_tensors_are_refused(tmp_path):
    chip, path = mho.map(Tensors().eval(), hardware(), calibrate=pictures()), tmp_path / "chip"
    chip.save(path)
    text, tensors = opened(path)
    constant = next(name for name in tensors if name.startswith("constant."))
    said = {
        "digital.gain": "uses a tensor 'gain' that it does not hold",
        "digital.norm.bias": "are missing: norm.bias",
        constant: "that it does not hold",
        "layer.conv.0.mean": "layer 'conv': its tensor '0.mean' is missing",
        "layer.fc.full_scale": "layer 'fc': its tensor 'full_scale' is missing",
    }
    for key, match in said.items():
        store.write(path, text, {name: value for name, value in tensors.items() if name != key})
        refused(path, match)
    for key, match in {
        "layer.fc.1.mean": "layer 'fc': it has no 1.mean",
        "other": "no place for its tensor other",
    }.items():
        store.write(path, text, tensors | {key: torch.ones(1)})
        refused(path, match)


def altered(**values: object):
    """Set the first number of tensors of layer 0, or replace them, by the end of their names (dots as underscores)."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            key = "layer.0." + ("0." if name not in ("weights", "full_scale", "bias") else "") + name
            if isinstance(value, torch.Tensor):
                tensors[key] = value
            else:
                tensors[key].reshape(-1)[0] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (altered(weights=float("nan")), "layer '0': weights must be from"),
        (altered(full_scale=0.0), "layer '0': full_scale must be from"),
        (altered(full_scale=torch.ones(2, dtype=torch.float64)), r"full_scale of shape \(2,\), float64, does not fit"),
        (altered(mean=torch.zeros(1)), r"0.mean of shape \(1,\), float32, does not fit .* expected \(1, 1, .*int16"),
        (altered(mean_unit=float("inf")), "0.mean_unit must be from 0"),
        (altered(floor=-1.0), "0.floor must be from 0"),
        (altered(scale=float("nan")), "0.scale must be from"),
        (altered(edges=8), "0.edges does not fit its layer"),
        (altered(edges=-(2**40)), "0.edges does not fit its layer"),
        (altered(reference=torch.zeros(8, dtype=torch.int64)), "0.reference does not fit its layer"),
        (lambda tensors: tensors["layer.0.0.bias"].add_(1), "0.bias does not fit its layer"),
        (altered(histogram=-1), "0.histogram must be from 0"),
        (altered(histogram=10**6), "histogram counts .* cells, its tiles have"),
        (altered(row_conductance=float("nan")), "0.row_conductance must be from 0"),
        (altered(slow_std=torch.zeros(1, 1, 27, 8)), "0.slow_std of shape"),
    ],
)
def test_tensors_that_their_kernels_cannot_have_are_refused(folder, change, match):
    rewrite(folder, lambda text: None, change)
    refused(folder, match)


def test_sums_that_int32_cannot_hold_are_refused(tmp_path):
    chip = mho.map(nn.Linear(600, 4), hardware(tile__rows=1024), calibrate=torch.rand(4, 600))
    chip.save(tmp_path)
    rewrite(tmp_path, lambda text: None, lambda tensors: tensors["layer..0.mean"].fill_(-(2**15)))
    refused(tmp_path, "0.mean: a column adds up to .*, more than its kernel can hold")


def test_reference_columns_outside_of_an_array_are_refused(tmp_path):
    chip = mho.map(nn.Linear(6, 4), hardware(tile__encoding="offset"), calibrate=torch.rand(4, 6))
    chip.save(tmp_path)
    for column in (-1, 5, 2**40):
        rewrite(tmp_path, lambda text: None, lambda tensors, c=column: tensors["layer..0.reference"].fill_(c))
        refused(tmp_path, "0.reference does not fit its layer")


@pytest.mark.parametrize("file", [TEXT, TENSORS])
def test_any_byte_that_is_another_is_noticed(folder, file):
    content, chance = (folder / file).read_bytes(), random.Random(0)
    places = {0, 7, 8, 20, len(content) - 1, *(chance.randrange(len(content)) for _ in range(60))}
    for place in places:
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << chance.randrange(8)
        (folder / file).write_bytes(spoiled)
        refused(folder, "damaged|expected format 3, got")
    for changed in (content + b"x", content + content, content[1:], content[: len(content) // 2] + content[9:], b""):
        (folder / file).write_bytes(changed)
        refused(folder, "damaged")
    (folder / file).write_bytes(content)
    mho.load(folder)


def test_the_part_that_is_damaged_is_named(folder):
    tensors = opened(folder)[1]
    start = (folder / TENSORS).read_bytes()
    tensors["layer.7.0.mean"].view(-1)[0] += 1
    store.save_file(tensors, folder / TENSORS)
    refused(folder, r"damaged \(chip.safetensors: layer.7.0.mean is not as it was written, or is of another chip\)")
    store.save_file(tensors | {"more": torch.ones(1)}, folder / TENSORS)
    refused(folder, r"damaged \(chip.safetensors: its header is not as it was written")
    (folder / TENSORS).write_bytes(start)
    (folder / TEXT).write_bytes((folder / TEXT).read_bytes().replace(b'"seed": 3', b'"seed": 4'))
    refused(folder, r"damaged \(chip.yaml is not as it was written\)")


def test_files_of_two_chips_are_no_chip(small_chip, tmp_path):
    small_chip.save(tmp_path / "a")
    small_chip.replica(1).save(tmp_path / "b")
    (tmp_path / "a" / TENSORS).write_bytes((tmp_path / "b" / TENSORS).read_bytes())
    refused(tmp_path / "a", "is not as it was written, or is of another chip")


def test_a_loaded_chip_does_not_change_with_its_file(small_chip, folder):
    """Tensors that safetensors maps into memory do, and end the process where the file is cut."""
    loaded, x = mho.load(folder), pictures()
    with (folder / TENSORS).open("r+b") as file:
        file.truncate(10)
    assert same_bits(small_chip, loaded, x)


def test_text_with_surprises_is_refused(folder):
    def sealed(body: bytes) -> None:
        first = f"# mho chip, format 3, sha256 {store.sha256(body).hexdigest()}\n".encode()
        (folder / TEXT).write_bytes(first + body)

    body = (folder / TEXT).read_bytes().partition(b"\n")[2]
    deep = b"[" * 100_000 + b"]" * 100_000
    for changed, match in (
        (body.replace(b'"seed": 3,', b'"seed": 3, "seed": 4,'), "has a field twice"),
        (body.replace(b'"seed": 3,', b'"seed": 3' + b"0" * 5000 + b","), "damaged"),
        (body.replace(b'"seed": 3,', b'"seed": ' + deep + b","), "damaged"),
        (body.replace(b'"seed": 3,', b'"seed": NaN,'), "seed"),
        (b"seed: 3", "damaged"),
        (b"[]", "valid dictionary"),
        (b"", "damaged"),
        (b"\xff", "damaged"),
    ):
        sealed(changed)
        refused(folder, match)


def node(text: dict, op: str) -> dict:
    return next(node for node in text["structure"]["nodes"] if node["op"] == op)


def call(text: dict, target: str, *args: object, op: str = "call_function", **kwargs: object) -> None:
    """Let the first node after the input do something else."""
    first = text["structure"]["nodes"][1]
    first.update(op=op, target=target, args={"tuple": [{"node": "input_1"}, *args]}, kwargs=kwargs)


def module(text: dict, kind: str, **args: object) -> None:
    """Let the ReLU be another module."""
    text["structure"]["modules"]["2"] = {"class": kind, "args": args}


EVIL = "x'] or __import__('os')#"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: call(text, "os.system", "true"), r"it calls os.system, which is no function of torch"),
        (lambda text: call(text, "torch.load", "file"), r"it calls torch.load"),
        (lambda text: call(text, "builtins.eval", "1"), r"it calls builtins.eval"),
        (lambda text: call(text, "operator.methodcaller", "1"), r"it calls operator.methodcaller"),
        (lambda text: call(text, "operator.attrgetter", "1"), r"it calls operator.attrgetter"),
        (lambda text: call(text, "torch.fbgemm_linear_int8_weight", 1), r"it calls torch.fbgemm_linear_int8_weight"),
        (lambda text: call(text, "getattr", "untyped_storage"), r"it takes the attribute 'untyped_storage'"),
        (lambda text: call(text, "set_", op="call_method"), r"it calls the method 'set_'"),
        (lambda text: call(text, "new", op="call_method", cdata=1), r"it calls the method 'new'"),
        (lambda text: call(text, "torch.add", 10**30), r"it holds a number of 31 digits"),
        (lambda text: call(text, "getattr", "__class__"), r"it takes the attribute '__class__'"),
        (lambda text: call(text, "getattr", {"node": "input_1"}), r"it takes the attribute \{'node'"),
        (lambda text: call(text, "__reduce_ex__", op="call_method"), r"it calls the method '__reduce_ex__'"),
        (lambda text: call(text, EVIL, op="call_method"), r"it calls the method"),
        (lambda text: call(text, EVIL, op="get_attr"), r"it names"),
        (lambda text: call(text, EVIL, op="call_module"), r"it names"),
        (lambda text: call(text, "a\nb", op="call_module"), r"it names"),
        (lambda text: call(text, "relu", op="call_anything"), r"it has a node of kind 'call_anything'"),
        (lambda text: call(text, "torch.nn.functional.relu", **{EVIL: 1}), r"it passes arguments by the names"),
        (lambda text: call(text, "torch.nn.functional.relu", {"dtype": "load"}), r"'load', which is no dtype of torch"),
        (lambda text: call(text, "torch.nn.functional.relu", {"object": "os"}), r"it holds .*object"),
        (lambda text: node(text, "placeholder").update(target="x=__import__('os')"), r"it names"),
        (lambda text: node(text, "placeholder").update(target="x, y"), r"it has an input 'x, y'"),
        (lambda text: text["structure"]["modules"]["2"].update({"class": "Popen"}), r"'Popen', which torch.nn has not"),
        (lambda text: text["structure"]["modules"]["2"].update({"class": "functional"}), r"which torch.nn has not"),
        (lambda text: text["structure"]["modules"]["2"].update({"args": {"colour": 1}}), r"damaged"),
        (lambda text: module(text, "Linear", in_features=10**12, out_features=10**5), r"are missing: 2.weight"),
        (lambda text: module(text, "Linear", in_features=2**62, out_features=2**62), r"damaged"),
        (lambda text: module(text, "LSTM", input_size=1, hidden_size=1, num_layers=10**9), r"LSTM with num_layers"),
        (lambda text: module(text, "Transformer", num_encoder_layers=10**9), r"Transformer with num_encoder_layers"),
        (lambda text: module(text, "RNNStep", input_size=10**6, hidden_size=10**6), r"are missing: 2.gain"),
    ],
)
def test_a_file_can_name_nothing_but_torch(folder, change, match):
    rewrite(folder, change)
    refused(folder, match)


def test_a_name_becomes_no_program_text(folder, monkeypatch):
    """torch.fx writes Python for the nodes: a name from the file must not end up in it as code."""
    ran = []
    monkeypatch.setattr(torch, "ran", ran.append, raising=False)
    for op in ("call_method", "get_attr", "call_module"):
        rewrite(folder, lambda text, op=op: call(text, 'a"), torch.ran("b', op=op))
        with pytest.raises(CheckpointError):
            mho.load(folder)(pictures())
    assert not ran


def test_only_a_chip_is_overwritten(small_chip, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("precious")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / TEXT).write_text("cell: {}")  # somebody's hardware file of that name
    (tmp_path / "file").write_text("precious")
    both = tmp_path / "both"
    small_chip.save(both)
    (both / "a.txt").write_text("precious")
    for path in (tmp_path / "notes", tmp_path / "project", tmp_path / "file", both, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(MappingError, match=f"chip folder {path}: exists and is no saved chip"):
            small_chip.save(path)
        assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    assert same_bits(small_chip, saved(small_chip, tmp_path / "empty"), pictures())
    assert same_bits(small_chip, saved(small_chip, tmp_path / "deep" / "er"), pictures())


def test_a_chip_is_replaced_whole(small_chip, tmp_path, monkeypatch):
    path, x = tmp_path / "chip", pictures()
    small_chip.save(path)
    other = mho.map(small_cnn(1), ideal())
    monkeypatch.chdir(tmp_path)
    other.save("chip")
    assert same_bits(other, mho.load(path), x)
    (tmp_path / "link").symlink_to("chip")
    small_chip.save("link")
    assert same_bits(small_chip, mho.load(path), x)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chip", "link"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "over a chip"])
@pytest.mark.parametrize("fails", ["save_file", "rename"])
def test_a_save_that_fails_leaves_nothing_behind(small_chip, tmp_path, monkeypatch, there, fails):
    path, x = tmp_path / "chip", pictures()
    other = mho.map(small_cnn(1), ideal())
    if there:
        small_chip.save(path)
    rename = Path.rename

    def no_space(tensors, file):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def no_rename(self, target):
        if target == path and (self / TEXT).is_file() and "structure" in (self / TEXT).read_text() and not failed:
            failed.append(self)
            raise KeyboardInterrupt
        return rename(self, target)

    failed: list[Path] = []
    with monkeypatch.context() as patch:
        if fails == "save_file":
            patch.setattr(store, "save_file", no_space)
        else:
            patch.setattr(Path, "rename", no_rename)
        with pytest.raises((OSError, KeyboardInterrupt)):
            other.save(path)
    assert [file.name for file in tmp_path.iterdir()] == (["chip"] if there else [])
    if there:
        assert same_bits(small_chip, mho.load(path), x)
