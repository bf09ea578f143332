"""Attacks: inside the cube, as a library has them, the same whatever the batch, never weaker for more work."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import pictures, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import mho
from mho.mapping.straight_through import StraightThrough
from mho.models import mnist_cnn, mnist_cnn4
from mho.models.attacks import TABLE_10, Adversarial, Adversary, Pgd, fgsm, pgd, project
from mho.models.carlini_wagner import CarliniWagner, carlini_wagner
from mho.models.data import mnist
from mho.models.noise import Noise

IMAGES, LABELS = (part[:60] for part in mnist("test"))
ULP = 1e-7  # a pixel's change is rounded


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return mnist_cnn("sigma-0.0").to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def foolbox() -> Iterator[Any]:
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"  # it can fetch networks by git, which nothing here needs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import foolbox

        yield foolbox


def linear(seed: int = 0, noise: float = 0.0) -> nn.Sequential:
    """Two classes of pictures (n, 1, 4, 4), with multiplicative noise of the outputs."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2), Noise(sigma_val=noise)).eval()


def share(found: Adversarial) -> float:
    return float(found.fooled.float().mean())


def spread(p: float, n: int) -> float:
    """Standard error of a share."""
    return math.sqrt(max(p * (1 - p), 1 / n) / n)


@settings(max_examples=40)
@given(
    st.builds(
        Pgd,
        epsilon=st.floats(1e-3, 2.0),
        step=st.floats(1e-3, 3.0),
        iterations=st.integers(1, 4),
        restarts=st.integers(1, 3),
        loss=st.sampled_from(["cross-entropy", "margin"]),
        samples=st.integers(1, 2),
    ),
    st.booleans(),
    st.integers(0, 2**70),
)
def test_attacks_stay_in_the_cube_and_leave_the_network_as_it_was(attack: Pgd, targeted: bool, seed: int) -> None:
    network = small_cnn()
    network[0].requires_grad_()
    network.train()
    network[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, y = pictures(5), torch.tensor([0, 9, 3, 3, 1])
    state = torch.get_rng_state()
    found = pgd(network, x, y, attack, targeted=targeted, seed=seed, batch_size=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(found.distance(x, math.inf).max()) <= attack.epsilon + ULP
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1
    assert found.images.shape == x.shape
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network] == [True, False, *[True] * 6]
    assert [p.requires_grad for p in network.parameters()] == [True, True, *[False] * 6]
    assert all(p.grad is None for p in network.parameters())
    with torch.no_grad():
        chosen = network.eval()(found.images).argmax(1)
    assert torch.equal(found.fooled, (chosen == y) == targeted)


def test_fgsm_is_the_formula(net: nn.Module) -> None:
    x = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(net(x), LABELS), x)
    found = fgsm(net, IMAGES, LABELS, 0.2)
    exact = (IMAGES + 0.2 * gradient.sign()).clamp(0, 1)
    assert ((found.images - exact).abs() > ULP).float().mean() < 1e-4  # signs of gradients that rounding makes
    assert 0.1 < share(found) < 1


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_linear_network_the_attack_finds_the_worst_picture(loss: Any, targeted: bool) -> None:
    network = linear()
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(40) % 2
    attack = Pgd(epsilon=0.2, step=0.1, iterations=5, restarts=1, loss=loss)
    found = pgd(network, x, labels, attack, targeted=targeted)
    lead = network[1].weight[1] - network[1].weight[0]  # of class 1
    wanted = labels if targeted else 1 - labels
    push = torch.where(wanted[:, None] == 1, lead, -lead).sign().reshape(x.shape)
    worst = project(x + 0.2 * push, x, 0.2)
    torch.testing.assert_close(found.images, worst)
    assert torch.equal(found.fooled, network(worst).argmax(1) == wanted)


