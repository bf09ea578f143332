"""Saved chips: the same bits after, plain data only, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from helpers import hardware, ideal, pictures, small_cnn
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.errors import CheckpointError, MappingError
from mho.mapping.saved import store
from mho.mapping.saved.store import TENSORS, TEXT


def same_bits(one: mho.Chip, other: mho.Chip, x: torch.Tensor) -> bool:
    return all(torch.equal(one.read(x, read=read), other.read(x, read=read)) for read in (0, 3))


def saved(chip: mho.Chip, path: Path, **model: nn.Module) -> mho.Chip:
    chip.save(path)
    return mho.load(path, **model)


HARDWARE = {
    "groups and batch norm": {},
    "offset": {"tile__encoding": "offset", "tile__columns": 13},
    "slices": {"tile__slices": 2, "cell__levels": 16},
    "slices of what is left": {"tile__slices": 2, "tile__slicing": "residual", "tile__significance": 8.0},
    "joined slices": {
        "tile__slices": 2,
        "cell__levels": 16,
        "tile__join": "mirror",
        "tile__mirror_mismatch": 0.02,
        "adc__per": "tile",
    },
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


def linear_chip(wire_compensation: str | None = None, **fields: object) -> mho.Chip:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 4))
    return mho.map(net, hardware(**fields), calibrate=torch.rand(8, 40), wire_compensation=wire_compensation)


CHIPS = {
    "slow noise": lambda: linear_chip(**SLOW),
    "slow noise in slices": lambda: linear_chip(**SLOW, tile__slices=2, cell__levels=4, tile__encoding="offset"),
    "wires": lambda: linear_chip(**WIRED),
    "gains": lambda: linear_chip("gain", **WIRED),
    "gains of a copy": lambda: linear_chip("gain", **WIRED, **SLOW).copy(3),
    "programmed for wires": lambda: linear_chip("program", **WIRED),
    "aged": lambda: aged().at(3600.0),
    "aged and compensated": lambda: aged().at(86400.0, drift_compensation=True),
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
    assert same_bits(chip.copy(1), other.copy(1), x)
    if chip.hardware.cell.drift.kind != "none":
        assert same_bits(chip.at(7200.0), other.at(7200.0), x)
    if not chip.hardware.wires.ideal:
        assert same_bits(chip.at(0.0), other.at(0.0), x)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(("outputs", "groups", "columns"), [(32, 1, 256), (63, 1, 16), (64, 2, 6)])
def test_chips_whose_reference_columns_go_beyond_the_last_group_of_their_outputs(
    outputs, groups, columns, compact, tmp_path
):
    net, x = nn.Conv1d(4, outputs * groups, 1, groups=groups).eval(), torch.rand(20, 4, 3)
    hw = mho.Hardware.preset("reram").replace({"tile.encoding": "offset", "tile.columns": columns})
    chip = mho.map(net, hw, calibrate=x)
    chip.save(tmp_path / "chip", compact=compact)
    assert same_bits(chip, mho.load(tmp_path / "chip"), x)


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


def test_copies_before_and_after(small_chip, tmp_path):
    x = pictures()
    second = saved(small_chip.copy(2), tmp_path / "second")
    assert second.copy_index == 2
    assert same_bits(small_chip.copy(2), second, x)
    assert same_bits(small_chip.copy(1), saved(small_chip, tmp_path / "first").copy(1), x)
    assert not same_bits(small_chip, second, x)


def test_two_files_of_plain_data_and_nothing_beside_them(folder):
    assert {file.name for file in folder.iterdir()} == {TEXT, TENSORS}
    assert yaml.safe_load((folder / TEXT).read_text(encoding="utf-8"))["format"] == 4
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
    with pytest.raises(CheckpointError, match=r"model must be given as package.module:factory, got 'net'"):
        mho.load(folder, model="net")


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
