"""CIFAR-10, from the official Python files (Krizhevsky 2009)."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .mnist_images import data_folder

FOLDER = "cifar-10-batches-py"
FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
PER_FILE = 10_000
ALLOWED = {  # what a pickle of a numpy array names
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),
}


def cifar10(split: str, *, root: str | Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, 32, 32) float32 in [0, 1] and labels (n,) int64: 50,000 for `train`, 10,000 for `test`.

    Read from `cifar-10-batches-py/` in the data folder, as the official archive unpacks.

    Args:
        split: `train` or `test`.
        root: a folder that holds `cifar-10-batches-py/`, to use instead; its files may hold fewer images.

    Raises:
        ValueError: an unknown split, or a damaged file.
        FileNotFoundError: files that are not there.
    """
    if split not in FILES:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    folder = (Path(root) if root is not None else data_folder()) / FOLDER
    missing = [name for name in FILES[split] if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"CIFAR-10: no {', '.join(missing)} in {folder}: unpack the official cifar-10-python.tar.gz there, "
            f"or set MHO_DATA to the folder that holds {FOLDER}/"
        )
    parts = [_read(folder / name, None if root is not None else PER_FILE) for name in FILES[split]]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(labels)


class _Arrays(pickle.Unpickler):
    """Reads pickles of arrays, lists and strings; a file cannot name anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _read(path: Path, count: int | None) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels (n, 3, 32, 32) uint8 and labels (n,) int64 of a file, which must hold `count`."""
    try:
        content = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = content[b"data"], np.asarray(content[b"labels"], np.int64)
        fits = pixels.dtype == np.uint8 and pixels.shape == (len(labels), 3 * 32 * 32) and labels.ndim == 1
    except Exception as error:  # a damaged pickle may fail in any way
        raise ValueError(f"{path}: damaged, or no batch of CIFAR-10 ({error})") from error
    if not fits or not len(labels) or not (labels.min() >= 0 and labels.max() <= 9):
        raise ValueError(f"{path}: expected rows of 3072 bytes with labels from 0 to 9, got something else")
    if count is not None and len(labels) != count:
        raise ValueError(f"{path}: expected {count} images, got {len(labels)}")
    return pixels.reshape(-1, 3, 32, 32), labels
