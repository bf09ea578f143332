"""Bad input on the command line: one line on standard error, exit code 2, and nothing half-written."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from command_shop import tiny
from helpers import NOISY

import mho
from mho.cli import app, run


def test_map_and_vote(shop, capsys):
    assert run(app, shop.map(seed=3, exclude="4")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "chip: custom, seed 3" in out
    assert "1 (BatchNorm2d): folded into 0" in out
    assert "4 (Linear): excluded by name" in out
    assert run(app, shop.map(seed=3)) == 0
    assert run(app, ["vote", "out/chip", "--data", "data.npz", "--votes", "7", "--copies", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    chip, images = mho.load("out/chip"), torch.from_numpy(shop.images)
    result = mho.vote(chip, images, 7, copies=2)
    assert out.splitlines()[-1] == f"   7 votes  {result.accuracy(torch.from_numpy(shop.labels))}"
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["1", "2", "5", "7"]
    assert run(app, ["vote", "out/chip", "--data", "data.npz", "--votes", "30", "--error", "0.05"]) == 0
    stopped = mho.adaptive_vote(chip, images, 30, error=0.05)
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{stopped.mean_reads:.2f} votes on average, 30 at most  {stopped.accuracy(torch.from_numpy(shop.labels))}",
        f"{stopped.capped} of 20 not safe at an error of 0.05",
    ]
    direct = mho.map(tiny(), mho.Hardware.load("chip.yaml"), calibrate=images, seed=3)
    assert torch.equal(direct.read(images, read=4), chip.read(images, read=4))
    assert sorted(path.name for path in Path("out").iterdir()) == ["chip"]


def test_vote_says_what_the_network_does_without_its_chip(shop, capsys):
    """Here the network itself says what is right, so that it makes no mistake and its chip does."""
    shop.hardware(NOISY | {"output_noise": {"sigma_mult": 3.0}})
    shop.data(images=shop.images, labels=tiny()(torch.from_numpy(shop.images)).argmax(1).numpy())
    assert run(app, shop.map()) == 0
    for more in (["--votes", "1"], ["--votes", "2", "--copies", "2"], ["--votes", "3", "--error", "0.3"]):
        capsys.readouterr()
        assert run(app, ["vote", "out/chip", "--data", "data.npz", *more]) == 0
        first, second = capsys.readouterr().out.splitlines()[:2]
        assert first == "  digital  100.00 % [83.89, 100.00]"
        assert "100.00 % [" not in second


def test_a_chip_that_needs_its_model_votes_with_it(shop, refused, capsys):
    state = {f"net.{key}": value for key, value in tiny().state_dict().items()}
    shop.save(state)
    assert run(app, shop.map(model="tiny:Branching")) == 0
    refused(["vote", "out/chip", "--data", "data.npz"], "its structure was not saved: torch.fx cannot trace it")
    assert run(app, ["vote", "out/chip", "--data", "data.npz", "--votes", "2", "--model", "tiny:Branching"]) == 0
    assert "2 votes" in capsys.readouterr().out


WEIGHTS = {
    "NaN": (
        "0.weight",
        lambda value: value[0].fill_(float("nan")),
        "layer '0': weights must be finite, got 9 NaN or",
    ),
    "infinite": ("4.weight", lambda value: value[0, 0].fill_(float("inf")), "layer '4': weights must be finite, got 1"),
    "bias": ("4.bias", lambda value: value.fill_(float("nan")), "layer '4': bias must be finite, got 3 NaN"),
    "norm": ("1.running_mean", lambda value: value[1].fill_(float("nan")), "layer '0': bias must be finite, got 1 NaN"),
}


@pytest.mark.parametrize(("key", "change", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_cannot_be_mapped(shop, refused, key, change, said):
    shop.spoil(key, change)
    refused(shop.map(), said)


def test_checkpoints_that_are_none(shop, refused):
    content = Path("tiny.pt").read_bytes()
    for name, wrong in (("a.pt", content[:-200]), ("b.pt", b"hello"), ("c.safetensors", b"\0" * 30), ("d.pt", b"")):
        Path(name).write_bytes(wrong)
        refused(shop.map(checkpoint=name), f"checkpoint {name}: ")
    torch.save(tiny(), "whole.pt")
    refused(shop.map(checkpoint="whole.pt"), "holds pickled Python objects", "save model.state_dict() instead")
    refused(shop.map(checkpoint="none.pt"), "checkpoint none.pt: no such file")
    state = tiny().state_dict()
    shop.save({"4.weight": state["4.weight"][:2], "4.bias": state["4.bias"], "other": torch.ones(1)})
    refused(shop.map(), "missing: 0.weight, 0.bias", "surplus: other", "wrong shape: 4.weight is (2, 144)")


def test_models_that_are_none(shop, refused):
    refused(shop.map(model="tiny"), "model must be given as package.module:factory")
    refused(shop.map(model="tiny:large"), "has no attribute 'large'")
    refused(shop.map(model="small:build"), "No module named 'small'")
    refused(shop.map(exclude="conv*"), "exclude: pattern 'conv*' matches no layer; layers are 0, 4")
    refused(["map", "tiny.pt", "--out", "out"], "--model")


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((5, 3, 8, 8), "layer '0' takes 1 channels in dimension -3, got an input of shape (5, 3, 8, 8)"),
        ((5, 1, 20, 20), "layer '4' takes 144 features in dimension -1, got an input of shape (5, 1296)"),
        ((5, 1, 2, 2), "layer '0': input of shape"),
        ((5, 8), "layer '0' takes 1 channels"),
        ((0, 1, 8, 8), "data wrong.npy: images must be samples (n, ...), got shape (0, 1, 8, 8)"),
        ((7,), "data wrong.npy: images must be samples"),
        ((), "data wrong.npy: images must be samples"),
    ],
)
def test_calibration_of_the_wrong_shape(shop, refused, shape, said):
    np.save("wrong.npy", np.ones(shape, np.float32))
    refused(shop.map(calibrate="wrong.npy"), said)


def test_data_that_is_none(shop, refused):
    known = "data must be 'mnist', 'cifar10', 'strokes' or a .npy or .npz file"
    refused(shop.map(calibrate="none.npy"), f"{known}, got 'none.npy'")
    refused(shop.map(calibrate="tiny.py"), f"{known}, got 'tiny.py'")
    for wrong in (b"", b"hello", Path("data.npz").read_bytes()[:-300], Path("data.npz").read_bytes()[:700]):
        for name in ("wrong.npz", "wrong.npy"):
            Path(name).write_bytes(wrong)
            refused(shop.map(calibrate=name), f"data {name}: not a readable array file")
    np.save("nan.npy", np.full((4, 1, 8, 8), np.nan, np.float32))
    refused(shop.map(calibrate="nan.npy"), "calibration inputs must be finite, got NaN")
    np.save("words.npy", np.full((4, 1, 8, 8), "word"))
    refused(shop.map(calibrate="words.npy"), "images must be numbers, got <U4")
    np.save("complex.npy", np.ones((4, 1, 8, 8), complex))
    refused(shop.map(calibrate="complex.npy"), "images must be numbers, got complex128")
    np.save("pickle.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    refused(shop.map(calibrate="pickle.npy"), "not a readable array file")
    shop.data(pictures=shop.images)
    refused(shop.map(), "the model takes no input called pictures; it takes input")


def test_integers_of_any_width_and_byte_order_are_data(shop):
    for kind in ("uint8", ">i4", "<f8", "float16", "bool"):
        shop.data(images=(shop.images * 2).astype(kind), labels=shop.labels.astype("uint8"))
        assert run(app, shop.map(hardware="ideal")) == 0
        assert run(app, ["vote", "out/chip", "--data", "data.npz", "--votes", "1"]) == 0


HARDWARE = {
    "unknown field": ({"colour": "red"}, "Hardware has no field colour"),
    "unknown field below": ({"adc": {"bit": 8}}, "adc: Adc has no field bit; its fields are bits"),
    "range upside down": ({"cell": {"g_min": "50 uS", "g_max": "1 uS"}}, "cell: g_min must be below g_max"),
    "no bits": ({"adc": {"bits": 0, "full_scale": "calibrated"}}, "adc.bits = 0: "),
    "negative noise": ({"sensing": {**NOISY["sensing"], "amplifier_noise": "-1 pA/rtHz"}}, "sensing.amplifier_noise"),
    "no rows": ({"tile": {"rows": 0}}, "tile.rows = 0: "),
    "a range of zero": ({"adc": {"bits": 8, "full_scale": "0 A"}}, "adc.full_scale"),
    "another unit": ({"sensing": {**NOISY["sensing"], "v_read": "0.2 S"}}, "sensing.v_read = '0.2 S': expected volts"),
    "too much voltage": ({"cell": {**NOISY["cell"], "v_max": "0.1 V"}}, "sensing.v_read must be at most cell.v_max"),
    "an override": ({"layers": {"0": {"adc.bits": 0}}}, "layers.0: adc.bits = 0: "),
    "an override of no layer": ({"layers": {"fc": {"adc.bits": 4}}}, "hardware.layers: pattern 'fc' matches no layer"),
    "one column": ({"tile": {"columns": 1}}, "layer '0': tile.columns must be at least 2"),
    "a time without data": (
        {"cell": mho.Hardware.preset("reram").cell.model_dump(mode="json"), "time_s": 1e9},
        "time_s must be at most 172800 s",
    ),
    "signed weights": ({"tile": {"encoding": "single"}}, "tile.encoding 'single' takes no negative weights"),
}


@pytest.mark.parametrize(("fields", "said"), HARDWARE.values(), ids=HARDWARE)
def test_hardware_that_is_impossible(shop, refused, fields, said):
    shop.hardware({**NOISY, **fields})
    refused(shop.map(), said)


def test_hardware_that_is_none(shop, refused):
    refused(
        shop.map(hardware="flash"), "hardware must be a preset (ideal, nand, pcm, reram) or a YAML file, got 'flash'"
    )
    refused(["devices", "flash"], "hardware preset must be one of ideal, nand, pcm, reram, got 'flash'")
    refused(["devices", ""], "hardware preset must be one of ideal, nand, pcm, reram, got ''")
    for wrong in (b"cell: [1", b"- cell", b"", b"\xff\xfe\x00", b"name: x"):
        Path("chip.yaml").write_bytes(wrong)
        refused(shop.map())


def test_folders_that_are_something_else(shop, refused):
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("precious")
    refused(shop.map(out="notes"), "notes: exists and is no saved chip; choose another path")
    refused(shop.map(out="."), "exists and is no saved chip")  # though a chip.yaml is there
    refused(["demo", "--out", "notes"], "out: notes exists and is no run folder; choose another")
    refused(["demo", "--out", "tiny.py"], "out: tiny.py exists and is no run folder")
    refused(["vote", "notes", "--data", "data.npz"], "chip notes: no saved chip there")
    refused(["vote", "nowhere", "--data", "data.npz"], "chip nowhere: no saved chip there")


def test_votes_that_cannot_be_counted(shop, refused):
    assert run(app, shop.map()) == 0
    vote = ["vote", "out/chip", "--data", "data.npz"]
    refused([*vote, "--rule", "loud"], "rule must be 'hard', 'soft' or 'mean', got 'loud'")
    refused([*vote, "--votes", "2", "--copies", "3"], "copies must be at most k = 2, got 3")
    refused([*vote, "--votes", "0"], "--votes")
    refused([*vote, "--error", "1"], "error must be a probability above 0 and below 1, got 1.0")
    shop.data(images=shop.images)
    refused(vote, "data data.npz: has no labels")
    shop.data(images=shop.images, labels=shop.labels[:7])
    refused(vote, "labels must have shape (20,), got (7,)")
    shop.data(images=shop.images[:, :, :5], labels=shop.labels)
    refused(vote, "layer '4' takes 144 features")
    shop.data(images=np.full_like(shop.images, np.nan), labels=shop.labels)
    refused(vote, "inputs must be finite")
    Path("out/chip/chip.safetensors").write_bytes(b"half")
    shop.data(images=shop.images, labels=shop.labels)
    refused(vote, "chip out/chip: damaged")


def test_a_failing_save_leaves_no_folder(shop, refused, monkeypatch):
    def no_space(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    Path("out").mkdir()
    monkeypatch.setattr("mho.mapping.saved.store.save_file", no_space)
    refused(shop.map(), "No space left on device")


def test_training_without_data(shop, refused, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    Path("data").mkdir()
    monkeypatch.setenv("MHO_DATA", str(Path("data").absolute()))
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    refused(["train", "mnist-cnn", "--out", "run"], "train-images-idx3-ubyte.gz", "no network", "MHO_DATA")
    refused(
        ["train", "resnet"],
        "network must be one of mnist-cnn, mnist-cnn4, stroke-lstm, densenet22, densenet40, densenet100, resnet32, "
        "got 'resnet'",
    )
    for option, value in (("--sigma-train", "-1"), ("--noise", "loud"), ("--protocol", "theirs"), ("--epochs", "0")):
        refused(["train", "mnist-cnn", option, value, "--out", "run"], option.lstrip("-").split("-")[0])
    Path("data/mnist").mkdir()
    Path("data/mnist/train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bhalf")
    refused(["train", "mnist-cnn", "--out", "run"], "train-images-idx3-ubyte.gz")


def test_schedules_that_are_none(shop, refused):
    for stages in ("", "1e-6,", "1e-6,fast", "nan", "0", "-1"):
        refused(["schedule", f"--stages={stages}"], "stages")
    refused(["schedule", "--stages=1", "--votes", "0"], "votes")
    refused(["schedule", "--stages=1", "--voter=-1"], "voter")
    refused(["schedule", "--stages=1", "--buffers", "0"], "buffers")
    refused(["schedule", "--stages=1", "--line-buffers"], "line_buffers")
    for replica in ("a", "=2", "a=-1", "a=1.5"):
        refused(["schedule", "--stages=1", "--replica", replica], "replica must be a stage and how many of it")
    refused(["schedule", "--stages=1", "--replica", "a=1", "--replica", "a=2"], "'a' is given twice")
    refused(["schedule", "--stages=1", "--replica", "a=2"], "'a' is none of the stages")
    refused(["schedule", "--stages=1", "--programmed-for", "9"], "programmed_for: needs the folder of a saved chip")
    refused(["schedule"], "give the folder of a saved chip or --stages")
    refused(["schedule", "nowhere"], "no saved chip there")
    refused(["schedule", "--stages=1", "--steps", "0"], "steps")
    refused(["schedule", "nowhere", "--steps", "2"], "steps: a chip brings the steps of its layers")


def test_a_checkpoint_of_several_state_dicts(shop, refused, capsys):
    state = tiny().state_dict()
    torch.save({"step": 1, "model_state": state, "optimizer_state": {"state": {}, "param_groups": [{"lr": 1}]}}, "a.pt")
    assert run(app, shop.map(checkpoint="a.pt")) == 0
    assert "weights: model_state\n" in capsys.readouterr().out
    other = {f"module.{name}": value + 1 for name, value in state.items()}
    torch.save({"net": state, "ema": other}, "a.pt")
    refused(
        shop.map(checkpoint="a.pt"), "several of its state dicts fit Sequential, under the keys 'net', 'ema'", "--key"
    )
    assert run(app, shop.map(checkpoint="a.pt", key="ema")) == 0
    assert "weights: ema, prefix 'module.' taken off\n" in capsys.readouterr().out
