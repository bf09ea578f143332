"""Noise-injected training: deterministic by seed, saved often, resumed exactly."""

from __future__ import annotations

import ctypes
import math
import pickle
import re
import sys
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

from ..mapping.saved.folders import whole
from ..mapping.trainable.ranges import ranges_of, set_ranges
from .attacks import Adversary, perturbed
from .augment import AUGMENTATIONS
from .run_folder import CHECKPOINT, LOG, SETTINGS, write_yaml

Through = Callable[[nn.Module], nn.Module]

SAVE_EVERY_S = 120.0
OPTIMIZERS, SCHEDULES = ("adam", "sgd"), ("one-cycle", "triangle", "steps", "fixed")
PRECISIONS, INITS = ("float32", "bfloat16"), ("torch", "glorot")
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    The defaults are ours for the CNN: Adam with decoupled weight decay under a one-cycle schedule, random small shifts
    and turns of the images, smoothed labels, and the moving average of the weights as the result.

    Attributes:
        optimizer: Adam, or `sgd`: momentum of 0.9 after Nesterov.
        learning_rate: the highest.
        schedule: of the learning rate: `one-cycle` up and down, `triangle` in a straight line up over the first fifth
            of all steps and down to 0, `steps` down to a tenth after a half and again after three quarters of all
            epochs, or `fixed`.
        decay_vectors: whether the weight decay is for the vectors too, such as the gains of the norms.
        sizes: images are made smaller in the first epochs, which then cost less: `8x16 8x24 10x32` is 8 epochs at
            16 x 16 pixels and so on, all `epochs` of them; all epochs at full size where empty.
        augment: a name in `AUGMENTATIONS`.
        average_decay: of the moving average, a step; 0 for none.
        clip: the largest norm of the gradient, 0 for any.
        dropout: of the convolutions of a DenseNet; see `densenet.DenseLayer`.
        init: of random weights: that of the network, or `glorot`, as Keras begins; see `keras.py`.
        adversary: moves the first half of each batch, so that the network learns to resist it; None for no such attack.
        data: what is learnt from; a run on other data is another run.
        like: the chip whose noise is injected, layer by layer, instead of `sigma_train`; none where empty.
        start: the weights that the training goes on from; random ones where empty.
        hardware: the chip that is trained through, with a digest of its settings; none where empty.
        model: how a network of the user's own is built; empty for one of Mho's.
        precision: `float32`, or `bfloat16` where that is safe (torch.autocast): half the time for networks of images,
            on GPUs and processors that have instructions for it.
    """

    sigma_train: float = 0.0
    noise: Literal["mult", "add"] = "mult"
    seed: int = 0
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    optimizer: str = "adam"
    schedule: str = "one-cycle"
    augment: str = "jitter"
    label_smoothing: float = 0.05
    average_decay: float = 0.998
    clip: float = 0.0
    adversary: Adversary | None = None
    data: str = ""
    like: str = ""
    start: str = ""
    hardware: str = ""
    model: str = ""
    precision: str = "float32"
    decay_vectors: bool = True
    sizes: str = ""
    dropout: float = 0.0
    init: str = "torch"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2)):  # batch norm has no variance of one sample
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, known in (
            ("augment", AUGMENTATIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("init", INITS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must be at least 0 and below 1, got {self.average_decay}")
        if self.sizes and len(sizes_of(self.sizes)) != self.epochs:
            raise ValueError(f"sizes: {self.sizes!r} are {len(sizes_of(self.sizes))} epochs, not {self.epochs}")


def sizes_of(text: str) -> list[int]:
    """The size of the images in each epoch, from text such as `8x16 8x24 10x32` (epochs x pixels)."""
    stages = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", part) for part in text.split()]
    if not stages or None in stages:
        raise ValueError(f"sizes must be EPOCHSxPIXELS, such as '8x16 8x24 10x32', got {text!r}")
    return [int(stage[2]) for stage in stages if stage for _ in range(int(stage[1]))]


@dataclass(frozen=True)
class Progress:
    """Where a training stands, as told to the caller after each batch; `accuracy` is set after each epoch.

    `loss` is the batch's, on the device of the training: who reads it waits until the device has come so far.
    """

    epoch: int
    step: int
    steps: int
    loss: torch.Tensor
    accuracy: float | None


def train(
    build: Callable[[], nn.Module],
    data: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe,
    out: Path,
    tell: Callable[[Progress], None] = lambda progress: None,
    save_every_s: float = SAVE_EVERY_S,
    device: str | torch.device = "cpu",
    through: Through | None = None,
) -> nn.Module:
    """Train a network, or go on with a training that was interrupted, and return the result in evaluation mode.

    A run that was interrupted and resumed gives the same weights, to the bit, as one that was not, on the same machine
    with the same number of threads; on a GPU only as far as its sums repeat. The test set is only reported on. The
    caller's random state stays as it was.

    Args:
        build: makes the untrained network; called with the seed set.
        data, test: inputs (n, ...) and labels (n,).
        recipe: the settings.
        out: run folder: `settings.yaml`, `checkpoint.pt`, `log.yaml` (test accuracy, test loss and seconds so far of
            each epoch).
        tell: called after each batch.
        save_every_s: seconds between checkpoints, beside the one after each epoch.
        device: where to train; the data go there too. On CUDA the network is compiled.
        through: what is trained in the place of the network, with the same parameters: `mho.trainable` of it.

    Raises:
        ValueError: `out` holds a run with other settings, something else, or a checkpoint that cannot be used.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=_gpus(device)):
        torch.manual_seed(recipe.seed)
        inputs, labels = (part.to(device) for part in data)
        steps = steps_of(len(inputs), recipe.batch_size)
        run = _Run(build(), recipe, steps, device, through)
        _claim(out, recipe)
        run.resume(out / CHECKPOINT)
        saved = time.monotonic()
        for epoch in range(run.epoch, recipe.epochs):
            shuffle = torch.Generator().manual_seed(recipe.seed * 1000 + epoch)
            order = torch.randperm(len(inputs), generator=shuffle).to(device)
            for step in range(run.step, steps):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size if step + 1 < steps else None]
                run.learn(inputs[chosen], labels[chosen], epoch)
                run.epoch, run.step = epoch, step + 1
                tell(Progress(epoch, step, steps, run.loss, None))
                if time.monotonic() - saved > save_every_s:
                    run.save(out / CHECKPOINT)
                    saved = time.monotonic()
            run.epoch, run.step = epoch + 1, 0
            accuracy, loss = scores(run.result(), *test)
            spent = round(run.spent(), 1)
            run.log.append({"epoch": epoch, "test_accuracy": accuracy, "test_loss": loss, "seconds": spent})
            write_yaml(out / LOG, run.log)
            run.save(out / CHECKPOINT)
            saved = time.monotonic()
            tell(Progress(epoch, steps - 1, steps, run.loss, accuracy))
        return run.result()


