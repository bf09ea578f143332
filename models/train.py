"""Noise-injected training: deterministic by seed, saved often, resumed exactly."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .files import whole

SAVE_EVERY_S = 120.0
CHECKPOINT, SETTINGS, LOG = "checkpoint.pt", "settings.yaml", "log.yaml"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The defaults are ours: Adam with decoupled weight decay under a one-cycle schedule, random small shifts and turns of
    the pictures, smoothed labels, and the moving average of the weights as the result. `paper` gives the paper's
    protocol: Adam at a fixed rate, nothing else.
    """

    sigma_train: float = 0.0
    noise: Literal["mult", "add"] = "mult"
    seed: int = 0
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    one_cycle: bool = True
    augment: bool = True
    label_smoothing: float = 0.05
    average_decay: float = 0.998

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2)):  # batch norm has no variance of one sample
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @classmethod
    def paper(cls, *, sigma_train: float, noise: Literal["mult", "add"], seed: int, epochs: int = 100) -> Recipe:
        """Section 3.2.1 of Qin and Vucinic: 100 epochs of Adam, batches of 32, learning rate 1e-4."""
        return cls(sigma_train, noise, seed, epochs, 32, 1e-4, 0.0, False, False, 0.0, 0.0)


@dataclass(frozen=True)
class Progress:
    """Where a training stands, as told to the caller after each batch; `accuracy` is set after each epoch."""

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float | None


@torch.random.fork_rng(devices=[])
def train(
    build: Callable[[], nn.Module],
    data: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe,
    out: Path,
    tell: Callable[[Progress], None] = lambda progress: None,
    save_every_s: float = SAVE_EVERY_S,
) -> nn.Module:
    """Train a network, or go on with a training that was interrupted, and return the result in evaluation mode.

    A run that was interrupted and resumed gives the same weights, to the bit, as one that was not, on the same machine
    with the same number of threads. The test set is only reported on. The caller's random state stays as it was.

    Args:
        build: makes the untrained network; called with the seed set.
        data, test: pictures (n, c, h, w) and labels (n,).
        recipe: the settings.
        out: run folder: `settings.yaml`, `checkpoint.pt`, `log.yaml` (test accuracy and seconds so far, each epoch).
        tell: called after each batch.
        save_every_s: seconds between checkpoints, beside the one after each epoch.

    Raises:
        ValueError: `out` holds a run with other settings, something else, or a checkpoint that cannot be used.
    """
    _claim(out, recipe)
    torch.manual_seed(recipe.seed)
    images, labels = data
    steps = math.ceil(len(images) / recipe.batch_size)
    run = _Run(build(), recipe, steps)
    run.resume(out / CHECKPOINT)
    saved = time.monotonic()
    for epoch in range(run.epoch, recipe.epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(recipe.seed * 1000 + epoch))
        for step in range(run.step, steps):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            run.learn(images[chosen], labels[chosen])
            run.epoch, run.step = epoch, step + 1
            tell(Progress(epoch, step, steps, run.loss, None))
            if time.monotonic() - saved > save_every_s:
                run.save(out / CHECKPOINT)
                saved = time.monotonic()
        run.epoch, run.step = epoch + 1, 0
        accuracy = evaluate(run.result(), *test)
        run.log.append({"epoch": epoch, "test_accuracy": accuracy, "seconds": round(run.spent(), 1)})
        _write_yaml(out / LOG, run.log)
        run.save(out / CHECKPOINT)
        saved = time.monotonic()
        tell(Progress(epoch, steps - 1, steps, run.loss, accuracy))
    return run.result()


class _Run:
    """The state of a training: all that a checkpoint holds."""

    def __init__(self, net: nn.Module, recipe: Recipe, steps: int) -> None:
        self.recipe, self.epoch, self.step, self.loss = recipe, 0, 0, math.nan
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)
        kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
        self.optimizer = kind(self.net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.schedule: Any = None
        if recipe.one_cycle:
            total = recipe.epochs * steps
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                self.optimizer, recipe.learning_rate, total_steps=total, pct_start=min(0.2, max(0.01, 2000 / total))
            )
        self.log: list[dict[str, Any]] = []
        self.before, self.began = 0.0, time.monotonic()

    def spent(self) -> float:
        """Seconds of training so far, earlier sessions included."""
        return self.before + time.monotonic() - self.began

    def learn(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step."""
        self.net.train()
        batch = jitter(images) if self.recipe.augment else images
        logits = self.net(batch.to(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.recipe.average_decay:
            self.average.update_parameters(self.net)
        self.loss = float(loss.detach())

    def result(self) -> nn.Module:
        """The trained network so far."""
        net: nn.Module = self.average.module if self.recipe.average_decay else self.net
        return net.eval()

    def save(self, path: Path) -> None:
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule is not None else {},
            "random": torch.get_rng_state(),
            "epoch": self.epoch,
            "step": self.step,
            "loss": self.loss,
            "log": self.log,
            "seconds": self.spent(),
        }
        with whole(path) as part:
            torch.save(state, part)

    def resume(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            state = torch.load(path, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
            self.epoch, self.step, self.log, self.before = state["epoch"], state["step"], state["log"], state["seconds"]
            self.loss = state.get("loss", math.nan)
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: damaged, or of another network; delete its folder to train anew") from error


def jitter(images: torch.Tensor, shift: float = 2.0, turn: float = 0.2, stretch: float = 0.1) -> torch.Tensor:
    """Pictures (n, c, h, w) turned (radians), stretched and shifted (pixels) at random, at most by these amounts."""
    n = len(images)
    angle = (torch.rand(n) * 2 - 1) * turn
    scale = 1 + (torch.rand(n) * 2 - 1) * stretch
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    offset = (torch.rand(n, 2) * 2 - 1) * shift * 2 / images.shape[-1]
    theta = torch.stack([torch.stack([cos, -sin, offset[:, 0]], 1), torch.stack([sin, cos, offset[:, 1]], 1)], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def evaluate(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> float:
    """Share of pictures that a network classifies right."""
    net.eval()
    right = sum(
        int((net(images[i : i + batch_size]).argmax(1) == labels[i : i + batch_size]).sum())
        for i in range(0, len(images), batch_size)
    )
    return right / len(images)


def _claim(out: Path, recipe: Recipe) -> None:
    """Make the run folder, or check that it belongs to this recipe."""
    path, wanted = out / SETTINGS, asdict(recipe)
    if path.is_file():
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            found = None
        found = found if isinstance(found, dict) else {}
        if found != wanted:
            changed = ", ".join(key for key in wanted | found if found.get(key) != wanted.get(key))
            raise ValueError(f"out: {out} holds a run with other settings ({changed}); choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"out: {out} is not empty and holds no run; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _write_yaml(path, wanted)


def _write_yaml(path: Path, content: Any) -> None:
    with whole(path) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
