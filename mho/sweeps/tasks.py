"""The tasks of a sweep: what identifies them, and how a worker does them."""

from __future__ import annotations

import json
import os
import pickle
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import torch
from torch import nn

from .. import models
from ..crossbar.extrapolation import extrapolations
from ..crossbar.hardware import Hardware
from ..devices.imports import import_modules
from ..inputs import find_inputs, find_output
from ..mapping.checkpoints.hub import CONFIG
from ..mapping.checkpoints.loading import build_model, load_weights
from ..mapping.checkpoints.networks import WHOLE, load_model
from ..mapping.coding import coded
from ..mapping.convert import map as map_model
from ..mapping.errors import MappingError
from ..mapping.inputs.batches import Batch
from .bench import Bench
from .experiments import Experiment, check_used, columns_of, experiment_of
from .file import Settings, Sweep, describe
from .own_code import OwnCode, classes_of, fetch, handlers_of, own_code, own_modules_of, parts_of

Row = dict[str, Any]
Outputs = tuple[tuple[str, int], ...]

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
ANSWERING = ("output", "next_token", "layers", "coded")  # where they are not as by default
VOTING = ("votes", "vote_error")  # tasks that differ in these alone share a chip and its inferences


@dataclass(frozen=True)
class Task:
    """One point of a sweep.

    id: hash of all that changes its result.
    said: the point in words, for messages.
    chip: hash of all that tasks have in common that differ in `VOTING` alone.
    network, pictures: hashes of the contents of the model and of the data.
    code: of users, that it rests on.
    """

    id: str
    said: str
    chip: str
    experiment: str
    settings: Settings
    hardware: Hardware
    network: str
    pictures: str
    code: tuple[OwnCode, ...] = ()


class Parcel(NamedTuple):
    """A group of tasks on its way to another process, where the code that they rest on is imported first.

    `tasks` are pickled.
    """

    code: tuple[OwnCode, ...]
    tasks: bytes

    @classmethod
    def of(cls, group: list[Task]) -> Parcel:
        by_value = joblib.wrap_non_picklable_objects(group, keep_wrapper=False)  # what a script or notebook defines
        return cls(group[0].code, pickle.dumps(by_value))


def tasks_of(sweep: Sweep) -> list[Task]:
    """The tasks of a sweep in its order.

    Raises:
        ValueError: an unknown experiment, a point that is impossible or stands there twice, or code of a user that
            cannot be told from other code.
    """
    import_modules(sweep.imports)
    experiment, known = experiment_of(sweep.experiment), _Known(sweep)
    tasks: dict[str, Task] = {}
    for number, (values, (settings, hardware)) in enumerate(zip(sweep.values, sweep.resolve(), strict=True), start=1):
        said = f"point {number} ({describe(values)})"
        try:
            asked = experiment(**settings.options)
            settings = settings.model_copy(update={"options": asked.model_dump(mode="json")})
            check_used(sweep.experiment, experiment, settings)
            find_output(settings.output)
            network, pictures = known.network(settings), known.pictures(settings)
            code = known.code(asked, settings, hardware)
        except ValueError as error:
            raise ValueError(f"{said}: {error}") from error
        common = [
            metadata.version("mho"),
            sweep.experiment,
            experiment.version,
            known.chip(hardware),
            network,
            pictures,
            *([name, made] for name, made, _ in code),
        ]
        options: dict[str, Any] = {"options": settings.options} if settings.options else {}
        options |= {name: getattr(settings, name) for name in ANSWERING if getattr(settings, name)}
        what = {name: getattr(settings, name) for name in IDENTIFYING} | options
        found = _digest([common, what])
        if found in tasks:
            raise ValueError(f"{said}: is the same task as {tasks[found].said}; leave one out")
        chip = _digest([common, settings.batch_size, {name: v for name, v in what.items() if name not in VOTING}])
        tasks[found] = Task(found, said, chip, sweep.experiment, settings, hardware, network, pictures, code)
    return list(tasks.values())


