"""The tasks of a sweep: what identifies them, and how a worker does them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import models
from ..crossbar.extrapolation import extrapolations
from ..crossbar.hardware import Hardware
from ..inputs import find_inputs
from ..mapping.checkpoint import build_model, load_weights
from ..mapping.convert import map as map_model
from .bench import Bench
from .experiments import columns_of, experiment_of
from .file import Settings, Sweep, describe

Row = dict[str, Any]

UNSEEN = {"name", "description", "sources"}  # fields of the hardware that change no result
IDENTIFYING = (  # model, data: by content
    "images",
    "calibrate",
    "votes",
    "copies",
    "rule",
    "vote_error",
    "seed",
    "target_width",
)
VOTING = ("votes", "vote_error")  # tasks that differ in these alone share a chip and its inferences


@dataclass(frozen=True)
class Task:
    """One point of a sweep.

    id: hash of all that changes its result.
    said: the point in words, for messages.
    chip: hash of all that tasks have in common that differ in `VOTING` alone.
    network, pictures: hashes of the contents of the model and of the data.
    """

    id: str
    said: str
    chip: str
    experiment: str
    settings: Settings
    hardware: Hardware
    network: str
    pictures: str


def tasks_of(sweep: Sweep) -> list[Task]:
    """The tasks of a sweep in its order.

    Raises:
        ValueError: an unknown experiment, a point that is impossible or stands there twice.
    """
    experiment = experiment_of(sweep.experiment)
    networks: dict[tuple[str, str | None], str] = {}
    data: dict[str, tuple[str, int]] = {}
    chips: dict[int, Any] = {}
    tasks: dict[str, Task] = {}
    for number, (values, (settings, hardware)) in enumerate(zip(sweep.values, sweep.resolve(), strict=True), start=1):
        said = f"point {number} ({describe(values)})"
        try:
            options = experiment(**settings.options).model_dump(mode="json")
            settings = settings.model_copy(update={"options": options})
            key = settings.model, settings.weights
            if key not in networks:
                networks[key] = network_hash(settings.model, load_network(*key))
            if settings.data not in data:
                images, labels = load_data(settings.data)
                data[settings.data] = data_hash(images, labels), len(images)
            pictures, available = data[settings.data]
            for name in ("images", "calibrate"):
                if getattr(settings, name) > available:
                    raise ValueError(
                        f"{name} must be at most {available}, the pictures of {settings.data}, "
                        f"got {getattr(settings, name)}"
                    )
        except ValueError as error:
            raise ValueError(f"{said}: {error}") from error
        if id(hardware) not in chips:
            fields = hardware.model_dump(mode="json", exclude=UNSEEN)
            chips[id(hardware)] = _digest([fields, list(hardware.layers)])  # overrides count in their order
        common = [
            metadata.version("mho"),
            sweep.experiment,
            experiment.version,
            chips[id(hardware)],
            networks[key],
            pictures,
        ]
        what = {name: getattr(settings, name) for name in IDENTIFYING} | ({"options": options} if options else {})
        found = _digest([common, what])
        if found in tasks:
            raise ValueError(f"{said}: is the same task as {tasks[found].said}; leave one out")
        chip = _digest([common, settings.batch_size, {name: v for name, v in what.items() if name not in VOTING}])
        tasks[found] = Task(found, said, chip, sweep.experiment, settings, hardware, networks[key], pictures)
    return list(tasks.values())


def groups_of(tasks: Iterable[Task]) -> list[list[Task]]:
    """The tasks that one worker does together: those that differ in `VOTING` alone, most votes first."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.chip, []).append(task)
    return [sorted(group, key=lambda task: -task.settings.votes) for group in groups.values()]


def run_group(group: list[Task], threads: int | None = None) -> list[Row]:
    """Do the tasks of a group: the rows of their results.

    Args:
        group: as `groups_of` makes them.
        threads: threads to use; None leaves the process as it is.

    Raises:
        ValueError: a task that cannot be done; the message says which.
    """
    if threads is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    first = group[0]
    settings, rows = first.settings, []
    began = time.perf_counter()
    try:
        experiment = experiment_of(first.experiment)(**settings.options)
        network = _known_network(settings.model, settings.weights, first.network)
        images, labels = _known_data(settings.data, first.pictures)
        calibrate = images[: settings.calibrate]
        bench = Bench(map_model(network, first.hardware, calibrate=calibrate, seed=settings.seed), images, labels)
        outside = "; ".join(dict.fromkeys(s for x in bench.chip.layers.values() for s in extrapolations(x.hardware)))
        for task in group:
            columns = columns_of(task.experiment, experiment, bench, task.settings)
            now = time.perf_counter()
            meta = {
                "seconds_meta": now - began,
                "finished_meta": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "host_meta": platform.node(),
                "pid_meta": os.getpid(),
            }
            rows.append({"task_id": task.id, **columns, "extrapolated": outside, **meta})
            began = now
    except ValueError as error:
        raise ValueError(f"{group[len(rows)].said}: {error}") from error
    return rows


def load_network(model: str, weights: str | None) -> nn.Module:
    """The network that a sweep names.

    Raises:
        ValueError: no such network, or no such weights.
    """
    named = [name for name in models.__all__ if callable(getattr(models, name))]
    if ":" not in model and model not in named:
        raise ValueError(f"model must be one of {', '.join(named)} or package.module:factory, got {model!r}")
    if model not in named:
        network = build_model(model)
    elif weights is None:
        raise ValueError(f"weights: {model} needs some, by name (as sigma-0.5) or a checkpoint file")
    elif not Path(weights).is_file():
        return getattr(models, model)(weights=weights)
    else:
        network = getattr(models, model)()
    return network.eval() if weights is None else load_weights(network, weights).eval()


def load_data(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Labelled pictures, as `mho.inputs.find_inputs`.

    Raises:
        ValueError: no such data, or no labels.
    """
    images, labels = find_inputs(name)
    if labels is None:
        raise ValueError(f"data {name}: has no labels to compare with")
    return images, labels


def network_hash(model: str, network: nn.Module) -> str:
    """Hash of a network's name, layers and weights."""
    found = blake2b(f"{model}\n{network!r}".encode(), digest_size=16)
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def data_hash(images: torch.Tensor, labels: torch.Tensor) -> str:
    """Hash of labelled pictures."""
    found = blake2b(f"{tuple(images.shape)}".encode(), digest_size=16)
    for tensor in (images, labels):
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@lru_cache(maxsize=4)
def _known_network(model: str, weights: str | None, wanted: str) -> nn.Module:
    network = load_network(model, weights)
    if network_hash(model, network) != wanted:
        raise ValueError(
            f"model {model}: has other weights each time it is made, or here than where the sweep was started; "
            "save them and name the file in weights"
        )
    return network


@lru_cache(maxsize=2)
def _known_data(name: str, wanted: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_data(name)
    if data_hash(images, labels) != wanted:
        raise ValueError(f"data {name}: is another here than where the sweep was started")
    return images, labels


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode(), digest_size=10).hexdigest()
