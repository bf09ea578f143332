"""Saved chips that are damaged, foreign or forged: refused in one line, and nothing else happens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from helpers import hardware, pictures
from torch import nn

import mho
from mho.mapping.errors import CheckpointError
from mho.mapping.saved import store
from mho.mapping.saved.store import TENSORS, TEXT


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
    "content",
    [
        *(b"", b"\xff\xfe\x00", b"a: [1", b"- list", b"text", b"!!python/none"),
        *(b"format: 1\n", b"format: 2", b"format: 2\n\xff", b"format: 2\na: &a [1]\nb: [*a, *a]"),
        *(b"format: 2\na: !!python/none", b"format: 3\n", b"format: 5\n"),
        *(b"# mho chip, format 5, sha256 " + b"0" * 64, b"# mho chip, format 1, sha256 " + b"0" * 64),
    ],
)
def test_foreign_text_is_refused(folder, content):
    (folder / TEXT).write_bytes(content)
    refused(folder, "damaged|format 1, which no release had|format 5, of a newer version of Mho; this one reads 2 to 4")


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
        (lambda text: text["layers"]["0"]["spec"].update(kernel=[5, 5]), "layer '0': weights of shape"),
        (lambda text: text["layers"]["0"]["spec"].update(dilation=[1, -9]), "dilation.1 = -9: "),
        (lambda text: text["layers"]["0"]["spec"].update(stride=[1, 2**70]), f"stride.1 = {2**70}: "),
        (lambda text: text["layers"]["0"]["spec"].update(stride=[1, 1.5]), "stride.1 = 1.5: "),
        (
            lambda text: text["layers"]["0"]["spec"].update(stride=[2, 2, 2]),
            "stride must be 2 numbers like kernel, got 3",
        ),
        (lambda text: text["layers"]["0"]["spec"].update(padding=[10**6] * 4), "padding = .* makes more than"),
        (lambda text: text["layers"]["0"]["spec"].update(padding=[1]), "padding must be 4 numbers or none, got 1"),
        (lambda text: text["layers"]["0"]["spec"].update(groups=5), "groups = 5 must divide 3 and 8"),
        (lambda text: text["layers"]["0"]["spec"].update(colour="red"), "has no field colour"),
        (lambda text: text["layers"]["0"]["spec"].update(padding_mode="wrap"), "padding_mode = 'wrap'"),
        (lambda text: text["layers"]["0"]["drive"].pop("limit"), "drive.limit: Field required"),
        (lambda text: text["layers"]["0"]["drive"].update(limit=0.0), "drive.limit = 0.0: "),
        (lambda text: text["layers"]["0"]["drive"].update(limit=1e-300), "layer '0': drive.limit = 1e-300 is outside"),
        (lambda text: text["layers"]["0"]["drive"].update(full_code=0), "drive.full_code"),
        (lambda text: text["layers"]["0"]["drive"].update(pulses=10**10), "drive.pulses"),
        (lambda text: text["trace"][0].update(positions=-1), "positions = -1"),
        (lambda text: text["layers"]["0"].update(aliases=["7"]), "layers: two have the same name"),
        (lambda text: text["layers"]["0"].update(aliases=["a"]), "layers: '0' is not among its own names a"),
        (
            lambda text: text["layers"]["0"].update(wire_compensation="gain"),
            "wire_compensation = 'gain', and",
        ),
        (
            lambda text: text["layers"]["0"].update(compensate="gain"),
            "layers.0.compensate = 'gain'",
        ),
        (lambda text: text["layers"]["0"].update(kind="linear"), "Linear has no field groups, kernel"),
        (
            lambda text: text["layers"]["0"].update(kind="attention"),
            "kind of layer must be one of linear, .*convolution.*, got 'attention'",
        ),
        (lambda text: text["layers"]["0"].update(cells={"kind": "given"}), "its tensor '0.conductances' is missing"),
        (lambda text: text["layers"]["0"]["cells"].update(kind="grown"), "cells.kind = 'grown'"),
        (lambda text: text["layers"]["0"].pop("ranges"), "ranges: Field required"),
        (lambda text: text["layers"]["0"].update(array_energy_j="1 J"), "array_energy_j"),
        (lambda text: text["layers"].pop("0"), "trace.0.layer = '0' is no layer"),
        (lambda text: text.update(layers={}, trace=[]), "it has no place for its tensor layer."),
        (lambda text: text["trace"][1].update(after=[1]), "trace.1.after must hold calls before it, got 1"),
        (lambda text: text["trace"][0].update(needs=[10**9]), "trace.0.needs must be rows below rows_in"),
        (lambda text: text["trace"][0].update(positions=0), "trace.0.positions must be at least 1"),
        (lambda text: text.pop("seed"), "seed: Field required"),
        (lambda text: text.update(seed="red"), "seed = 'red'"),
        (lambda text: text.update(copy=True), "copy = True"),
        (lambda text: text.update(format=2), "format = 2, and its first line says 4"),
        (lambda text: text.update(colour="red"), "colour"),
        (lambda text: text.update(hardware=[]), "hardware"),
        (lambda text: text["structure"].update(nodes=nested(400)), "damaged"),
    ],
)
def test_text_that_does_not_fit_its_tensors_is_refused(folder, change, match):
    """The kernels trust their arrays, so nothing that is another size may reach them."""
    rewrite(folder, change)
    refused(folder, match)


class Tensors(nn.Module):
    """A parameter, a constant and a module that are read by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.norm = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.LayerNorm(4)
        self.gain = nn.Parameter(torch.rand(4))
        self.register_buffer("passing", torch.rand(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x).mean((2, 3))) * self.gain + self.passing)


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
        (altered(row_conductance=float("nan")), "0.row_conductance must be from -3"),
        (altered(slow_std=torch.zeros(1, 1, 27, 8)), "0.slow_std of shape"),
    ],
)
def test_tensors_that_their_kernels_cannot_have_are_refused(folder, change, match):
    rewrite(folder, lambda text: None, change)
    refused(folder, match)


