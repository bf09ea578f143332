"""Inputs and hardware as the command line names them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .crossbar.hardware import Hardware

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


def find_inputs(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Inputs, with their labels where these are known: a test set in `DATA_SETS`, or a `.npy` or `.npz` file.

    A `.npz` holds `images` and, if you like, `labels`; a `.npy` the inputs alone. Samples come first.

    Raises:
        ValueError: no such data, or a file without usable arrays.
    """
    import numpy as np
    import torch

    if name in DATA_SETS:
        from .models.networks import NETWORKS

        inputs, classes, _ = NETWORKS[DATA_SETS[name]].load("test")
        return inputs, classes
    path = Path(name)
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise ValueError(f"data must be {', '.join(map(repr, DATA_SETS))} or a .npy or .npz file, got {name!r}")
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on foreign files, before the error
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                found = {"images": found}
            names = list(found)
            arrays = {name: np.asarray(found[name]) for name in names if name in USED}
    except Exception as error:  # what a foreign file makes of its reader is anybody's guess
        said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))[:200]
        raise ValueError(f"data {path}: not a readable array file ({type(error).__name__}: {said})") from error
    if "images" not in arrays:
        raise ValueError(f"data {path}: expected an array 'images', got {', '.join(names) or 'none'}")
    for what, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"data {path}: {what} must be numbers, got {array.dtype}")
    images, labels = arrays["images"], arrays.get("labels")
    if images.ndim < 2 or not images.size:
        raise ValueError(f"data {path}: images must be samples (n, ...), got shape {images.shape}")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"data {path}: labels must have shape {images.shape[:1]}, got {labels.shape}")
    if labels is not None and labels.dtype.kind == "f" and not (np.abs(labels) < 2**31).all():
        raise ValueError(f"data {path}: labels must be numbers of classes, got {labels.min():g} to {labels.max():g}")
    with np.errstate(over="ignore"):  # infinities are refused where they go in
        samples = torch.from_numpy(images.astype(np.float32))
    return samples, None if labels is None else torch.from_numpy(labels.astype(np.int64))
