"""Inputs and hardware as the command line names them."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .crossbar.hardware import Hardware
    from .mapping.inputs.batches import Batch

USED = {"images", "labels"}
DATA_SETS = {"mnist": "mnist-cnn", "cifar10": "densenet40", "strokes": "stroke-lstm"}  # and a network that reads them


def find_hardware(name: str) -> Hardware:
    """A preset by name, or a YAML file by path.

    Raises:
        ValueError: neither.
    """
    from .crossbar.hardware import PRESETS, Hardware

    if name in PRESETS:
        return Hardware.preset(name)
    if not Path(name).is_file():
        raise ValueError(f"hardware must be a preset ({', '.join(PRESETS)}) or a YAML file, got {name!r}")
    return Hardware.load(name)


def find_inputs(name: str) -> tuple[torch.Tensor | Batch, torch.Tensor | None]:
    """Inputs, with their labels where these are known: a test set in `DATA_SETS`, or a `.npy` or `.npz` file.

    A `.npz` holds `images` and, if you like, `labels`, the samples first; a `.npy` the inputs alone. A `.npz` without
    `images` holds the inputs of a model by their names. Labels that are not all whole are numbers to be met.

    Raises:
        ValueError: no such data, or a file without usable arrays.
    """
    import numpy as np
    import torch

    from .mapping.inputs.batches import Batch

    if name in DATA_SETS:
        from .models.networks import NETWORKS

        inputs, classes, _ = NETWORKS[DATA_SETS[name]].load("test")
        return inputs, classes
    found = _arrays(name)
    for what, array in found.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"data {name}: {what} must be numbers, got {array.dtype}")
    labels = found.pop("labels", None)
    if not found:
        raise ValueError(f"data {name}: expected an array 'images', or the inputs of a model by name, got none")
    for what, array in found.items():
        if what == "images" and (array.ndim < 2 or not array.size):
            raise ValueError(f"data {name}: images must be samples (n, ...), got shape {array.shape}")
    with np.errstate(over="ignore"):  # infinities are refused where they go in
        if "images" in found:
            samples: torch.Tensor | Batch = torch.from_numpy(found["images"].astype(np.float32))
        else:
            samples = Batch((), {what: _tensor(array) for what, array in found.items()})
            if not samples.samples:
                raise ValueError(f"data {name}: holds no samples, its inputs have shapes {samples.shape}")
        return samples, None if labels is None else _labels(name, labels, len(samples))


def _arrays(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file: `images`, and `labels` if there are any; or without images, all.

    Raises:
        ValueError: no such file, or one that cannot be read.
    """
    import numpy as np

    path = Path(name)
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise ValueError(f"data must be {', '.join(map(repr, DATA_SETS))} or a .npy or .npz file, got {name!r}")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files, before the error
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"images": found}
            used = USED & set(found) if "images" in found else found
            return {str(name): np.asarray(found[name]) for name in used}
    except Exception as error:  # what a foreign file makes of its reader is anybody's guess
        said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))[:200]
        raise ValueError(f"data {path}: not a readable array file ({type(error).__name__}: {said})") from error


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """An array as a tensor: floating-point numbers of 32 bits, truth values, or whole numbers of 64 bits."""
    import numpy as np
    import torch

    kind = {"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64)
    return torch.from_numpy(array.astype(kind))


def _labels(name: str, labels: np.ndarray[Any, Any], samples: int) -> torch.Tensor:
    """Labels of so many samples, whole if they all are.

    Raises:
        ValueError: labels of other samples, or that are no classes and no numbers to be met.
    """
    import numpy as np
    import torch

    if not labels.ndim or labels.shape[0] != samples:
        raise ValueError(f"data {name}: labels must have shape {(samples,)}, got {labels.shape}")
    if labels.dtype.kind != "f" or not np.isfinite(labels).all() or (labels == np.round(labels)).all():
        if labels.dtype.kind == "f" and not (np.abs(labels) < 2**31).all():
            ends = f"{labels.min():g} to {labels.max():g}"
            raise ValueError(f"data {name}: labels must be numbers of classes, got {ends}")
        return torch.from_numpy(labels.astype(np.int64))
    return torch.from_numpy(labels.astype(np.float32))


def find_output(said: str | None) -> Any:
    """Where the scores are in what a model returns, as the command line says it: see `mho.vote(output=)`.

    It is a name, a whole number, or a function as `package.module:function`, whose module may lie in the working
    directory.

    Raises:
        ValueError: the module does not load, or has no such function.
    """
    if said is None or ":" not in said:
        return int(said) if said is not None and re.fullmatch(r"-?\d+", said) else said
    from .devices.imports import importable

    module, _, name = said.partition(":")
    importable(Path.cwd())
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module may fail in any way
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"output {said!r}: its function is not found ({why})") from error
    if not callable(found):
        raise ValueError(f"output {said!r}: must be a function, got {type(found).__name__}")
    return found
