"""Weights of recurrent layers as torch names and orders them, out of the matrices that tiles hold instead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from ..layers import TileLayer
from ..parameters import TileParameter
from ..session import Session

NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_(l\d+(?:_reverse)?))?")


class Step(Protocol):
    """One recurrent layer in one direction: a `recurrent.Step` has it."""

    config: dict[str, Any]
    input_size: int
    sizes: tuple[int, ...]
    gate_count: int
    gain: torch.Tensor

    @property
    def joint(self) -> nn.Module: ...
    def children(self) -> Iterator[nn.Module]: ...
    def get_submodule(self, target: str) -> nn.Module: ...


class _Holder:
    """What a `TileParameter` asks its layer for."""

    def __init__(self, name: str, session: Session, step: Step) -> None:
        self.name, self.session, self.step = name, session, step

    def stored(self, kind: str) -> torch.Tensor:
        return _values(self.step, kind.split("_l")[0])


def weights_of(step: Step, end: str = "") -> dict[str, torch.Tensor]:
    """The weights of one layer in one direction, by torch's names, which end in `end`.

    Where both biases are added up on the tiles, that of the input is their sum and that of the state is zero.
    """
    tile = next((layer for layer in step.children() if isinstance(layer, TileLayer)), None)
    kinds = [kind for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr") if _there(step, kind)]
    if tile is None:
        return {f"{kind}{end}": _values(step, kind) for kind in kinds}
    holder = _Holder(tile.name.rpartition(".")[0], tile.session, step)
    dtype = step.joint.weight.dtype
    return {f"{kind}{end}": TileParameter(holder, f"{kind}{end}", _shape(step, kind), dtype) for kind in kinds}


def _there(step: Step, kind: str) -> bool:
    return bool(step.config["bias"]) if kind.startswith("bias") else kind != "weight_hr" or _projects(step)


def _projects(step: Step) -> bool:
    return bool(step.config.get("proj_size"))


def _shape(step: Step, kind: str) -> tuple[int, ...]:
    size = step.config["hidden_size"]
    rows = step.gate_count * size
    shapes = {
        "weight_ih": (rows, step.input_size),
        "weight_hh": (rows, step.sizes[0]),
        "weight_hr": (step.sizes[0], size),
    }
    return shapes.get(kind, (rows,))


@torch.no_grad()
def _values(step: Step, kind: str) -> torch.Tensor:
    if kind == "weight_hr":
        projection: Any = step.get_submodule("projection")
        return torch.Tensor.add(projection.weight, 0)
    joint: Any = step.joint
    n = step.input_size
    others: list[Any] = [
        step.get_submodule(name) for name in ("candidate_input", "candidate_hidden") if hasattr(step, name)
    ]
    if kind == "weight_ih":
        parts = [joint.weight[:, :n] * step.gain, *(layer.weight for layer in others[:1])]
    elif kind == "weight_hh":
        parts = [joint.weight[:, n:], *(layer.weight for layer in others[1:])]
    elif kind == "bias_ih":
        parts = [joint.bias, *(layer.bias for layer in others[:1])]
    else:
        parts = [torch.zeros_like(joint.bias + 0), *(layer.bias for layer in others[1:])]
    return torch.cat([part + 0 for part in parts])
