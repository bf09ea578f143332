"""`mho train`: what it trains and writes, and how it refuses."""

from __future__ import annotations

import gzip
import re
import struct
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import mho
from mho.cli import app, run
from mho.models.attacks import TABLE_10, pgd
from mho.models.cnn import mnist_cnn, mnist_cnn4
from mho.models.data import mnist, mnist_images
from mho.models.networks import NETWORKS, PAPER
from mho.models.train import Recipe, evaluate
from mho.models.weights import FOLDER, load_saved

IMAGES, LABELS = mnist("test")


def write_idx(folder, n: int) -> None:
    """The first test pictures as a training set of n pictures."""
    folder.mkdir(parents=True)
    pixels = (IMAGES[:n, 0] * 255).round().byte().numpy()
    labels = LABELS[:n].byte().numpy()
    for name, array in (("train-images-idx3-ubyte", pixels), ("train-labels-idx1-ubyte", labels)):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """A world in which MNIST has 90 training and 100 test pictures, and the working folder is empty."""
    write_idx(tmp_path / "data" / "mnist", 90)
    monkeypatch.setenv("MHO_DATA", str(tmp_path / "data"))
    names = mnist_images.FILES["train"][:2]
    monkeypatch.setitem(mnist_images.FILES, "train", (*names, 90))
    monkeypatch.setattr(
        "mho.models.data.mnist",
        lambda split: mnist(split) if split == "train" else (IMAGES[-100:], LABELS[-100:]),
    )
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def command(*arguments: str) -> int:
    return run(app, ["train", "mnist-cnn", "--threads", "1", *arguments])


