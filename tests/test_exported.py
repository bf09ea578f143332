"""Networks of torch.export: the same numbers, layers of torch.nn, and nothing of the file that is run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import mho
from mho.mapping.checkpoints.networks import load_model
from mho.mapping.errors import CheckpointError

pytestmark = [  # of torch, while it exports
    pytest.mark.filterwarnings("ignore:.*were assigned during export:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]
BATCH = torch.export.Dim("batch", min=2, max=64)


class Mixed(nn.Module):
    """Embedding, attention, recurrence, a transposed convolution; nested outputs and an input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(10, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm = nn.LSTM(8, 4, 2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(8, 4)
        self.up = nn.ConvTranspose1d(4, 3, 2, stride=2)

    def forward(self, tokens, *, mask):
        x = self.table(tokens)
        y = nn.functional.relu_(self.linear(x).reshape(len(x), -1, 2, 4).transpose(1, 2) + torch.tensor([1.0, 2, 3, 4]))
        z, _ = self.attention(x, x, x)
        z, _ = self.lstm(z)
        w, _ = self.gru(x)
        return {"a": y, "b": (z * mask, x.split(4, -1)[0][:, 1:]), "c": [self.up(w.transpose(1, 2))]}


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    net(torch.rand(50, 1, 8, 8))
    return net.eval()


def exported(net: nn.Module, path: Path, *args, decomposed: bool = False, shapes=None, **kwargs) -> nn.Module:
    program = torch.export.export(net.eval(), args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program.run_decompositions() if decomposed else program, path)
    return load_model(path)


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_network_is_itself_again(decomposed, tmp_path):
    torch.manual_seed(0)
    net, tokens, mask = Mixed(), torch.randint(0, 10, (3, 5)), torch.rand(8)
    model = exported(net, tmp_path / "a.pt2", tokens, mask=mask, decomposed=decomposed)
    got, exact = model(tokens, mask=mask), net(tokens, mask=mask)
    assert got.keys() == exact.keys()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(leaves(got), leaves(exact), strict=True))
    kinds = {type(module) for module in model.modules()}
    assert kinds >= ({nn.Linear, nn.ConvTranspose1d} if decomposed else {nn.Linear, nn.LSTM, nn.GRU})


@pytest.mark.parametrize("decomposed", [False, True])
def test_it_is_mapped_saved_and_loaded(decomposed, tmp_path):
    net, x = cnn(), torch.rand(20, 1, 8, 8)
    model = exported(net, tmp_path / "a.pt2", x, shapes=({0: BATCH},), decomposed=decomposed)
    chip = mho.map(model, mho.Hardware.preset("ideal"), calibrate=x)
    assert set(chip.layers) == {"0", "5"}
    assert torch.allclose(chip(x[:7]), net(x[:7]), atol=1e-5)
    if not decomposed:
        chip.save(tmp_path / "chip")
        assert torch.equal(mho.load(tmp_path / "chip").read(x, read=0), chip.read(x, read=0))


def test_sizes_that_were_fixed_are_checked(tmp_path):
    x = torch.rand(3, 1, 8, 8)
    model = exported(cnn(), tmp_path / "a.pt2", x)
    assert model(x).shape == (3, 5)
    with pytest.raises(RuntimeError, match="unflatten"):
        model(torch.rand(4, 1, 8, 8))


def changed(path: Path, name: str, change) -> Path:
    """The archive with one file as a function makes it, or without it."""
    out = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(name):
                content = change(content)
            if content is not None:
                target.writestr(entry.filename, content)
    return out


def edit(change):
    """A function of a file that changes its JSON."""

    def of(content: bytes) -> bytes:
        found = json.loads(content)
        change(found)
        return json.dumps(found).encode()

    return of


def refused(path: Path, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"checkpoint {path}: ")


def first(kind: str):
    return lambda program: next(node for node in program["graph_module"]["graph"]["nodes"] if kind in node["target"])


MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"
FORGED = {
    "system": (
        MODEL,
        lambda p: first("relu")(p).update(target="torch.os.system"),
        "calls 'torch.os.system', which is no",
    ),
    "operator": (
        MODEL,
        lambda p: first("relu")(p).update(target="_operator.attrgetter"),
        "which is no operator of ATen",
    ),
    "file": (MODEL, lambda p: first("relu")(p).update(target="torch.ops.aten.from_file.default"), "does not run"),
    "memory": (MODEL, lambda p: first("relu")(p).update(target="torch.ops.aten.resize_.default"), "does not run"),
    "private": (
        MODEL,
        lambda p: first("relu")(p).update(target="torch.ops.aten._foobar.x"),
        "which this torch has not",
    ),
    "random": (MODEL, lambda p: first("relu")(p).update(target="torch.ops.aten.bernoulli.default"), "random numbers"),
    "schema": (MODEL, lambda p: p["schema_version"].update(major=9), "exported with schema 9, and 8 is read"),
    "input": (
        MODEL,
        lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec=p["graph_module"]["module_call_graph"][0]["signature"]["in_spec"]
            .replace(
                '"context": "[]", "children_spec": []',
                '"context": "[\\"x=print(1)\\"]", "children_spec": [' + LEAF + "]",
            )
            .replace('"children_spec": [' + LEAF + "]}, {", '"children_spec": []}, {', 1)
        ),
        "has the name",
    )
    if (LEAF := '{"type": null, "context": null, "children_spec": []}')
    else None,
    "node": (MODEL, lambda p: p["graph_module"]["graph"].update(nodes=[{}]), "damaged or not of torch.export"),
    "pickle": (
        WEIGHTS,
        lambda p: p["config"]["0.weight"].update(use_pickle=True),
        "is pickled, which may run any code",
    ),
    "huge": (
        WEIGHTS,
        lambda p: p["config"]["0.weight"]["tensor_meta"].update(sizes=[{"as_int": 2**40}], strides=[{"as_int": 1}]),
        "has 36 values, and .1099511627776. are said",
    ),
    "negative": (
        WEIGHTS,
        lambda p: p["config"]["0.weight"]["tensor_meta"].update(storage_offset={"as_int": -4}),
        "has 36 values",
    ),
    "elsewhere": (WEIGHTS, lambda p: p["config"]["0.weight"].update(path_name="../../etc/passwd"), "is missing"),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "a.pt2"
    exported(cnn(), path, torch.rand(20, 1, 8, 8), shapes=({0: BATCH},))
    return path


@pytest.mark.parametrize("case", FORGED)
def test_forged_archives_are_refused(case, archive):
    name, change, said = FORGED[case]
    refused(changed(archive, name, edit(change)), said)


def test_the_sample_inputs_are_not_read(archive):
    """They are a pickle, which torch.export.load reads."""
    path = changed(archive, "sample_inputs/model.pt", lambda content: b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    assert load_model(path)(torch.rand(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("name", [MODEL, WEIGHTS, "data/weights/weight_0"])
def test_parts_that_are_missing(name, archive):
    refused(changed(archive, name, lambda content: None), "export it anew|is missing")


def test_cut_and_foreign_files(archive, tmp_path):
    content = archive.read_bytes()
    for end in range(0, len(content), len(content) // 20):
        (tmp_path / "cut.pt2").write_bytes(content[:end])
        refused(tmp_path / "cut.pt2", "damaged|export it anew")
    refused(tmp_path / "none.pt2", "no such file")


def test_a_network_in_training_is_refused(tmp_path):
    program = torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(), (torch.rand(4, 3),))
    torch.export.save(program, tmp_path / "a.pt2")
    refused(tmp_path / "a.pt2", "eval")
