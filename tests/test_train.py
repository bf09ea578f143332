"""Training: the same seed gives the same weights, interrupted or not; and the command `mho train` from end to end."""

from __future__ import annotations

import gzip
import re
import struct
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import mho
from mho.cli import app, run
from mho.models.attacks import TABLE_10, Adversary, Pgd, pgd
from mho.models.augment import jitter
from mho.models.cnn import mnist_cnn, mnist_cnn4
from mho.models.data import mnist, mnist_images
from mho.models.densenet import densenet
from mho.models.like import Share, with_noise
from mho.models.networks import NETWORKS, PAPER
from mho.models.noise import ChipNoise, Noise
from mho.models.train import Recipe, _schedule, carry_run, evaluate, train
from mho.models.weights import FOLDER, load_saved

IMAGES, LABELS = mnist("test")
DATA = IMAGES[:300], LABELS[:300]
TEST = IMAGES[300:500], LABELS[300:500]
RECIPE = Recipe(sigma_train=0.2, seed=3, epochs=3, batch_size=50)
STEPS = 6  # of one epoch


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, stride=3),
        nn.BatchNorm2d(6),
        Noise("mult", sigma_train=0.2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(384, 10),
    )


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in net.state_dict().values()])


def run_small(out, recipe=RECIPE, **options) -> nn.Module:
    return train(small, DATA, TEST, recipe, out, **options)


def interrupt_after(steps: int):
    """A `tell` that presses Ctrl-C when so many batches have been learnt."""
    told = []

    def tell(progress) -> None:
        told.append(progress)
        if sum(now.accuracy is None for now in told) == steps:
            raise KeyboardInterrupt

    return tell


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[nn.Module, list, object]:
    """A training that was not interrupted: its network, what it told, its folder."""
    out, told = tmp_path_factory.mktemp("whole") / "run", []
    return run_small(out, tell=told.append), told, out


def test_a_training_learns_and_tells(whole):
    net, told, out = whole
    assert not net.training
    steps = [now for now in told if now.accuracy is None]
    assert [(now.epoch, now.step, now.steps) for now in steps] == [
        (e, s, STEPS) for e in range(3) for s in range(STEPS)
    ]
    accuracies = [now.accuracy for now in told if now.accuracy is not None]
    assert len(accuracies) == 3
    assert accuracies[-1] == evaluate(net, *TEST)
    assert sum(now.loss for now in steps[-3:]) < sum(now.loss for now in steps[:3])
    log = yaml.safe_load((out / "log.yaml").read_text())
    assert [row["test_accuracy"] for row in log] == accuracies
    assert [row["epoch"] for row in log] == [0, 1, 2]
    assert log[0]["seconds"] <= log[2]["seconds"]
    assert yaml.safe_load((out / "settings.yaml").read_text()) == asdict(RECIPE)
    assert {path.name for path in out.iterdir()} == {"settings.yaml", "checkpoint.pt", "log.yaml"}


def test_the_seed_decides(whole, tmp_path):
    torch.manual_seed(99)  # the caller's random state has no say, and stays as it is
    before = torch.get_rng_state()
    again = run_small(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(again), weights(whole[0]))
    other = run_small(tmp_path / "other", replace(RECIPE, seed=4))
    assert not torch.equal(weights(other), weights(whole[0]))


@pytest.mark.parametrize("stops", [(4,), (STEPS + 1,), (1, 4, STEPS)], ids=str)
def test_interrupted_and_resumed_is_the_same_to_the_bit(whole, tmp_path, stops):
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "run", tell=interrupt_after(stop), save_every_s=0)
    told: list = []
    net = run_small(tmp_path / "run", tell=told.append, save_every_s=0)
    assert (told[0].epoch, told[0].step) != (0, 0)
    assert torch.equal(weights(net), weights(whole[0]))
    log, expected = (yaml.safe_load((out / "log.yaml").read_text()) for out in (tmp_path / "run", whole[2]))
    assert [row["test_accuracy"] for row in log] == [row["test_accuracy"] for row in expected]
    assert told[-1] == whole[1][-1]


