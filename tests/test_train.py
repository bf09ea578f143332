"""Training: the same seed gives the same weights, interrupted or not; and the command `mho train` from end to end."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
import yaml
from torch import nn

from mho.models.attacks import Adversary, Pgd, pgd
from mho.models.augment import jitter
from mho.models.cnn import mnist_cnn
from mho.models.data import mnist
from mho.models.densenet import densenet
from mho.models.like import Share, with_noise
from mho.models.networks import NETWORKS, PAPER
from mho.models.noise import ChipNoise, Noise
from mho.models.run_folder import carry_run
from mho.models.train import Recipe, _schedule, evaluate, train

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
    assert not any((PAPER.weight_decay, PAPER.label_smoothing, PAPER.average_decay, PAPER.clip, PAPER.dropout))
    assert NETWORKS["densenet40"].paper.dropout == 0.2


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
