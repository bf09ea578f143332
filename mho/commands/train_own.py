"""Networks and data of the user's own for `mho train`, and what a trained network does on chips."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..crossbar.hardware import Hardware
from ..devices.imports import importable
from ..inputs import find_inputs
from ..mapping.checkpoints.factories import build_model, parse_arguments
from ..mapping.checkpoints.loading import find_weights
from ..mapping.convert import map as map_model
from ..models.networks import Network
from ..models.train import Recipe, evaluate

OURS = Recipe(augment="none", learning_rate=1e-3, label_smoothing=0.0, average_decay=0.0)
HELD_OUT = 10  # of so many samples one is tested on
CHIPS, TESTED = 3, 1000

Samples = tuple[torch.Tensor, torch.Tensor]


def own_network(
    model: str, arguments: list[str], data: str, test: str, like: str | None, sigma_train: float, adversarial: bool
) -> Network:
    """A network that a factory builds, with its data.

    Raises:
        ValueError: options that are for Mho's own networks, or no data.
    """
    for said, wrong in (("--like", like is not None), ("--sigma-train", sigma_train), ("--adversarial", adversarial)):
        if wrong:
            raise ValueError(f"{said} is for Mho's own networks, which have places for it; use --hardware with --model")
    if not data:
        raise ValueError("--model needs --data: an .npz file of images and labels, or package.module:function")
    given = parse_arguments(arguments)

    def build(start: str | None = None, **noise: Any) -> nn.Module:
        net = build_model(model, given)
        if start:
            net.load_state_dict(find_weights(net, Path(start), None).state, strict=False)
        return net

    found: dict[str, Samples] = {}

    def load(split: str) -> tuple[torch.Tensor, torch.Tensor, str]:
        if not found:
            inputs, labels = samples_of(data)
            found["train"] = inputs, labels
            if test:
                found["test"] = samples_of(test)
            else:
                held = torch.arange(len(inputs)) % HELD_OUT == HELD_OUT - 1
                found.update(train=(inputs[~held], labels[~held]), test=(inputs[held], labels[held]))
                if not len(found["test"][0]):
                    raise ValueError(f"data {data}: must be at least {HELD_OUT} samples, got {len(inputs)}")
        digest = blake2b(digest_size=8)
        for part in found["train"]:
            digest.update(part.contiguous().numpy().tobytes())
        return *found[split], f"{data} {digest.hexdigest()}"

    return Network(build, load, OURS, replace(OURS, epochs=100, batch_size=32, learning_rate=1e-4, schedule="fixed"))


def samples_of(data: str) -> Samples:
    """Inputs (n, ...) and labels (n,) of a file, or of a function.

    Raises:
        ValueError: neither, or no such samples.
    """
    if ":" in data and not Path(data).exists():
        inputs, labels = _of_function(data)
    else:
        found, beside = find_inputs(data)
        if not isinstance(found, torch.Tensor):
            parts = [*found.args, *found.kwargs.values()]
            if len(parts) != 1 or not isinstance(parts[0], torch.Tensor):
                raise ValueError(
                    f"data {data}: training takes one array of inputs, 'images' or 'inputs', beside labels"
                )
            found = parts[0]
        if beside is None:
            raise ValueError(f"data {data}: has no labels, which training needs")
        inputs, labels = found, beside
    if labels.is_floating_point() or labels.ndim != 1 or len(labels) != len(inputs) or (labels < 0).any():
        raise ValueError(
            f"data {data}: labels must be classes (n,) from 0 on, one for each input, got {labels.dtype} of shape "
            f"{tuple(labels.shape)} for {len(inputs)} inputs"
        )
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise ValueError(f"data {data}: inputs must be finite")
    return inputs, labels.long()


def _of_function(data: str) -> Samples:
    home, _, name = data.partition(":")
    importable(Path.cwd())
    try:
        function: Any = import_module(home)
        for part in name.split("."):
            function = getattr(function, part)
        inputs, labels = (torch.as_tensor(part) for part in function())
    except Exception as error:  # anybody's code
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"data {data!r}: its function must give inputs and labels ({said})") from error
    return inputs.float() if inputs.is_floating_point() else inputs, labels


def check_outputs(build: Callable[[], nn.Module], inputs: torch.Tensor, labels: torch.Tensor, seed: int) -> None:
    """See that a network takes its inputs and has an output for each class.

    Raises:
        ValueError: it does not.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = build().eval()
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise ValueError("model: has no parameters to train")
        try:
            logits = net(inputs[:2])
        except Exception as error:  # a model may fail in any way on inputs that are not its own
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(
                f"data: inputs of shape {tuple(inputs[:2].shape)} do not go through the model ({said})"
            ) from error
    most = int(labels.max()) + 1
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[1] < most:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"model: must give scores (samples, {most} or more classes) for these labels, got {got}")


def on_chips(net: nn.Module, hardware: Hardware, calibrate: torch.Tensor, test: Samples) -> list[float]:
    """Accuracy of single reads of the first test samples on some chips, which is told."""
    inputs, labels = (part[:TESTED] for part in test)
    net = net.cpu().eval()
    found = []
    for seed in range(CHIPS):
        chip = map_model(net, hardware, calibrate=calibrate, seed=seed)
        right = sum(
            int((chip.read(x, read=0, first_sample=250 * i).argmax(1) == y).sum())
            for i, (x, y) in enumerate(zip(inputs.split(250), labels.split(250), strict=True))
        )
        found.append(right / len(inputs))
    print(f"on {CHIPS} chips, {len(inputs)} test samples: " + ", ".join(f"{each:.2%}" for each in found), flush=True)
    print(f"without a chip, the same samples: {evaluate(net, inputs, labels):.2%}", flush=True)
    return found


def said_of(model: str, arguments: list[str]) -> str:
    """How a network is built, as the command line says it."""
    return " ".join([model, *(f"--arg {argument}" for argument in arguments)])


def folder_of(model: str) -> str:
    """The name of a network of the user's own in a run folder."""
    return re.sub(r"\W+", "-", model.rpartition(":")[2]).strip("-") or "model"


def digest_of(hardware: Hardware) -> str:
    """Of all settings."""
    return blake2b(hardware.model_dump_json().encode(), digest_size=8).hexdigest()