def test_interrupted_between_the_last_checkpoint_and_the_evaluation(whole, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mho.models.train.scores", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_small(tmp_path / "run", save_every_s=0)
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == STEPS
    assert torch.equal(weights(run_small(tmp_path / "run")), weights(whole[0]))


def test_resumed_without_its_random_state_a_run_differs(whole, tmp_path, monkeypatch):
    """Negative control of the tests above."""
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "run", tell=interrupt_after(STEPS + 1), save_every_s=0)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    assert not torch.equal(weights(run_small(tmp_path / "run")), weights(whole[0]))


@pytest.mark.parametrize(
    "fields",
    [
        {"average_decay": 0.0},
        {"schedule": "fixed"},
        {"schedule": "steps"},
        {"schedule": "triangle"},
        {"decay_vectors": False},
        {"optimizer": "sgd"},
        {"clip": 0.1},
        {"weight_decay": 0.0},
        {"augment": "none"},
        {"adversary": Adversary(epsilon=0.1, step=0.05, first=1, last=2)},
        asdict(replace(PAPER, sigma_train=0.2, seed=3, batch_size=50)),
    ],
    ids=[
        "no average",
        "fixed rate",
        "steps",
        "triangle",
        "vectors",
        "momentum",
        "clipped",
        "plain Adam",
        "no jitter",
        "adversarial",
        "paper",
    ],
)
def test_every_recipe_resumes(tmp_path, fields):
    recipe = replace(RECIPE, **{**fields, "epochs": 2})
    whole = run_small(tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "cut", recipe, tell=interrupt_after(STEPS + 2), save_every_s=0)
    assert torch.equal(weights(run_small(tmp_path / "cut", recipe)), weights(whole))


def test_a_densenet_on_pictures_of_several_sizes_resumes(tmp_path):
    """With noise, the dense blocks as one function, and checkpoints between."""
    data = torch.rand(48, 3, 32, 32), torch.arange(48) % 10
    recipe = replace(
        NETWORKS["densenet40"].ours, sigma_train=0.5, epochs=3, batch_size=16, sizes="1x8 1x12 1x16", augment="none"
    )
    sizes = []

    def build() -> nn.Module:
        net = densenet(depth=7, growth=4, sigma_train=0.5)
        net.conv.register_forward_hook(lambda module, x, y: sizes.append(y.shape[-1]) if module.training else None)
        return net

    whole = train(build, data, data, recipe, tmp_path / "whole")
    assert sizes == [8] * 3 + [12] * 3 + [16] * 3
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train(build, data, data, recipe, tmp_path / "cut", tell=interrupt_after(stop), save_every_s=0)
    assert torch.equal(weights(train(build, data, data, recipe, tmp_path / "cut")), weights(whole))


def test_a_run_is_carried_to_another_folder(whole, tmp_path):
    """Small, and it goes on from nearly the same place."""
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "run", tell=interrupt_after(STEPS + 2), save_every_s=0)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    carry_run(tmp_path / "run", tmp_path / "carried")
    carry_run(tmp_path / "run", tmp_path / "carried")  # again, later
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("run", "carried")]
    kernels = [state["net"]["0.weight"] for state in states]
    assert kernels[1].dtype == torch.bfloat16
    assert torch.equal(kernels[1], kernels[0].bfloat16())
    assert [(state["epoch"], state["step"]) for state in states] == [(1, 1)] * 2
    gone_on, expected = weights(run_small(tmp_path / "carried")), weights(whole[0])
    assert 0 < float((gone_on - expected).norm() / expected.norm()) < 0.05
    log, full = (yaml.safe_load((out / "log.yaml").read_text()) for out in (tmp_path / "carried", whole[2]))
    assert [row["epoch"] for row in log] == [row["epoch"] for row in full]

    with pytest.raises(ValueError, match="nowhere holds no checkpoint to carry away"):
        carry_run(tmp_path / "nowhere", tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "other", replace(RECIPE, seed=9), tell=interrupt_after(2), save_every_s=0)
    with pytest.raises(ValueError, match=r"carry: .*carried holds a run with other settings"):
        carry_run(tmp_path / "other", tmp_path / "carried")


