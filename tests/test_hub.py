"""Networks of transformers and timm, by name and from folders; nothing is asked of a server."""

from __future__ import annotations

import json
import socket

import pytest
import torch

import mho
from mho.mapping.checkpoints.factories import build_model
from mho.mapping.checkpoints.networks import load_model
from mho.mapping.errors import CheckpointError

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
TOKENS = torch.arange(24).reshape(3, 8)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def fails(*_):
        raise AssertionError("a server was asked")

    monkeypatch.setattr(socket.socket, "connect", fails)


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def folder(transformers, tmp_path):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    model.eval().save_pretrained(tmp_path / "bert", max_shard_size="20KB")
    return tmp_path / "bert", model


def test_a_folder_is_its_network(folder):
    path, exact = folder
    assert (path / "model.safetensors.index.json").is_file()
    model = load_model(path)
    assert type(model) is type(exact)
    assert torch.equal(model(TOKENS).logits, exact(TOKENS).logits)
    again = load_model(path, "transformers:BertForSequenceClassification", arguments=SMALL)
    assert torch.equal(again(TOKENS).logits, exact(TOKENS).logits)
    base = load_model(path, "transformers:bert", arguments={"config": str(path), "hidden_size": 32})
    assert torch.equal(base(TOKENS).last_hidden_state, exact.bert(TOKENS).last_hidden_state)


def edited(path, **fields):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "needs code of its own .auto_map."),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised codes"),
        ({"architectures": ["os"]}, "transformers has no class of models 'os'"),
        ({"architectures": ["AutoTokenizer"]}, "transformers has no class of models"),
        ({"model_type": "foo"}, "no type of model 'foo'"),
        ({"num_hidden_layers": 3}, "does not fit BertForSequenceClassification: missing: bert.encoder.layer.2"),
        ({"num_hidden_layers": 1}, "does not fit .*surplus: bert.encoder.layer.1"),
        ({"intermediate_size": 65}, "wrong shape: .* is .64, 32., the model has .65, 32."),
        ({"hidden_size": "x"}, "checkpoint .*bert"),
        ({"_attn_implementation": "evil/kernel"}, "names code of a server"),
    ],
)
def test_folders_that_are_refused(fields, said, folder):
    path, _ = folder
    edited(path, **fields)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_shard_is_refused(folder):
    path, _ = folder
    next(path.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(path)


def test_types_and_classes_by_name(transformers):
    assert type(build_model("transformers:bert", SMALL)).__name__ == "BertModel"
    assert type(build_model("transformers:BertForMaskedLM", SMALL)).__name__ == "BertForMaskedLM"
    given = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}
    assert type(build_model("transformers:AutoModelForCausalLM", given)).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("bret", {}, "no type of model 'bret'; near: .*bert"),
        ("BretModel", {}, "no such class of models; near: .*BertModel"),
        ("bert", {"num_layres": 3}, "BertConfig has no field 'num_layres'"),
        ("AutoModelForCausalLM", {}, "which type of model. Give --arg model_type=gpt2"),
        ("bert", {"config": "nowhere.json"}, "no such file"),
        ("AutoTokenizer", {}, "no such class of models"),
    ],
)
def test_names_that_are_refused(transformers, name, arguments, said):
    with pytest.raises(CheckpointError, match=said) as caught:
        build_model(f"transformers:{name}", arguments)
    assert "\n" not in str(caught.value)


def test_models_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    exact = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in exact.state_dict().items()}}, tmp_path / "a.pth.pt")
    model = load_model(tmp_path / "a.pth.pt", "timm:resnet10t.c3_in1k", arguments={"num_classes": 7})
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(x), exact(x))
    for name, arguments, said in (
        ("resnt10t", {}, "timm has no such model; near: resnet10t"),
        ("resnet10t", {"pretrained": True}, "pretrained must be false: Mho downloads nothing"),
        ("resnet10t", {"nmu_classes": 3}, "TypeError: .*nmu_classes"),
        ("resnet10t", {"checkpoint_path": "a.pt"}, "checkpoint_path is no argument here"),
    ):
        with pytest.raises(CheckpointError, match=said):
            build_model(f"timm:{name}", arguments)


def test_a_chip_of_a_folder_builds_its_network_again(folder, tmp_path):
    path, _ = folder
    model = load_model(path)
    try:
        chip = mho.map(model, mho.Hardware.preset("ideal"), calibrate=TOKENS)
    except mho.mapping.errors.MappingError as error:
        pytest.skip(f"cannot be mapped yet: {error}")
    chip.save(tmp_path / "chip")
    read = chip.read(TOKENS, read=0).logits
    assert torch.equal(mho.load(tmp_path / "chip").read(TOKENS, read=0).logits, read)
