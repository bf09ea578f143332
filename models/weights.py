"""Weights that come with the package: safetensors in half precision, beside a YAML file on how they were made."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

Net = TypeVar("Net", bound=nn.Module)
FOLDER = Path(str(files(__package__))) / "weights"


def names(network: str) -> list[str]:
    """Names of the committed weights of a network."""
    return sorted(path.stem for path in (FOLDER / network).glob("*.safetensors"))


def load_named(model: Net, network: str, name: str) -> Net:
    """Load committed weights into a model of that network, which is returned in evaluation mode.

    Raises:
        ValueError: no weights of that name.
    """
    if name not in names(network):
        raise ValueError(f"weights of {network} must be one of {', '.join(names(network)) or '(none)'}, got {name!r}")
    return load_saved(model, FOLDER / network / f"{name}.safetensors")


def load_saved(model: Net, path: Path) -> Net:
    """Load a file of `save_weights` into a model, which is returned in evaluation mode."""
    state = load_file(path)
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    return model.eval()


def save_weights(model: nn.Module, path: Path, made: dict[str, Any]) -> None:
    """Write `path`.safetensors in half precision (float32 where that overflows) and `path`.yaml, how they were made."""
    state = {key: _half(value).contiguous() for key, value in model.state_dict().items()}
    save_file(state, path.with_name(path.name + ".safetensors"))
    text = yaml.safe_dump(made, sort_keys=False, allow_unicode=True)
    path.with_name(path.name + ".yaml").write_text(text, encoding="utf-8")


def _half(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point() or value.abs().max() > 6e4:
        return value
    return value.half()