def test_weight_decay_spares_vectors_where_told(tmp_path):
    """With a rate so small that the decay is all that is seen."""
    decayed = []
    for decay_vectors in (True, False):
        recipe = replace(
            RECIPE,
            epochs=1,
            learning_rate=1e-9,
            weight_decay=1e7,
            schedule="fixed",
            average_decay=0.0,
            decay_vectors=decay_vectors,
        )
        net = run_small(tmp_path / str(decay_vectors), recipe)
        decayed.append([float(net[1].weight.detach().mean()), float(net[0].weight.detach().norm())])
    kept = 0.99**STEPS
    assert decayed[0][0] == pytest.approx(kept, rel=1e-5)
    assert decayed[1][0] == pytest.approx(1, rel=1e-5)
    assert decayed[0][1] == pytest.approx(decayed[1][1], rel=1e-5)


def test_the_rate_goes_up_and_down_in_a_straight_line():
    net = small()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    schedule = _schedule(optimizer, replace(RECIPE, schedule="triangle", learning_rate=0.5, epochs=5), 4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates[4:] == pytest.approx([0.5 * (20 - step) / 16 for step in range(4, 20)])


def test_adversarial_training_makes_robust(tmp_path):
    adversary = Adversary(epsilon=0.1, step=0.05, first=1, last=3)
    recipe = replace(RECIPE, epochs=15, augment="none", average_decay=0.0, learning_rate=0.01)
    plain = run_small(tmp_path / "plain", recipe)
    robust = run_small(tmp_path / "robust", replace(recipe, adversary=adversary))
    attack = Pgd(epsilon=0.1, step=0.03, iterations=5, restarts=1)
    fooled = [int(pgd(net, *TEST, attack).fooled.sum()) for net in (plain, robust)]
    assert fooled[0] - fooled[1] > 5 * (fooled[1] * (1 - fooled[1] / len(TEST[1]))) ** 0.5


def test_older_runs_go_on(whole, tmp_path):
    """Their settings do not name what was added later."""
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "run", tell=interrupt_after(2), save_every_s=0)
    path = tmp_path / "run" / "settings.yaml"
    settings = yaml.safe_load(path.read_text())
    for name in ("adversary", "start", "precision", "decay_vectors", "sizes"):
        del settings[name]
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    assert torch.equal(weights(run_small(tmp_path / "run")), weights(whole[0]))


def test_between_checkpoints_work_is_repeated(whole, tmp_path):
    """Interrupted before a first checkpoint, a run begins anew and still ends the same."""
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "run", tell=interrupt_after(3))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"settings.yaml"}
    assert torch.equal(weights(run_small(tmp_path / "run")), weights(whole[0]))


def test_a_finished_run_gives_its_result_again(whole):
    told: list = []
    assert torch.equal(weights(run_small(whole[2], tell=told.append)), weights(whole[0]))
    assert told == []


