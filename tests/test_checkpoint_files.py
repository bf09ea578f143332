"""Shards, folders, prefixes and the examples of docs/checkpoints.md; what is foreign or forged is refused."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mho.mapping.checkpoints.loading import find_weights, load_weights, read_state_dict
from mho.mapping.checkpoints.networks import load_model
from mho.mapping.errors import CheckpointError

ROOT = Path(__file__).parents[1]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def shards(folder: Path, **changed: str) -> dict[str, str]:
    """A checkpoint in two shards with their index, which may say something else."""
    state = net().state_dict()
    place = {name: f"model-0000{1 + (name[0] == '2')}-of-00002.safetensors" for name in state}
    for file in set(place.values()):
        save_file({name: value for name, value in state.items() if place[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": place | changed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def test_shards_are_one_checkpoint_by_their_index_or_their_folder(tmp_path):
    shards(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert equal(read_state_dict(path), net().state_dict())
        assert equal(load_weights(net(1), path).state_dict(), net().state_dict())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../other.safetensors", "is no name of a file in this folder"),
        ("/etc/passwd.safetensors", "is no name of a file in this folder"),
        ("a/b.safetensors", "is no name of a file in this folder"),
        ("..\\other.safetensors", "is no name of a file in this folder"),
        ("missing.safetensors", "is missing"),
        ("model.py", "is no .safetensors or .bin file"),
        ("", "is no .safetensors or .bin file"),
        ("link.safetensors", "is a link that leads out of the folder"),
        ("loop.safetensors", "is missing"),
        ("folder.safetensors", "is no file"),
    ],
)
def test_an_index_names_files_of_its_own_folder_alone(name, said, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"2.bias": torch.zeros(2)}, tmp_path / "other.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "other.safetensors")
    (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    shards(folder, **{"2.bias": name})
    refused(folder, said)


def test_links_of_the_hugging_face_cache_are_followed(tmp_path):
    folder, blobs = tmp_path / "models--a--b/snapshots/1234", tmp_path / "models--a--b/blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    save_file(net().state_dict(), blobs / "abcd")
    (folder / "model.safetensors").symlink_to("../../blobs/abcd")
    assert equal(read_state_dict(folder), net().state_dict())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f, p: (f / p["0.bias"]).write_bytes((f / p["0.bias"]).read_bytes()[:90]), "not a readable safetensors"),
        (lambda f, p: save_file({"0.bias": torch.ones(4)}, f / p["0.bias"]), "the shard .* lacks 0.weight, 1.bias"),
        (lambda f, p: save_file(net().state_dict(), f / p["0.bias"]), "holds 2.bias, 2.weight, which the index has"),
        (lambda f, p: (f / "model.safetensors.index.json").write_text("{"), "not readable JSON"),
        (lambda f, p: (f / "model.safetensors.index.json").write_text("[]"), "expected an object of JSON, got list"),
        (lambda f, p: (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "expected a weight_map"),
        (lambda f, p: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'), "a weight_map"),
        (lambda f, p: (f / "model.safetensors.index.json").write_text("[" * 100000), "not readable JSON"),
    ],
)
def test_shards_that_do_not_fit_their_index_are_refused_and_nothing_is_loaded(spoil, said, tmp_path):
    spoil(tmp_path, shards(tmp_path))
    refused(tmp_path, said)
    model = net(1)
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path, model)
    assert equal(model.state_dict(), net(1).state_dict())


def test_a_file_that_says_more_than_it_holds_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
    (tmp_path / "huge.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(tmp_path / "huge.safetensors", "not a readable safetensors file")
    torch.save(net().state_dict(), tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", 8) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(tmp_path / "bomb.pt", "its entries are compressed or there twice")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        script.writestr("net/data.pkl", b"")
        script.writestr("net/constants.pkl", b"")
    refused(tmp_path / "script.pt", "holds a TorchScript program; save model.state_dict")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "no such file")


def lightning() -> dict[str, torch.Tensor]:
    return {f"model.{name}": value for name, value in net().state_dict().items()}


def test_names_beside_a_prefix_are_left_out_and_told(tmp_path):
    torch.save({"state_dict": {**lightning(), "loss.weight": torch.ones(2)}, "epoch": 3}, tmp_path / "a.ckpt")
    found = find_weights(net(1), tmp_path / "a.ckpt")
    assert str(found) == "weights: state_dict, prefix 'model.' taken off, without loss.weight"
    assert equal(found.state, net().state_dict())
    assert not found.plain


def test_two_prefixes_that_fit_are_an_error_until_one_is_chosen(tmp_path):
    other = {name: value + 1 for name, value in net().state_dict().items()}
    torch.save({**lightning(), **{f"ema.{name}": value for name, value in other.items()}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"under the prefixes 'model.', 'ema.'; choose one with strip_prefix="):
        load_weights(net(1), tmp_path / "a.pt")
    for prefix in ("ema.", "ema"):
        assert equal(find_weights(net(1), tmp_path / "a.pt", strip_prefix=prefix).state, other)
    with pytest.raises(CheckpointError, match=r"no name begins with the prefix 'net.'; they begin with model., ema."):
        load_weights(net(1), tmp_path / "a.pt", strip_prefix="net.")
    torch.save({**lightning(), **other}, tmp_path / "b.pt")  # without a prefix they are one of the two
    with pytest.raises(CheckpointError, match="choose one with strip_prefix="):
        load_weights(net(1), tmp_path / "b.pt")


def test_names_of_wrappers_are_taken_out_of_the_middle(tmp_path):
    model = nn.Sequential(net(), nn.Linear(2, 2))
    state = {name.replace("0.", "0._orig_mod.", 1): value for name, value in model.state_dict().items()}
    torch.save({"net": {f"model.module.{name}": value for name, value in state.items()}}, tmp_path / "a.pt")
    found = find_weights(nn.Sequential(net(1), nn.Linear(2, 2)), tmp_path / "a.pt")
    assert found.unwrapped
    assert equal(found.state, model.state_dict())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


def test_a_tied_tensor_may_be_there_once_and_must_not_differ(tmp_path):
    weight = torch.rand(5, 3)
    save_file({"table.weight": weight}, tmp_path / "a.safetensors")
    assert torch.equal(load_weights(Tied(), tmp_path / "a.safetensors").head.weight, weight)
    save_file({"table.weight": weight, "head.weight": weight + 1}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"different, and one in the model: table.weight and head.weight"):
        load_weights(Tied(), tmp_path / "a.safetensors")


def test_state_dicts_in_lists_have_a_key(tmp_path):
    nets = [net(seed).state_dict() for seed in range(2)]
    torch.save({"fold": nets}, tmp_path / "a.pt")
    assert equal(load_weights(net(2), tmp_path / "a.pt", "fold.1").state_dict(), nets[1])
    with pytest.raises(CheckpointError, match=r"under the keys 'fold.0', 'fold.1'; choose one with key="):
        load_weights(net(2), tmp_path / "a.pt")


def test_an_error_names_some_of_many(tmp_path):
    torch.save({f"x{n}": torch.ones(1) for n in range(1000)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"x9 and 990 more$") as caught:
        load_weights(net(1), tmp_path / "a.pt")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("given", [{"model": "mho.models:mnist_cnn"}, {"key": "a"}, {"strip_prefix": "a."}])
def test_a_file_that_holds_its_network_takes_nothing_else(given, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match=f"so that {next(iter(given))} has no meaning"):
        load_model(tmp_path / "a.onnx", **given)


def test_a_state_dict_needs_a_network(tmp_path):
    torch.save(net().state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="which network do its weights belong to"):
        load_model(tmp_path / "a.pt")
