"""A mapped network as the parts of the mapping see it: what checks, reports and files need of a chip."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import nn

from ..crossbar.backend import Backend
from ..crossbar.hardware import Hardware
from .inference import Inference
from .layers import TileLayer
from .session import Session
from .trace import Call


class Digital(NamedTuple):
    """A part of the model that is not on tiles."""

    name: str
    type: str
    reason: str


class MappedNetwork(Protocol):
    """A model with layers on tiles: a `Chip` is one, and says what each of these is."""

    model: nn.Module
    hardware: Hardware
    layers: dict[str, TileLayer]
    digital: tuple[Digital, ...]
    seed: int
    copy_index: int
    strict: bool
    session: Session
    channels_last: bool

    @property
    def backend(self) -> Backend: ...
    @property
    def trace(self) -> list[Call]: ...
    def run(self, inputs: tuple[Any, ...], run: Inference, named: dict[str, Any] | None = None) -> Any: ...
    def trial(self) -> MappedNetwork: ...