def test_a_folder_with_other_settings_is_refused(whole):
    out = whole[2]
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"holds a run with other settings .*batch_size") as caught:
        run_small(out, replace(RECIPE, batch_size=60))
    assert str(out) in str(caught.value)
    with pytest.raises(ValueError, match=r"other settings .*epochs"):
        run_small(out, replace(RECIPE, epochs=4))
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("content", ["- a list", "seed: [1, 2", ""])
def test_a_folder_with_damaged_settings_is_refused(tmp_path, content):
    (tmp_path / "settings.yaml").write_text(content)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        run_small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(ValueError, match="is not empty and holds no run; choose another folder"):
        run_small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "empty", tell=interrupt_after(1))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", "cut", "other network"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_small(out, tell=interrupt_after(2), save_every_s=0)
    path = out / "checkpoint.pt"
    if damage == "other network":
        torch.save({"net": nn.Linear(2, 2).state_dict()}, path)
    else:
        path.write_bytes(path.read_bytes()[:500] if damage == "cut" else damage)
    with pytest.raises(ValueError, match=r"checkpoint.pt: damaged, or of another network"):
        run_small(out)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 1}, "batch_size must"),
        ({"augment": "mixup"}, "augment must be one of none, jitter, wobble, crop-flip, got 'mixup'"),
        ({"optimizer": "lion"}, "optimizer must be one of adam, sgd, got 'lion'"),
        ({"schedule": "cosine"}, "schedule must be one of one-cycle, triangle, steps, fixed, got 'cosine'"),
        ({"sizes": "2x16 2x28"}, "sizes: '2x16 2x28' are 4 epochs, not 3"),
        ({"sizes": "3"}, "sizes must be EPOCHSxPIXELS, such as '8x16 8x24 10x32', got '3'"),
        ({"sizes": "0x16 3x28"}, "sizes must be EPOCHSxPIXELS"),
    ],
)
def test_impossible_recipes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **fields)


def test_the_papers_protocol():
    assert (PAPER.epochs, PAPER.batch_size, PAPER.learning_rate, PAPER.augment) == (100, 32, 1e-4, "none")
    assert PAPER.schedule == "fixed"
    assert not any((PAPER.weight_decay, PAPER.label_smoothing, PAPER.average_decay, PAPER.clip))


def test_pictures_are_moved_a_little():
    x = DATA[0][:50]
    torch.manual_seed(1)
    y = jitter(x)
    assert y.shape == x.shape
    assert y.min() >= 0
    assert y.max() <= 1.0001
    assert not torch.allclose(y, x, atol=0.1)
    assert torch.allclose(jitter(x, shift=0, turn=0, stretch=0), x, atol=1e-5)
    dot = torch.zeros(1000, 1, 28, 28)
    dot[:, :, 13:15, 13:15] = 1
    moved = jitter(dot, shift=2.0, turn=0, stretch=0)
    place = torch.arange(28.0) - 13.5
    for axis in (2, 3):
        offset = (moved.sum(dim=axis)[:, 0] @ place) / moved.sum(dim=(1, 2, 3))
        assert offset.abs().max() < 2.001
        assert offset.std() == pytest.approx(2 / 3**0.5, rel=0.1)  # even in [-2, 2]


def test_the_share_of_right_answers():
    class Tenths(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(x.long(), 10).float()

    said = torch.arange(100) % 10
    labels = torch.where(torch.arange(100) < 30, said, (said + 1) % 10)
    for batch_size in (1, 7, 100, 500):
        assert evaluate(Tenths(), said, labels, batch_size) == pytest.approx(0.3)


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


def test_noise_of_a_chip_follows_the_signal():
    torch.manual_seed(0)
    x = 3 * torch.randn(200_000)
    noise = ChipNoise(add=0.1, mult=0.2)
    error = noise(x) - x
    rms = float(x.square().mean().sqrt())
    for chosen in (x.abs() < 0.5, x.abs() > 4):
        expected = (0.1 * rms) ** 2 + 0.2**2 * float(x[chosen].square().mean())
        assert float(error[chosen].square().mean()) == pytest.approx(expected, rel=5 * (2 / int(chosen.sum())) ** 0.5)
    assert torch.equal(noise.eval()(x), x)
    with pytest.raises(ValueError, match="mult must be at least 0 and finite, got -1"):
        ChipNoise(0.1, -1)
    with pytest.raises(ValueError, match="the network has 6 noise layers, but 1 layers are on tiles"):
        with_noise(mnist_cnn(), [Share("conv1", 0.1, 0.1)])


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
            "one of mnist-cnn, mnist-cnn4, stroke-lstm, densenet22, densenet40, densenet100, got 'mnist'",
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