class _Known:
    """What the tasks of a sweep have in common, each looked at once: hashes of contents, and code of users."""

    def __init__(self, sweep: Sweep) -> None:
        self._modules = [*sweep.imports, *own_modules_of(sweep.experiment)]
        self._networks: dict[tuple[str, str | None, Outputs], tuple[str, set[type]]] = {}
        self._data: dict[str, tuple[str, int]] = {}
        self._chips: dict[int, tuple[str, set[type]]] = {}
        self._code: dict[Any, tuple[OwnCode, ...]] = {}

    def network(self, settings: Settings) -> str:
        return self._network(settings)[0]

    def _network(self, settings: Settings) -> tuple[str, set[type]]:
        key = settings.model, settings.weights, _outputs(settings)
        if key not in self._networks:
            network = load_network(*key)
            self._networks[key] = network_hash(settings.model, network), handlers_of(network)
        return self._networks[key]

    def pictures(self, settings: Settings) -> str:
        """Raises ValueError where there are fewer than a task asks for."""
        if settings.data not in self._data:
            images, labels = load_data(settings.data)
            self._data[settings.data] = data_hash(images, labels), len(images)
        pictures, available = self._data[settings.data]
        for name in ("images", "calibrate"):
            if getattr(settings, name) > available:
                raise ValueError(
                    f"{name} must be at most {available}, the images of {settings.data}, got {getattr(settings, name)}"
                )
        return pictures

    def chip(self, hardware: Hardware) -> str:
        return self._chip(hardware)[0]

    def _chip(self, hardware: Hardware) -> tuple[str, set[type]]:
        if id(hardware) not in self._chips:
            fields = hardware.model_dump(mode="json", exclude=UNSEEN)
            ordered = _digest([fields, list(hardware.layers)])  # overrides count in their order
            self._chips[id(hardware)] = ordered, parts_of(hardware)
        return self._chips[id(hardware)]

    def code(self, experiment: Experiment, settings: Settings, hardware: Hardware) -> tuple[OwnCode, ...]:
        things = frozenset(classes_of(experiment) | self._chip(hardware)[1] | self._network(settings)[1])
        key = things, settings.model, settings.output
        if key not in self._code:
            modules = [*own_modules_of(settings.model), *own_modules_of(settings.output or "")]
            self._code[key] = own_code(things, [*self._modules, *modules])
        return self._code[key]


def groups_of(tasks: Iterable[Task]) -> list[list[Task]]:
    """The tasks that one worker does together: those that differ in `VOTING` alone, most votes first."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.chip, []).append(task)
    return [sorted(group, key=lambda task: -task.settings.votes) for group in groups.values()]


def run_parcel(parcel: Parcel, threads: int | None = None) -> list[Row]:
    """As `run_group`, in another process than that which has made the tasks.

    Raises:
        ValueError: also where code of a user is not there, or is another.
    """
    fetch(parcel.code)
    return run_group(pickle.loads(parcel.tasks), threads)


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
        network = _known_network(settings.model, settings.weights, _outputs(settings), first.network, first.code)
        images, labels = _known_data(settings.data, first.pictures)
        calibrate = images[: settings.calibrate]
        chip = map_model(network, first.hardware, calibrate=calibrate, seed=settings.seed)
        bench = Bench(chip, images, labels, find_output(settings.output))
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
    except Exception as error:
        if not first.code:  # a mistake of Mho's
            raise
        why = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
        raise ValueError(f"{group[len(rows)].said}: {why}") from error
    return rows


def _outputs(settings: Settings) -> Outputs:
    """The layers that `coded` names."""
    return tuple((settings.coded or {}).items())


def load_network(model: str, weights: str | None, outputs: Outputs = ()) -> nn.Module:
    """The network that a sweep names, and its layers with more outputs than they need.

    Raises:
        ValueError: no such network, no such weights, or no such layers.
    """
    network = _as_it_is(model, weights)
    try:
        return coded(network, dict(outputs)) if outputs else network
    except MappingError as error:
        raise ValueError(f"coded: {error}") from error


def _as_it_is(model: str, weights: str | None) -> nn.Module:
    if Path(model).suffix in WHOLE or (Path(model) / CONFIG).is_file():
        if weights is not None:
            raise ValueError(f"weights: {model} brings its own, got {weights!r}")
        return load_model(model)
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


def load_data(name: str) -> tuple[torch.Tensor | Batch, torch.Tensor]:
    """Labelled images, as `mho.inputs.find_inputs`.

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


def data_hash(images: torch.Tensor | Batch, labels: torch.Tensor) -> str:
    """Hash of labelled inputs."""
    if isinstance(images, torch.Tensor):
        found, tensors = blake2b(f"{tuple(images.shape)}".encode(), digest_size=16), [images]
    else:
        said = [(name, str(x.dtype), tuple(x.shape)) for name, x in images.kwargs.items()]
        found, tensors = blake2b(f"{said}".encode(), digest_size=16), list(images.kwargs.values())
    if labels.ndim > 1 or labels.is_floating_point():
        found.update(f"{labels.dtype} {tuple(labels.shape)}".encode())
    for tensor in (*tensors, labels):
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


@lru_cache(maxsize=4)
def _known_network(
    model: str, weights: str | None, outputs: Outputs, wanted: str, code: tuple[OwnCode, ...]
) -> nn.Module:
    network = load_network(model, weights, outputs)
    if network_hash(model, network) != wanted:
        raise ValueError(
            f"model {model}: has other weights each time it is made, or here than where the sweep was started; "
            "save them and name the file in weights"
        )
    return network


@lru_cache(maxsize=2)
def _known_data(name: str, wanted: str) -> tuple[torch.Tensor | Batch, torch.Tensor]:
    images, labels = load_data(name)
    if data_hash(images, labels) != wanted:
        raise ValueError(f"data {name}: is another here than where the sweep was started")
    return images, labels


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode(), digest_size=10).hexdigest()
