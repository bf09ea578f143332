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


def rewrite(folder: Path, change) -> None:
    text = yaml.safe_load((folder / TEXT).read_text(encoding="utf-8"))
    change(text)
    (folder / TEXT).write_text(yaml.safe_dump(text), encoding="utf-8")


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
    assert yaml.safe_load((folder / TEXT).read_text(encoding="utf-8"))["format"] == 2
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
    "content", [b"", b"\xff\xfe\x00", b"a: [1", b"- list", b"text", b"format: 3", b"!!python/none"]
)
def test_foreign_text_is_refused(folder, content):
    (folder / TEXT).write_bytes(content)
    refused(folder, "damaged|expected format 2, got")


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        mho.load(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"chip {folder}: ")


def test_truncated_text_is_refused_wherever_it_ends(folder):
    content = (folder / TEXT).read_text(encoding="utf-8")
    lines = content.splitlines(keepends=True)
    for end in range(0, len(lines), 37):
        (folder / TEXT).write_text("".join(lines[:end]), encoding="utf-8")
        refused(folder, "damaged|expected format|that it does not hold")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text["hardware"]["tile"].update(rows=8), "layer '0': .* does not fit the tiles of its hardware"),
        (lambda text: text["hardware"]["tile"].update(encoding="offset"), "does not fit the tiles of its hardware"),
        (lambda text: text["hardware"]["tile"].update(rows=0), "tile.rows"),
        (lambda text: text["hardware"].update(colour="red"), "Hardware has no field colour"),
        (lambda text: text["layers"]["0"]["spec"].update(kernel=[1, 5, 5]), "layer '0': weights of shape"),
        (lambda text: text["layers"]["0"]["spec"].update(dilation=[1, 1, -9]), "layer '0': weights of shape"),
        (lambda text: text["layers"]["0"]["spec"].update(colour="red"), "damaged"),
        (lambda text: text["layers"]["0"]["drive"].pop("limit"), "damaged"),
        (lambda text: text["layers"].pop("0"), "uses a layer '0' that it does not hold"),
        (lambda text: text.pop("seed"), "damaged"),
        (lambda text: text.update(seed="red"), "damaged"),
    ],
)
def test_text_that_does_not_fit_its_tensors_is_refused(folder, change, match):
    """The kernels trust their arrays, so nothing that is another size may reach them."""
    rewrite(folder, change)
    refused(folder, match)


def test_missing_tensors_are_refused(tmp_path):
    chip = mho.map(Tensors().eval(), hardware(), calibrate=pictures())
    chip.save(tmp_path / "chip")
    tensors = store.load_file(tmp_path / "chip" / TENSORS)
    constant = next(name for name in tensors if name.startswith("constant."))
    for key in ("digital.gain", "digital.norm.bias", constant, "layer.conv.0.mean", "layer.fc.full_scale"):
        kept = {name: value.clone() for name, value in tensors.items() if name != key}
        store.save_file(kept, tmp_path / "chip" / TENSORS)
        refused(tmp_path / "chip", "that it does not hold|are missing: norm.bias|damaged")


def node(text: dict, op: str) -> dict:
    return next(node for node in text["structure"]["nodes"] if node["op"] == op)


def call(text: dict, target: str, *args: object, op: str = "call_function", **kwargs: object) -> None:
    """Let the first node after the input do something else."""
    first = text["structure"]["nodes"][1]
    first.update(op=op, target=target, args={"tuple": [{"node": "input_1"}, *args]}, kwargs=kwargs)


EVIL = "x'] or __import__('os')#"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: call(text, "os.system", "true"), r"it calls os.system, which is no function of torch"),
        (lambda text: call(text, "torch.load", "file"), r"it calls torch.load"),
        (lambda text: call(text, "builtins.eval", "1"), r"it calls builtins.eval"),
        (lambda text: call(text, "operator.methodcaller", "1"), r"it calls operator.methodcaller"),
        (lambda text: call(text, "operator.attrgetter", "1"), r"it calls operator.attrgetter"),
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