@pytest.fixture(autouse=True)
def threads():
    """The command sets the number of threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_command_trains_and_writes_weights(tiny_mnist, capsys):
    out = tiny_mnist / "work" / "runs" / "train" / "mnist-cnn" / "sigma-0.25"
    arguments = ("--sigma-train", "0.25", "--epochs", "2", "--batch-size", "30", "--seed", "5")
    assert command(*arguments) == 0
    text = capsys.readouterr().out
    assert "epoch 2: test accuracy" in text
    assert "sigma-0.25.safetensors" in text.replace("\n", "")
    files = {"settings.yaml", "checkpoint.pt", "log.yaml", "sigma-0.25.safetensors", "sigma-0.25.yaml"}
    assert {path.name for path in out.iterdir()} == files

    state = load_file(out / "sigma-0.25.safetensors")
    for key, value in state.items():
        assert value.dtype == (torch.float16 if value.ndim > 1 else torch.float32 if value.ndim else torch.int64), key
    assert {key for key, value in state.items() if value.dtype == torch.float16} == {
        f"{name}.weight" for name in ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2")
    }

    made = yaml.safe_load((out / "sigma-0.25.yaml").read_text())
    settings = {"sigma_train": 0.25, "noise": "mult", "seed": 5, "epochs": 2, "batch_size": 30, "data": "MNIST"}
    assert made["recipe"] == asdict(Recipe(**settings))
    assert made["recipe"] == yaml.safe_load((out / "settings.yaml").read_text())
    assert made["command"].startswith("mho train mnist-cnn --")
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        assert f"{option} {value}" in made["command"]
    assert made["versions"] == {**made["versions"], "mho": mho.__version__, "torch": str(torch.__version__)}
    assert made["seconds"] > 0
    net = load_saved(mnist_cnn(), out / "sigma-0.25.safetensors")
    assert evaluate(net, IMAGES[-100:], LABELS[-100:]) == made["test_accuracy_as_stored"]
    assert abs(made["test_accuracy"] - made["test_accuracy_as_stored"]) <= 0.05

    assert command(*arguments, "--carry", "small") == 0
    assert {path.name for path in (tiny_mnist / "work" / "small").iterdir()} == files - {
        "sigma-0.25.safetensors",
        "sigma-0.25.yaml",
    }
    assert "the run so far is in small" in capsys.readouterr().out

    checkpoint = (out / "checkpoint.pt").read_bytes()
    assert command(*arguments) == 0  # finished already: nothing is learnt again
    assert (out / "checkpoint.pt").read_bytes() == checkpoint
    again = load_file(out / "sigma-0.25.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_the_noise_of_a_chip_is_injected(tiny_mnist, capsys):
    """`--like` measures each layer on a chip and trains with that noise; the file says what was measured."""
    noisy = mho.Hardware.preset("reram").replace({"name": "noisy", "sensing.amplifier_noise": "2 pA/rtHz"})
    noisy.save(tiny_mnist / "work" / "noisy.yaml")
    out = tiny_mnist / "work" / "runs" / "train" / "mnist-cnn" / "like-noisy"
    assert command("--like", "noisy.yaml", "--epochs", "1", "--batch-size", "30") == 0
    said = capsys.readouterr().out
    steps = ["loading PyTorch", "loading the training set", "measuring the noise", "  fc2: ", "loading the test set"]
    steps += ["training: 1 epochs of", "epoch 1, step 1 of", "testing the stored weights"]
    assert [said.index(step) for step in steps] == sorted(said.index(step) for step in steps)
    assert re.search(
        r"^  conv1: 0\.\d{4} ± \S+ of its outputs, 0\.\d{4} ± \S+ of each \(standard errors\)$", said, re.M
    )
    made = yaml.safe_load((out / "like-noisy.yaml").read_text())
    name, _, layers = made["recipe"]["like"].partition(": ")
    assert name == "noisy"
    assert [words.split()[0] for words in layers.split(", ")] == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2"]
    assert "--like noisy.yaml --start sigma-0.0" in made["command"]
    load_saved(mnist_cnn(), out / "like-noisy.safetensors")
    capsys.readouterr()
    assert command("--like", "noisy.yaml", "--sigma-train", "0.5") == 2
    assert "sigma_train must be 0 with like, which brings the noise, got 0.5" in capsys.readouterr().err


def test_training_goes_on_from_weights(tiny_mnist, capsys):
    """`--start` takes a name or a file; weights that do not fit are refused before anything is written."""
    settings = ("--sigma-train", "0.1", "--epochs", "1", "--batch-size", "30")
    assert command(*settings, "--start", "sigma-0.0", "--out", "fine") == 0
    out = tiny_mnist / "work" / "fine"
    made = yaml.safe_load((out / "sigma-0.1.yaml").read_text())
    assert made["recipe"]["start"] == "sigma-0.0"
    assert made["from"] == yaml.safe_load((FOLDER / "mnist_cnn" / "sigma-0.0.yaml").read_text())
    assert "--start sigma-0.0" in made["command"]
    assert made["test_accuracy"] > 0.9  # which one epoch from random weights does not reach
    finer = ("--start", "fine/sigma-0.1.safetensors", "--precision", "bfloat16", "--augment", "none", "--out", "finer")
    assert command(*settings, *finer) == 0
    last = yaml.safe_load((tiny_mnist / "work" / "finer" / "sigma-0.1.yaml").read_text())
    assert last["from"] == made
    assert "--augment none --precision bfloat16" in last["command"]
    assert mnist_cnn("finer/sigma-0.1.safetensors").training is False
    (tiny_mnist / "work" / "bad.safetensors").write_bytes(b"bad")
    capsys.readouterr()
    for start, message in (
        ("add-sigma-0.5", "start: 'add-sigma-0.5' was trained with another kind of noise than 'mult'"),
        ("nowhere.safetensors", "weights: nowhere.safetensors cannot be read as those of mnist_cnn"),
        ("bad.safetensors", "weights: bad.safetensors cannot be read as those of mnist_cnn"),
        ("sigma-7", "or a .safetensors file, got 'sigma-7'"),
    ):
        assert command(*settings, "--start", start, "--out", "refused") == 2
        assert message in capsys.readouterr().err
        assert not (tiny_mnist / "work" / "refused").exists()


def test_the_command_follows_the_papers_protocol(tiny_mnist, capsys):
    arguments = ("--noise", "add", "--sigma-train", "0.3", "--protocol", "paper", "--epochs", "1", "--out", "here")
    assert command(*arguments) == 0
    out = tiny_mnist / "work" / "here"
    made = yaml.safe_load((out / "add-sigma-0.3.yaml").read_text())
    assert made["recipe"] == asdict(replace(PAPER, sigma_train=0.3, noise="add", epochs=1, data="MNIST"))
    assert "--protocol paper" in made["command"]
    assert "norm1.weight" not in load_file(out / "add-sigma-0.3.safetensors")
    load_saved(mnist_cnn(noise="add"), out / "add-sigma-0.3.safetensors")
    capsys.readouterr()
    assert command(*arguments[:-4], "--epochs", "2", "--out", "here") == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_the_command_begins_as_keras_does(tiny_mnist):
    assert command("--protocol", "paper", "--epochs", "1", "--init", "glorot", "--out", "keras") == 0
    out = tiny_mnist / "work" / "keras"
    made = yaml.safe_load((out / "sigma-0.0.yaml").read_text())
    assert made["recipe"]["init"] == "glorot"
    assert "--init glorot" in made["command"]
    net = load_saved(mnist_cnn(), out / "sigma-0.0.safetensors")
    assert evaluate(net, IMAGES[-100:], LABELS[-100:]) == pytest.approx(made["test_accuracy_as_stored"])
    state = load_file(out / "sigma-0.0.safetensors")
    assert 0.037 < float(state["fc1.weight"].float().square().mean().sqrt()) < 0.041  # sqrt(2 / (1024 + 256)) = 0.0395


def test_the_command_trains_against_an_attack(tiny_mnist, capsys, monkeypatch):
    monkeypatch.setattr("mho.commands.train.ATTACKED", 20)
    out = tiny_mnist / "work" / "runs" / "train" / "mnist-cnn4" / "adv-sigma-0.0"
    arguments = ("--adversarial", "--epochs", "1", "--batch-size", "30")
    assert run(app, ["train", "mnist-cnn4", "--threads", "1", *arguments]) == 0
    made = yaml.safe_load((out / "adv-sigma-0.0.yaml").read_text())
    assert made["recipe"] == asdict(replace(NETWORKS["mnist-cnn4"].adversarial, epochs=1, batch_size=30, data="MNIST"))
    assert "--adversarial" in made["command"]
    net = load_saved(mnist_cnn4(), out / "adv-sigma-0.0.safetensors")
    found = pgd(net, IMAGES[-100:][:20], LABELS[-100:][:20], replace(TABLE_10["mnist"], restarts=1))
    assert made["attacked"]["images"] == 20
    assert made["attacked"]["accuracy"] == pytest.approx(1 - float(found.fooled.float().mean()))
    assert run(app, ["train", "stroke-lstm", "--adversarial"]) == 2
    assert "network 'stroke-lstm' has no adversarial training" in capsys.readouterr().err


def test_the_paper_trains_on_the_attacks_of_its_table_10():
    for name, attack in (("mnist-cnn", "mnist"), ("mnist-cnn4", "mnist"), ("densenet40", "cifar10")):
        recipe, attack = NETWORKS[name].paper_adversarial, TABLE_10[attack]
        assert replace(recipe, adversary=None) == NETWORKS[name].paper
        for epoch in (0, 50, recipe.epochs - 1):
            assert recipe.adversary.in_epoch(epoch, recipe.epochs) == replace(attack, restarts=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["mnist"],
            "one of mnist-cnn, mnist-cnn4, stroke-lstm, densenet22, densenet40, densenet100, resnet32, got 'mnist'",
        ),
        (["mnist-cnn", "--noise", "pink"], "noise must be 'mult' or 'add', got 'pink'"),
        (["mnist-cnn", "--sigma-train", "-0.5"], "sigma_train must be at least 0 and finite, got -0.5"),
        (["mnist-cnn", "--sigma-train", "nan"], "sigma_train must be at least 0 and finite, got nan"),
        (["mnist-cnn", "--protocol", "theirs"], "protocol must be 'ours' or 'paper', got 'theirs'"),
        (["mnist-cnn", "--augment", "mixup"], "augment must be one of none, jitter, wobble, crop-flip, got 'mixup'"),
        (["mnist-cnn", "--precision", "half"], "precision must be one of float32, bfloat16, got 'half'"),
        (["mnist-cnn", "--sizes", "8by16"], "sizes must be EPOCHSxPIXELS"),
        (["mnist-cnn", "--sizes", "8x16", "--epochs", "4"], "sizes: '8x16' are 8 epochs, not 4"),
        (["mnist-cnn", "--learning-rate", "-1"], "learning_rate must be above 0, got -1"),
        (["mnist-cnn", "--average-decay", "1"], "average_decay must be at least 0 and below 1, got 1"),
        (["densenet22", "--dropout", "1"], "dropout must be at least 0 and below 1, got 1"),
        (["mnist-cnn", "--dropout", "0.2"], "dropout must be 0 but for DenseNets, got 0.2"),
        (["resnet32", "--protocol", "paper"], "network 'resnet32' has no protocol of the paper"),
        (["resnet32", "--protocol", "paper", "--adversarial"], "network 'resnet32' has no protocol of the paper"),
        (["mnist-cnn", "--init", "he"], "init must be one of torch, glorot, got 'he'"),
        (["mnist-cnn", "--init", "glorot", "--start", "sigma-0.0"], "init must be 'torch' with --model and with"),
        (["mnist-cnn", "--device", "tpu"], "device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        (["mnist-cnn", "--epochs", "0"], "--epochs"),
        (["mnist-cnn", "--batch-size", "1"], "--batch-size"),
        (["mnist-cnn", "--threads", "0"], "--threads"),
    ],
)
def test_bad_options_get_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(app, ["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out in ("", "loading PyTorch and the training ...\n")
    assert err.startswith("mho: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_data_get_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys):
    def refuse(url, timeout):
        raise OSError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("MHO_DATA", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert run(app, ["train", "mnist-cnn"]) == 2
    err = capsys.readouterr().err
    assert "train-images-idx3-ubyte.gz" in err
    assert "MHO_DATA" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]
