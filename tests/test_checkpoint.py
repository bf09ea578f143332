"""Checkpoints: state dicts of every usual form are read, and everything else is refused in one line."""

from __future__ import annotations

import pickle
import random
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import small_cnn
from safetensors.torch import save_file
from torch import nn

from mho.mapping.checkpoints.loading import build_model, find_weights, load_weights, read_state_dict
from mho.mapping.errors import CheckpointError


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_state_dict(path)
    assert str(caught.value).startswith(f"checkpoint {path}: ")
    assert "\n" not in str(caught.value)


FORMS = {
    "a.pt": lambda state, path: torch.save(state, path),
    "a.pth": lambda state, path: torch.save(state, path),
    "old.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "a.safetensors": save_file,
    "lightning.pt": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "training.pt": lambda state, path: torch.save({"model_state_dict": state, "optimizer": {"lr": 1.0}}, path),
    "short.pt": lambda state, path: torch.save({"model": state}, path),
    "own name.pt": lambda state, path: torch.save(
        {"step": 1, "model_state": state, "optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}}}, path
    ),
    "deep.pt": lambda state, path: torch.save({"run": {"nets": {"a": state}}, "epoch": 3, "best": 0.5}, path),
    "beside numbers.pt": lambda state, path: torch.save({**state, "epoch": 3, "note": "best"}, path),
    "compiled.pt": lambda state, path: torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, path),
    "parallel.pt": lambda state, path: torch.save({f"module.{key}": value for key, value in state.items()}, path),
    "both.pt": lambda state, path: torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path),
}


@pytest.mark.parametrize(("name", "write"), FORMS.items(), ids=FORMS)
def test_forms_of_checkpoints(name, write, tmp_path):
    state = net().state_dict()
    write(state, tmp_path / name)
    assert equal(read_state_dict(tmp_path / name), state)
    model = net(1)
    assert load_weights(model, str(tmp_path / name)) is model
    assert equal(model.state_dict(), state)


def test_a_prefix_that_only_some_keys_have_is_part_of_their_names(tmp_path):
    state = {"module.weight": torch.ones(2), "other": torch.ones(1)}
    torch.save(state, tmp_path / "a.pt")
    assert equal(read_state_dict(tmp_path / "a.pt"), state)


def test_weights_in_half_precision_are_widened(tmp_path):
    save_file({key: value.half() for key, value in net().state_dict().items()}, tmp_path / "a.safetensors")
    model = load_weights(net(1), tmp_path / "a.safetensors")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, net()[0].weight.half().float())


def test_all_that_does_not_fit_is_named_at_once_and_nothing_is_loaded(tmp_path):
    state = net().state_dict()
    del state["0.bias"], state["2.weight"], state["1.num_batches_tracked"]
    state |= {"2.bias": torch.zeros(3), "1.weight": torch.zeros(4, 1), "head.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "a.pt")
    model = net(1)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "a.pt")
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'a.pt'} does not fit Sequential: missing: 0.bias, 2.weight; surplus: head.weight; "
        "wrong shape: 1.weight is (4, 1), the model has (4,), 2.bias is (3,), the model has (2,)"
    )
    assert equal(model.state_dict(), net(1).state_dict())


def test_state_dicts_are_found_under_any_key(tmp_path):
    state, path = net().state_dict(), tmp_path / "a.pt"
    other = {key: value + 1 for key, value in state.items()}
    ema = {"step": 7, "model": state, "ema": {"shadow": other}, "optimizer": {"state": {0: {"m": torch.ones(1)}}}}
    torch.save(ema, path)
    said = (
        "several of its state dicts fit Sequential, under the keys 'model', 'ema.shadow'; choose one with key= .--key."
    )
    with pytest.raises(CheckpointError, match=said):
        load_weights(net(1), path)
    for key, exact in {"model": state, "ema.shadow": other}.items():
        assert equal(load_weights(net(1), path, key=key).state_dict(), exact)
        assert equal(read_state_dict(path, key), exact)
    with pytest.raises(CheckpointError, match=r"key 'net' holds no state dict; it holds .* keys 'model', 'ema.shadow'"):
        load_weights(net(1), path, key="net")
    torch.save({"model": state, "best": state}, path)  # the same twice is no question
    assert equal(load_weights(net(1), path).state_dict(), state)
    torch.save({"generator": {"0.weight": torch.ones(2)}, "net": state}, path)
    assert find_weights(net(1), path).key == "net"


