"""`mho attack`: adversarial images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..models.attacks import Adversarial

METHODS = {  # and their settings
    "pgd": ("epsilon", "step", "iterations", "restarts"),
    "fgsm": ("epsilon",),
    "carlini-wagner": ("iterations",),
}


def attack(
    network: str = typer.Argument(..., help="mnist-cnn, mnist-cnn4, densenet22, densenet40, densenet100 or resnet32."),
    weights: str = typer.Option("adv-sigma-0.0", help="Name of committed weights, or a file of mho train."),
    method: str = typer.Option("pgd", help="pgd (iterated FGSM), fgsm or carlini-wagner (nearest in L2)."),
    images: int = typer.Option(1000, min=1, help="Test images, from the first."),
    target: int | None = typer.Option(None, help="Class that they should be taken for; none: any wrong one."),
    epsilon: float | None = typer.Option(None, help="Largest change of a pixel. Default of these four: Table 10."),
    step: float | None = typer.Option(None, help="Change of a pixel in a step."),
    iterations: int | None = typer.Option(None, min=1, help="Steps."),
    restarts: int | None = typer.Option(None, min=1, help="Random starts, of which the worst counts."),
    loss: str = typer.Option("cross-entropy", help="cross-entropy or margin."),
    sigma: float = typer.Option(0.0, help="Noise in the inferences of the attacked network."),
    samples: int = typer.Option(1, min=1, help="Noisy inferences that a step takes the mean of."),
    seed: int = typer.Option(0, help="Of the starts and the noise."),
    batch_size: int = typer.Option(250, min=1, help="Images processed together."),
    threads: int | None = typer.Option(None, min=1, help="Threads of PyTorch."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    out: Path | None = typer.Option(None, help="File for the images, .npz, as mho vote --data reads it."),
) -> None:
    """Make adversarial images on a network, and print its accuracy on them and how far they are from the originals.

    The images in --out can be tried on any chip: mho vote CHIP --data FILE.
    """
    import torch

    from ..mapping.voting.intervals import Accuracy
    from ..models.attacks import fgsm, pgd
    from ..models.carlini_wagner import CarliniWagner, carlini_wagner
    from ..models.networks import NETWORKS
    from ..models.noise import set_inference_noise
    from ..models.train import evaluate
    from .progress import shown

    known = [name for name, entry in NETWORKS.items() if entry.attack is not None]
    if network not in known:
        raise ValueError(f"network must be one of {', '.join(known)}, got {network!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if out is not None and out.suffix != ".npz":
        raise ValueError(f"out must be a .npz file, got {str(out)!r}")
    if threads:
        torch.set_num_threads(threads)
    table_10 = NETWORKS[network].attack
    assert table_10 is not None
    given: dict[str, Any] = {"epsilon": epsilon, "step": step, "iterations": iterations, "restarts": restarts}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in METHODS[method]:
            raise ValueError(f"{name} is no setting of method {method}")
    settings = replace(table_10, **given, loss=cast("Any", loss), samples=samples)
    torch.manual_seed(seed)  # of the noise in the inferences that are counted below
    net = _load(network, weights).to(device)
    set_inference_noise(net, sigma)
    originals, labels, _ = NETWORKS[network].load("test")
    originals, labels = originals[:images], labels[:images]
    if target is not None:
        originals, labels = originals[labels != target], labels[labels != target]
    wanted = labels if target is None else torch.full_like(labels, target)
    options: dict[str, Any] = {"targeted": target is not None, "batch_size": batch_size}
    with shown("images and starts", every=10.0) as tell:
        if method == "pgd":
            found = pgd(net, originals, wanted, settings, seed=seed, tell=tell, **options)
        elif method == "fgsm":
            found = fgsm(net, originals, wanted, settings.epsilon, **options)
        else:
            chosen = CarliniWagner(iterations=iterations) if iterations else CarliniWagner()
            found = carlini_wagner(net, originals, wanted, chosen, tell=tell, **options)
    if out is not None:
        _write(out, found, labels)
    n = len(labels)
    right = Accuracy(round(n * evaluate(net, originals, labels)), n)
    attacked = Accuracy(round(n * evaluate(net, found.images, labels)), n)
    print(f"accuracy on the {n} originals   {right}\naccuracy on the attacked     {attacked}")
    if target is not None:
        print(f"taken for {target}               {Accuracy(int(found.fooled.sum()), n)}")
    l2, largest = (found.distance(originals, p)[found.fooled] for p in (2, torch.inf))
    if len(l2):
        print(f"those that fool it: median L2 {float(l2.median()):.3g}, largest change {float(largest.max()):.3g}")


def _load(network: str, weights: str) -> nn.Module:
    """A network with committed weights, by name, or with those of a file."""
    from ..models.networks import NETWORKS
    from ..models.weights import load_saved

    build = NETWORKS[network].build
    if not weights.endswith(".safetensors"):
        return build(weights)
    if not Path(weights).is_file():
        raise ValueError(f"weights {weights}: no such file")
    return load_saved(build(), Path(weights))


def _write(out: Path, found: Adversarial, labels: torch.Tensor) -> None:
    import numpy as np

    from ..mapping.saved.folders import whole

    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as part, part.open("wb") as file:
        np.savez_compressed(file, images=found.images.numpy(), labels=labels.numpy(), fooled=found.fooled.numpy())