@pytest.mark.parametrize("build", [lambda: mnist_cnn("sigma-0.0"), mnist_cnn4], ids=["6 layers", "4 layers"])
def test_batches_do_not_change_the_pictures(build: Any) -> None:
    torch.manual_seed(0)
    network = build()
    attack = Pgd(epsilon=0.1, step=0.03, iterations=3, restarts=2)
    images, labels = IMAGES[:18], LABELS[:18]
    whole = pgd(network, images, labels, attack, seed=5)
    for size in (5, 16):
        assert torch.equal(pgd(network, images, labels, attack, seed=5, batch_size=size).images, whole.images)
    parts = [pgd(network, images[i:j], labels[i:j], attack, seed=5, first_sample=i) for i, j in ((0, 7), (7, 18))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert not torch.equal(pgd(network, images, labels, attack, seed=6).images, whole.images)
    assert not torch.equal(pgd(network, images, labels, attack, seed=5, first_sample=1).images, whole.images)


def test_more_restarts_never_help_the_defender(net: nn.Module) -> None:
    """Not even for one picture: a restart more only adds to the outcomes."""
    attack = Pgd(epsilon=0.12, step=0.03, iterations=5, loss="margin")
    found = [pgd(net, IMAGES, LABELS, replace(attack, restarts=n), seed=1) for n in (1, 2, 5)]
    for fewer, more in pairwise(found):
        assert bool((more.fooled | ~fewer.fooled).all())
        assert bool((more.loss[more.fooled == fewer.fooled] >= fewer.loss[more.fooled == fewer.fooled]).all())
    assert float(found[-1].loss.mean()) > float(found[0].loss.mean())


def test_more_iterations_never_help_the_defender(net: nn.Module) -> None:
    attack = Pgd(epsilon=0.15, step=0.03, restarts=1)
    shares = [share(pgd(net, IMAGES, LABELS, replace(attack, iterations=n), seed=2)) for n in (1, 5, 20)]

    def helped(first: float, second: float) -> bool:
        """Whether the second attack is weaker, at 5 sigma of a difference."""
        return first - second > 5 * math.hypot(spread(first, len(IMAGES)), spread(second, len(IMAGES)))

    assert not any(helped(first, second) for first, second in pairwise(shares))
    assert helped(shares[-1], shares[0])  # negative control


def test_progress_is_told(net: nn.Module) -> None:
    told: list[tuple[int, int]] = []
    pgd(net, IMAGES[:5], LABELS[:5], Pgd(iterations=1, restarts=2), batch_size=3, tell=lambda *now: told.append(now))
    assert told == [(3, 10), (6, 10), (8, 10), (10, 10)]


def test_a_target_is_reached(net: nn.Module) -> None:
    targets = (LABELS + 1) % 10
    found = pgd(net, IMAGES, targets, Pgd(epsilon=0.3, step=0.05, iterations=20, restarts=1), targeted=True)
    with torch.no_grad():
        assert torch.equal(found.fooled, net(found.images).argmax(1) == targets)
    assert share(found) > 0.5


def test_foolbox_makes_the_same_pictures_by_fgsm(net: nn.Module, foolbox: Any) -> None:
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, theirs, _ = foolbox.attacks.FGSM()(peer, IMAGES, LABELS, epsilons=0.2)
    ours = fgsm(net, IMAGES, LABELS, 0.2)
    assert ((ours.images - theirs).abs() > ULP).float().mean() < 1e-4


@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_succeeds_as_often_as_foolbox(net: nn.Module, foolbox: Any, targeted: bool) -> None:
    labels = (LABELS + 1) % 10 if targeted else LABELS
    criterion = (foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification)(labels)
    epsilon = 0.24 if targeted else 0.06
    attack = Pgd(epsilon, step=epsilon / 4, iterations=8, restarts=1)
    torch.manual_seed(3)
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    library = foolbox.attacks.LinfPGD(abs_stepsize=attack.step, steps=attack.iterations, random_start=True)
    theirs = float(library(peer, IMAGES, criterion, epsilons=epsilon)[2].float().mean())
    ours = share(pgd(net, IMAGES, labels, attack, targeted=targeted))
    assert 0.1 < theirs < 0.9

    def equal(ours: float) -> bool:
        return abs(ours - theirs) < 3 * math.sqrt(2) * spread(theirs, len(IMAGES))

    assert equal(ours)
    assert not equal(share(pgd(net, IMAGES, labels, replace(attack, iterations=1), targeted=targeted)))


def test_the_mean_over_the_noise_is_the_better_gradient() -> None:
    """Against heavy multiplicative noise one sample often has the wrong sign; the mean of many has not."""
    network = linear(noise=2.0)
    x = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(4)) * 0.5 + 0.25
    labels = torch.zeros(50, dtype=torch.int64)
    exact = (network[1].weight[1] - network[1].weight[0]).sign().reshape(1, 4, 4)
    attack = Pgd(epsilon=0.1, step=0.1, iterations=1, restarts=1, random_start=False, loss="margin")
    right = []
    for samples in (1, 1000):
        moved = pgd(network, x, labels, replace(attack, samples=samples), seed=7).images - x
        right.append(float((moved.sign() == exact).float().mean()))
    assert right[0] < 0.85
    assert right[1] > 0.95
    again = pgd(network, x, labels, replace(attack, samples=1000), seed=7).images - x
    assert torch.equal(again, moved)
    assert not torch.equal(pgd(network, x, labels, replace(attack, samples=1000), seed=8).images - x, moved)