def test_a_prefix_is_taken_off_where_that_makes_it_fit(tmp_path):
    state, path = net().state_dict(), tmp_path / "a.pt"
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model.", "net.body."):
        torch.save({"state_dict": {f"{prefix}{key}": value for key, value in state.items()}}, path)
        found = find_weights(net(1), path)
        assert (found.prefix, found.key) == (prefix, "state_dict")
        assert str(found) == f"weights: state_dict, prefix {prefix!r} taken off"
        assert equal(found.state, state)
    deeper = nn.Sequential(net())
    torch.save({f"0.{key}": value for key, value in state.items()}, path)
    assert find_weights(deeper, path).prefix == ""


def test_where_none_fits_the_nearest_is_told(tmp_path):
    state, path = net().state_dict(), tmp_path / "a.pt"
    del state["2.bias"]
    torch.save({"net": state, "other": {"x": torch.ones(1)}}, path)
    with pytest.raises(
        CheckpointError,
        match=r"does not fit Sequential: missing: 2.bias; so much for 'net', it holds .* 'net', 'other', choose one",
    ):
        load_weights(net(1), path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda value: value.to(torch.int8), "wrong type: 0.weight is int8, the model has float32"),
        (lambda value: value.to(torch.complex64), "wrong type: 0.weight is complex64"),
        (lambda value: value.to_sparse(), "not dense: 0.weight"),
        (lambda value: value.to("meta"), "not dense: 0.weight"),
        (lambda value: value[:1, :1].expand(10**6, 10**6), "wrong shape: 0.weight is .1000000, 1000000."),
    ],
)
def test_numbers_that_are_no_weights_are_refused(change, match, tmp_path):
    state = dict(net().state_dict())
    state["0.weight"] = change(state["0.weight"])
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=match):
        load_weights(net(1), tmp_path / "a.pt")


def test_dicts_that_hold_themselves_are_searched_once(tmp_path):
    state = net().state_dict()
    loop: dict = {"a": {}}
    loop["a"]["b"] = loop
    for _ in range(30):
        loop = {f"k{n}": loop for n in range(10)}
    torch.save({"net": state, "loop": loop}, tmp_path / "a.pt")
    assert find_weights(net(1), tmp_path / "a.pt").key == "net"


