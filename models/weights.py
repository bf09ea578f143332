"""Weights that come with the package: safetensors, the matrices in half precision, beside a YAML file on how they were
made."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from ..mapping.saved.folders import whole
from .noise import Kind

Net = TypeVar("Net", bound=nn.Module)
FOLDER = Path(str(files(__package__))) / "weights"
SUFFIX = ".safetensors"


def names(network: str) -> list[str]:
    """Names of the committed weights of a network."""
    return sorted(path.stem for path in (FOLDER / network).glob(f"*{SUFFIX}"))


def kind_of(name: str) -> Kind:
    """The kind of noise that weights of this name, or in this file, were trained with."""
    return "add" if "add-" in Path(name).stem else "mult"


def load_named(model: Net, network: str, name: str) -> Net:
    """Load committed weights, or a file of `save_weights`, into a model, which is returned in evaluation mode.

    Raises:
        ValueError: no weights of that name, or a file that cannot be read or is of another network.
    """
    if Path(name).suffix == SUFFIX:
        try:
            return load_saved(model, Path(name))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(f"weights: {name} cannot be read as those of {network}: {error}") from error
    if name not in names(network):
        known = ", ".join(names(network)) or "(none)"
        raise ValueError(f"weights of {network} must be one of {known}, or a {SUFFIX} file, got {name!r}")
    return load_saved(model, FOLDER / network / f"{name}{SUFFIX}")


def record_of(network: str, name: str) -> dict[str, Any]:
    """How committed weights, or those in a file, were made; empty where that is not known."""
    path = Path(name) if Path(name).suffix == SUFFIX else FOLDER / network / f"{name}{SUFFIX}"
    beside = path.with_suffix(".yaml")
    return dict(yaml.safe_load(beside.read_text(encoding="utf-8"))) if beside.is_file() else {}


def load_saved(model: Net, path: Path) -> Net:
    """Load a file of `save_weights` into a model, which is returned in evaluation mode, in float32."""
    state = load_file(path)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval()


def save_weights(model: nn.Module, folder: Path, name: str, made: dict[str, Any], *, half: bool = True) -> None:
    """Write `name`.safetensors and `name`.yaml, how they were made, to a folder.

    Matrices and kernels are stored in half precision (float32 where that overflows); vectors, such as the variances of
    a batch norm, which may be tiny, stay as they are. Without `half` all do.
    """
    state = {key: (_stored(value) if half else value).clone().contiguous() for key, value in model.state_dict().items()}
    with whole(folder / f"{name}{SUFFIX}") as part:
        part.write_bytes(save(state))
    with whole(folder / f"{name}.yaml") as part:
        part.write_text(yaml.safe_dump(made, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _stored(value: torch.Tensor) -> torch.Tensor:
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.half()
    return half if bool(half.isfinite().all()) else value
