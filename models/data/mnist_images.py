"""MNIST, from the official IDX files."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import struct
import urllib.request
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...mapping.saved.folders import whole

BUNDLED = Path(str(files(__package__))) / "mnist-test"  # no name of a module, which would hide the function `mnist`
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
SHA256 = {  # of the unpacked training files
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}


def data_folder() -> Path:
    """The folder of the data sets: the environment variable MHO_DATA, else `mho` in the user's cache folder."""
    if os.environ.get("MHO_DATA"):
        return Path(os.environ["MHO_DATA"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mho"


def mnist(split: str, *, root: str | Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) float32 in [0, 1] and labels (n,) int64.

    The 10,000 test images come with the package. The 60,000 training images are read from `mnist/` in the data
    folder (the four official file names, gzipped or not), and downloaded to it when they are not there.

    Args:
        split: `train` or `test`.
        root: a folder to read either split from instead; it may hold fewer images.

    Raises:
        ValueError: an unknown split, or a damaged file.
        FileNotFoundError: no files and no download.

    Example:
        >>> images, labels = mho.models.data.mnist("test")
        >>> images.shape, labels[:5]
        (torch.Size([10000, 1, 28, 28]), tensor([7, 2, 1, 0, 4]))
    """
    if split not in FILES:
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    images_name, labels_name, count = FILES[split]
    bundled = split == "test" and root is None
    folder = Path(root) if root is not None else BUNDLED if bundled else data_folder()
    pixels = _read_idx(_find(folder, images_name, download=not bundled), (28, 28))
    labels = _read_idx(_find(folder, labels_name, download=not bundled), ())
    wanted = count if root is None else len(pixels)
    if not len(pixels) == len(labels) == wanted:
        raise ValueError(
            f"MNIST in {folder}: expected {wanted} images and labels, got {len(pixels)} images, {len(labels)} labels"
        )
    images = torch.from_numpy(pixels.astype(np.float32) / 255).unsqueeze(1)
    return images, torch.from_numpy(labels.astype(np.int64))


def _find(folder: Path, name: str, *, download: bool) -> Path:
    for path in (folder / "mnist" / f"{name}.gz", folder / "mnist" / name, folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    reasons = []
    for mirror in MIRRORS if download and name in SHA256 else ():
        try:
            content = _fetch(f"{mirror}{name}.gz", SHA256[name])
        except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            reasons.append(f"{mirror} {getattr(error, 'reason', error)}")
            continue
        target = folder / "mnist" / f"{name}.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole(target) as part:
            part.write_bytes(content)
        return target
    pair = next(f"{images}.gz and {labels}.gz" for images, labels, _ in FILES.values() if name in (images, labels))
    download_failed = f" and no download ({'; '.join(reasons)})" if reasons else ""
    raise FileNotFoundError(
        f"MNIST: no {name}.gz in {folder / 'mnist'}{download_failed}: "
        f"put {pair} there, or set MHO_DATA to the folder that holds mnist/"
    )


def _fetch(url: str, sha256: str) -> bytes:
    """A gzipped file whose content has that SHA-256."""
    with urllib.request.urlopen(url, timeout=30) as response:
        content: bytes = response.read()
    if hashlib.sha256(gzip.decompress(content)).hexdigest() != sha256:
        raise OSError("sent another file (its SHA-256 is wrong)")
    return content


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An IDX file of unsigned bytes: (n, *shape)."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    ndim = 1 + len(shape)
    header = 4 + 4 * ndim
    if len(content) < header or content[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(f"{path}: no IDX file of unsigned bytes in {ndim} dimensions")
    sizes = struct.unpack(f">{ndim}I", content[4:header])
    if sizes[1:] != shape or len(content) != header + int(np.prod(sizes)):
        raise ValueError(f"{path}: truncated or misshapen, says {sizes} and holds {len(content) - header} bytes")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)