def test_recurrent_layers_that_their_tiles_do_not_fit_are_refused(tmp_path):
    chip = mho.map(nn.LSTM(4, 5), hardware(), calibrate=torch.rand(3, 2, 4))
    chip.save(tmp_path)
    for size in (6, 10**6, 2**31):
        sizes = {"input_size": size, "hidden_size": size}
        for key in sizes:
            rewrite(tmp_path, lambda text, change={key: sizes[key]}: text["structure"]["module"]["args"].update(change))
            refused(tmp_path, "its layer 'l0.gates' is Linear.* its model wants Linear|damaged")
            chip.save(tmp_path)
    rewrite(tmp_path, lambda text: text["structure"]["module"]["args"].update(num_layers=2))
    refused(tmp_path, r"are missing: l1.gain")


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
        refused(folder, "damaged|format [0-9]+, (of a newer version|which no release had)")
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
    small_chip.copy(1).save(tmp_path / "b")
    (tmp_path / "a" / TENSORS).write_bytes((tmp_path / "b" / TENSORS).read_bytes())
    refused(tmp_path / "a", "is not as it was written, or is of another chip")


def test_a_loaded_chip_does_not_change_with_its_file(small_chip, folder):
    """Tensors that safetensors maps into memory do, and end the process where the file is cut."""
    loaded, x = mho.load(folder), pictures()
    with (folder / TENSORS).open("r+b") as file:
        file.truncate(10)
    assert torch.equal(small_chip.read(x, read=0), loaded.read(x, read=0))


def test_text_with_surprises_is_refused(folder):
    def sealed(body: bytes) -> None:
        first = f"# mho chip, format {store.FORMAT}, sha256 {store.sha256(body).hexdigest()}\n".encode()
        (folder / TEXT).write_bytes(first + body)

    body = (folder / TEXT).read_bytes().partition(b"\n")[2]
    deep = b"[" * 100_000 + b"]" * 100_000
    for changed, match in (
        (body.replace(b'"seed": 3,', b'"seed": 3, "seed": 4,'), "has a field twice"),
        (body.replace(b'"seed": 3,', b'"seed": 3' + b"0" * 5000 + b","), "damaged"),
        (body.replace(b'"seed": 3,', b'"seed": ' + deep + b","), "damaged"),
        (body.replace(b'"seed": 3,', b'"seed": NaN,'), "seed"),
        (b"seed: 3", "damaged"),
        (b"[]", "format = 'list', and its first line says 4"),
        (body.replace(b'"digests": {', b'"digest": {'), "digests must have header and tensors"),
        (body.replace(b'"digests": {', b'"digests": 1, "digest": {'), "digests must have header and tensors"),
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