def steps_of(samples: int, batch_size: int) -> int:
    """Of an epoch: a sample that would be a batch of its own, which batch norms refuse, is in the last one."""
    return max(1, math.ceil(samples / batch_size) - (samples % batch_size == 1))


class _Run:
    """The state of a training: all that a checkpoint holds."""

    def __init__(
        self, net: nn.Module, recipe: Recipe, steps: int, device: torch.device, through: Through | None
    ) -> None:
        self.recipe, self.device, self.epoch, self.step = recipe, device, 0, 0
        self.loss = torch.tensor(math.nan)
        self.net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = self.net if through is None else through(self.net)
        compiles = device.type == "cuda" and through is None
        self.compiled = torch.compile(self.net, mode="reduce-overhead") if compiles else self.trained
        self.average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay), use_buffers=True)
        own = {id(parameter) for parameter in net.parameters()}
        self.parameters = [*self.net.parameters(), *(p for p in self.trained.parameters() if id(p) not in own)]
        self.optimizer = _optimizer(self.parameters, recipe)
        self.schedule = _schedule(self.optimizer, recipe, steps)
        self.log: list[dict[str, Any]] = []
        self.before, self.began = 0.0, time.monotonic()

    def spent(self) -> float:
        """Seconds of training so far, earlier sessions included."""
        return self.before + time.monotonic() - self.began

    def learn(self, inputs: torch.Tensor, labels: torch.Tensor, epoch: int) -> None:
        """One step in this epoch."""
        self.trained.train()
        batch = AUGMENTATIONS[self.recipe.augment](inputs)
        if self.recipe.sizes:
            batch = _resized(batch, sizes_of(self.recipe.sizes)[epoch])
        net: Any = (
            self.compiled if len(batch) == self.recipe.batch_size else self.trained
        )  # a new length is compiled anew
        if batch.ndim == 4:
            batch = batch.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            if self.recipe.adversary is not None:
                half, attack = len(batch) // 2, self.recipe.adversary.in_epoch(epoch, self.recipe.epochs)
                batch[:half] = perturbed(net, batch[:half], labels[:half], attack)
            logits = net(batch)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.recipe.average_decay:
            self.average.update_parameters(self.net)
        self.loss = loss.detach()

    def result(self) -> nn.Module:
        """The trained network so far."""
        net: nn.Module = self.average.module if self.recipe.average_decay else self.net
        return net.eval()

    def save(self, path: Path) -> None:
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict() if self.recipe.average_decay else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule is not None else {},
            "random": [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in _gpus(self.device))],
            "epoch": self.epoch,
            "step": self.step,
            "loss": float(self.loss),
            "log": self.log,
            "seconds": self.spent(),
            "ranges": {} if self.trained is self.net else ranges_of(self.trained),
        }
        with whole(path) as part:
            torch.save(state, part)

    def resume(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.net.load_state_dict(state["net"])
            if self.recipe.average_decay:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.schedule is not None:
                self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"][0].cpu())
            for gpu, random in zip(_gpus(self.device), state["random"][1:], strict=True):
                torch.cuda.set_rng_state(random.cpu(), gpu)
            self.epoch, self.step, self.log, self.before = state["epoch"], state["step"], state["log"], state["seconds"]
            self.loss = torch.tensor(state["loss"])
            if self.trained is not self.net:
                set_ranges(self.trained, state["ranges"])
        except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: damaged, or of another network; delete its folder to train anew") from error


def _resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square images (n, c, h, h) of another size, smoothed before they are sampled."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _optimizer(parameters: list[Any], recipe: Recipe) -> torch.optim.Optimizer:
    if not recipe.decay_vectors:
        vectors = [p for p in parameters if p.ndim < 2]
        parameters = [{"params": [p for p in parameters if p.ndim > 1]}, {"params": vectors, "weight_decay": 0.0}]
    settings: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings)
    return (torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam)(parameters, **settings)


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    """The schedule of the learning rate; None where it is fixed."""
    total = recipe.epochs * steps
    if recipe.schedule == "one-cycle":
        rise = min(0.2, max(0.01, 2000 / total))
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=total, pct_start=rise)
    if recipe.schedule == "triangle":
        top = total / 5
        share = lambda step: min((step + 1) / top, (total - step) / (total - top))  # noqa: E731
        return torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    if recipe.schedule == "steps":
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [total // 2, total * 3 // 4])
    return None


def keep_freed_memory() -> None:
    """Tell glibc, for the whole process, to keep what is freed: large tensors then don't come page by page anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26):
            mallopt(option, value)


def _gpus(device: torch.device) -> list[torch.device]:
    """The device if it has random numbers of its own."""
    return [device] if device.type == "cuda" else []


def evaluate(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> float:
    """Share of inputs that a network classifies right, on the device of its parameters."""
    return scores(net, inputs, labels, batch_size)[0]


@torch.no_grad()
def scores(net: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    net.eval()
    device = next((parameter.device for parameter in net.parameters()), inputs.device)
    right, loss = 0, 0.0
    for x, y in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
        logits = net(x.to(device)).cpu()
        right += int((logits.argmax(1) == y.cpu()).sum())
        loss += float(functional.cross_entropy(logits, y.cpu(), reduction="sum"))
    return right / len(inputs), loss / len(inputs)


def _claim(out: Path, recipe: Recipe) -> None:
    """Make the run folder, or check that it belongs to this recipe."""
    path, wanted = out / SETTINGS, asdict(recipe)
    if path.is_file():
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            found = None
        # fields that runs of before lack
        older: dict[str, Any] = {
            "adversary": None,
            "start": "",
            "precision": "float32",
            "decay_vectors": True,
            "sizes": "",
        }
        older |= {"hardware": "", "model": "", "dropout": 0.0, "init": "torch"}
        found = {**older, **(found if isinstance(found, dict) else {})}
        if found != wanted:
            changed = ", ".join(key for key in wanted | found if found.get(key) != wanted.get(key))
            raise ValueError(f"out: {out} holds a run with other settings ({changed}); choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise ValueError(f"out: {out} is not empty and holds no run; choose another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_yaml(path, wanted)