def test_a_missing_count_of_batches_is_no_fault(tmp_path):
    state = {key: value for key, value in net().state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt")
    assert torch.equal(load_weights(net(1), tmp_path / "a.pt")[0].weight, net()[0].weight)


class Marked:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_module_is_refused_unread_with_the_way_out(tmp_path):
    torch.save(small_cnn(), tmp_path / "whole.pt")
    refused(
        tmp_path / "whole.pt",
        r"holds pickled Python objects \(torch.nn.modules.container.Sequential; a whole module\?\), "
        r"which may run any code when read; save model.state_dict\(\) instead, with torch.save or safetensors",
    )
    torch.save({"state_dict": net().state_dict(), "note": Marked(tmp_path / "mark")}, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt", "holds pickled Python objects")
    for protocol in (2, 4):
        (tmp_path / "plain.pt").write_bytes(pickle.dumps(Marked(tmp_path / "mark"), protocol))
        refused(tmp_path / "plain.pt", "holds pickled Python objects|not a PyTorch file")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([torch.ones(1)], "expected a state dict of tensors, got list"),
        (torch.ones(1), "expected a state dict of tensors, got Tensor"),
        ({}, "got an empty one"),
        ({"state_dict": {}}, "got an empty one"),
        ({"epoch": 3, "net": {"lr": 0.1}}, "alone or under a key, got 'epoch' is int"),
        ({"net": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, "the keys 'net', 'ema'; choose one with key="),
        ({0: torch.ones(1)}, "key 0"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, match, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", match)


FOREIGN = {
    "empty": b"",
    "text": b"hello world\n" * 20,
    "yaml": b"conv1: 1\nconv2: 2\n",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "archive": b"PK\x03\x04" + bytes(60),
    "noise": random.Random(0).randbytes(500),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_foreign_files_are_refused(content, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refused(path, "not a readable safetensors file" if suffix == ".safetensors" else "damaged or not a PyTorch file")


@pytest.mark.parametrize("name", ["a.pt", "old.pt", "a.safetensors"])
def test_truncated_and_spoiled_files_are_refused_or_read(name, tmp_path):
    """Wherever it is cut a file is refused; where a byte is wrong, at worst a number is."""
    path = tmp_path / name
    FORMS[name](net().state_dict(), path)
    content, chance = path.read_bytes(), random.Random(0)
    for end in range(0, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:end])
        refused(path, "damaged|not a readable|holds pickled")
    for _ in range(60):
        spoiled = bytearray(content)
        for _ in range(3):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        path.write_bytes(spoiled)
        with suppress(CheckpointError):
            assert all(isinstance(value, torch.Tensor) for value in read_state_dict(path).values())


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    refused(tmp_path / "a.pt", "no such file")
    refused(tmp_path, "no such file")
    for name in ("a.npz", "a.json", "a"):
        (tmp_path / name).write_bytes(b"x")
        refused(tmp_path / name, r"expected a .pt, .pth or .safetensors file")


FACTORIES = """
import torch
from torch import nn
raise_it = lambda: 1 + ""
needs = lambda width: nn.Linear(width, 2)
needs_none = lambda width=3: nn.Linear(width, 2)
gives_text = lambda: "net"
made = nn.Linear(3, 2)
number = 3
class Net(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
    @classmethod
    def small(cls):
        return cls()
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "factories_for_tests.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "needs_a_package.py").write_text("import no_such_package\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # modules of the working directory can be imported
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    return "factories_for_tests"


@pytest.mark.parametrize("name", ["needs_none", "made", "Net", "Net.small"])
def test_models_from_factories(factories, name):
    assert isinstance(build_model(f"{factories}:{name}"), nn.Linear)


def test_the_packages_own_network():
    assert len(build_model("mho.models:mnist_cnn").state_dict()) > 10


@pytest.mark.parametrize(
    ("reference", "match"),
    [
        ("factories_for_tests", "model must be given as package.module:factory, got 'factories_for_tests'"),
        (":Net", "must be given as package.module:factory"),
        ("factories_for_tests:", "must be given as package.module:factory"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
        ("factories_for_tests.deeper:Net", "No module named 'factories_for_tests.deeper'"),
        (".factories_for_tests:Net", "model '.factories_for_tests:Net': TypeError"),
        ("needs_a_package:Net", "No module named 'no_such_package'"),
        ("factories_for_tests:Other", "has no attribute 'Other'"),
        ("factories_for_tests:Net.large", "has no attribute 'large'"),
        (
            "factories_for_tests:needs",
            r"callable without arguments \(TypeError: missing a required argument: 'width'\)",
        ),
        ("factories_for_tests:gives_text", "expected a torch.nn.Module, got str"),
        ("factories_for_tests:number", "expected a torch.nn.Module, got int"),
    ],
)
def test_references_that_give_no_model(factories, reference, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        build_model(reference)
    assert "\n" not in str(caught.value)


def test_a_mistake_inside_a_factory_keeps_its_traceback(factories):
    with pytest.raises(TypeError, match="unsupported operand"):
        build_model(f"{factories}:raise_it")
