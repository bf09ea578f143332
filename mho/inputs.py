"""Inputs and hardware as the command line names them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .crossbar.hardware import Hardware


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
    """Inputs, with their labels where these are known: `mnist` (the test pictures), or a `.npy` or `.npz` file.

    A `.npz` holds `images` and, if you like, `labels`; a `.npy` the inputs alone. Samples come first.

    Raises:
        ValueError: no such data, or a file without usable arrays.
    """
    import numpy as np
    import torch

    if name == "mnist":
        from .models.data import mnist

        return mnist("test")
    path = Path(name)
    if path.suffix not in (".npy", ".npz") or not path.is_file():
        raise ValueError(f"data must be 'mnist' or a .npy or .npz file, got {name!r}")
    try:
        found = np.load(path, allow_pickle=False)
        arrays = {"images": found} if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"data {path}: not a readable array file ({error})") from error
    if "images" not in arrays:
        raise ValueError(f"data {path}: expected an array 'images', got {', '.join(arrays) or 'none'}")
    labels = torch.from_numpy(arrays["labels"]).long() if "labels" in arrays else None
    return torch.from_numpy(arrays["images"]).float(), labels
