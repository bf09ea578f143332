"""The folder of a training: its files, and how it is carried to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from ..mapping.saved.folders import whole

CHECKPOINT, SETTINGS, LOG = "checkpoint.pt", "settings.yaml", "log.yaml"


def carry_run(run: Path, to: Path) -> None:
    """Write a run folder in half precision to another one, small enough to be committed: a training goes on from there.

    Matrices and kernels, their averages and their moments are rounded to bfloat16, so the training goes on from nearly
    the same place, not to the bit.

    Raises:
        ValueError: no checkpoint in `run`, or something in `to` already that is not this run.
    """
    if not (run / CHECKPOINT).is_file():
        raise ValueError(f"out: {run} holds no checkpoint to carry away")
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    wanted = yaml.safe_load((run / SETTINGS).read_text(encoding="utf-8"))
    if (to / SETTINGS).is_file() and yaml.safe_load((to / SETTINGS).read_text(encoding="utf-8")) != wanted:
        raise ValueError(f"carry: {to} holds a run with other settings; choose another folder")
    to.mkdir(parents=True, exist_ok=True)
    write_yaml(to / SETTINGS, wanted)
    write_yaml(to / LOG, state["log"])
    with whole(to / CHECKPOINT) as part:
        torch.save(_halved(state), part)


def _halved(value: Any) -> Any:
    """Matrices and kernels inside lists and dictionaries in bfloat16."""
    if isinstance(value, torch.Tensor):
        return value.bfloat16() if value.ndim > 1 and value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _halved(part) for key, part in value.items()}
    return [_halved(part) for part in value] if isinstance(value, list) else value


def write_yaml(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    with whole(path) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