def test_a_chip_is_attacked_through_its_network(net: nn.Module) -> None:
    images, labels = IMAGES[:16], LABELS[:16]
    chip = mho.map(net, mho.Hardware.paper(sigma_mult=0.2), calibrate=images, seed=0)
    through = StraightThrough(chip, net)
    x = images.clone().requires_grad_()
    logits = through(x)
    chosen = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad((logits * chosen).sum(), x)
    (exact,) = torch.autograd.grad((net(x) * chosen).sum(), x)
    torch.testing.assert_close(found, exact)
    torch.testing.assert_close(logits.detach(), chip.read(images, read=0))
    with pytest.raises(ValueError, match="Chip has no gradient with respect to its input"):
        pgd(chip, images, labels, Pgd(iterations=1, restarts=1))
    attacked = pgd(through, images, labels, Pgd(epsilon=0.2, step=0.1, iterations=4, restarts=1, samples=2))
    assert share(attacked) > 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be above 0 and finite, got 0.0"),
        ({"epsilon": math.nan}, "epsilon must be above 0 and finite, got nan"),
        ({"step": -1.0}, "step must be above 0 and finite, got -1.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"random_start": False}, "restarts must be 1 without a random start, got 20"),
        ({"loss": "hinge"}, "loss must be 'cross-entropy' or 'margin', got 'hinge'"),
    ],
)
def test_impossible_attacks_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pgd(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images must hold at least one image, got none"),
        ({"images": IMAGES[:3] * 255}, r"images must lie in \[0, 1\], got 0 to 255"),
        ({"images": IMAGES[:3] * math.nan}, r"images must lie in \[0, 1\], got nan to nan"),
        ({"labels": LABELS[:2]}, r"labels must be int64 of shape \(3,\), got torch.int64 \(2,\)"),
        ({"labels": LABELS[:3].float()}, "labels must be int64"),
        ({"labels": LABELS[:3] + 5}, "labels must be classes 0 to 9, got 6 to 12"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(net: nn.Module, fields: Any, message: str) -> None:
    arguments = {"images": IMAGES[:3], "labels": LABELS[:3], **fields}
    for attack in (pgd, carlini_wagner):
        with pytest.raises(ValueError, match=message):
            attack(net, **arguments)


def test_the_attacks_of_table_10() -> None:
    assert TABLE_10["mnist"] == Pgd(epsilon=0.3, step=0.05, iterations=20, restarts=20)
    assert TABLE_10["cifar10"] == Pgd(epsilon=8 / 256, step=2 / 256, iterations=7, restarts=10)


def test_the_attack_in_training_grows() -> None:
    adversary = Adversary(epsilon=0.3, step=0.05, first=1, last=9)
    found = [adversary.in_epoch(epoch, 5) for epoch in range(5)]
    assert [attack.iterations for attack in found] == [1, 3, 5, 7, 9]
    assert [attack.step for attack in found] == pytest.approx([0.375, 0.125, 0.075, 0.375 / 7, 0.05])
    assert adversary.in_epoch(0, 1).iterations == 1


def test_carlini_wagner_finds_the_nearest_picture_of_a_linear_network() -> None:
    network = linear()
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * 0.2 + 0.4  # far from black and white
    with torch.no_grad():
        logits = network(x)
    labels = logits.argmax(1)
    found = carlini_wagner(network, x, labels, CarliniWagner(1.0, searches=6, iterations=150), batch_size=16)
    lead = (logits[:, 0] - logits[:, 1]).abs()
    exact = lead / (network[1].weight[1] - network[1].weight[0]).norm()
    assert bool(found.fooled.all())
    ratio = found.distance(x, 2) / exact.detach()
    assert float(ratio.min()) > 1 - 1e-5
    assert float(ratio.max()) < 1.1
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1
    with torch.no_grad():
        assert bool((network(found.images).argmax(1) != labels).all())
    sure = carlini_wagner(
        network, x, labels, CarliniWagner(10.0, searches=2, iterations=100, rate=0.05, confidence=0.2)
    )
    assert bool(sure.fooled.all())
    assert float(sure.loss.min()) >= 0.2


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_is_as_near_as_foolbox(net: nn.Module, foolbox: Any, targeted: bool) -> None:
    images = IMAGES[:16]
    labels = (LABELS[:16] + 1) % 10 if targeted else LABELS[:16]
    criterion = (foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification)(labels)
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    chosen = CarliniWagner(constant=0.1, searches=4, iterations=30, rate=0.05)
    library = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=4, steps=30, stepsize=0.05, initial_const=0.1, abort_early=False
    )
    theirs, _, _ = library(peer, images, criterion, epsilons=None)
    success = theirs.flatten(1).amax(1) > 0  # it gives black pictures for failures
    ours = carlini_wagner(net, images, labels, chosen, targeted=targeted)
    assert 0 < int(success.sum()) < len(images)
    assert torch.equal(ours.fooled, success)
    apart = (theirs - images).flatten(1).norm(dim=1)[success]
    torch.testing.assert_close(ours.distance(images, 2)[success], apart, rtol=1e-3, atol=0)
    assert float(ours.distance(images, math.inf)[~success].sum()) == 0


def test_carlini_wagner_refuses_impossible_settings() -> None:
    for fields in ({"constant": 0.0}, {"searches": 0}, {"iterations": 0}, {"rate": math.inf}, {"confidence": -1.0}):
        (name,) = fields
        with pytest.raises(ValueError, match=f"{name} must be"):
            CarliniWagner(**fields)  # type: ignore[arg-type]
